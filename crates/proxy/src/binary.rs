//! Which file a process runs: so that one is replaced when the program was, and only then.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The file that this process runs, also if it has no name any more.
const OURS: &str = "/proc/self/exe";

/// The same for the same file only; None if it cannot be looked at.
#[must_use]
pub fn identity(file: &Path) -> Option<String> {
    let about = fs::metadata(file).ok()?;
    Some(format!("{}:{}:{}:{}.{}", about.dev(), about.ino(), about.size(), about.mtime(), about.mtime_nsec()))
}

#[must_use]
pub fn our_identity() -> Option<String> {
    identity(Path::new(OURS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        assert_eq!(our_identity(), identity(&std::env::current_exe().unwrap()));
        assert!(our_identity().is_some() && our_identity() != identity(&copy));
        assert_eq!(identity(&dir.path().join("none")), None);
    }
}
