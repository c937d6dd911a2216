//! The journal's clock: it counts only time in which a daemon was watching.
//!
//! A deadline that passed while the daemon was dead, stopped or suspended proves nothing about an instance: nobody looked.
//! So a gap counts for as long as the engine had meant to sleep, and a little more. Wall time is for display only.

use trundle_core::Millis;

/// More than this late, and the daemon was not watching.
const MOST_LATE_MS: Millis = 1_000;

#[derive(Debug, Clone, Copy)]
pub struct WatchClock {
    /// The journal's time at `seen`.
    now: Millis,
    /// The machine's monotonic time at the last reading.
    seen: Millis,
    /// When the engine meant to wake, on the machine's clock.
    wakes_at: Millis,
}

impl WatchClock {
    /// Goes on from the journal's last entry.
    pub fn resume(journal_now: Millis, monotonic_ms: Millis) -> Self {
        Self { now: journal_now, seen: monotonic_ms, wakes_at: monotonic_ms }
    }

    /// The journal's time at the machine's monotonic time `monotonic_ms`; never goes back.
    pub fn read(&mut self, monotonic_ms: Millis) -> Millis {
        let trusted = monotonic_ms.min(self.wakes_at.saturating_add(MOST_LATE_MS));
        self.now += trusted.saturating_sub(self.seen);
        self.seen = self.seen.max(monotonic_ms);
        self.wakes_at = self.wakes_at.max(self.seen);
        self.now
    }

    /// Says how long the engine means to sleep from the last reading on.
    pub fn sleep(&mut self, for_ms: Millis) {
        self.wakes_at = self.seen.saturating_add(for_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_only_as_far_as_somebody_watched() {
        let mut clock = WatchClock::resume(500, 10_000);
        assert_eq!(clock.read(10_000), 500);
        clock.sleep(300);
        assert_eq!(clock.read(10_200), 700, "woken early by an event");
        clock.sleep(300);
        assert_eq!(clock.read(10_520), 1_020, "a little late is on time");
        clock.sleep(300);
        assert_eq!(clock.read(40_520), 1_020 + 300 + MOST_LATE_MS, "stopped for 30 s");
        assert_eq!(clock.read(40_000), 2_320, "never back");
    }

    #[test]
    fn one_that_sleeps_until_it_is_woken_was_on_time() {
        let mut clock = WatchClock::resume(500, 10_000);
        clock.sleep(Millis::MAX);
        assert_eq!(clock.read(70_000), 60_500);
    }
}
