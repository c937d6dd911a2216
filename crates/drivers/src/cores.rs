//! Core dumps. A process that may hold sealed values leaves none; what it starts for the user keeps the limit that was found.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

static FOUND: OnceLock<Option<u64>> = OnceLock::new();

/// From now on this process leaves no core dump. Call it first of all.
pub fn leave_none() {
    FOUND.get_or_init(|| getrlimit(Resource::Core).current);
    set(Some(0));
}

/// How many bytes a core dump might have before [`leave_none`]; None: as many as it takes.
pub(crate) fn bytes_max() -> Option<u64> {
    *FOUND.get().unwrap_or(&getrlimit(Resource::Core).current)
}

/// Starts something by `spawn` that shall find the limit as we found it.
pub fn as_found<T>(spawn: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    set(bytes_max());
    let started = spawn();
    if FOUND.get().is_some() {
        set(Some(0));
    }
    started
}

/// The limit that can be changed; the one above it stays. A call of the system and nothing else: it may be made between fork
/// and exec.
pub(crate) fn set(bytes_max: Option<u64>) {
    let limit = Rlimit { current: bytes_max, ..getrlimit(Resource::Core) };
    // It fails for more than the limit above it, which was not so when it was found.
    let _ = setrlimit(Resource::Core, limit);
}
