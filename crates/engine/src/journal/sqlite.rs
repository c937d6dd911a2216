//! The journal in SQLite: write-ahead log, full synchronisation, one transaction per decision. Each record carries a
//! checksum that includes its predecessor's, so a changed, lost or swapped record is found and never guessed at.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use sha2::{Digest, Sha256};
use trundle_core::Millis;
use trundle_core::revision::hex;
use trundle_crashpoint::crash_point;

use super::{Entry, JournalError, Store};

/// Raised when a release writes what an older one cannot read.
const FORMAT: u32 = 1;

pub struct SqliteJournal {
    connection: Connection,
    path: PathBuf,
    /// The checksum of the last record.
    last_sum: String,
    broken: Option<String>,
}

impl SqliteJournal {
    pub const FILE: &'static str = "journal.db";

    /// Opens the journal of a state directory for writing; makes it when it is not there.
    ///
    /// # Errors
    /// [`JournalError::Open`] or [`JournalError::Newer`].
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let path = state_dir.join(Self::FILE);
        let open = |e: rusqlite::Error| JournalError::Open {
            path: path.display().to_string(),
            detail: e.to_string(),
        };
        let connection = Connection::open(&path).map_err(open)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;
                 CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
                 CREATE TABLE IF NOT EXISTS journal (
                     n INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, app TEXT NOT NULL, at_ms INTEGER NOT NULL,
                     wall_ms INTEGER NOT NULL, event TEXT NOT NULL, sum TEXT NOT NULL) STRICT;",
            )
            .map_err(open)?;
        let journal = Self { connection, path, last_sum: String::new(), broken: None };
        journal.check_format()?;
        Ok(journal)
    }

    /// Opens it for reading beside a daemon that may be writing, or with none.
    ///
    /// # Errors
    /// [`JournalError::Open`] when there is none, [`JournalError::Newer`].
    pub fn open_to_read(state_dir: &Path) -> Result<Self, JournalError> {
        let path = state_dir.join(Self::FILE);
        let open = |e: rusqlite::Error| JournalError::Open {
            path: path.display().to_string(),
            detail: e.to_string(),
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(open)?;
        connection.pragma_update(None, "busy_timeout", 5000).map_err(open)?;
        Ok(Self { connection, path, last_sum: String::new(), broken: None })
    }

    fn check_format(&self) -> Result<(), JournalError> {
        let found = self.meta("format")?;
        match found.as_deref().map(str::parse::<u32>) {
            None => self.set_meta("format", &FORMAT.to_string()),
            Some(Ok(found)) if found <= FORMAT => Ok(()),
            Some(Ok(found)) => Err(JournalError::Newer { found, known: FORMAT }),
            Some(Err(e)) => Err(self.damaged(0, format!("its format is not a number: {e}"))),
        }
    }

    fn meta(&self, key: &str) -> Result<Option<String>, JournalError> {
        self.connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
            .optional()
            .map_err(|e| self.damaged(0, e.to_string()))
    }

    /// 0 when it was never set.
    fn number(&self, key: &str) -> Result<u64, JournalError> {
        let parse = |text: String| {
            text.parse().map_err(|e| self.damaged(0, format!("its {key} is not a number: {e}")))
        };
        self.meta(key)?.map_or(Ok(0), parse)
    }

    fn set_meta(&self, key: &str, value: &str) -> Result<(), JournalError> {
        self.connection
            .execute(
                "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
                [key, value],
            )
            .map(|_| ())
            .map_err(|e| classify(&e))
    }

    fn damaged(&self, n: u64, detail: String) -> JournalError {
        JournalError::Damaged { n, detail, path: self.path.display().to_string() }
    }
}

/// Full disks and read-only files leave nothing behind; after anything else nobody knows what reached the disk.
fn classify(error: &rusqlite::Error) -> JournalError {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked,
        ) => JournalError::Full(error.to_string()),
        _ => JournalError::Broken(error.to_string()),
    }
}

fn checksum(previous: &str, entry: &Entry, event: &str) -> String {
    let mut hash = Sha256::new();
    for part in [
        previous,
        &entry.n.to_string(),
        &entry.epoch.to_string(),
        entry.app.as_str(),
        &entry.at_ms.to_string(),
        &entry.wall_ms.to_string(),
        event,
    ] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..16])
}

