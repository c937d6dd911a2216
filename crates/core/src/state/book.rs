//! The books of one revision: its instances by class and age, its slots, and how many are wanted.

use std::collections::{BTreeMap, BTreeSet};

use crate::Millis;
use crate::ids::InstanceKey;

use super::instance::{Instance, Phase};
use super::slab::Slab;

/// What decisions count. Every live instance is in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Available,
    /// Intended or starting.
    Starting,
    /// Was ready, and is not now.
    Unready,
    /// Ready, within `min_healthy_time`.
    Maturing,
    /// Ready for long enough, but the router has not acknowledged it.
    Routing,
    Failed,
    Draining,
    Stopping,
    Unknown,
}

impl Class {
    pub(super) const ALL: [Self; 9] = [
        Self::Available,
        Self::Starting,
        Self::Unready,
        Self::Maturing,
        Self::Routing,
        Self::Failed,
        Self::Draining,
        Self::Stopping,
        Self::Unknown,
    ];
    /// All that nobody has told to go.
    pub const TO_TAKE_DOWN: [Self; 7] = [
        Self::Available,
        Self::Starting,
        Self::Unready,
        Self::Maturing,
        Self::Routing,
        Self::Failed,
        Self::Unknown,
    ];
    /// Held, but not available (yet, or any more).
    pub const UNAVAILABLE: [Self; 4] = [Self::Starting, Self::Unready, Self::Maturing, Self::Routing];

    pub(super) fn of(instance: &Instance, needs_route: bool) -> Self {
        match instance.phase {
            Phase::Ready if instance.is_available(needs_route) => Self::Available,
            Phase::Ready if !instance.matured => Self::Maturing,
            Phase::Ready => Self::Routing,
            Phase::Intended | Phase::Starting => Self::Starting,
            Phase::Unready => Self::Unready,
            Phase::Failed => Self::Failed,
            Phase::Draining => Self::Draining,
            Phase::Stopping => Self::Stopping,
            Phase::Unknown => Self::Unknown,
        }
    }
}

/// How many of each class, over one revision or over all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    by_class: [u32; 9],
}

impl Counts {
    pub fn of(&self, class: Class) -> u32 {
        self.by_class[class as usize]
    }
    pub fn available(&self) -> u32 {
        self.of(Class::Available)
    }
    /// `intended`, `starting`, `ready`, `unready`.
    pub fn held(&self) -> u32 {
        self.of(Class::Available) + self.unavailable()
    }
    /// Held, but not available (yet, or any more).
    pub fn unavailable(&self) -> u32 {
        Class::UNAVAILABLE.iter().map(|class| self.of(*class)).sum()
    }
    /// Everything that may still use resources.
    pub fn live(&self) -> u32 {
        self.by_class.iter().sum()
    }
    pub(super) fn add(&mut self, class: Class) {
        self.by_class[class as usize] += 1;
    }
    pub(super) fn take(&mut self, class: Class) {
        self.by_class[class as usize] -= 1;
    }
    pub fn minus(&self, other: &Self) -> Self {
        let mut rest = *self;
        for class in Class::ALL {
            rest.by_class[class as usize] -= other.by_class[class as usize];
        }
        rest
    }
}

#[derive(Debug, Clone, Default)]
pub struct Book {
    pub(super) instances: Slab,
    /// By age within each class: (born, key).
    members: [BTreeSet<(u64, InstanceKey)>; 9],
    pub(super) counts: Counts,
    /// How many the routed ones are: ready and in the acknowledged table.
    pub(super) routed: u32,
    pub(super) ready: u32,
    /// What Kubernetes keeps in `ReplicaSet.spec.replicas`.
    pub(super) want: u32,
    /// What scaling in the middle of a rollout has still to start (above 0) or to stop (below) of this revision.
    pub(super) owed: i64,
    /// Those that a person asked for and that are still starting.
    pub(super) coming: u32,
    pub(super) slots: Slots,
}

impl Book {
    pub(super) fn insert(&mut self, class: Class, born: u64, key: InstanceKey) {
        self.members[class as usize].insert((born, key));
        self.counts.add(class);
    }
    pub(super) fn remove(&mut self, class: Class, born: u64, key: InstanceKey) {
        let was_there = self.members[class as usize].remove(&(born, key));
        debug_assert!(was_there, "{key} is not in the books as {class:?}");
        self.counts.take(class);
    }
    /// Oldest first.
    pub fn members(&self, class: Class) -> impl DoubleEndedIterator<Item = InstanceKey> {
        self.members[class as usize].iter().map(|(_, key)| *key)
    }
    /// Held but not available, by age over all classes: the `n` oldest, or the `n` newest.
    pub fn unavailable(&self, n: u32, newest: bool) -> Vec<InstanceKey> {
        let n = n as usize;
        let mut found: Vec<(u64, InstanceKey)> = Vec::new();
        for class in Class::UNAVAILABLE {
            let members = &self.members[class as usize];
            if newest {
                found.extend(members.iter().rev().take(n));
            } else {
                found.extend(members.iter().take(n));
            }
        }
        found.sort_unstable();
        if newest {
            found.reverse();
        }
        found.into_iter().take(n).map(|(_, key)| key).collect()
    }
    pub(super) fn clear_members(&mut self) {
        self.members = Default::default();
        self.counts = Counts::default();
    }
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
    pub fn want(&self) -> u32 {
        self.want
    }
    pub fn owed(&self) -> i64 {
        self.owed
    }
    pub fn coming(&self) -> u32 {
        self.coming
    }
    pub fn ready(&self) -> u32 {
        self.ready
    }
    pub fn routed(&self) -> u32 {
        self.routed
    }
    pub fn slots(&self) -> &Slots {
        &self.slots
    }
}

