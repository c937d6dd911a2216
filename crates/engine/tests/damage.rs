//! A journal whose files were cut or changed is read as it was written or not at all.
//!
//! The files are those of a daemon that was killed: a database, a write-ahead log with more records, and `journal.head`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use trundle_core::event::{Command, Event};
use trundle_engine::journal::{Entry, JournalError, SqliteJournal, Store};

const DB: &str = "journal.db";
const LOG: &str = "journal.db-wal";
const HEAD: &str = "journal.head";
/// Of a page of the database with its frame in the log.
const FRAME: usize = 4096 + 24;

fn entry(n: u64) -> Entry {
    let event = Event::Commanded { by: format!("ann-{n}"), command: Command::Pause };
    Entry { n, epoch: 1 + n / 5, app: "web".parse().unwrap(), at_ms: n * 10, wall_ms: n * 1000, event }
}

/// What a reader makes of a journal.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Read {
    entries: Vec<Entry>,
    boot: Option<String>,
    time: u64,
}

fn read(dir: &Path) -> Result<Read, JournalError> {
    let mut journal = SqliteJournal::open(dir)?;
    Ok(Read { entries: journal.load()?, boot: journal.boot_id()?, time: journal.kept_time()? })
}

#[derive(Clone)]
struct Image {
    files: Vec<(&'static str, Vec<u8>)>,
    holds: Read,
    /// How long the log was, and how many records there were, after each transaction.
    commits: Vec<(usize, usize)>,
}

impl Image {
    /// Records 1 to 4 in the database, 5 to 8 in the log alone: what a daemon leaves that was killed.
    fn new() -> Self {
        Self::of(true)
    }

    /// The same records, all in the database: what a daemon leaves that ended in order.
    fn at_rest() -> Self {
        Self::of(false)
    }

    fn of(killed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = SqliteJournal::open(dir.path()).unwrap();
        assert_eq!(journal.load().unwrap(), []);
        journal.begin_epoch().unwrap();
        journal.set_boot_id("the boot").unwrap();
        journal.append(&[entry(1), entry(2), entry(3)]).unwrap();
        journal.append(&[entry(4)]).unwrap();
        drop(journal);
        let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap_or_default();
        assert!(bytes(LOG).is_empty() && bytes(DB).len() > 4096, "all is in the database");
        let mut journal = SqliteJournal::open(dir.path()).unwrap();
        assert_eq!(journal.load().unwrap().len(), 4);
        let mut commits = vec![(0, 4)];
        let mut note = |records| commits.push((bytes(LOG).len(), records));
        journal.begin_epoch().unwrap();
        note(4);
        journal.append(&[entry(5), entry(6)]).unwrap();
        note(6);
        journal.keep_time(77).unwrap();
        note(6);
        journal.append(&[entry(7)]).unwrap();
        note(7);
        journal.append(&[entry(8)]).unwrap();
        note(8);
        let kept = killed.then_some(journal);
        let names = if killed { &[DB, LOG, HEAD][..] } else { &[DB, HEAD] };
        let files = names.iter().map(|name| (*name, bytes(name))).collect();
        drop(kept);
        let holds = Read { entries: (1..=8).map(entry).collect(), boot: Some("the boot".into()), time: 77 };
        let image = Self { files, holds, commits };
        assert_eq!(image.read().unwrap(), image.holds);
        image
    }

    fn bytes(&self, file: &str) -> &Vec<u8> {
        &self.files.iter().find(|(name, _)| *name == file).unwrap().1
    }

    fn with(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut image = self.clone();
        change(&mut image.files.iter_mut().find(|(name, _)| *name == file).unwrap().1);
        image
    }

    fn without(&self, file: &str) -> Self {
        let mut image = self.clone();
        image.files.retain(|(name, _)| *name != file);
        image
    }

    /// Reads it in a folder of its own. One who refuses changes nothing of it.
    fn read(&self) -> Result<Read, JournalError> {
        self.read_as("it")
    }

    fn read_as(&self, what: &str) -> Result<Read, JournalError> {
        let dir = tempfile::tempdir_in(memory()).unwrap();
        for (name, bytes) in &self.files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let found = read(dir.path());
        if found.is_err() {
            for (name, bytes) in &self.files {
                let now = fs::read(dir.path().join(name)).unwrap_or_default();
                assert!(now == *bytes, "{what}: {name} was changed: {found:?}");
            }
        }
        found
    }
}

/// Thousands of small journals: where there is a file system in memory, there.
fn memory() -> &'static Path {
    let (memory, usual) = (Path::new("/dev/shm"), Path::new("/tmp"));
    if memory.is_dir() { memory } else { usual }
}

/// On all processors; answers how many there were.
fn each<T: Sync>(cases: &[T], check: impl Fn(&T) + Sync) -> usize {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(case);
                }
            });
        }
    });
    cases.len()
}

