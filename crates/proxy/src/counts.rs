//! Counts that survive the death of the process: `STATE_DIR/proxy-counts`, a mapped file of 64-bit words.
//!
//! Layout: a header of 64 words, then rows of 512 words for (app, version), then rows of 64 words for endpoints. A row's
//! first word says what it is, the next 32 hold its key. A row is bound by writing the key first and its kind last, so a
//! death in between leaves a free row. Requests add to atomics only; binding, folding and freeing belong to one thread.
//!
//! While a proxy that was replaced finishes, two and more processes have the file mapped. Each counts what it has in flight
//! in words of its own slot; the flag of an endpoint is one for all, and stands here too. Only the process that serves binds.
//!
//! What was in flight when a process died is moved to the app's `proxy_killed` by the one that serves exactly once: the move
//! is written down in the header as absolute values before it is made, and done again if that one dies in it.

mod bind;
mod settle;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::classes::{AppCell, VersionCell, WindowCell};
use crate::slots::Slot;
use crate::stats::{BUCKETS, Histogram, bucket_of};
use crate::sys::Words;
use crate::window::Reached;

const MAGIC: u64 = u64::from_be_bytes(*b"TRNDLCNT");
const LAYOUT: u64 = 1;
const HEADER_WORDS: usize = 64;
const KEY_WORDS: usize = 32;

const VERSION_ROWS: usize = 256;
const VERSION_ROW_WORDS: usize = 512;
const ENDPOINT_ROWS: usize = 2048;
const ENDPOINT_ROW_WORDS: usize = 64;
const VERSIONS_AT: usize = HEADER_WORDS;
const ENDPOINTS_AT: usize = VERSIONS_AT + VERSION_ROWS * VERSION_ROW_WORDS;
const WORDS: usize = ENDPOINTS_AT + ENDPOINT_ROWS * ENDPOINT_ROW_WORDS;

// Header.
const CLOCK: usize = 2; // rises with each binding, to find the row that was bound longest ago
const INTENT_ROW: usize = 3; // 1 + endpoint row that is being settled + its slot * ENDPOINT_ROWS, 0 for none
const INTENT_APP: usize = 4; // the app row that gets it
const INTENT_VALUE: usize = 5; // what its `proxy_killed` will be

// A row's words.
const KIND: usize = 0;
const KEY: usize = 1;
const BOUND_AT: usize = KEY + KEY_WORDS;
const CELLS: usize = BOUND_AT + 1;
const HISTOGRAM: usize = VERSION_ROW_WORDS - BUCKETS;
// Of an endpoint's row, behind what is in flight in the first slot, the requests, and what was cut.
const FLAG: usize = CELLS + 3;
const OTHER_SLOTS: usize = FLAG; // the slots from 1 on follow it

const KIND_FREE: u64 = 0;
const KIND_APP: u64 = 1;
const KIND_VERSION: u64 = 2;
const KIND_ENDPOINT: u64 = 3;

/// Index of an (app) or (app, version) row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRow(u32);

/// Index of an endpoint's row; below [`EndpointRow::COUNT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointRow(u32);

impl EndpointRow {
    pub const COUNT: usize = ENDPOINT_ROWS;

    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The mapped file.
pub struct Counts {
    words: Words,
    /// Whose words in flight are ours.
    slot: Slot,
}

const fn in_flight_word(slot: usize) -> usize {
    if slot == 0 { CELLS } else { OTHER_SLOTS + slot }
}

impl Counts {
    /// Opens the file, or makes a new one. A foreign or damaged file is replaced, and the note says so. What was in flight
    /// in the processes that have died is settled here. For the one that serves, or where nobody does.
    pub fn open(
        path: &Path,
        slot: Slot,
        is_alive: impl Fn(Slot) -> bool,
    ) -> io::Result<(Self, Option<String>)> {
        let mut note = None;
        if path.exists() {
            match Self::map_existing(path, slot) {
                Ok(counts) => {
                    // Nobody has counted in ours since we took it.
                    counts.settle_killed(|of| of == slot || !is_alive(of));
                    return Ok((counts, None));
                }
                Err(error) => {
                    let aside = path.with_extension("damaged");
                    fs::rename(path, &aside)?;
                    note = Some(format!(
                        "{} is not a file of counts of this version ({error}); it was moved to {} and counting starts anew",
                        path.display(),
                        aside.display()
                    ));
                }
            }
        }
        Ok((Self::create(path, slot)?, note))
    }

    /// Whether a process of this release can go on with the file, if there is one.
    pub fn check(path: &Path) -> io::Result<()> {
        if path.exists() { Self::map_existing(path, Slot::FIRST).map(drop) } else { Ok(()) }
    }

