//! A second name for every file of a copy, beside the tree that instances run in and may write into. What was replaced or
//! removed in the tree is put back from here; on the disk it costs a name, no bytes.
//!
//! Invariant: what is put back was compared with what was deployed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, renameat};
use trundle_core::revision::hex;

use super::{Entry, What, check};
use crate::digests::Stamp;
use crate::durable;
use crate::seal::random;

const FOLDER: &str = "kept";

/// `home` has the tree. Names are the places in the manifest: two files of one content may differ in their time.
pub(super) fn keep(home: &Path, entries: &mut [Entry]) -> io::Result<()> {
    let kept = home.join(FOLDER);
    durable::private_folder(&kept)?;
    for (n, Entry { path, what }) in entries.iter_mut().enumerate() {
        if let What::File { stamp, .. } = what {
            let place = home.join("tree").join(path);
            fs::hard_link(&place, kept.join(n.to_string()))?;
            // The second name has changed the file's own times.
            *stamp = Stamp::of(&fs::symlink_metadata(&place)?);
        }
    }
    durable::sync_folder(&kept)
}

/// Puts the `n`th entry of the manifest where it was. The folders above it must have been checked; one that became a link
/// since then is not followed.
pub(super) fn put_back(home: &Path, n: usize, entry: &Entry) -> io::Result<()> {
    let path = Path::new(&entry.path);
    let folder = folder_of(&home.join("tree"), path)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let nonce: [u8; 8] = random().map_err(io::Error::other)?;
    let aside = home.join(format!(".{}.tmp", hex(&nonce)));
    match &entry.what {
        What::Folder => return Ok(mkdirat(&folder, name, Mode::from_raw_mode(0o755))?),
        What::Link { target } => symlink(target, &aside)?,
        What::File { .. } => {
            let kept = home.join(FOLDER).join(n.to_string());
            check(&kept, &entry.what).map_err(|_| io::Error::other("what was kept of it was changed too"))?;
            fs::hard_link(&kept, &aside)?;
        }
    }
    let result = renameat(CWD, &aside, &folder, name);
    // Between two names of one file a rename does nothing.
    let _ = fs::remove_file(&aside);
    Ok(result?)
}

/// The folder that `path` stands in, held open: instances write into the tree while we look at it.
fn folder_of(tree: &Path, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = openat(CWD, tree, flags, Mode::empty())?;
    for part in path.parent().unwrap_or(Path::new("")).components() {
        folder = openat(&folder, part.as_os_str(), flags, Mode::empty())?;
    }
    Ok(folder)
}
