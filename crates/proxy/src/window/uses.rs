//! Who has used which format, and when: `STATE_DIR/proxy-uses`, a mapped file of 1,024 rows, one for each format and caller.
//!
//! It outlives the process: a format is called quiet only if nobody has used it, and not because who counted has died. A row is
//! taken by one compare-and-swap, its key is written, and only then it counts; a death in between leaves a row that is free again at
//! the next start. Two threads that come with the same new caller at once may take two rows, whose counts are added when they are read.

use std::hash::Hasher as _;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use super::{Fnv, mapped};
use crate::stats::{Caller, FormatUses};
use crate::sys::Words;

/// In the state directory.
pub const FILE: &str = "proxy-uses";
const ROWS: usize = 1_024;
const KEY_WORDS: usize = 35;
const ROW_WORDS: usize = 40;
/// More callers of one format than these are one.
const MOST_CALLERS: usize = 48;
/// A caller is cut there.
pub const MOST_CALLER_BYTES: usize = 96;

// A row's words.
const STATE: usize = 0;
const COUNT: usize = 1;
/// In seconds since 1970. Of the row without a caller: since when the format is looked at.
const LAST: usize = 2;
const LENGTH: usize = 3;
/// Of the key: a thread that remembers the row sees that it is another's by now.
const NAME: usize = 4;
const KEY: usize = 5;

const FREE: u64 = 0;
const TAKEN: u64 = 1;
const GOOD: u64 = 2;

pub struct Uses(Words);

/// Index of a row, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Row(usize, u64);

impl Uses {
    pub fn open(path: &Path) -> io::Result<Self> {
        let uses = Self(mapped::open(path, ROWS * ROW_WORDS)?);
        for row in 0..ROWS {
            let _ = uses.word(row, STATE).compare_exchange(TAKEN, FREE, Relaxed, Relaxed);
        }
        Ok(uses)
    }

    fn word(&self, row: usize, word: usize) -> &AtomicU64 {
        &self.0.words()[row * ROW_WORDS + word]
    }

    /// Rows of formats that no table names any more are free: one that comes again is looked at anew.
    pub fn keep_only(&self, formats: &[(&str, String)]) {
        let prefixes: Vec<Vec<u8>> = formats.iter().map(|(app, format)| key(app, format, b"")).collect();
        for row in 0..ROWS {
            let is_named = |key: &Vec<u8>| prefixes.iter().any(|prefix| key.starts_with(prefix));
            if self.key(row).is_some_and(|key| !is_named(&key)) {
                self.word(row, NAME).store(0, Relaxed);
                self.word(row, STATE).store(FREE, Release);
            }
        }
    }

    /// From now on uses of the format are seen, if they were not before.
    pub fn watch(&self, app: &str, format: &str, now_s: u32) {
        let own = key(app, format, b"");
        if self.find(&own).is_none() && self.take(&own, now_s).is_none() {
            self.oldest(&own, now_s);
        }
    }

    /// The row of a caller; that of all others where there are too many. `None`: there is no row left at all.
    pub fn row(&self, app: &str, format: &str, caller: &[u8], now_s: u32) -> Option<Row> {
        let caller = &caller[..caller.len().min(MOST_CALLER_BYTES)];
        let own = key(app, format, caller);
        if let Some(row) = self.find(&own) {
            return Some(row);
        }
        // Somebody had to be one of the others already: there is no room for more.
        let others = key(app, format, b"(others)");
        if let Some(row) = self.find(&others) {
            return Some(row);
        }
        let prefix = key(app, format, b"");
        let callers = (0..ROWS).filter(|row| self.key(*row).is_some_and(|key| key.starts_with(&prefix)));
        if callers.count() <= MOST_CALLERS
            && let Some(row) = self.take(&own, now_s)
        {
            return Some(row);
        }
        self.take(&others, now_s).or_else(|| self.oldest(&others, now_s))
    }

