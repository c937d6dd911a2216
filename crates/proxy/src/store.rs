//! The last table on disk, so that the proxy serves with nobody to tell it: `STATE_DIR/proxy-table.json`.
//!
//! A table is acknowledged only after it is here, so it is written whole, beside the old one, and then renamed.
//! A table of an earlier start of the machine opens its doors, but its endpoints are forgotten: their ports may belong to
//! anybody now.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trundle_crashpoint::crash_point;

use crate::table::Table;

/// Inode, time and length: each table is a file of its own.
pub type Stamp = (u64, i64, i64, u64);

pub struct TableFile {
    path: PathBuf,
    /// Changes with each start of the machine.
    boot_id: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    boot_id: String,
    #[serde(flatten)]
    table: Table,
}

impl TableFile {
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { path: state_dir.join("proxy-table.json"), boot_id: boot_id.trim().to_owned() }
    }

    /// Whole or not there for every later reader, however this process ends. It waits for no disk: what a table says of
    /// endpoints is void after the machine was started anew, so there is nothing to save from a power failure, and every
    /// step of a rollout waits for this.
    pub fn write(&self, table: &Table) -> io::Result<()> {
        let temporary = self.path.with_extension("json.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let kept = Kept { boot_id: self.boot_id.clone(), table: table.clone() };
        file.write_all(&serde_json::to_vec(&kept)?)?;
        drop(file);
        crash_point!("proxy.table.rename.before");
        fs::rename(&temporary, &self.path)?;
        crash_point!("proxy.table.rename.after");
        Ok(())
    }

    /// Differs when another table is there.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        let about = fs::metadata(&self.path).ok()?;
        Some((about.ino(), about.mtime(), about.mtime_nsec(), about.len()))
    }

    /// The table, or none and what is to be said about it.
    #[must_use]
    pub fn read(&self) -> (Option<Table>, Option<String>) {
        let said = |reason: String| {
            let path = self.path.display();
            (None, Some(format!("{path} cannot be used ({reason}); serving 503 until a new table comes")))
        };
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (None, None),
            Err(error) => return said(error.to_string()),
        };
        let Kept { boot_id, mut table } = match serde_json::from_slice(&bytes) {
            Ok(kept) => kept,
            Err(error) => return said(error.to_string()),
        };
        if boot_id != self.boot_id {
            table.apps.iter_mut().for_each(|app| app.endpoints.clear());
        }
        match table.validate() {
            Ok(()) => (Some(table), None),
            Err(reason) => said(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::PROTOCOL;

    #[test]
    fn a_table_comes_back_and_a_torn_one_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = TableFile::new(dir.path());
        assert_eq!(file.read(), (None, None));
        let table = Table { protocol: PROTOCOL, epoch: 1, number: 2, apps: vec![] };
        file.write(&table).unwrap();
        assert_eq!(file.read(), (Some(table.clone()), None));
        let whole = fs::read(&file.path).unwrap();
        for end in 0..whole.len() {
            fs::write(&file.path, &whole[..end]).unwrap();
            let (read, note) = file.read();
            assert!(read.is_none() && note.unwrap().contains("cannot be used"));
        }
        file.write(&Table { protocol: 99, ..table }).unwrap();
        assert!(file.read().1.unwrap().contains("protocol 99"));
    }

    #[test]
    fn after_a_reboot_no_address_of_before_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let table: Table = serde_json::from_value(serde_json::json!({
            "protocol": PROTOCOL, "epoch": 1, "number": 2,
            "apps": [{ "app": "web", "listen": [{ "http": "127.0.0.1:8080" }], "endpoints": [{ "id": "web-1-1",
                "incarnation": "a", "version": "1", "revision": 1, "address": "127.0.0.1:20000", "weight": 1,
                "state": "routed" }] }]
        }))
        .unwrap();
        let before = TableFile { boot_id: "another".to_owned(), ..TableFile::new(dir.path()) };
        before.write(&table).unwrap();
        assert_eq!(before.read().0.unwrap(), table);
        let after = TableFile::new(dir.path()).read().0.unwrap();
        assert_eq!((after.apps[0].listen.len(), after.apps[0].endpoints.len()), (1, 0));
    }
}
