//! The small processes of this binary: they read their arguments themselves and set up nothing they do not need.

use std::ffi::OsString;
use std::path::PathBuf;

use trundle_proxy::{HolderConfig, ProxyConfig, run_holder, run_proxy};

/// `trundle shim proxy --state-dir DIR [--detach]`: holds the listening sockets and keeps a proxy running.
pub fn holder(args: &[OsString]) -> i32 {
    if args.iter().any(|a| a == "--detach") {
        trundle_drivers::detach();
    }
    let Some(state_dir) = state_dir(args) else { return usage("trundle shim proxy --state-dir DIR") };
    let Ok(program) = std::env::current_exe() else { return usage("trundle shim proxy: cannot find itself") };
    let args = vec!["proxy".into(), "--state-dir".into(), state_dir.clone().into_os_string()];
    end(run_holder(HolderConfig { state_dir, program, args }))
}

/// `trundle proxy --state-dir DIR`
pub fn proxy(args: &[OsString]) -> i32 {
    let Some(state_dir) = state_dir(args) else { return usage("trundle proxy --state-dir DIR") };
    end(run_proxy(ProxyConfig { state_dir, workers: 0 }))
}

fn state_dir(args: &[OsString]) -> Option<PathBuf> {
    let named =
        args.iter().position(|a| a == "--state-dir").and_then(|at| args.get(at + 1)).map(PathBuf::from);
    named.or_else(|| std::env::var_os("TRUNDLE_STATE_DIR").map(PathBuf::from))
}

fn usage(text: &str) -> i32 {
    eprintln!("usage: {text}");
    2
}

fn end(result: Result<(), trundle_proxy::ProxyError>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            1
        }
    }
}
