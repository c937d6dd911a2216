//! Artifacts and sealed values that no revision names any more go, so that deploying for years fills no disk.
//!
//! Invariant: what a command line has just copied or found is never taken from under it, though no revision names it yet:
//! it is young, and who makes it young and who removes hold the same lock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use trundle_core::revision::Run;
use trundle_crashpoint::crash_point;

use crate::durable;
use crate::layout::Layout;

/// What is younger is left alone: from the copy to the record of its revision there may be a person who is asked.
const YOUNG: Duration = Duration::from_secs(60 * 60);
/// Begins the name of something that is being removed.
const DOOMED: &str = ".gone-";
/// Ends the name of what is being written; the name begins with a dot. A folder is held with `flock` meanwhile.
pub(crate) const ASIDE: &str = ".tmp";
/// Ends the name of a copy that another one took the place of.
pub(crate) const DAMAGED: &str = ".damaged";
const TRY: FlockOperation = FlockOperation::NonBlockingLockExclusive;

/// Held while somebody decides on something that is there already.
pub(crate) fn lock(layout: &Layout) -> io::Result<File> {
    durable::private_folder(&layout.state_dir)?;
    let path = layout.state_dir.join("stored.lock");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// A folder that is being written is left alone as long as this is held, however long it takes.
pub(crate) fn hold(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// It is needed from now on, though nobody names it yet. Under the lock.
pub(crate) fn renew(path: &Path) -> io::Result<()> {
    File::open(path)?.set_modified(SystemTime::now())
}

/// Removes what none of `named` names and what is older than an hour; answers how many. Blocking.
///
/// # Errors
/// When the state directory cannot be read. What cannot be removed is told in the log and tried again the next time.
pub fn remove_unused<'a>(state_dir: &Path, named: impl Iterator<Item = &'a Run>) -> io::Result<usize> {
    let layout = Layout::new(state_dir);
    let (mut digests, mut sealed) = (BTreeSet::new(), BTreeSet::new());
    for run in named {
        digests.extend(run.artifact.as_ref().map(|artifact| artifact.digest.0.clone()));
        sealed.extend(run.sealed.as_ref().map(|sealed| sealed.id.clone()));
    }
    Ok(remove_from(&layout, &layout.artifacts(), &digests)?
        + remove_from(&layout, &layout.sealed(), &sealed)?)
}

fn remove_from(layout: &Layout, folder: &Path, named: &BTreeSet<String>) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let doomed = folder.join(format!("{DOOMED}{name}"));
        let ours = name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if name.starts_with(DOOMED) || is_left_aside(name, &entry.path()) {
            remove(&entry.path());
        } else if ours && !named.contains(name) && rename_if_old(layout, &entry.path(), &doomed)? {
            crash_point!("unused.doomed");
            remove(&doomed);
            removed += 1;
        }
    }
    Ok(removed)
}

/// What a command line was writing, or had put out of its way, when it was killed.
fn is_left_aside(name: &str, path: &Path) -> bool {
    let is_aside = name.starts_with('.') && (name.ends_with(ASIDE) || name.ends_with(DAMAGED));
    // Who still writes holds it, however long that takes.
    is_aside && is_old(path) && File::open(path).is_ok_and(|file| flock(&file, TRY).is_ok())
}

fn is_old(path: &Path) -> bool {
    let age = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
    // A time in the future is one that a clock has since gone back from: it ages from then on.
    matches!(age, Ok(Ok(age)) if age > YOUNG)
}

fn rename_if_old(layout: &Layout, path: &Path, to: &Path) -> io::Result<bool> {
    let _lock = lock(layout)?;
    Ok(is_old(path) && fs::rename(path, to).is_ok())
}

fn remove(path: &Path) {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed {
        log_line!("trundle: cannot remove {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_command_line_left_goes_once_nobody_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let at = |name: &str| layout.artifacts().join(name);
        for name in [".1a.tmp", ".2b.damaged", ".3c.tmp", ".4d.tmp", "5e.tmp"] {
            fs::create_dir_all(at(name)).unwrap();
            fs::write(at(name).join("file"), "x").unwrap();
            let young = name == ".3c.tmp";
            let long_ago = SystemTime::now() - 2 * YOUNG;
            File::open(at(name))
                .unwrap()
                .set_modified(if young { SystemTime::now() } else { long_ago })
                .unwrap();
        }
        let held = File::open(at(".4d.tmp")).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let left = || {
            remove_unused(dir.path(), [].into_iter()).unwrap();
            let entries = fs::read_dir(layout.artifacts()).unwrap().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
        };
        assert_eq!(left(), [".3c.tmp", ".4d.tmp", "5e.tmp"].map(str::to_owned).into());
        drop(held);
        assert_eq!(left(), [".3c.tmp", "5e.tmp"].map(str::to_owned).into());
    }
}
