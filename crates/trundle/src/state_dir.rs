//! Where Trundle keeps what it must not lose, and the socket it is asked over.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The longest path that fits into a Unix socket's address, without the closing zero.
const MOST_SOCKET_BYTES: usize = 107;

#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error("cannot find a place for the state: neither --state-dir, TRUNDLE_STATE_DIR nor HOME is set")]
    Nowhere,
    #[error("the state directory {} cannot be used: {source}; make it writable for this user, or name another with --state-dir", path.display())]
    Unusable { path: PathBuf, source: std::io::Error },
    #[error(
        "the socket path {} has {bytes} bytes and the system allows {MOST_SOCKET_BYTES}; use a shorter --state-dir",
        path.display()
    )]
    TooLong { path: PathBuf, bytes: usize },
}

/// The state directory in absolute form. Nothing is made.
pub fn resolve(given: Option<PathBuf>) -> Result<PathBuf, StateDirError> {
    let from_env = |key: &str| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let chosen = given
        .or_else(|| rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib/trundle")))
        .or_else(|| from_env("XDG_STATE_HOME").map(|dir| dir.join("trundle")))
        .or_else(|| from_env("HOME").map(|dir| dir.join(".local/state/trundle")))
        .ok_or(StateDirError::Nowhere)?;
    std::path::absolute(&chosen).map_err(|source| StateDirError::Unusable { path: chosen, source })
}

/// Makes it, private to this user, and checks that it can be written and that its sockets have room for their names.
pub fn prepare(dir: &Path) -> Result<(), StateDirError> {
    let unusable = |source| StateDirError::Unusable { path: dir.to_owned(), source };
    let socket = dir.join(trundle_proxy::SOCKET_NAME).max(socket_path(dir));
    let bytes = socket.as_os_str().len();
    if bytes > MOST_SOCKET_BYTES {
        return Err(StateDirError::TooLong { path: socket, bytes });
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(unusable)?;
    let mode = fs::metadata(dir).map_err(unusable)?.permissions().mode();
    // That others may pass through, and no more, is what `run.user` needs to come to an artifact.
    if mode & 0o077 != 0 && mode & 0o077 != 0o011 {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode & 0o7700)).map_err(unusable)?;
    }
    Ok(())
}

/// The daemon's socket.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join("daemon.sock")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_private_or_to_be_passed_through_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for (before, after) in
            [(0o755, 0o700), (0o777, 0o700), (0o700, 0o700), (0o711, 0o711), (0o710, 0o700)]
        {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(before)).unwrap();
            prepare(dir.path()).unwrap();
            let found = fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, after, "{before:o}: {found:o}");
        }
    }
}
