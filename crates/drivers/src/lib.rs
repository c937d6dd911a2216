//! How instances are started, watched, probed and stopped.
//!
//! Invariant: nothing here knows a rollout. What shall run arrives as an absolute command
//! ([`trundle_engine::ports::Driver::ensure`]), what happens leaves as a report.

#![warn(clippy::print_stderr, clippy::print_stdout)]

/// A line for whoever reads our log. A log that cannot be written, as on a full disk, is no reason to stop.
macro_rules! log_line {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod artifact;
pub mod cores;
mod detach;
mod digests;
mod durable;
mod groups;
mod health;
mod layout;
pub mod logs;
pub mod placeholder;
pub mod prepare;
pub mod process;
mod procfs;
pub mod program;
mod seal;
mod secret;
pub mod shim;
mod sockets;
mod sweep;
mod sys;
mod unused;
pub mod user;

pub use detach::detach;
pub use prepare::{Draft, DraftArtifact, PrepareError, prepare};
pub use process::{DriverError, ProcessConfig, ProcessDriver, Running, still_running};
pub use secret::Secret;
pub use shim::run_shim;
pub use unused::remove_unused;
