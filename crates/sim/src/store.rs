//! A journal that outlives the daemon, that may be full, and at which the daemon may die.

use std::cell::RefCell;
use std::rc::Rc;

use trundle_core::Millis;
use trundle_engine::journal::{Entry, JournalError, MemoryJournal, Store};

/// The disk: what of the journal a next daemon finds.
#[derive(Debug, Clone, Default)]
pub struct Disk(Rc<RefCell<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    journal: MemoryJournal,
    /// Entries are counted and thrown away: for worlds too large to remember.
    forgets: bool,
    appends: u64,
    crash: Option<CrashAt>,
    crashed: bool,
}

/// When the daemon dies: around the `append`-th write from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashAt {
    pub append: u64,
    /// The write reached the disk, and nobody was told.
    pub after: bool,
}

impl Disk {
    /// One that remembers nothing: no daemon can be started from it a second time.
    pub fn that_forgets() -> Self {
        let disk = Self::default();
        disk.0.borrow_mut().forgets = true;
        disk
    }

    pub fn set_full(&self, full: bool) {
        self.0.borrow_mut().journal.full = full;
    }

    /// Writes that a full disk has refused.
    pub fn refused(&self) -> u64 {
        self.0.borrow().journal.refused
    }

    pub fn crash_at(&self, at: CrashAt) {
        let mut inner = self.0.borrow_mut();
        inner.crash = Some(CrashAt { append: inner.appends + at.append, ..at });
    }

    /// What was foreseen of the kind and did not happen yet, does not happen.
    pub fn no_more_crashes(&self) {
        self.0.borrow_mut().crash = None;
    }

    /// Whether the daemon died since it was asked last.
    pub fn take_crash(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().crashed)
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.0.borrow().journal.entries.clone()
    }
}

impl Store for Disk {
    fn append(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        let mut inner = self.0.borrow_mut();
        if inner.crashed {
            return Err(JournalError::Broken("the daemon is dead".to_owned()));
        }
        inner.appends += 1;
        let crash = inner.crash.filter(|crash| crash.append == inner.appends);
        if crash.is_none_or(|crash| crash.after) && !inner.forgets {
            inner.journal.append(entries)?;
        }
        if crash.is_some() {
            inner.crash = None;
            inner.crashed = true;
            // Nobody lives to read this; it keeps the engine from acting.
            return Err(JournalError::Broken("the daemon is dead".to_owned()));
        }
        Ok(())
    }

    fn load(&mut self) -> Result<Vec<Entry>, JournalError> {
        self.0.borrow_mut().journal.load()
    }

    fn keep_time(&mut self, at_ms: Millis) -> Result<(), JournalError> {
        self.0.borrow_mut().journal.keep_time(at_ms)
    }

    fn kept_time(&mut self) -> Result<Millis, JournalError> {
        self.0.borrow_mut().journal.kept_time()
    }

    fn begin_epoch(&mut self) -> Result<u64, JournalError> {
        self.0.borrow_mut().journal.begin_epoch()
    }

    fn boot_id(&mut self) -> Result<Option<String>, JournalError> {
        self.0.borrow_mut().journal.boot_id()
    }

    fn set_boot_id(&mut self, boot_id: &str) -> Result<(), JournalError> {
        self.0.borrow_mut().journal.set_boot_id(boot_id)
    }
}