    fn map_existing(path: &Path, slot: Slot) -> io::Result<Self> {
        let file = open_file(path, false)?;
        if file.metadata()?.len() != WORDS as u64 * 8 {
            return Err(io::Error::other("its size is wrong"));
        }
        // One of an earlier release may have holes. No room for them: it is mapped as it is, it has served until now.
        let _ = allocate(&file, WORDS);
        let counts = Self { words: Words::map(&file, WORDS)?, slot };
        if counts.word(0).load(Relaxed) != MAGIC || counts.word(1).load(Relaxed) != LAYOUT {
            return Err(io::Error::other("its header is wrong"));
        }
        Ok(counts)
    }

    fn create(path: &Path, slot: Slot) -> io::Result<Self> {
        let file = open_file(path, true)?;
        file.set_len(WORDS as u64 * 8)?;
        allocate(&file, WORDS)?;
        let counts = Self { words: Words::map(&file, WORDS)?, slot };
        counts.word(1).store(LAYOUT, Relaxed);
        counts.word(0).store(MAGIC, Release);
        Ok(counts)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.words.words()[index]
    }

    fn version_at(row: VersionRow) -> usize {
        VERSIONS_AT + row.0 as usize * VERSION_ROW_WORDS
    }

    fn endpoint_at(row: EndpointRow) -> usize {
        ENDPOINTS_AT + row.0 as usize * ENDPOINT_ROW_WORDS
    }

    // --- on the path of a request -------------------------------------------------------------------------------

    pub fn app_cell(&self, app: VersionRow, cell: AppCell) -> &AtomicU64 {
        self.word(Self::version_at(app) + CELLS + cell.offset())
    }

    /// How far clients of this window have come; of another window nobody has come anywhere. What was reached of another revision is
    /// so of one before the newest.
    pub fn reached(&self, app: VersionRow, window: u64, newest: u32) -> Reached {
        let cell = |cell| self.app_cell(app, AppCell::Window(cell)).load(Relaxed);
        let place = |of| u32::try_from(cell(of)).unwrap_or(0);
        let nowhere = Reached { window, revision: newest, ..Reached::default() };
        if cell(WindowCell::Number) != window {
            return nowhere;
        }
        let revision = place(WindowCell::Revision);
        let (below, before) =
            (place(WindowCell::Reached), (place(WindowCell::Before), place(WindowCell::BeforeReached)));
        if revision == newest {
            return Reached { below, before, ..nowhere };
        }
        // It was superseded: who has seen it does not go back behind it.
        Reached { before: (revision, below.max(before.1)), ..nowhere }
    }

    /// For the process that serves. One that dies in between leaves a window in which nobody has reached anything.
    pub fn note_reached(&self, app: VersionRow, reached: &Reached) {
        let cell = |cell| self.app_cell(app, AppCell::Window(cell));
        let known = self.reached(app, reached.window, reached.revision);
        if known == *reached && cell(WindowCell::Revision).load(Relaxed) == u64::from(reached.revision) {
            return;
        }
        cell(WindowCell::Number).store(u64::MAX, SeqCst);
        cell(WindowCell::Revision).store(reached.revision.into(), SeqCst);
        cell(WindowCell::Reached).store(reached.below.into(), SeqCst);
        cell(WindowCell::Before).store(reached.before.0.into(), SeqCst);
        cell(WindowCell::BeforeReached).store(reached.before.1.into(), SeqCst);
        cell(WindowCell::Number).store(reached.window, SeqCst);
    }

    pub fn version_cell(&self, version: VersionRow, cell: VersionCell) -> &AtomicU64 {
        self.word(Self::version_at(version) + CELLS + cell.offset())
    }

    /// Counts a complete answer, its status and how long it took.
    pub fn answered(&self, version: VersionRow, took: Duration, status: u16) {
        let at = Self::version_at(version);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.word(at + CELLS).fetch_add(1, Relaxed);
        // What is no HTTP has none.
        if status > 0 {
            self.version_cell(version, VersionCell::Status(status / 100)).fetch_add(1, Relaxed);
        }
        self.word(at + CELLS + 1).fetch_add(us, Relaxed);
        self.word(at + HISTOGRAM + bucket_of(us)).fetch_add(1, Relaxed);
    }

    /// What this process has in flight there.
    pub fn in_flight(&self, row: EndpointRow) -> &AtomicU64 {
        self.in_flight_of(row, self.slot)
    }

    fn in_flight_of(&self, row: EndpointRow, slot: Slot) -> &AtomicU64 {
        self.word(Self::endpoint_at(row) + in_flight_word(slot.index()))
    }

    /// What all processes have.
    #[must_use]
    pub fn in_flight_in_all(&self, row: EndpointRow) -> u64 {
        Slot::all().map(|slot| self.in_flight_of(row, slot).load(SeqCst)).sum()
    }