/// The places of a revision, numbered from 1. A place is taken from the start of an instance until it is gone.
#[derive(Debug, Clone)]
pub struct Slots {
    /// Freed ones below `next`.
    free: BTreeSet<u32>,
    next: u32,
    /// Of the places that were tried more than once, how often.
    attempts: BTreeMap<u32, u32>,
    /// Failures in a row, until an instance there stayed up.
    failures: BTreeMap<u32, u32>,
    /// Empty places that are not to be used before.
    backoff: BTreeMap<u32, Millis>,
    /// The same for places whose failed instance is still on its way out.
    penalty: BTreeMap<u32, Millis>,
    /// Left out of the rollout by a person, and whether nothing is there any more.
    closed: BTreeMap<u32, bool>,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            free: BTreeSet::new(),
            next: 1,
            attempts: BTreeMap::new(),
            failures: BTreeMap::new(),
            backoff: BTreeMap::new(),
            penalty: BTreeMap::new(),
            closed: BTreeMap::new(),
        }
    }
}

impl Slots {
    const BACKOFF_FIRST_MS: Millis = 500;
    const BACKOFF_MOST_MS: Millis = 60_000;
    /// One that was ready for this long begins a new row: an app that becomes ready and dies is not started at full speed.
    pub(super) const STEADY_MS: Millis = 10_000;

    /// The next `n` places to start in, lowest first, with the attempt each would be.
    pub fn offer(&self, n: u32) -> impl Iterator<Item = (u32, u32)> {
        let fresh = self.next..self.next.saturating_add(n);
        self.free.iter().copied().chain(fresh).take(n as usize).map(|slot| (slot, self.tried(slot) + 1))
    }

    pub fn in_backoff(&self) -> u32 {
        u32::try_from(self.backoff.len() + self.penalty.len()).unwrap_or(u32::MAX)
    }

    pub fn next_retry_at(&self) -> Option<Millis> {
        self.backoff.values().chain(self.penalty.values()).min().copied()
    }

    pub(super) fn take(&mut self, slot: u32, attempt: u32) {
        if slot >= self.next {
            self.free.extend(self.next..slot);
            self.next = slot + 1;
        }
        self.free.remove(&slot);
        self.backoff.remove(&slot);
        if attempt > 1 {
            self.attempts.insert(slot, attempt);
        }
    }

    /// Notes a failure: 0.5 s, 1 s, 2 s … 60 s until the next try; at once when it had been serving before. Answers until
    /// when the place must wait.
    pub(super) fn fail(&mut self, slot: u32, had_served: bool, now: Millis) -> Option<Millis> {
        let in_a_row = self.failures.entry(slot).or_insert(0);
        let wait = match (had_served, *in_a_row) {
            (true, 0) => 0,
            (_, n) => (Self::BACKOFF_FIRST_MS << n.min(7)).min(Self::BACKOFF_MOST_MS),
        };
        *in_a_row += 1;
        if wait == 0 {
            return None;
        }
        self.penalty.insert(slot, now + wait);
        Some(now + wait)
    }

    pub(super) fn forgive(&mut self, slot: u32) {
        self.failures.remove(&slot);
    }

    /// A person said go on: every place may be tried at once.
    pub(super) fn forgive_all(&mut self) {
        self.failures.clear();
        self.penalty.clear();
        self.free.extend(std::mem::take(&mut self.backoff).into_keys());
    }

    /// Whether the place was ever taken.
    pub fn is_known(&self, slot: u32) -> bool {
        self.tried(slot) > 0
    }

    /// The attempt that would be next in this place, if it is free to be tried.
    pub fn next_attempt(&self, slot: u32) -> Option<u32> {
        self.free.contains(&slot).then(|| self.tried(slot) + 1)
    }

    fn tried(&self, slot: u32) -> u32 {
        self.attempts.get(&slot).copied().unwrap_or(u32::from((1..self.next).contains(&slot)))
    }

    /// A person asked for it: what failed there before does not make it wait.
    pub(super) fn forgive_place(&mut self, slot: u32) {
        self.failures.remove(&slot);
        self.penalty.remove(&slot);
        if self.backoff.remove(&slot).is_some() {
            self.free.insert(slot);
        }
    }

    /// Not to be used for as long as the rollout lasts.
    pub(super) fn close(&mut self, slot: u32) {
        self.forgive_place(slot);
        let vacant = self.free.remove(&slot);
        self.closed.insert(slot, vacant);
    }

    pub(super) fn reopen_closed(&mut self) {
        let vacant = std::mem::take(&mut self.closed).into_iter().filter(|(_, vacant)| *vacant);
        self.free.extend(vacant.map(|(slot, _)| slot));
    }

    /// The instance is gone.
    pub(super) fn release(&mut self, slot: u32, now: Millis) {
        if let Some(vacant) = self.closed.get_mut(&slot) {
            *vacant = true;
            return;
        }
        match self.penalty.remove(&slot) {
            Some(at) if at > now => {
                self.backoff.insert(slot, at);
            }
            Some(_) | None => {
                self.free.insert(slot);
            }
        }
    }

    /// The wait is over, also where a failed one is kept for inspection: it must not hold back another place for ever.
    pub(super) fn reopen(&mut self, slot: u32, now: Millis) {
        if self.penalty.get(&slot).is_some_and(|at| *at <= now) {
            self.penalty.remove(&slot);
        }
        if self.backoff.get(&slot).is_some_and(|at| *at <= now) {
            self.backoff.remove(&slot);
            self.free.insert(slot);
        }
    }
}
