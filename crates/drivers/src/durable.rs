//! Files that are whole or not there: written aside, synced, renamed, the folder synced.
//!
//! Invariant: no file that matters is ever truncated in place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use trundle_crashpoint::crash_point;

/// Writes `bytes` so that a reader, also one after a crash of the machine, sees all of them or none.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, true)
}

/// The same for what is only true as long as the machine runs: a reader sees all or none, also after any process was
/// killed. It waits for no disk, and a start or a stop is the faster for it.
pub(crate) fn write_for_this_boot(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode, false)
}

fn replace(path: &Path, bytes: &[u8], mode: u32, synced: bool) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let aside = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let result = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&aside)?;
        file.write_all(bytes)?;
        if synced {
            file.sync_all()?;
        }
        crash_point!("record.rename.before");
        fs::rename(&aside, path)?;
        crash_point!("record.rename.after");
        if synced { sync_folder(folder) } else { Ok(()) }
    })();
    if result.is_err() {
        // The file aside is ours alone and worth nothing; the error that counts is the first one.
        let _ = fs::remove_file(&aside);
    }
    result
}

/// For reading what an app of the same user could have put something else in the place of: no link is followed, and no FIFO
/// without a writer makes us wait.
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A folder for us alone (0700), parents included. One that is there already keeps its mode.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
