//! One daemon per state directory, held by the kernel: no stale lock can remain, none is ever removed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another daemon (pid {holder}) holds {path}; use it, or stop it first", path = path.display())]
    Held { path: PathBuf, holder: String },
    #[error("cannot lock {path}: {source}; the state directory must be writable and on a local disk", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// Held as long as it lives.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// # Errors
    /// [`LockError::Held`] names the pid of the daemon that has it.
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join("daemon.lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The name is for people; a lock whose holder cannot be read is held all the same.
                let _ = file.read_to_string(&mut holder);
                return Err(LockError::Held { path, holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        write!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }

    /// The pid of the daemon that holds the directory; None when nobody does.
    pub fn holder(state_dir: &Path) -> Option<String> {
        let mut file = File::open(state_dir.join("daemon.lock")).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).ok()?;
                Some(holder.trim().to_owned())
            }
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_by_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(StateLock::holder(dir.path()), None);
        let first = StateLock::take(dir.path()).unwrap();
        let me = std::process::id().to_string();
        match StateLock::take(dir.path()) {
            Err(LockError::Held { holder, .. }) => assert_eq!(holder, me),
            other => panic!("{other:?}"),
        }
        assert_eq!(StateLock::holder(dir.path()), Some(me));
        drop(first);
        StateLock::take(dir.path()).unwrap();
    }
}
