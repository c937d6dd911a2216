//! The logs of instances, also of those that are gone: where they are, their last lines, and what was added.
//!
//! Invariant: what an app wrote reaches a terminal only through [`printable`].

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use trundle_core::ids::{AppName, InstanceKey};

use crate::durable;
use crate::layout::Layout;
use crate::shim::rotate::numbered;

/// The most that is read to answer for the last lines, over all files.
const TAIL_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A longer line is cut.
const LINE_CHARS_MAX: usize = 4096;
/// Of what was added since the last look, as much is taken at once.
const FOLLOW_BYTES_MAX: u64 = 1024 * 1024;

/// The apps that ever had an instance here.
pub fn apps(state_dir: &Path) -> Vec<AppName> {
    let mut names = Layout::new(state_dir).app_names();
    names.sort();
    names
}

/// The instances of an app that have a folder, the oldest first.
pub fn instances(state_dir: &Path, app: &AppName) -> Vec<InstanceKey> {
    let layout = Layout::new(state_dir);
    let mut keys: Vec<_> = layout
        .keys(app)
        .into_iter()
        .map(|key| {
            let made = fs::metadata(layout.instance(app, key).0.join("lock"))
                .or_else(|_| fs::metadata(layout.instance(app, key).0));
            (made.map(|m| (m.mtime(), m.mtime_nsec())).unwrap_or_default(), key)
        })
        .collect();
    keys.sort();
    keys.into_iter().map(|(_, key)| key).collect()
}

/// The file that is written to now. It may not be there.
pub fn path(state_dir: &Path, app: &AppName, instance: InstanceKey) -> PathBuf {
    Layout::new(state_dir).instance(app, instance).log()
}

/// The last `n` lines, oldest first, printable. Empty if there is no log.
pub fn last_lines(state_dir: &Path, app: &AppName, instance: InstanceKey, n: usize) -> Vec<String> {
    let log = path(state_dir, app, instance);
    let mut files = vec![log.clone()];
    files.extend((1..=9).map(|n| numbered(&log, n)));
    let mut text = Vec::new();
    for file in files {
        let Ok(mut older) = tail(&file, n, TAIL_BYTES_MAX.saturating_sub(text.len() as u64)) else { break };
        older.append(&mut text);
        text = older;
        if newlines(&text) > n {
            break;
        }
    }
    let mut lines: Vec<String> = text.split(|b| *b == b'\n').map(line).collect();
    if text.is_empty() || text.ends_with(b"\n") {
        lines.pop();
    }
    lines.split_off(lines.len().saturating_sub(n))
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|b| **b == b'\n').count()
}

/// The end of a file: at least the last `n` lines, or `bytes_max`.
fn tail(path: &Path, n: usize, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = durable::open_own(path)?;
    let length = file.metadata()?.len();
    let mut take = 16 * 1024;
    loop {
        let from = length.saturating_sub(take.min(bytes_max));
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        file.by_ref().take(length - from).read_to_end(&mut text)?;
        if from == 0 || take >= bytes_max || newlines(&text) > n {
            return Ok(text);
        }
        take *= 4;
    }
}

fn line(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let head = &bytes[..bytes.len().min(LINE_CHARS_MAX * 4)];
    let mut text = printable(&String::from_utf8_lossy(head));
    if let Some((at, _)) = text.char_indices().nth(LINE_CHARS_MAX) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// The same text with everything that could move a cursor, change a colour or hide something shown escaped.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push_str("    "),
            // Controls of either kind, and the marks that turn the direction of writing.
            c if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

/// Reads what is added to a log, across its rotation.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end was not written yet.
    partial: Vec<u8>,
}

impl Follower {
    /// Begins at the end of what is there now; one that has no log yet is followed from its first line.
    pub fn from_end(path: PathBuf) -> Self {
        let file =
            durable::open_own(&path).and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file)).ok();
        Self { path, file, partial: Vec::new() }
    }

    /// Begins at the first line of the present file.
    pub fn from_start(path: PathBuf) -> Self {
        Self { path, file: None, partial: Vec::new() }
    }

    /// The whole lines that were added, printable. Empty: nothing new; ask again later.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut added = self.read()?;
        if added.is_empty() && self.is_rotated()? {
            self.file = durable::open_own(&self.path).ok();
            added = self.read()?;
        }
        self.partial.extend(added);
        let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') else {
            if self.partial.len() > LINE_CHARS_MAX * 4 {
                let long = std::mem::take(&mut self.partial);
                return Ok(vec![line(&long)]);
            }
            return Ok(Vec::new());
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        Ok(whole[..end].split(|b| *b == b'\n').map(line).collect())
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut added = Vec::new();
        if let Some(file) = &mut self.file {
            file.take(FOLLOW_BYTES_MAX).read_to_end(&mut added)?;
        }
        Ok(added)
    }

    fn is_rotated(&self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(self.path.exists()) };
        let held = file.metadata()?;
        Ok(fs::metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) != (held.dev(), held.ino())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn nothing_an_app_writes_moves_the_cursor() {
        let shown = printable("a\u{1b}]0;x\u{7}\tb\r\u{9b}2J\u{202e}");
        assert_eq!(shown, "a\\u{1b}]0;x\\u{7}    b\\u{d}\\u{9b}2J\\u{202e}");
    }

    #[test]
    fn last_lines_reach_into_the_rotated_file() {
        let dir = tempfile::tempdir().unwrap();
        let (app, key) = ("web".parse().unwrap(), "2-3".parse().unwrap());
        let log = path(dir.path(), &app, key);
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        assert!(last_lines(dir.path(), &app, key, 3).is_empty());
        fs::write(numbered(&log, 1), "1\n2\n3\n").unwrap();
        fs::write(&log, "4\n5\nhalf").unwrap();
        assert_eq!(last_lines(dir.path(), &app, key, 4), ["3", "4", "5", "half"]);
        assert_eq!(last_lines(dir.path(), &app, key, 99).len(), 6);
        assert_eq!(last_lines(dir.path(), &app, key, 1), ["half"]);
        assert_eq!(instances(dir.path(), &app), [key]);
    }

    #[test]
    fn a_follower_sees_whole_lines_across_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut follower = Follower::from_end(log.clone());
        assert!(follower.lines().unwrap().is_empty());
        let mut file = File::create(&log).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(follower.lines().unwrap(), ["one"]);
        file.write_all(b"o\n").unwrap();
        fs::rename(&log, numbered(&log, 1)).unwrap();
        fs::write(&log, "three\n").unwrap();
        assert_eq!(follower.lines().unwrap(), ["two"]);
        assert_eq!(follower.lines().unwrap(), ["three"]);
    }
}