impl Store for SqliteJournal {
    fn append(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        if let Some(why) = &self.broken {
            return Err(JournalError::Broken(why.clone()));
        }
        let mut last_sum = self.last_sum.clone();
        let mut write = || -> Result<(), rusqlite::Error> {
            let transaction = self.connection.transaction()?;
            {
                let mut insert =
                    transaction.prepare_cached("INSERT INTO journal VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
                for entry in entries {
                    let event = serde_json::to_string(&entry.event)
                        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
                    last_sum = checksum(&last_sum, entry, &event);
                    insert.execute(params![
                        entry.n,
                        entry.epoch,
                        entry.app.as_str(),
                        entry.at_ms,
                        entry.wall_ms,
                        event,
                        last_sum
                    ])?;
                }
            }
            crash_point!("journal.append.commit");
            transaction.commit()
        };
        crash_point!("journal.append.before");
        let wrote = write();
        crash_point!("journal.append.after");
        match wrote {
            Ok(()) => {
                self.last_sum = last_sum;
                Ok(())
            }
            Err(error) => {
                let error = classify(&error);
                if let JournalError::Broken(why) = &error {
                    self.broken = Some(why.clone());
                }
                Err(error)
            }
        }
    }

    fn load(&mut self) -> Result<Vec<Entry>, JournalError> {
        let fail = |n: u64, e: rusqlite::Error| self.damaged(n, e.to_string());
        let mut entries: Vec<Entry> = Vec::new();
        let mut last_sum = String::new();
        let mut select = self
            .connection
            .prepare("SELECT n, epoch, app, at_ms, wall_ms, event, sum FROM journal ORDER BY n")
            .map_err(|e| fail(0, e))?;
        let mut rows = select.query([]).map_err(|e| fail(0, e))?;
        loop {
            let expected = entries.len() as u64 + 1;
            let Some(row) = rows.next().map_err(|e| fail(expected, e))? else { break };
            let read = || -> Result<(Entry, String, String), Box<dyn std::error::Error>> {
                let event: String = row.get(5)?;
                let entry = Entry {
                    n: row.get(0)?,
                    epoch: row.get(1)?,
                    app: row.get::<_, String>(2)?.parse()?,
                    at_ms: row.get(3)?,
                    wall_ms: row.get(4)?,
                    event: serde_json::from_str(&event)?,
                };
                Ok((entry, event, row.get(6)?))
            };
            let (entry, event, sum) = read().map_err(|e| self.damaged(expected, e.to_string()))?;
            if entry.n != expected {
                return Err(self.damaged(expected, format!("record {} follows instead", entry.n)));
            }
            last_sum = checksum(&last_sum, &entry, &event);
            if sum != last_sum {
                return Err(self.damaged(expected, "its checksum does not fit its content".to_owned()));
            }
            entries.push(entry);
        }
        drop(rows);
        drop(select);
        self.last_sum = last_sum;
        Ok(entries)
    }

    fn keep_time(&mut self, at_ms: Millis) -> Result<(), JournalError> {
        crash_point!("journal.time.before");
        self.set_meta("at_ms", &at_ms.to_string())?;
        crash_point!("journal.time.after");
        Ok(())
    }

    fn kept_time(&mut self) -> Result<Millis, JournalError> {
        self.number("at_ms")
    }

    fn begin_epoch(&mut self) -> Result<u64, JournalError> {
        let last = self.number("epoch")?;
        crash_point!("journal.epoch.before");
        self.set_meta("epoch", &(last + 1).to_string())?;
        crash_point!("journal.epoch.after");
        Ok(last + 1)
    }

    fn boot_id(&mut self) -> Result<Option<String>, JournalError> {
        self.meta("boot_id")
    }

    fn set_boot_id(&mut self, boot_id: &str) -> Result<(), JournalError> {
        crash_point!("journal.boot.before");
        self.set_meta("boot_id", boot_id)?;
        crash_point!("journal.boot.after");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trundle_core::event::{Command, Event};

    fn entry(n: u64) -> Entry {
        let event = Event::Commanded { by: "ann".into(), command: Command::Pause };
        Entry { n, epoch: 1, app: "web".parse().unwrap(), at_ms: n * 10, wall_ms: n * 1000, event }
    }

    fn written(dir: &Path) -> SqliteJournal {
        let mut journal = SqliteJournal::open(dir).unwrap();
        journal.append(&[entry(1), entry(2)]).unwrap();
        journal.append(&[entry(3)]).unwrap();
        journal
    }

    #[test]
    fn what_was_written_is_read_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        drop(written(dir.path()));
        let mut journal = SqliteJournal::open(dir.path()).unwrap();
        assert_eq!(journal.load().unwrap(), [entry(1), entry(2), entry(3)]);
        journal.append(&[entry(4)]).unwrap();
        assert_eq!(SqliteJournal::open_to_read(dir.path()).unwrap().load().unwrap().len(), 4);
        assert_eq!((journal.begin_epoch().unwrap(), journal.begin_epoch().unwrap()), (1, 2));
        assert_eq!(journal.boot_id().unwrap(), None);
        journal.set_boot_id("a").unwrap();
        assert_eq!(journal.boot_id().unwrap(), Some("a".into()));
    }

    #[test]
    fn a_changed_or_missing_record_is_named_and_never_guessed() {
        for (damage, at) in [
            ("UPDATE journal SET event = replace(event, 'ann', 'bob') WHERE n = 2", 2),
            ("UPDATE journal SET at_ms = 21 WHERE n = 2", 2),
            ("DELETE FROM journal WHERE n = 2", 2),
            ("UPDATE journal SET event = '{' WHERE n = 3", 3),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut journal = written(dir.path());
            journal.connection.execute_batch(damage).unwrap();
            match journal.load() {
                Err(JournalError::Damaged { n, .. }) => assert_eq!(n, at, "{damage}"),
                other => panic!("{damage}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path()).set_meta("format", "2").unwrap();
        assert!(matches!(SqliteJournal::open(dir.path()), Err(JournalError::Newer { found: 2, known: 1 })));
    }
}
