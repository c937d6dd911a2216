//! A second name for every file of a copy, beside the tree that instances run in and may write into. What was replaced or
//! removed in the tree is put back from here; on the disk it costs a name, no bytes.
//!
//! Invariant: what is put back was compared with what was deployed.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

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

/// Puts the `n`th entry of the manifest where it was. The folders above it must have been checked.
pub(super) fn put_back(home: &Path, n: usize, entry: &Entry) -> io::Result<()> {
    let place = home.join("tree").join(&entry.path);
    let nonce: [u8; 8] = random().map_err(io::Error::other)?;
    let aside = home.join(format!(".{}.tmp", hex(&nonce)));
    match &entry.what {
        What::Folder => return fs::create_dir(&place),
        What::Link { target } => symlink(target, &aside)?,
        What::File { .. } => {
            let kept = home.join(FOLDER).join(n.to_string());
            check(&kept, &entry.what).map_err(|_| io::Error::other("what was kept of it was changed too"))?;
            fs::hard_link(&kept, &aside)?;
        }
    }
    let result = fs::rename(&aside, &place);
    // Between two names of one file a rename does nothing.
    let _ = fs::remove_file(&aside);
    result
}
