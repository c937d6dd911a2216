//! What was acknowledged last, kept beside the journal in `journal.head`. A database that lost its end, and a write-ahead
//! log of which only the beginning can be believed, are shorter journals that look whole; by this they are told apart.
//!
//! One line of a fixed length, written in place after each transaction and synced by nobody: so it is never ahead of what
//! is durable, and costs no wait. After a power failure it may be behind, and then says less. A line that was damaged
//! says nothing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use trundle_core::revision::hex;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// Of the last record; 0 when there is none.
    pub n: u64,
    /// Its checksum.
    pub sum: String,
    /// The last that began.
    pub epoch: u64,
}

impl Head {
    pub const FILE: &'static str = "journal.head";

    /// What it says; of nothing when it is not there or cannot be believed.
    pub fn read(state_dir: &Path) -> Self {
        let text = std::fs::read_to_string(Self::path(state_dir)).unwrap_or_default();
        Self::parse(&text).unwrap_or_default()
    }

    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(Self::FILE)
    }

    fn line(&self) -> String {
        let said = format!("{:020} {:->32} {:020}", self.n, self.sum, self.epoch);
        format!("{said} {}\n", hex(&Sha256::digest(&said)[..8]))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let n = parts.next()?.parse().ok()?;
        let sum = parts.next()?.trim_start_matches('-').to_owned();
        let epoch = parts.next()?.parse().ok()?;
        let head = Self { n, sum, epoch };
        (head.line() == text).then_some(head)
    }
}

/// Open for writing.
pub(super) struct HeadFile(Option<File>);

impl HeadFile {
    pub fn open(state_dir: &Path) -> Self {
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).to_owned();
        Self(options.open(Head::path(state_dir)).ok())
    }

    /// What cannot be written here is durable all the same: a witness is missing, nothing else.
    pub fn write(&self, head: &Head) {
        if let Some(file) = &self.0 {
            let _ = file.write_all_at(head.line().as_bytes(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_a_damaged_line_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Head::read(dir.path()), Head::default());
        let file = HeadFile::open(dir.path());
        for head in [
            Head { n: 0, sum: String::new(), epoch: 1 },
            Head { n: u64::MAX, sum: "0123456789abcdef0123456789abcdef".into(), epoch: 7 },
        ] {
            file.write(&head);
            assert_eq!(Head::read(dir.path()), head);
            let whole = std::fs::read(Head::path(dir.path())).unwrap();
            for at in 0..whole.len() {
                assert_eq!(Head::parse(std::str::from_utf8(&whole[..at]).unwrap()), None);
                let mut flipped = whole.clone();
                flipped[at] ^= 1;
                assert_eq!(Head::parse(&String::from_utf8_lossy(&flipped)), None, "byte {at}");
            }
        }
    }
}