/// Every `step`th length of the last frame or page, those around the end of each, and every 61st.
fn lengths(whole: usize, header: usize, unit: usize, step: usize) -> Vec<usize> {
    let near_an_end = |at: usize| (at + 20).saturating_sub(header) % unit < 40;
    let last = |at: usize| at + unit > whole && at.is_multiple_of(step);
    (0..whole).filter(|at| last(*at) || near_an_end(*at) || at.is_multiple_of(61) || *at < 110).collect()
}

/// The refusal says which file and what to do.
fn assert_clear(error: &JournalError) {
    let said = error.to_string();
    assert!(said.contains(DB) && said.contains("put a copy of the journal in their place"), "{said}");
}

/// Row 3 of docs/faults.md. Every commit that the log lost is missed, and the record is named.
#[test]
fn a_log_cut_at_any_length_is_refused_at_the_first_record_that_is_gone() {
    let image = Image::new();
    let whole = image.bytes(LOG).len();
    let cuts = lengths(whole, 32, FRAME, 1);
    let count = each(&cuts, |&length| {
        let cut = image.with(LOG, |log| log.truncate(length));
        let (_, left) = *image.commits.iter().rev().find(|(end, _)| *end <= length).unwrap();
        match cut.read() {
            Err(JournalError::Damaged { n, .. }) if left < 8 => {
                assert_eq!(n, left as u64 + 1, "cut at {length}")
            }
            other => panic!("cut at {length}: {other:?}"),
        }
    });
    println!("{count} lengths of {whole}");
}

/// Row 3: without `journal.head` nobody can know of a lost end. What is left is what was written, up to a transaction.
#[test]
fn a_log_cut_at_any_length_with_no_head_is_a_shorter_journal_and_never_another_one() {
    let image = Image::new().without(HEAD);
    let cuts = lengths(image.bytes(LOG).len(), 32, FRAME, 7);
    each(&cuts, |&length| {
        let cut = image.with(LOG, |log| log.truncate(length));
        let (_, left) = *image.commits.iter().rev().find(|(end, _)| *end <= length).unwrap();
        let found = cut.read().unwrap();
        assert_eq!(found.entries, image.holds.entries[..left], "cut at {length}");
    });
}

/// Row 3: the database itself.
#[test]
fn a_database_cut_at_any_length_is_refused() {
    let image = Image::new();
    let whole = image.bytes(DB).len();
    // With the log, without it, and with nothing else at all.
    let bare = image.without(LOG).without(HEAD);
    let cuts = lengths(whole, 0, 4096, 7);
    let count = each(&cuts, |&length| {
        for image in [&image, &image.without(LOG), &image.without(HEAD), &bare] {
            let what = format!("cut at {length}, of {} files", image.files.len());
            match image.with(DB, |db| db.truncate(length)).read_as(&what) {
                Err(error) => assert_clear(&error),
                // An empty file and nothing beside it is what a new journal begins as.
                Ok(found) if length == 0 && image.files.len() == 1 => assert_eq!(found.entries, []),
                // The log may have all that was cut off.
                Ok(found) => assert_eq!(found.entries, image.holds.entries, "{what}"),
            }
        }
    });
    println!("{count} lengths of {whole}");
}

/// Row 3: a file that is gone altogether.
#[test]
fn a_journal_of_which_a_file_is_gone_is_refused() {
    let image = Image::new();
    for (gone, at) in [(vec![DB], 1), (vec![DB, LOG], 1), (vec![LOG], 5), (vec![DB, HEAD], 1)] {
        let rest = gone.iter().fold(image.clone(), |image, file| image.without(file));
        match rest.read() {
            Err(JournalError::Damaged { n, .. }) => assert_eq!(n, at, "{gone:?}"),
            other => panic!("{gone:?}: {other:?}"),
        }
    }
}

/// Row 4 of docs/faults.md. Every byte that is not zero, and every 16th that is; one bit and all bits.
#[test]
fn a_journal_with_any_byte_changed_is_the_same_or_refused() {
    let images = [Image::new(), Image::at_rest()];
    let mut places = Vec::new();
    for image in &images {
        for (file, bytes) in &image.files {
            let worth = |at: &usize| bytes[*at] != 0 || at.is_multiple_of(16);
            places.extend((0..bytes.len()).filter(worth).map(|at| (image, *file, at)));
        }
    }
    let (same, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let count = each(&places, |&(image, file, at)| {
        let bits = if at % 2 == 0 { 1 << (at / 2 % 8) } else { 0xFF };
        let what = format!("{file} of {} files, byte {at}", image.files.len());
        match image.with(file, |bytes| bytes[at] ^= bits).read_as(&what) {
            Ok(found) => {
                assert_eq!(found, image.holds, "{what}");
                same.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert_clear(&error);
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    println!("{count} bytes: the same {same:?}, refused {refused:?}");
    assert!(refused.into_inner() > 500 && same.into_inner() > 100, "both are to be met");
}