    /// Once more, now. False: the row is another's by now.
    pub fn note(&self, row: Row, now_s: u32) -> bool {
        if self.word(row.0, NAME).load(Relaxed) != row.1 {
            return false;
        }
        self.word(row.0, COUNT).fetch_add(1, Relaxed);
        let last = self.word(row.0, LAST);
        if last.load(Relaxed) != u64::from(now_s) {
            last.store(u64::from(now_s), Relaxed);
        }
        true
    }

    /// What is known of the formats of an app.
    pub fn of_app<'a>(
        &self,
        app: &str,
        formats: impl Iterator<Item = (&'a str, String)>,
    ) -> Vec<(String, FormatUses)> {
        let all: Vec<(usize, Vec<u8>)> = (0..ROWS).filter_map(|row| Some((row, self.key(row)?))).collect();
        let uses = formats.map(|(name, format)| {
            let prefix = key(app, &format, b"");
            let mut uses = FormatUses::default();
            for (row, caller) in
                all.iter().filter_map(|(row, key)| Some((*row, key.strip_prefix(&prefix[..])?)))
            {
                let last_s = self.word(row, LAST).load(Relaxed);
                if caller.is_empty() {
                    uses.since_s = Some(last_s);
                    continue;
                }
                let count = self.word(row, COUNT).load(Relaxed);
                let name = String::from_utf8_lossy(caller).into_owned();
                let known = uses.callers.entry(name).or_insert(Caller { count: 0, last_s });
                known.count += count;
                known.last_s = known.last_s.max(last_s);
            }
            (name.to_owned(), uses)
        });
        uses.collect()
    }

    fn find(&self, wanted: &[u8]) -> Option<Row> {
        let name = name_of(wanted);
        (0..ROWS).find(|row| self.is_key(*row, wanted, name)).map(|row| Row(row, name))
    }

    fn is_key(&self, row: usize, wanted: &[u8], name: u64) -> bool {
        self.word(row, STATE).load(Acquire) == GOOD
            && self.word(row, NAME).load(Relaxed) == name
            && self.word(row, LENGTH).load(Relaxed) == wanted.len() as u64
            && self.key(row).is_some_and(|key| key == wanted)
    }

    fn key(&self, row: usize) -> Option<Vec<u8>> {
        if self.word(row, STATE).load(Acquire) != GOOD {
            return None;
        }
        let length = usize::try_from(self.word(row, LENGTH).load(Relaxed)).ok()?;
        let bytes = (0..KEY_WORDS).flat_map(|at| self.word(row, KEY + at).load(Relaxed).to_le_bytes());
        Some(bytes.take(length).collect())
    }

    fn take(&self, key: &[u8], now_s: u32) -> Option<Row> {
        let row = (0..ROWS)
            .find(|row| self.word(*row, STATE).compare_exchange(FREE, TAKEN, Acquire, Relaxed).is_ok())?;
        self.write(row, key, now_s);
        Some(Row(row, name_of(key)))
    }

    /// No row is free: the one that was used longest ago is this one from now on.
    fn oldest(&self, key: &[u8], now_s: u32) -> Option<Row> {
        // Since when a format is looked at is never given up.
        let is_caller = |row: &usize| self.key(*row).is_some_and(|key| !key.ends_with(b"\0"));
        let row = (0..ROWS).filter(is_caller).min_by_key(|row| self.word(*row, LAST).load(Relaxed))?;
        self.word(row, STATE).compare_exchange(GOOD, TAKEN, Acquire, Relaxed).ok()?;
        self.write(row, key, now_s);
        Some(Row(row, name_of(key)))
    }

