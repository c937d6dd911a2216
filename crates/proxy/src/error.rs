//! Why the proxy or its holder could not start or go on. Each message says what the user can do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum ProxyError {
    #[error("cannot use the state directory {path}: {source}; it must exist and be writable")]
    StateDir { path: PathBuf, source: io::Error },
    #[error("another proxy serves the state directory {path}{}; stop it with `trundle down`", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    AlreadyRunning { path: PathBuf, pid: Option<u32> },
    #[error(
        "the proxies before this one still finish what they have, and there are too many of them; try again when one has ended"
    )]
    TooManyFinish,
    #[error("it cannot take over: {0}")]
    CannotTakeOver(String),
    #[error(
        "cannot listen on the control socket {path}: {source}; a path has at most 107 bytes: use a shorter state directory"
    )]
    ControlSocket { path: PathBuf, source: io::Error },
    #[error("cannot start a thread or its event loop: {0}; raise the limits of processes and open files")]
    Runtime(io::Error),
    #[error("cannot start {program}: {source}; is it still there and executable?")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("a system call of the holder failed: {0}; start `trundle shim proxy` again")]
    Holder(io::Error),
}
