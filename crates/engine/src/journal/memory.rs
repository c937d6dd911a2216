//! A journal in memory, for tests and the simulator: it can be told to fail.

use trundle_core::Millis;

use super::{Entry, JournalError, Store};

#[derive(Debug, Clone, Default)]
pub struct MemoryJournal {
    pub entries: Vec<Entry>,
    pub epoch: u64,
    pub boot_id: Option<String>,
    pub kept_time: Millis,
    /// The next appends fail as a full disk does.
    pub full: bool,
    /// So many have.
    pub refused: u64,
}

impl Store for MemoryJournal {
    fn append(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        if self.full {
            self.refused += 1;
            return Err(JournalError::Full("no space left".into()));
        }
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    fn load(&mut self) -> Result<Vec<Entry>, JournalError> {
        Ok(self.entries.clone())
    }

    fn keep_time(&mut self, at_ms: Millis) -> Result<(), JournalError> {
        self.kept_time = at_ms;
        Ok(())
    }

    fn kept_time(&mut self) -> Result<Millis, JournalError> {
        Ok(self.kept_time)
    }

    fn begin_epoch(&mut self) -> Result<u64, JournalError> {
        self.epoch += 1;
        Ok(self.epoch)
    }

    fn boot_id(&mut self) -> Result<Option<String>, JournalError> {
        Ok(self.boot_id.clone())
    }

    fn set_boot_id(&mut self, boot_id: &str) -> Result<(), JournalError> {
        self.boot_id = Some(boot_id.to_owned());
        Ok(())
    }
}
