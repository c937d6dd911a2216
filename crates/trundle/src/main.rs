//! The one binary. Its small processes are told apart before anything else is set up, so that they stay small.

mod api;
mod cli;
mod clock;
mod config;
mod daemon;
mod demo;
mod exit;
mod metrics;
mod report;
mod state_dir;
mod term;

use std::ffi::OsString;

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let word = |n: usize| args.get(n).and_then(|a| a.to_str());
    // All of them may hold a secret, or a request of somebody; what stands for an app in tests does not.
    if !matches!(word(0), Some("sample" | "load")) {
        trundle_drivers::cores::leave_none();
    }
    let code = match (word(0), word(1)) {
        (Some("shim"), Some("proxy")) => cli::internal::holder(&args[2..]),
        (Some("shim"), _) => trundle_drivers::run_shim(&args[1..]),
        (Some("sample"), _) => demo::sample::run(),
        (Some("load"), _) => demo::load::run(&args[1..]),
        (Some("proxy"), _) => cli::internal::proxy(&args[1..]),
        _ => cli::run(),
    };
    std::process::exit(code);
}
