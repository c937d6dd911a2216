//! The journal in SQLite: write-ahead log, full synchronisation, one transaction per decision. Each record carries a
//! checksum that includes its predecessor's, so a changed, lost or swapped record is found and never guessed at. A lost
//! end is found by `journal.head` ([`super::head`]).
//!
//! After a sync that failed nothing is written any more: what the system says of the same bytes later proves nothing.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use sha2::{Digest, Sha256};
use trundle_core::Millis;
use trundle_core::revision::hex;
use trundle_crashpoint::crash_point;

use super::head::{Head, HeadFile};
use super::{Entry, JournalError, Store};

/// Raised when a release writes what an older one cannot read.
const FORMAT: u32 = 1;
/// The write-ahead log is carried over to the database after so many records.
const CHECKPOINT_AFTER: usize = 1_000;
/// Of everything else in `meta`.
const META_SUM: &str = "sum";

pub struct SqliteJournal {
    connection: Connection,
    path: PathBuf,
    /// The last record and epoch that are known to be durable.
    head: Head,
    /// None for one who only reads.
    head_file: Option<HeadFile>,
    /// Records since the last checkpoint; a note counts as one.
    since_checkpoint: usize,
    broken: Option<String>,
}

impl SqliteJournal {
    pub const FILE: &'static str = "journal.db";

