//! One process per state directory: a kernel lock, which ends with the process however it ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::error::ProxyError;

/// Held as long as it lives.
pub struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// Whether a process has the lock `name`. Of a file that is there and cannot be looked at, as when this process has no
/// descriptor left, somebody has: to take the living for dead would do harm.
pub fn is_held(state_dir: &Path, name: &str) -> bool {
    match File::open(state_dir.join(name)) {
        Ok(file) => rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Takes the lock `name` of a state directory, and waits a little for a process that is just ending.
pub fn take(state_dir: &Path, name: &str, patience: Duration) -> Result<Lock, ProxyError> {
    let failed = |source: io::Error| ProxyError::StateDir { path: state_dir.to_owned(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(state_dir.join(name))
        .map_err(failed)?;
    let deadline = Instant::now() + patience;
    while let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK && error != rustix::io::Errno::INTR {
            return Err(failed(error.into()));
        }
        if Instant::now() >= deadline {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(ProxyError::AlreadyRunning { path: state_dir.to_owned(), pid });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // Only information for people: the lock is the lock.
    let _ = file.set_len(0);
    let _ = writeln!(file, "{}", std::process::id());
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_at_is_held() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_held(dir.path(), "lock"), "nobody has ever taken it");
        let held = take(dir.path(), "lock", Duration::ZERO).unwrap();
        assert!(is_held(dir.path(), "lock"));
        drop(held);
        assert!(!is_held(dir.path(), "lock"));
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert!(is_held(dir.path(), "loop"));
    }
}
