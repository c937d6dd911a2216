//! After the death of a process: what was in flight is lost, and counted as that exactly once.

use std::sync::atomic::Ordering::{Relaxed, Release};

use super::{
    Counts, ENDPOINT_ROWS, EndpointRow, INTENT_APP, INTENT_ROW, INTENT_VALUE, KIND_ENDPOINT, VERSION_ROWS,
    VersionRow, in_flight_word,
};
use crate::classes::{AppCell, Lost};
use crate::slots::Slot;

impl Counts {
    /// Moves what was in flight in the slots of dead processes to its app's `proxy_killed`.
    pub fn settle_killed(&self, is_dead: impl Fn(Slot) -> bool) {
        self.finish_intent();
        for slot in Slot::all().filter(|slot| is_dead(*slot)) {
            (0..ENDPOINT_ROWS as u32).map(EndpointRow).for_each(|row| self.settle_row(row, slot));
        }
    }

    fn settle_row(&self, row: EndpointRow, slot: Slot) {
        let at = Self::endpoint_at(row);
        let left = self.in_flight_of(row, slot).load(Relaxed);
        if self.word(at).load(Relaxed) != KIND_ENDPOINT || left == 0 {
            return;
        }
        let key = self.key(at);
        let app = key.split('\0').next().unwrap_or_default();
        let Some(app_row) = self.bind_app(app, &[]) else { return };
        let killed = self.app_cell(app_row, AppCell::Lost(Lost::ProxyKilled)).load(Relaxed);
        self.word(INTENT_APP).store(u64::from(app_row.0), Relaxed);
        self.word(INTENT_VALUE).store(killed + left, Relaxed);
        self.word(INTENT_ROW).store(intent(row, slot), Release);
        self.finish_intent();
    }

    /// Absolute stores only: doing it twice is doing it once.
    fn finish_intent(&self) {
        let row = self.word(INTENT_ROW).load(Relaxed);
        let app = self.word(INTENT_APP).load(Relaxed);
        if (1..=(Slot::COUNT * ENDPOINT_ROWS) as u64).contains(&row) && app < VERSION_ROWS as u64 {
            let value = self.word(INTENT_VALUE).load(Relaxed);
            let killed = self.app_cell(VersionRow(app as u32), AppCell::Lost(Lost::ProxyKilled));
            killed.store(value, Release);
            let (slot, row) = ((row as usize - 1) / ENDPOINT_ROWS, (row as usize - 1) % ENDPOINT_ROWS);
            self.word(Self::endpoint_at(EndpointRow(row as u32)) + in_flight_word(slot)).store(0, Release);
        }
        self.word(INTENT_ROW).store(0, Release);
    }
}

fn intent(row: EndpointRow, slot: Slot) -> u64 {
    (slot.index() * ENDPOINT_ROWS) as u64 + u64::from(row.0) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::atomic::Ordering::SeqCst;

    fn open(path: &Path) -> Counts {
        Counts::alone(path)
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

    #[test]
    fn only_what_the_dead_had_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy-counts");
        let [first, second, third] = [0, 1, 2].map(|n| Slot::all().nth(n).unwrap());
        let old = open(&path);
        let row = old.bind_endpoint("web", "web-1-1", "a").unwrap();
        old.in_flight(row).fetch_add(3, SeqCst);
        let (new, _) = Counts::open(&path, second, |slot| slot == first).unwrap();
        new.in_flight(row).fetch_add(2, SeqCst);
        assert_eq!((killed(&new), new.in_flight_in_all(row)), (0, 5));
        // The second dies, while the first still finishes.
        let (newest, _) = Counts::open(&path, third, |slot| slot == first).unwrap();
        assert_eq!((killed(&newest), newest.in_flight_in_all(row)), (2, 3));
        newest.settle_killed(|slot| slot == first);
        assert_eq!((killed(&newest), newest.in_flight_in_all(row)), (5, 0));
    }
}