    fn write(&self, row: usize, key: &[u8], now_s: u32) {
        for at in 0..KEY_WORDS {
            let mut word = [0; 8];
            let from = (at * 8).min(key.len());
            let part = &key[from..(from + 8).min(key.len())];
            word[..part.len()].copy_from_slice(part);
            self.word(row, KEY + at).store(u64::from_le_bytes(word), Relaxed);
        }
        self.word(row, NAME).store(name_of(key), Relaxed);
        self.word(row, LENGTH).store(key.len() as u64, Relaxed);
        self.word(row, COUNT).store(0, Relaxed);
        self.word(row, LAST).store(u64::from(now_s), Relaxed);
        self.word(row, STATE).store(GOOD, Release);
    }
}

/// Never 0.
fn name_of(key: &[u8]) -> u64 {
    let mut name = Fnv::default();
    name.write(key);
    name.finish() | 1
}

/// App and format have no NUL in them, so that no two pairs begin alike. At most 100 + 1 + 64 + 17 + 1 + 96 bytes.
fn key(app: &str, format: &str, caller: &[u8]) -> Vec<u8> {
    [app.as_bytes(), b"\0", format.as_bytes(), b"\0", caller].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses() -> (tempfile::TempDir, Uses) {
        let dir = tempfile::tempdir().unwrap();
        let uses = Uses::open(&dir.path().join(FILE)).unwrap();
        (dir, uses)
    }

    fn of(uses: &Uses, app: &str, format: &str) -> FormatUses {
        uses.of_app(app, [(format, format.to_owned())].into_iter()).remove(0).1
    }

    #[test]
    fn each_caller_of_each_format_has_its_count() {
        let (dir, uses) = uses();
        assert_eq!(of(&uses, "web", "v1"), FormatUses::default());
        uses.watch("web", "v1", 10);
        uses.watch("web", "v1", 99);
        for (app, format, caller, now) in [
            ("web", "v1", "curl", 20),
            ("web", "v1", "curl", 30),
            ("web", "v1", "ios", 25),
            ("web", "v10", "x", 40),
        ] {
            let row = uses.row(app, format, caller.as_bytes(), now).unwrap();
            uses.note(row, now);
        }
        let again = Uses::open(&dir.path().join(FILE)).unwrap();
        let seen = of(&again, "web", "v1");
        assert_eq!(seen.since_s, Some(10));
        let callers: Vec<_> =
            seen.callers.iter().map(|(name, c)| (name.as_str(), c.count, c.last_s)).collect();
        assert_eq!(callers, [("curl", 2, 30), ("ios", 1, 25)]);
        assert_eq!(of(&again, "we", "b\0v1"), FormatUses::default());
    }

    #[test]
    fn what_no_table_names_is_forgotten_and_a_row_that_was_remembered_is_seen_through() {
        let (_dir, uses) = uses();
        uses.watch("web", "v1", 10);
        let row = uses.row("web", "v1", b"curl", 20).unwrap();
        assert!(uses.note(row, 20));
        uses.keep_only(&[("web", "v1".to_owned())]);
        assert!(uses.note(row, 21));
        uses.keep_only(&[("web", "v2".to_owned())]);
        assert_eq!(of(&uses, "web", "v1"), FormatUses::default());
        uses.row("web", "v2", b"ios", 30).unwrap();
        assert!(!uses.note(row, 31), "it is another's");
        uses.watch("web", "v1", 40);
        assert_eq!(of(&uses, "web", "v1").since_s, Some(40), "looked at anew");
    }

    #[test]
    fn with_many_callers_none_of_their_uses_is_missed() {
        let (_dir, uses) = uses();
        for format in 0..40 {
            for caller in 0..100u32 {
                let row = uses.row("web", &format!("v{format}"), &caller.to_le_bytes(), 50 + format).unwrap();
                uses.note(row, 50 + format);
            }
        }
        let seen = of(&uses, "web", "v39");
        assert!(
            seen.callers.values().any(|caller| caller.last_s == 89),
            "the newest use of a format is known"
        );
        let long = uses.row("web", "v1", &[b'x'; 4_000], 1).unwrap();
        uses.note(long, 1);
    }
}
