//! When to probe next: eager while an instance starts, at the interval afterwards.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use trundle_core::revision::Check;

const EAGER_GAP: Duration = Duration::from_millis(10);
const EAGER_FOR: Duration = Duration::from_secs(1);
/// In tenths: 1.2.
const GROWTH_TENTHS: u32 = 12;

pub(super) struct Pace {
    interval: Duration,
    eager: bool,
    began: Instant,
    gap: Duration,
    last: Instant,
}

impl Pace {
    pub fn new(check: &Check) -> Self {
        let interval = Duration::from_millis(check.interval_ms).max(Duration::from_millis(1));
        let now = Instant::now();
        Self { interval, eager: check.eager, began: now, gap: EAGER_GAP.min(interval), last: now }
    }

    /// Waits until the next probe is due, counted from the beginning of the one before.
    pub async fn rest(&mut self, was_up: bool) {
        let gap = self.next_gap(self.began.elapsed(), was_up);
        let now = Instant::now();
        // After a probe that took longer than the gap a breath is left all the same.
        let due = (self.last + gap).max(now + EAGER_GAP.min(gap) / 2);
        sleep_until(due).await;
        self.last = Instant::now();
    }

    fn next_gap(&mut self, since_start: Duration, was_up: bool) -> Duration {
        if was_up || !self.eager {
            return self.interval;
        }
        if since_start >= EAGER_FOR {
            self.gap = (self.gap * GROWTH_TENTHS / 10).min(self.interval);
        }
        self.gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trundle_core::revision::Probe;

    #[test]
    fn ten_milliseconds_for_a_second_then_a_fifth_longer_each_time() {
        let mut pace = Pace::new(&Check::new(Probe::Tcp));
        let mut ms = |since, up| pace.next_gap(Duration::from_millis(since), up).as_millis();
        assert_eq!([ms(0, false), ms(990, false), ms(1000, false), ms(1010, false)], [10, 10, 12, 14]);
        assert_eq!(ms(1020, true), 1000);
        for _ in 0..40 {
            ms(2000, false);
        }
        assert_eq!(ms(3000, false), 1000, "never longer than the interval");
        let mut calm = Pace::new(&Check { eager: false, ..Check::new(Probe::Tcp) });
        assert_eq!(calm.next_gap(Duration::ZERO, false).as_millis(), 1000);
    }
}
