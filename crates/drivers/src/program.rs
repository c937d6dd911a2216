//! Finding the program that a command names, for whoever checks a command and for whoever runs it.
//!
//! Nothing is started here, and no link is resolved: a program may look at its own name.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

/// Where programs are looked for when no PATH is set.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum NotRunnable {
    #[error("cannot run {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot run {}: it is not a file", .0.display())]
    NotAFile(PathBuf),
    #[error("cannot run {path}: it may not be executed; try `chmod +x {path}`", path = .0.display())]
    NotExecutable(PathBuf),
    #[error("there is no program {} in PATH ({path_variable}){}", name.escape_debug(), beside_hint(name, *beside))]
    NotInPath {
        name: String,
        path_variable: String,
        /// A file with this name is in the folder of the command, where nobody looks for it.
        beside: bool,
    },
}

fn beside_hint(name: &str, beside: bool) -> String {
    if beside {
        format!("; to run the file beside it, write ./{}", name.escape_debug())
    } else {
        String::new()
    }
}

/// The program that `name` stands for: a path relative to `cwd`, or a name looked for in `path_variable`.
///
/// # Errors
/// When there is none, or it may not be executed.
pub fn find_program(name: &str, cwd: &Path, path_variable: &str) -> Result<PathBuf, NotRunnable> {
    if name.contains('/') {
        let path = absolute(cwd, name);
        return check_program_file(&path).map(|()| path);
    }
    let found = folders(cwd, path_variable).map(|folder| folder.join(name));
    found.into_iter().find(|path| check_program_file(path).is_ok()).ok_or_else(|| NotRunnable::NotInPath {
        name: name.to_owned(),
        path_variable: path_variable.to_owned(),
        beside: cwd.join(name).is_file(),
    })
}

/// Whether this very file can be run.
///
/// # Errors
/// When it is not there, no file, or may not be executed.
pub fn check_program_file(path: &Path) -> Result<(), NotRunnable> {
    let metadata =
        fs::metadata(path).map_err(|source| NotRunnable::Unreadable { path: path.to_owned(), source })?;
    if !metadata.is_file() {
        Err(NotRunnable::NotAFile(path.to_owned()))
    } else if metadata.permissions().mode() & 0o111 == 0 {
        Err(NotRunnable::NotExecutable(path.to_owned()))
    } else {
        Ok(())
    }
}

/// The folders that a name is looked for in.
pub fn folders(cwd: &Path, path_variable: &str) -> impl Iterator<Item = PathBuf> {
    path_variable.split(':').map(move |folder| absolute(cwd, folder))
}

/// `path` seen from `base`, without `.` and with `..` as written by people (links are not looked at).
pub fn absolute(base: &Path, path: impl AsRef<Path>) -> PathBuf {
    let mut out = PathBuf::new();
    for part in base.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_as_a_shell_would_and_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tool"), "").unwrap();
        let find =
            |name: &str| find_program(name, dir.path(), "/usr/bin:/bin").map_err(|why| why.to_string());
        assert!(find("sh").unwrap().ends_with("bin/sh"));
        assert!(find("tool").unwrap_err().ends_with("write ./tool"));
        assert!(find("./tool").unwrap_err().contains("chmod +x"));
        assert!(find("./nope").unwrap_err().contains("No such file"));
        assert!(find("/tmp").unwrap_err().contains("not a file"));
    }
}
