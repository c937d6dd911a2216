//! The keys with which the proxy signs what it gives to clients: `STATE_DIR/proxy-keys`, one a line, 64 hexadecimal digits.
//!
//! The first signs, all of them are believed, so that a new first line is a new key and clients keep what they have as long as
//! the old one stands below it. The file is read again when it has changed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::store::Stamp;

/// In the state directory.
const FILE: &str = "proxy-keys";
const KEY_BYTES: usize = 32;
/// More than these are of no use: a rollout is over before that.
const MOST_KEYS: usize = 4;
/// Of a signature, 128 bits.
pub const TAG_BYTES: usize = 16;

/// Those that are believed, the one that signs first; never empty.
pub struct Keys(Vec<Hmac<Sha256>>);

impl Keys {
    /// Others cannot be made from these: nobody believes them but this process.
    pub fn of_this_process() -> Self {
        let mut key = [0; KEY_BYTES];
        // Without any randomness there is no TLS either; then all signatures are refused by the next process.
        let _ = getrandom::fill(&mut key);
        Self(vec![mac(&key)])
    }

    /// Of these parts, one after the other.
    pub fn sign(&self, parts: [&[u8]; 2]) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&over(&self.0[0], parts).finalize().into_bytes()[..TAG_BYTES]);
        tag
    }

    pub fn believes(&self, parts: [&[u8]; 2], tag: &[u8]) -> bool {
        tag.len() == TAG_BYTES && self.0.iter().any(|key| over(key, parts).verify_truncated_left(tag).is_ok())
    }
}

fn mac(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// No two pairs of parts read as one.
fn over(key: &Hmac<Sha256>, [first, second]: [&[u8]; 2]) -> Hmac<Sha256> {
    key.clone().chain_update((first.len() as u64).to_le_bytes()).chain_update(first).chain_update(second)
}

/// The file, and what was read of it last.
pub struct KeyFile {
    path: PathBuf,
    read: Option<Stamp>,
}

impl KeyFile {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE), read: None }
    }

    /// The keys of the file, which is made if there is none. An error says that those of this process have to do.
    pub fn open(&mut self) -> (Keys, Option<String>) {
        let keys = self.make_if_missing().map_err(|error| error.to_string()).and_then(|()| self.read());
        match keys {
            Ok(keys) => (keys, None),
            Err(why) => {
                let path = self.path.display();
                let note =
                    format!("{path}: {why}; clients keep their version only as long as this process lives");
                (Keys::of_this_process(), Some(note))
            }
        }
    }

    /// What the file says, if it says something new.
    pub fn renewed(&mut self) -> Option<Result<Keys, String>> {
        let stamp = stamp(&self.path).ok()?;
        (self.read != Some(stamp)).then(|| self.read())
    }

    fn read(&mut self) -> Result<Keys, String> {
        self.read = stamp(&self.path).ok();
        let text = fs::read_to_string(&self.path).map_err(|error| error.to_string())?;
        let keys: Option<Vec<_>> = text.lines().map(|line| key(line.trim()).map(|key| mac(&key))).collect();
        match keys {
            Some(mut keys) if !keys.is_empty() => {
                keys.truncate(MOST_KEYS);
                Ok(Keys(keys))
            }
            Some(_) | None => Err("each of its lines must be 64 hexadecimal digits".to_owned()),
        }
    }

    /// Whoever comes first makes it; it is there whole or not at all.
    fn make_if_missing(&self) -> io::Result<()> {
        if self.path.exists() {
            return Ok(());
        }
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let aside = self.path.with_extension(format!("{}", std::process::id()));
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{digits}")?;
        file.sync_all()?;
        let linked = fs::hard_link(&aside, &self.path);
        fs::remove_file(&aside)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Err(_) | Ok(()) => Ok(()),
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    fs::metadata(path).map(|about| (about.ino(), about.mtime(), about.mtime_nsec(), about.len()))
}

fn key(line: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    if line.len() != 2 * KEY_BYTES || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&line[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANT: [&[u8]; 2] = [b"web", b"payload"];

    #[test]
    fn a_signature_is_believed_by_every_process_and_over_a_new_key() {
        let dir = tempfile::tempdir().unwrap();
        let (first, note) = KeyFile::new(dir.path()).open();
        assert_eq!(note, None);
        let tag = first.sign(MEANT);
        let mut file = KeyFile::new(dir.path());
        let (second, _) = file.open();
        assert!(second.believes(MEANT, &tag));
        for other in [[b"web".as_slice(), b"payloae"], [b"api", b"payload"], [b"webp", b"ayload"]] {
            assert!(!second.believes(other, &tag), "{other:?}");
        }
        assert!(!second.believes(MEANT, &tag[..8]) && !second.believes(MEANT, &[]));
        assert!(!Keys::of_this_process().believes(MEANT, &tag));

        assert!(file.renewed().is_none(), "nothing has changed");
        let path = dir.path().join(FILE);
        let old = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{}\n{old}", "ab".repeat(32))).unwrap();
        let rotated = file.renewed().unwrap().unwrap();
        assert!(rotated.believes(MEANT, &tag), "what clients have stays good");
        assert!(!second.believes(MEANT, &rotated.sign(MEANT)), "and the new key signs");
    }

    #[test]
    fn a_file_of_something_else_is_said_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for text in ["", "abc\n", "ag".repeat(32).as_str()] {
            fs::write(&path, text).unwrap();
            let (keys, note) = KeyFile::new(dir.path()).open();
            assert!(note.unwrap().contains("64 hexadecimal digits"), "{text:?}");
            assert!(keys.believes(MEANT, &keys.sign(MEANT)));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