    /// Opens the journal of a state directory for writing; makes it when it is not there.
    ///
    /// # Errors
    /// [`JournalError::Open`] or [`JournalError::Newer`].
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let (path, head) = Self::find(state_dir)?;
        let open = |e: rusqlite::Error| cannot_open(&path, &e);
        // SQLite gives its other files the rights of this one.
        let made = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        made.map_err(|error| JournalError::Open {
            path: path.display().to_string(),
            detail: error.to_string(),
        })?;
        let connection = Connection::open(&path).map_err(open)?;
        // Checkpoints are made by hand: SQLite would make them unasked, and keep to itself that one failed. And one who
        // refuses what it finds here leaves it as it is.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(open)?;
        connection
            .execute_batch(
                "PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000; PRAGMA wal_autocheckpoint = 0;",
            )
            .map_err(open)?;
        if head == Head::default() {
            connection
                .execute_batch(
                    "PRAGMA journal_mode = WAL;
                     CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
                     CREATE TABLE IF NOT EXISTS journal (
                         n INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, app TEXT NOT NULL, at_ms INTEGER NOT NULL,
                         wall_ms INTEGER NOT NULL, event TEXT NOT NULL, sum TEXT NOT NULL) STRICT;",
                )
                .map_err(open)?;
        }
        let head_file = Some(HeadFile::open(state_dir));
        let mut journal = Self { connection, path, head, head_file, since_checkpoint: 0, broken: None };
        journal.check_format()?;
        Ok(journal)
    }

    /// Opens it for reading beside a daemon that may be writing, or with none.
    ///
    /// # Errors
    /// [`JournalError::Open`] when there is none, [`JournalError::Newer`].
    pub fn open_to_read(state_dir: &Path) -> Result<Self, JournalError> {
        let (path, head) = Self::find(state_dir)?;
        let open = |e: rusqlite::Error| cannot_open(&path, &e);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(open)?;
        connection.pragma_update(None, "busy_timeout", 5000).map_err(open)?;
        Ok(Self { connection, path, head, head_file: None, since_checkpoint: 0, broken: None })
    }

    /// Where it is, and what is known of its end. An empty file is a new journal only where there never was one.
    fn find(state_dir: &Path) -> Result<(PathBuf, Head), JournalError> {
        let path = state_dir.join(Self::FILE);
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let head = Head::read(state_dir);
        let lost =
            (head.n > 0).then(|| format!("it is empty, and records up to {} were acknowledged", head.n));
        let has_log = bytes(&path.with_extension("db-wal")) > 0;
        let lost = lost.or_else(|| has_log.then(|| "it is empty, and its log is not".to_owned()));
        let damaged = |n, detail| JournalError::Damaged { n, detail, path: path.display().to_string() };
        if let Some(detail) = lost.filter(|_| bytes(&path) == 0) {
            return Err(damaged(1, detail));
        }
        let least = least_bytes(&path, has_log);
        if (1..least).contains(&bytes(&path)) {
            return Err(damaged(0, format!("it has {} bytes of at least {least}", bytes(&path))));
        }
        Ok((path, head))
    }

    fn check_format(&mut self) -> Result<(), JournalError> {
        self.check_meta()?;
        let found = self.meta("format")?;
        match found.as_deref().map(str::parse::<u32>) {
            None if self.head == Head::default() => self.set_meta("format", &FORMAT.to_string()),
            None => Err(self.damaged(0, "its format is not noted".to_owned())),
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

    /// A changed boot or time would be believed, and acted upon.
    fn check_meta(&self) -> Result<(), JournalError> {
        let Some(sum) = self.meta(META_SUM)? else { return Ok(()) };
        let found = meta_sum(&self.connection).map_err(|e| self.damaged(0, e.to_string()))?;
        if sum == found {
            return Ok(());
        }
        Err(self.damaged(0, "its notes of format, epoch, boot and time do not fit their checksum".to_owned()))
    }

    fn set_meta(&mut self, key: &str, value: &str) -> Result<(), JournalError> {
        self.write(1, |transaction| {
            let mut set = transaction.prepare_cached(
                "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
            )?;
            set.execute([key, value])?;
            set.execute([META_SUM, &meta_sum(transaction)?])?;
            Ok(())
        })
    }

    /// One transaction, durable when this returns. `records`: about how much it adds to the log.
    fn write<T>(
        &mut self,
        records: usize,
        with: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, JournalError> {
        if let Some(why) = &self.broken {
            return Err(JournalError::Broken(why.clone()));
        }
        let write = || {
            let transaction = self.connection.transaction()?;
            let done = with(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        let done = write().map_err(|e| self.failed(&e))?;
        self.since_checkpoint += records;
        if self.since_checkpoint >= CHECKPOINT_AFTER {
            self.since_checkpoint = 0;
            let carried = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            // What was written is durable in the log. The next one is told if the disk failed.
            let _ = carried.map_err(|e| self.failed(&e));
        }
        Ok(done)
    }

    fn failed(&mut self, error: &rusqlite::Error) -> JournalError {
        let error = classify(error);
        if let JournalError::Broken(why) = &error {
            self.broken = Some(why.clone());
            // Nothing is carried over at the end either: the next daemon finds the log whole.
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        error
    }

    fn keep_head(&mut self, head: Head) {
        self.head = head;
        crash_point!("journal.head.before");
        if let Some(file) = &self.head_file {
            file.write(&self.head);
        }
    }

    /// What was read against what is known to have been acknowledged. `sum`: of the record that the head names.
    fn check_head(&self, last: u64, sum: Option<&str>) -> Result<(), JournalError> {
        let head = &self.head;
        if last < head.n {
            let gone = if last + 1 == head.n {
                format!("record {} was acknowledged and is not there", head.n)
            } else {
                format!("records {} to {} were acknowledged and are not there", last + 1, head.n)
            };
            let detail = format!("{gone} (to go on from an older copy on purpose, remove {})", Head::FILE);
            return Err(self.damaged(last + 1, detail));
        }
        if head.n > 0 && sum != Some(&head.sum) {
            return Err(self.damaged(head.n, "it is not the record that was acknowledged".to_owned()));
        }
        if self.number("epoch")? < head.epoch {
            return Err(self.damaged(0, format!("epoch {} began and is not noted", head.epoch)));
        }
        Ok(())
    }

    fn damaged(&self, n: u64, detail: String) -> JournalError {
        JournalError::Damaged { n, detail, path: self.path.display().to_string() }
    }
}

/// How long the database is by what its first 100 bytes say (sqlite.org/fileformat.html). SQLite itself reads what is missing
/// of a page as zeros, which can be a table without rows, and takes the log of a file of no page away. With a log the
/// database may be shorter than it says, by a checkpoint that was killed.
fn least_bytes(path: &Path, has_log: bool) -> u64 {
    let mut header = [0; 100];
    if std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut header)).is_err() {
        return header.len() as u64;
    }
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        bytes => u64::from(bytes),
    };
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    if has_log { page } else { page * u64::from(pages) }
}

fn cannot_open(path: &Path, error: &rusqlite::Error) -> JournalError {
    let (path, detail) = (path.display().to_string(), error.to_string());
    match error.sqlite_error_code() {
        // What SQLite does not understand came to no harm by the system.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) => {
            JournalError::Damaged { n: 0, detail, path }
        }
        _ => JournalError::Open { path, detail },
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

fn meta_sum(connection: &Connection) -> Result<String, rusqlite::Error> {
    let mut select = connection.prepare_cached("SELECT key, value FROM meta WHERE key <> ?1 ORDER BY key")?;
    let mut rows = select.query([META_SUM])?;
    let mut hash = Sha256::new();
    while let Some(row) = rows.next()? {
        for part in [row.get::<_, String>(0)?, row.get(1)?] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hex(&hash.finalize()[..16]))
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
        let mut head = self.head.clone();
        crash_point!("journal.append.before");
        let head = self.write(entries.len().max(1), |transaction| {
            let mut insert =
                transaction.prepare_cached("INSERT INTO journal VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
            for entry in entries {
                let event = serde_json::to_string(&entry.event)
                    .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
                head.sum = checksum(&head.sum, entry, &event);
                head.n = entry.n;
                insert.execute(params![
                    entry.n,
                    entry.epoch,
                    entry.app.as_str(),
                    entry.at_ms,
                    entry.wall_ms,
                    event,
                    head.sum
                ])?;
            }
            crash_point!("journal.append.commit");
            Ok(head)
        });
        crash_point!("journal.append.after");
        self.keep_head(head?);
        Ok(())
    }

    fn load(&mut self) -> Result<Vec<Entry>, JournalError> {
        let fail = |n: u64, e: rusqlite::Error| self.damaged(n, e.to_string());
        let mut entries: Vec<Entry> = Vec::new();
        let (mut last_sum, mut head_sum) = (String::new(), None);
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
            if entry.n == self.head.n {
                head_sum = Some(last_sum.clone());
            }
            entries.push(entry);
        }
        drop(rows);
        drop(select);
        let last = entries.last().map_or(0, |entry| entry.n);
        self.check_head(last, head_sum.as_deref())?;
        self.head.n = last;
        self.head.sum = last_sum;
        if self.head_file.is_some() {
            let unchecked = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
            unchecked.map_err(|e| self.damaged(0, e.to_string()))?;
        }
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
        // An older copy that was put back does not know of the epochs since: nobody would believe one that comes again.
        // It is above them by the wall clock; above its own it is by any clock.
        let seconds =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let epoch = seconds.max(self.number("epoch")? + 1);
        crash_point!("journal.epoch.before");
        self.set_meta("epoch", &epoch.to_string())?;
        crash_point!("journal.epoch.after");
        self.keep_head(Head { epoch, ..self.head.clone() });
        Ok(epoch)
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
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("journal.db"), copy.path().join("journal.db")).unwrap();
        let epoch = journal.begin_epoch().unwrap();
        assert_eq!(journal.begin_epoch().unwrap(), epoch + 1);
        // One that knows of neither begins no lower.
        assert!(SqliteJournal::open(copy.path()).unwrap().begin_epoch().unwrap() >= epoch);
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
