//! Which row counts for whom. One thread binds, of the process that serves; those that finish only look.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::{
    BOUND_AT, CLOCK, Counts, ENDPOINT_ROW_WORDS, ENDPOINT_ROWS, EndpointRow, KEY, KEY_WORDS, KIND, KIND_APP,
    KIND_ENDPOINT, KIND_FREE, KIND_VERSION, VERSION_ROW_WORDS, VERSION_ROWS, VersionRow, in_flight_word,
};
use crate::classes::AppCell;
use crate::slots::Slot;
use crate::table::Endpoint;

impl Counts {
    /// The row of an app, bound if it was not. `in_use` says which rows may not be taken from their owner.
    pub fn bind_app(&self, app: &str, in_use: &[VersionRow]) -> Option<VersionRow> {
        self.bind_version_row(KIND_APP, app, in_use)
    }

    /// The row of a version of an app.
    pub fn bind_version(&self, app: &str, version: &str, in_use: &[VersionRow]) -> Option<VersionRow> {
        self.bind_version_row(KIND_VERSION, &version_key(app, version), in_use)
    }

    fn bind_version_row(&self, kind: u64, key: &str, in_use: &[VersionRow]) -> Option<VersionRow> {
        let rows = (0..VERSION_ROWS as u32).map(VersionRow);
        let kind_of = |row: VersionRow| self.word(Self::version_at(row)).load(Relaxed);
        let bound_at = |row: &VersionRow| self.word(Self::version_at(*row) + BOUND_AT).load(Relaxed);
        if let Some(row) = self.find_version_row(kind, key) {
            self.word(Self::version_at(row) + BOUND_AT).store(self.tick(), Relaxed);
            return Some(row);
        }
        let free = rows.clone().find(|row| kind_of(*row) == KIND_FREE);
        let row = free.or_else(|| {
            // Versions first: an app's row carries the classes. Of these, the one that was bound longest ago.
            let evictable = |kind| rows.clone().filter(move |r| kind_of(*r) == kind && !in_use.contains(r));
            evictable(KIND_VERSION).min_by_key(bound_at).or_else(|| evictable(KIND_APP).min_by_key(bound_at))
        })?;
        self.forget(row);
        self.write_row(Self::version_at(row), VERSION_ROW_WORDS, kind, key);
        Some(row)
    }

    fn find_version_row(&self, kind: u64, key: &str) -> Option<VersionRow> {
        (0..VERSION_ROWS as u32).map(VersionRow).find(|row| {
            let at = Self::version_at(*row);
            self.word(at).load(Relaxed) == kind && self.key(at) == key
        })
    }

    /// The rows of an endpoint, bound by the process that serves: its app's, its version's, its own.
    pub fn find(&self, app: &str, endpoint: &Endpoint) -> Option<(VersionRow, VersionRow, EndpointRow)> {
        let key = endpoint_key(app, &endpoint.id, &endpoint.incarnation);
        let row = (0..ENDPOINT_ROWS as u32).map(EndpointRow).find(|row| {
            let at = Self::endpoint_at(*row);
            self.word(at).load(Acquire) == KIND_ENDPOINT && self.key(at) == key
        })?;
        let version = self.find_version_row(KIND_VERSION, &version_key(app, &endpoint.version))?;
        Some((self.find_app(app)?, version, row))
    }

    pub fn find_app(&self, app: &str) -> Option<VersionRow> {
        self.find_version_row(KIND_APP, app)
    }

    /// Keeps the answers of a version in its app's sum before its row goes to another.
    fn forget(&self, row: VersionRow) {
        if self.word(Self::version_at(row)).load(Relaxed) != KIND_VERSION {
            return;
        }
        let key = self.key(Self::version_at(row));
        let app = key.split('\0').next().unwrap_or_default();
        if let Some((_, app_row)) = self.apps().into_iter().find(|(name, _)| name == app) {
            self.app_cell(app_row, AppCell::Forgotten).fetch_add(self.answers(row), Relaxed);
        }
    }

    /// Whether an endpoint has a row.
    pub fn is_bound(&self, app: &str, id: &str, incarnation: &str) -> bool {
        let key = endpoint_key(app, id, incarnation);
        (0..ENDPOINT_ROWS as u32).map(EndpointRow).any(|row| {
            let at = Self::endpoint_at(row);
            self.word(at).load(Relaxed) == KIND_ENDPOINT && self.key(at) == key
        })
    }

