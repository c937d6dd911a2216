//! Files of words that outlive the process: opened or made, of exactly the size that they should have.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::counts::allocate;
use crate::sys::Words;

/// A new one has zeros. One of another size is of another release: it is cut or filled, and what is in it reads as it may.
pub fn open(path: &Path, words: usize) -> io::Result<Words> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let bytes = words as u64 * 8;
    if file.metadata()?.len() != bytes {
        file.set_len(bytes)?;
    }
    // A hole that cannot be filled on a full disk would end the process.
    allocate(&file, words)?;
    Words::map(&file, words)
}
