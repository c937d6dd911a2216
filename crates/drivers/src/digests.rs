//! The bytes that run: finding the program, digesting it and the files it is given, and remembering digests.
//!
//! Invariant: a remembered digest is used only while device, inode, size and both times of the file are the same,
//! and was remembered only when the file had been quiet for longer than the clock of a file system is coarse.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use trundle_core::event::RefusalCode;
use trundle_core::revision::{Digest, Run, hex};

use crate::placeholder;
use crate::shim::record::Refusal;

/// Where programs are looked for when no PATH is set.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// A file must be quiet this long before its digest is remembered.
const QUIET_S: i64 = 2;
/// At most so many digests are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// What changes when the bytes of a file do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_quiet(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.ctime.0.saturating_add(QUIET_S) < i64::try_from(now).unwrap_or(i64::MAX)
    }
}

/// Digests that were computed before.
#[derive(Default)]
pub(crate) struct Digests(Mutex<HashMap<PathBuf, (Stamp, Digest)>>);

impl Digests {
    /// Of the file behind `path`, links followed.
    pub fn of(&self, path: &Path) -> io::Result<Digest> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
        }
        let stamp = Stamp::of(&metadata);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some((_, digest)) = known.filter(|(then, _)| *then == stamp) {
            return Ok(digest);
        }
        let digest = digest_of(&mut file)?;
        if stamp.is_quiet() && Stamp::of(&file.metadata()?) == stamp {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
            known.insert(path.to_owned(), (stamp, digest.clone()));
        }
        Ok(digest)
    }
}

pub(crate) fn digest_of(file: &mut File) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest(hex(&hash.finalize()))),
            n => hash.update(&piece[..n]),
        }
    }
}

/// The program that `name` stands for: a path relative to `cwd`, or a name looked for in `path_variable`.
/// Links are not resolved: a program may look at its own name.
pub(crate) fn find_program(name: &str, cwd: &Path, path_variable: &str) -> Result<PathBuf, Refusal> {
    let missing = |text: String| Err(Refusal::new(RefusalCode::NotFound, text));
    if name.contains('/') {
        let path = absolute(cwd, name);
        return match fs::metadata(&path) {
            Err(error) => missing(format!("cannot run {}: {error}", path.display())),
            Ok(metadata) if !metadata.is_file() => {
                missing(format!("cannot run {}: it is not a file", path.display()))
            }
            Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
                missing(format!("cannot run {0}: it may not be executed; try `chmod +x {0}`", path.display()))
            }
            Ok(_) => Ok(path),
        };
    }
    let runnable =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let found = path_variable.split(':').map(|folder| absolute(cwd, folder).join(name)).find(runnable);
    found.map_or_else(
        || {
            let hint = if cwd.join(name).is_file() {
                format!("; to run the file beside it, write ./{name}")
            } else {
                String::new()
            };
            missing(format!("there is no program {} in PATH ({path_variable}){hint}", name.escape_debug()))
        },
        Ok,
    )
}

/// `path` seen from `base`, without `.` and with `..` as written by people (links are not looked at).
pub(crate) fn absolute(base: &Path, path: impl AsRef<Path>) -> PathBuf {
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

/// Path → digest of the program and of every argument that names a file, for a command that is run in place.
pub(crate) fn in_place(
    command: &[String],
    cwd: &Path,
    path_variable: &str,
    digests: &Digests,
) -> Result<BTreeMap<String, Digest>, Refusal> {
    let mut found = BTreeMap::new();
    let mut add = |path: PathBuf| {
        let digest = digests.of(&path).map_err(|error| unreadable(&path, &error))?;
        found.insert(path.to_string_lossy().into_owned(), digest);
        Ok::<_, Refusal>(())
    };
    let Some((program, args)) = command.split_first() else {
        return Err(Refusal::new(RefusalCode::NotFound, "the command is empty"));
    };
    add(find_program(program, cwd, path_variable)?)?;
    for arg in args {
        // One with a placeholder names no file yet.
        let Ok(Some(plain)) = placeholder::check(arg) else { continue };
        let path = absolute(cwd, &plain);
        if !plain.is_empty() && fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            add(path)?;
        }
    }
    Ok(found)
}

fn unreadable(path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(RefusalCode::NotFound, format!("cannot read {}: {error}", path.display()))
}

/// Whether what would run now is what was deployed. Answers the program.
pub(crate) fn verify(
    run: &Run,
    cwd: &Path,
    path_variable: &str,
    digests: &Digests,
) -> Result<PathBuf, Refusal> {
    for (path, expected) in &run.bytes {
        let path = Path::new(path);
        let found = digests.of(path).map_err(|error| unreadable(path, &error))?;
        if found != *expected {
            return Err(changed(path, expected, &found));
        }
    }
    let name = run.command.first().map_or("", String::as_str);
    let program = find_program(name, cwd, path_variable)?;
    if run.bytes.contains_key(&*program.to_string_lossy()) {
        return Ok(program);
    }
    let text = format!(
        "{name} now means {}, which is not what was deployed; deploy again to run it",
        program.display()
    );
    Err(Refusal::new(RefusalCode::ArtifactChanged, text))
}

pub(crate) fn changed(path: &Path, expected: &Digest, found: &Digest) -> Refusal {
    let text = format!(
        "{} was changed since it was deployed: its digest is {}, that of the revision {}; put the old file back, \
         or deploy what is there now",
        path.display(),
        short(found),
        short(expected),
    );
    Refusal::new(RefusalCode::ArtifactChanged, text)
}

/// Enough of a digest for people to compare.
fn short(digest: &Digest) -> &str {
    digest.0.get(..12).unwrap_or(&digest.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_as_a_shell_would_and_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tool"), "").unwrap();
        let find =
            |name: &str| find_program(name, dir.path(), "/usr/bin:/bin").map_err(|refusal| refusal.text);
        assert!(find("sh").unwrap().ends_with("bin/sh"));
        assert!(find("tool").unwrap_err().ends_with("write ./tool"));
        assert!(find("./tool").unwrap_err().contains("chmod +x"));
        assert!(find("./nope").unwrap_err().contains("No such file"));
        assert!(find("/tmp").unwrap_err().contains("not a file"));
    }

    #[test]
    fn a_changed_file_has_another_digest_even_with_its_old_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let digests = Digests::default();
        fs::write(&path, "one").unwrap();
        let before = digests.of(&path).unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "two").unwrap();
        File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
        assert_ne!(digests.of(&path).unwrap(), before);
    }
}
