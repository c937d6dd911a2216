//! The first moment of a process that shall outlive whoever started it: nothing of the caller stays open.

use crate::sys;

/// Closes every inherited descriptor but the standard streams and begins a session of its own. Call it before anything
/// was opened, and only in a process that was started for this.
pub fn detach() {
    sys::close_inherited();
    // It fails only for the leader of a process group; then the caller's terminal is not ours anyway.
    let _ = rustix::process::setsid();
}
