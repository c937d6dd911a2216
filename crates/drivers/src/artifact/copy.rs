//! Copying a file or folder into the state directory, entry by entry.
//!
//! Invariant: a link is made as a link and never written through; only files, folders and links are copied.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use trundle_core::revision::{Digest, hex};

use super::{ArtifactError, BYTES_MAX, Entry, FILES_MAX, What};
use crate::digests::Stamp;

pub(super) struct Copy<'a> {
    pub state_dir: &'a Path,
    pub tree: &'a Path,
    pub entries: Vec<Entry>,
    pub bytes: u64,
}

impl Copy<'_> {
    /// The content of the folder `from`, to stand at `to` in the tree.
    pub fn folder(&mut self, from: &Path, to: &str) -> Result<(), ArtifactError> {
        let fail = |source| ArtifactError::Io { what: "read the folder", path: from.to_owned(), source };
        for entry in fs::read_dir(from).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let name =
                name.to_str().ok_or_else(|| ArtifactError::Name(name.to_string_lossy().into_owned()))?;
            let to = if to.is_empty() { name.to_owned() } else { format!("{to}/{name}") };
            self.entry(&entry.path(), &to)?;
        }
        Ok(())
    }

    pub fn entry(&mut self, from: &Path, to: &str) -> Result<(), ArtifactError> {
        // The state directory may lie in the folder of the project: it is no part of the artifact.
        if from == self.state_dir {
            return Ok(());
        }
        if self.entries.len() >= FILES_MAX {
            return Err(ArtifactError::TooMany);
        }
        let fail = |what| move |source| ArtifactError::Io { what, path: from.to_owned(), source };
        let place = self.tree.join(to);
        let metadata = fs::symlink_metadata(from).map_err(fail("read"))?;
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            fs::create_dir(&place).map_err(fail("copy the folder"))?;
            self.entries.push(Entry { path: to.to_owned(), what: What::Folder });
            self.folder(from, to)?;
            return finish_folder(&place, &metadata).map_err(fail("copy the folder"));
        } else if kind.is_symlink() {
            let target = fs::read_link(from).map_err(fail("read the link"))?;
            let text = target.to_str().filter(|_| target.is_relative());
            let Some(text) = text else {
                return Err(ArtifactError::Escapes { path: from.to_owned(), target });
            };
            symlink(&target, &place).map_err(fail("copy the link"))?;
            What::Link { target: text.to_owned() }
        } else if kind.is_file() {
            self.file(from, &place)?
        } else {
            let kind = match () {
                () if kind.is_fifo() => "a FIFO",
                () if kind.is_socket() => "a socket",
                () => "a device",
            };
            return Err(ArtifactError::Kind { path: from.to_owned(), kind });
        };
        self.entries.push(Entry { path: to.to_owned(), what });
        Ok(())
    }

    /// The digest is that of the bytes that were written, whatever happens to the source meanwhile.
    fn file(&mut self, from: &Path, place: &Path) -> Result<What, ArtifactError> {
        let fail = |what| move |source| ArtifactError::Io { what, path: from.to_owned(), source };
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut source =
            OpenOptions::new().read(true).custom_flags(flags).open(from).map_err(fail("open"))?;
        let metadata = source.metadata().map_err(fail("read"))?;
        // A sparse file costs its owner nothing and would fill our disk with its zeros.
        if self.bytes.saturating_add(metadata.len()) > BYTES_MAX {
            return Err(ArtifactError::TooBig);
        }
        // As it was, but nobody writes into it, and we can read it.
        let mode = metadata.permissions().mode() & 0o555 | 0o400;
        let mut copy = OpenOptions::new().write(true).create_new(true).open(place).map_err(fail("copy"))?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; 256 * 1024];
        loop {
            let n = source.read(&mut piece).map_err(fail("read"))?;
            if n == 0 {
                break;
            }
            self.bytes += n as u64;
            if self.bytes > BYTES_MAX {
                return Err(ArtifactError::TooBig);
            }
            hash.update(&piece[..n]);
            copy.write_all(&piece[..n]).map_err(fail("copy"))?;
        }
        copy.set_permissions(fs::Permissions::from_mode(mode)).map_err(fail("copy"))?;
        // Compiled code names the time of its source: with another time it counts as old.
        copy.set_modified(metadata.modified().map_err(fail("read"))?).map_err(fail("copy"))?;
        copy.sync_all().map_err(fail("copy"))?;
        let stamp = Stamp::of(&copy.metadata().map_err(fail("copy"))?);
        Ok(What::File { digest: Digest(hex(&hash.finalize())), executable: mode & 0o111 != 0, stamp })
    }
}

/// Once its content is there, which would change its time. Ours alone to write into: instances run in it, and it is removed one day.
fn finish_folder(place: &Path, source: &fs::Metadata) -> io::Result<()> {
    let folder = File::open(place)?;
    folder.set_permissions(fs::Permissions::from_mode(source.permissions().mode() & 0o755 | 0o700))?;
    folder.set_modified(source.modified()?)?;
    folder.sync_all()
}

/// Asked of the file system itself, after everything is copied: links may lead through links.
pub(super) fn links_stay_inside(tree: &Path, entries: &[Entry]) -> Result<(), ArtifactError> {
    let root = tree.canonicalize().map_err(|source| ArtifactError::Io {
        what: "find",
        path: tree.to_owned(),
        source,
    })?;
    for entry in entries {
        let What::Link { target } = &entry.what else { continue };
        let path = tree.join(&entry.path);
        if !path.canonicalize().is_ok_and(|real| real.starts_with(&root)) {
            return Err(ArtifactError::Escapes { path: entry.path.clone().into(), target: target.into() });
        }
    }
    Ok(())
}
