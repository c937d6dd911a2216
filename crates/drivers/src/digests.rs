//! The bytes that run: digesting the program and the files it is given, and remembering digests.
//!
//! Invariant: a remembered digest is used only while device, inode, size and both times of the file are the same,
//! and was remembered only when the file had been quiet for longer than the clock of a file system is coarse.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use trundle_core::event::RefusalCode;
use trundle_core::revision::{Digest, Run, hex};

use crate::placeholder;
use crate::program::{absolute, find_program};
use crate::shim::record::Refusal;

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
