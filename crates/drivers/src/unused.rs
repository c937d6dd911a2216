//! Artifacts and sealed values that no revision names any more go, so that deploying for years fills no disk.
//!
//! Invariant: what a command line has just copied or found is never taken from under it, though no revision names it yet:
//! it is young, and who makes it young and who removes hold the same lock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use trundle_core::revision::Run;

use crate::durable;
use crate::layout::Layout;

/// What is younger is left alone: from the copy to the record of its revision there may be a person who is asked.
const YOUNG: Duration = Duration::from_secs(60 * 60);
/// Begins the name of something that is being removed.
const DOOMED: &str = ".gone-";

/// Held while somebody decides on something that is there already.
pub(crate) fn lock(layout: &Layout) -> io::Result<File> {
    durable::private_folder(&layout.state_dir)?;
    let path = layout.state_dir.join("stored.lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
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
        if name.starts_with(DOOMED) {
            remove(&entry.path());
        } else if ours && !named.contains(name) && rename_if_old(layout, &entry.path(), &doomed)? {
            remove(&doomed);
            removed += 1;
        }
    }
    Ok(removed)
}

fn rename_if_old(layout: &Layout, path: &Path, to: &Path) -> io::Result<bool> {
    let _lock = lock(layout)?;
    let age = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
    // A time in the future is one that a clock has since gone back from: it ages from then on.
    let old = matches!(age, Ok(Ok(age)) if age > YOUNG);
    Ok(old && fs::rename(path, to).is_ok())
}

fn remove(path: &Path) {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed {
        log_line!("trundle: cannot remove {}: {error}", path.display());
    }
}
