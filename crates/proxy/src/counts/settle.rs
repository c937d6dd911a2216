//! After the death of a process: what was in flight is lost, and counted as that exactly once.

use std::sync::atomic::Ordering::{Relaxed, Release};

use super::{
    Counts, ENDPOINT_ROWS, EndpointRow, INTENT_APP, INTENT_ROW, INTENT_VALUE, KIND_ENDPOINT, VERSION_ROWS,
    VersionRow,
};
use crate::classes::{AppCell, Lost};

impl Counts {
    /// Moves what was in flight to its app's `proxy_killed`.
    pub(super) fn settle_killed(&self) {
        self.finish_intent();
        for row in (0..ENDPOINT_ROWS as u32).map(EndpointRow) {
            let at = Self::endpoint_at(row);
            let left = self.in_flight(row).load(Relaxed);
            if self.word(at).load(Relaxed) != KIND_ENDPOINT || left == 0 {
                continue;
            }
            let key = self.key(at);
            let app = key.split('\0').next().unwrap_or_default();
            let Some(app_row) = self.bind_app(app, &[]) else { continue };
            let killed = self.app_cell(app_row, AppCell::Lost(Lost::ProxyKilled)).load(Relaxed);
            self.word(INTENT_APP).store(u64::from(app_row.0), Relaxed);
            self.word(INTENT_VALUE).store(killed + left, Relaxed);
            self.word(INTENT_ROW).store(u64::from(row.0) + 1, Release);
            self.finish_intent();
        }
    }

    /// Absolute stores only: doing it twice is doing it once.
    fn finish_intent(&self) {
        let row = self.word(INTENT_ROW).load(Relaxed);
        let app = self.word(INTENT_APP).load(Relaxed);
        if (1..=ENDPOINT_ROWS as u64).contains(&row) && app < VERSION_ROWS as u64 {
            let value = self.word(INTENT_VALUE).load(Relaxed);
            let killed = self.app_cell(VersionRow(app as u32), AppCell::Lost(Lost::ProxyKilled));
            killed.store(value, Release);
            self.in_flight(EndpointRow(row as u32 - 1)).store(0, Release);
        }
        self.word(INTENT_ROW).store(0, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::atomic::Ordering::SeqCst;

    fn open(path: &Path) -> Counts {
        Counts::open(path).unwrap().0
    }

    fn killed(counts: &Counts) -> u64 {
        let row = counts.bind_app("web", &[]).unwrap();
        counts.app_cell(row, AppCell::Lost(Lost::ProxyKilled)).load(SeqCst)
    }

    #[test]
    fn what_was_in_flight_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy-counts");
        let counts = open(&path);
        let row = counts.bind_endpoint("web", "web-1-1", "a").unwrap();
        counts.in_flight(row).fetch_add(3, SeqCst);
        drop(counts);
        for _ in 0..3 {
            let counts = open(&path);
            assert_eq!(killed(&counts), 3);
            assert_eq!(counts.bind_endpoint("web", "web-1-1", "a"), Some(row));
        }
        // A death between the two stores of a settlement: the next one finishes it, and does not add again.
        let counts = open(&path);
        counts.in_flight(row).store(2, SeqCst);
        let app_row = counts.bind_app("web", &[]).unwrap();
        counts.word(INTENT_APP).store(u64::from(app_row.0), SeqCst);
        counts.word(INTENT_VALUE).store(5, SeqCst);
        counts.word(INTENT_ROW).store(u64::from(row.0) + 1, SeqCst);
        counts.app_cell(app_row, AppCell::Lost(Lost::ProxyKilled)).store(5, SeqCst);
        drop(counts);
        assert_eq!(killed(&open(&path)), 5);
    }
}