    /// See [`crate::endpoint`].
    pub fn flag(&self, row: EndpointRow) -> &AtomicU64 {
        self.word(Self::endpoint_at(row) + FLAG)
    }

    /// Differs with each binding of the row.
    #[must_use]
    pub fn binding(&self, row: EndpointRow) -> u64 {
        self.word(Self::endpoint_at(row) + BOUND_AT).load(Relaxed)
    }

    pub fn requests(&self, row: EndpointRow) -> &AtomicU64 {
        self.word(Self::endpoint_at(row) + CELLS + 1)
    }

    pub fn endpoint_cut(&self, row: EndpointRow) -> &AtomicU64 {
        self.word(Self::endpoint_at(row) + CELLS + 2)
    }

    // --- reading ------------------------------------------------------------------------------------------------

    #[must_use]
    pub fn answers(&self, version: VersionRow) -> u64 {
        self.word(Self::version_at(version) + CELLS).load(Relaxed)
    }

    #[must_use]
    pub fn histogram(&self, version: VersionRow) -> Histogram {
        let at = Self::version_at(version);
        let mut histogram =
            Histogram { sum_us: self.word(at + CELLS + 1).load(Relaxed), ..Histogram::default() };
        for bucket in 0..BUCKETS {
            let count = self.word(at + HISTOGRAM + bucket).load(Relaxed);
            if count > 0 {
                histogram.count += count;
                histogram.buckets.insert(bucket as u32, count);
            }
        }
        histogram
    }

    /// All versions of an app that have a row, with their names.
    #[must_use]
    pub fn versions_of(&self, app: &str) -> Vec<(String, VersionRow)> {
        let prefix = format!("{app}\0");
        (0..VERSION_ROWS as u32)
            .map(VersionRow)
            .filter(|row| self.word(Self::version_at(*row)).load(Relaxed) == KIND_VERSION)
            .filter_map(|row| {
                let key = self.key(Self::version_at(row));
                key.strip_prefix(&prefix).map(|version| (version.to_owned(), row))
            })
            .collect()
    }

    /// All apps that have a row.
    #[must_use]
    pub fn apps(&self) -> Vec<(String, VersionRow)> {
        (0..VERSION_ROWS as u32)
            .map(VersionRow)
            .filter(|row| self.word(Self::version_at(*row)).load(Relaxed) == KIND_APP)
            .map(|row| (self.key(Self::version_at(row)), row))
            .collect()
    }

    fn key(&self, at: usize) -> String {
        let len = (self.word(at + KEY).load(Relaxed) as usize).min((KEY_WORDS - 1) * 8);
        let mut bytes: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|n| self.word(at + KEY + 1 + n).load(Relaxed).to_le_bytes())
            .collect();
        bytes.truncate(len);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
impl Counts {
    /// As the only process.
    pub fn alone(path: &Path) -> Self {
        Self::open(path, Slot::FIRST, |_| false).unwrap().0
    }
}

fn open_file(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

/// Takes the room on the disk. A word that is stored into a hole of a full file system ends the process.
pub fn allocate(file: &File, words: usize) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, words as u64 * 8) {
        // A file system that cannot promise room.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        allocated => Ok(allocated?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// On a full disk a store into a hole would be SIGBUS, and the traffic would stop.
    #[test]
    fn the_file_has_no_holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy-counts");
        drop(open(&path));
        let whole = |path: &Path| fs::metadata(path).unwrap().blocks() * 512 >= WORDS as u64 * 8;
        assert!(whole(&path), "a new one");
        // One that was made with holes gets its room as it is opened.
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes[..64]).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(bytes.len() as u64).unwrap();
        assert!(!whole(&path), "holes can be had here");
        drop(open(&path));
        assert!(whole(&path), "an old one");
    }

    fn open(path: &Path) -> Counts {
        Counts::alone(path)
    }

    #[test]
    fn counts_outlive_the_mapping() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy-counts");
        let counts = open(&path);
        let row = counts.bind_version("web", "3.1", &[]).unwrap();
        counts.answered(row, Duration::from_micros(1000), 200);
        drop(counts);
        let counts = open(&path);
        assert_eq!(counts.versions_of("web"), vec![("3.1".to_owned(), row)]);
        assert_eq!(counts.answers(row), 1);
        assert_eq!(counts.histogram(row).buckets.into_iter().collect::<Vec<_>>(), vec![(111, 1)]);
    }

    #[test]
    fn a_foreign_file_is_set_aside_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy-counts");
        for content in [&b"hello"[..], &vec![0xff; WORDS * 8]] {
            fs::write(&path, content).unwrap();
            let (_, note) = Counts::open(&path, Slot::FIRST, |_| false).unwrap();
            assert!(note.unwrap().contains("moved to"));
        }
    }
}
