//! Requests that wait while an app has nobody to serve them, as when the only instance is replaced and the old one has to
//! stop first. Bounded in number and in time: an app that stays away is told as that at once.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::table::Limits;

/// Of one app, over all tables and threads.
#[derive(Default)]
pub struct Hold {
    waiting: AtomicUsize,
    /// Nobody is routed since then.
    empty_since: Mutex<Option<Instant>>,
}

/// A place among those that wait, given back when dropped.
pub struct Held(Arc<Hold>);

impl Hold {
    /// A table came into force.
    pub fn note(&self, anybody_is_routed: bool) {
        let mut since = self.empty_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if anybody_is_routed { None } else { since.or_else(|| Some(Instant::now())) };
    }

    /// How long one may wait that has found nobody now: less, the longer nobody has been there. A table that has somebody who
    /// could not be reached counts from now.
    #[must_use]
    pub fn until(&self, limits: &Limits) -> Instant {
        let since = *self.empty_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.unwrap_or_else(Instant::now) + Duration::from_millis(limits.hold_ms)
    }

    /// `None`: too many wait already.
    #[must_use]
    pub fn enter(self: &Arc<Self>, limits: &Limits) -> Option<Held> {
        let one_more = |waiting| (waiting < limits.hold_requests).then_some(waiting + 1);
        self.waiting.try_update(Relaxed, Relaxed, one_more).ok().map(|_| Held(Arc::clone(self)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_counts_from_when_the_last_one_left() {
        let hold = Hold::default();
        let limits = Limits { hold_ms: 10_000, ..Limits::default() };
        let left = |hold: &Hold| hold.until(&limits).saturating_duration_since(Instant::now());
        assert!(left(&hold) > Duration::from_millis(9_900));
        hold.note(false);
        std::thread::sleep(Duration::from_millis(30));
        hold.note(false);
        assert!(left(&hold) <= Duration::from_millis(9_970), "another table without anybody changes nothing");
        hold.note(true);
        assert!(left(&hold) > Duration::from_millis(9_980));
    }

    #[test]
    fn no_more_wait_than_may() {
        let hold = Arc::new(Hold::default());
        let limits = Limits { hold_requests: 2, ..Limits::default() };
        let [first, second] = [(); 2].map(|()| hold.enter(&limits));
        assert!(first.is_some() && second.is_some() && hold.enter(&limits).is_none());
        drop(first);
        assert!(hold.enter(&limits).is_some());
    }
}