    /// The row of an endpoint, by app, id and incarnation; `None` when all are taken.
    pub fn bind_endpoint(&self, app: &str, id: &str, incarnation: &str) -> Option<EndpointRow> {
        let key = endpoint_key(app, id, incarnation);
        let mut free = None;
        for row in (0..ENDPOINT_ROWS as u32).map(EndpointRow) {
            let at = Self::endpoint_at(row);
            match self.word(at).load(Relaxed) {
                KIND_ENDPOINT if self.key(at) == key => return Some(row),
                KIND_FREE if free.is_none() => free = Some(row),
                _ => {}
            }
        }
        let row = free?;
        self.write_row(Self::endpoint_at(row), ENDPOINT_ROW_WORDS, KIND_ENDPOINT, &key);
        Some(row)
    }

    /// Gives a row back. Nothing is in flight in it, but for a claim that is about to find its endpoint removed: also in
    /// another process, which has only the flag to go by.
    pub fn free_endpoint(&self, row: EndpointRow) {
        self.flag(row).store(0, SeqCst);
        self.word(Self::endpoint_at(row) + BOUND_AT).store(0, SeqCst);
        self.word(Self::endpoint_at(row)).store(KIND_FREE, Release);
    }

    /// Frees the rows of endpoints that nobody claims: those a process before this one had bound, that the table no longer
    /// names and in which nobody has anything in flight.
    pub fn free_endpoints_except(&self, kept: &[EndpointRow]) {
        for row in (0..ENDPOINT_ROWS as u32).map(EndpointRow) {
            let is_bound = self.word(Self::endpoint_at(row)).load(Relaxed) == KIND_ENDPOINT;
            if is_bound && !kept.contains(&row) && self.in_flight_in_all(row) == 0 {
                self.free_endpoint(row);
            }
        }
    }

    fn tick(&self) -> u64 {
        self.word(CLOCK).fetch_add(1, Relaxed) + 1
    }

    fn write_row(&self, at: usize, words: usize, kind: u64, key: &str) {
        self.word(at + KIND).store(KIND_FREE, Release);
        // The requests in flight are left as they are, which is 0: a request that still looks at a removed endpoint may
        // add one and take it back at this very moment, and a store in between would make that -1.
        let in_flight = |word: &usize| {
            kind == KIND_ENDPOINT && Slot::all().any(|slot| at + in_flight_word(slot.index()) == *word)
        };
        for word in (at + 1..at + words).filter(|word| !in_flight(word)) {
            self.word(word).store(0, Relaxed);
        }
        let bytes = key.as_bytes();
        debug_assert!(bytes.len() < KEY_WORDS * 8, "names are bounded by Table::validate");
        self.word(at + KEY).store(bytes.len() as u64, Relaxed);
        for (n, chunk) in bytes.chunks(8).take(KEY_WORDS - 1).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(at + KEY + 1 + n).store(u64::from_le_bytes(word), Relaxed);
        }
        self.word(at + BOUND_AT).store(self.tick(), Relaxed);
        self.word(at + KIND).store(kind, Release);
    }
}

fn version_key(app: &str, version: &str) -> String {
    format!("{app}\0{version}")
}

fn endpoint_key(app: &str, id: &str, incarnation: &str) -> String {
    format!("{app}\0{id}\0{incarnation}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rows_are_reused_oldest_first_and_the_sum_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let counts = Counts::alone(&dir.path().join("proxy-counts"));
        let app = counts.bind_app("web", &[]).unwrap();
        let first = counts.bind_version("web", "0", &[app]).unwrap();
        counts.answered(first, Duration::ZERO, 200);
        for n in 1..VERSION_ROWS {
            counts.bind_version("web", &n.to_string(), &[app]).unwrap();
        }
        assert!(counts.versions_of("web").iter().all(|(version, _)| version != "0"));
        assert_eq!(counts.app_cell(app, AppCell::Forgotten).load(SeqCst), 1);
        assert!(counts.bind_endpoint(&"a".repeat(100), &"b".repeat(72), &"c".repeat(72)).is_some());
    }
}
