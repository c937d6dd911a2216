//! The journal: what happened, in order, before anything is done about it.

mod head;
mod memory;
mod sqlite;

use serde::{Deserialize, Serialize};
use trundle_core::Millis;
use trundle_core::event::Event;
use trundle_core::ids::AppName;

pub use memory::MemoryJournal;
pub use sqlite::SqliteJournal;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 1, 2, 3 … over all apps.
    pub n: u64,
    /// Of the daemon that wrote it.
    pub epoch: u64,
    pub app: AppName,
    /// On the journal's clock.
    pub at_ms: Millis,
    /// Milliseconds since 1970, for display only.
    pub wall_ms: u64,
    pub event: Event,
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Nothing was written; it may be tried again.
    #[error("the journal cannot be written: {0}; nothing new starts until it can, what runs goes on")]
    Full(String),
    /// Nobody can say what is on the disk: only a new daemon may read it again.
    #[error(
        "the journal failed to reach the disk: {0}; nothing new starts; repair the disk and restart the daemon"
    )]
    Broken(String),
    /// What is there is not what was written.
    #[error(
        "the journal is damaged{at}: {detail}; nothing was changed, and what runs goes on; move {path}, what begins with \
         its name, and journal.head aside, put a copy of the journal in their place, and start the daemon again",
        at = if *n == 0 { String::new() } else { format!(" at record {n}") }
    )]
    Damaged { n: u64, detail: String, path: String },
    /// Of a newer release.
    #[error("the journal has format {found}, this release reads up to {known}; use the newer release")]
    Newer { found: u32, known: u32 },
    #[error("cannot open the journal {path}: {detail}")]
    Open { path: String, detail: String },
}

/// Keeps entries. Appending is one durable transaction: all of them or none.
pub trait Store {
    /// # Errors
    /// [`JournalError::Full`] when nothing was written, [`JournalError::Broken`] when that cannot be known.
    fn append(&mut self, entries: &[Entry]) -> Result<(), JournalError>;

    /// All entries, oldest first.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] at the first record that is not as it was written.
    fn load(&mut self) -> Result<Vec<Entry>, JournalError>;

    /// Notes durably that the journal's clock has come to `at_ms` while nothing else was written: a daemon that is killed
    /// again and again would otherwise never see a deadline pass.
    ///
    /// # Errors
    /// When it cannot be made durable; nothing is lost but that time.
    fn keep_time(&mut self, at_ms: Millis) -> Result<(), JournalError>;

    /// The time that was noted last; 0 when none was.
    ///
    /// # Errors
    /// When it cannot be read.
    fn kept_time(&mut self) -> Result<Millis, JournalError>;

    /// Begins a new epoch durably and answers with its number.
    ///
    /// # Errors
    /// When it cannot be made durable.
    fn begin_epoch(&mut self) -> Result<u64, JournalError>;

    /// The boot that was noted last; None when none was.
    ///
    /// # Errors
    /// When it cannot be read.
    fn boot_id(&mut self) -> Result<Option<String>, JournalError>;

    /// Notes the boot durably: only after it is durable what the new boot means.
    ///
    /// # Errors
    /// When it cannot be made durable.
    fn set_boot_id(&mut self, boot_id: &str) -> Result<(), JournalError>;
}
