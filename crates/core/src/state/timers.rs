//! The moments at which something becomes true without an event.

use std::collections::BTreeSet;

use crate::Millis;
use crate::ids::{InstanceKey, RevisionNumber};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// `min_healthy_time` has passed.
    Mature(InstanceKey),
    /// `healthy_deadline` has passed.
    Overdue(InstanceKey),
    /// `drain_timeout` has passed.
    Cut(InstanceKey),
    /// The slot may be tried again.
    Backoff(RevisionNumber, u32),
    /// Delay, bake time, progress deadline, recovery: decided by comparing with now.
    Wake,
}

#[derive(Debug, Clone, Default)]
pub struct Timers(BTreeSet<(Millis, Timer)>);

impl Timers {
    pub fn set(&mut self, at: Millis, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub fn cancel(&mut self, at: Millis, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    /// The earliest that is due.
    pub fn pop_due(&mut self, now: Millis) -> Option<(Millis, Timer)> {
        let first = *self.0.first()?;
        (first.0 <= now).then(|| {
            self.0.pop_first();
            first
        })
    }

    pub fn next_at(&self) -> Option<Millis> {
        self.0.first().map(|(at, _)| *at)
    }
}
