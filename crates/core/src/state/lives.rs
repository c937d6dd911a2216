//! The life of an instance: each step moves it in the books and sets or cancels its timer.

use crate::Millis;
use crate::event::{Exit, FailureCause, StartPurpose, StopPurpose};
use crate::ids::InstanceKey;

use super::AppState;
use super::book::{Class, Slots};
use super::instance::{Instance, Phase};
use super::rollout::FailureRecord;
use super::timers::Timer;

impl AppState {
    pub(super) fn mature(&mut self, key: InstanceKey) {
        self.change(key, |i, _| {
            i.matured = true;
            i.timer = None;
        });
    }

    pub(super) fn note_overdue(&mut self, key: InstanceKey) {
        self.change(key, |i, _| {
            i.timer = None;
        });
        self.overdue.insert(key);
    }

    pub(super) fn start(&mut self, key: InstanceKey, purpose: StartPurpose) {
        if self.at_place(key.revision, key.slot).is_some() {
            return;
        }
        self.births += 1;
        let mut instance = Instance::intended(key, self.births, self.now);
        instance.asked = matches!(purpose, StartPurpose::Retry | StartPurpose::Scale);
        let book = self.books.entry(key.revision).or_default();
        book.slots.take(key.slot, key.attempt);
        book.insert(Class::Starting, instance.born, key);
        book.coming += u32::from(instance.asked);
        self.totals.add(Class::Starting);
        match purpose {
            StartPurpose::Roll | StartPurpose::Retry | StartPurpose::Restore | StartPurpose::Scale => {
                book.want = book.want.max(book.counts.held());
                book.owed -= i64::from(book.owed > 0 && purpose != StartPurpose::Restore);
            }
            StartPurpose::Repair => {}
        }
        book.instances.insert(key.slot, instance);
        self.note_asked_start(key, purpose);
        let deadline = self.now + self.settings.as_ref().map_or(0, |s| s.rollout.healthy_deadline_ms);
        self.set_timer(key, deadline, Timer::Overdue(key));
    }

    pub(super) fn unwant(&mut self, key: InstanceKey, purpose: StopPurpose) {
        match purpose {
            StopPurpose::Replaced | StopPurpose::Surplus | StopPurpose::Skipped => {
                if let Some(book) = self.books.get_mut(&key.revision) {
                    book.want = book.want.saturating_sub(1);
                    book.owed += i64::from(book.owed < 0 && purpose == StopPurpose::Surplus);
                }
            }
            StopPurpose::Failed | StopPurpose::Down => {}
        }
    }

    pub(super) fn ready(&mut self, key: InstanceKey, phase: Phase) {
        // Draining is absorbing, and a failed one does not come back: no health result leads out of either.
        if !matches!(phase, Phase::Intended | Phase::Starting | Phase::Unready | Phase::Unknown) {
            return;
        }
        self.overdue.remove(&key);
        let wait = self.settings.as_ref().map_or(0, |s| s.rollout.min_healthy_time_ms);
        let now = self.now;
        self.cancel_timer(key);
        self.set_phase(key, Phase::Ready, |i| {
            i.ready_since = Some(now);
            i.ever_ready = true;
            i.matured = wait == 0;
        });
        if wait > 0 {
            self.set_timer(key, now + wait, Timer::Mature(key));
        }
    }

    pub(super) fn unready(&mut self, key: InstanceKey, phase: Phase) {
        if phase != Phase::Ready {
            return;
        }
        let Some(instance) = self.instance(key) else { return };
        let after_ms = instance.ready_since.map_or(0, |since| self.now - since);
        let too_soon = !instance.matured;
        self.cancel_timer(key);
        self.set_phase(key, Phase::Unready, |i| {
            i.ready_since = None;
            i.matured = false;
            i.routed = false;
        });
        if too_soon && self.open_rollout().is_some_and(|r| r.target() == key.revision) {
            self.fail(key, FailureCause::Unstable { after_ms }, false);
        }
    }

    pub(super) fn exited(&mut self, key: InstanceKey, phase: Phase, exit: Exit) {
        match phase {
            Phase::Intended | Phase::Starting | Phase::Ready | Phase::Unready | Phase::Unknown => {
                self.fail(key, FailureCause::Exited(exit), true);
            }
            Phase::Failed => self.change(key, |i, _| i.exited = true),
            Phase::Draining | Phase::Stopping => self.remove(key),
        }
    }

    pub(super) fn fail(&mut self, key: InstanceKey, cause: FailureCause, exited: bool) {
        let Some(instance) = self.instance(key) else { return };
        let (had_served, after_ms) = (instance.ever_available, self.now - instance.phase_started_at());
        let now = self.now;
        let steady = instance.ready_since.is_some_and(|since| now - since >= Slots::STEADY_MS);
        self.cancel_timer(key);
        self.overdue.remove(&key);
        self.set_phase(key, Phase::Failed, |i| {
            i.failure = Some(Box::new(cause.clone()));
            i.exited = exited;
            i.routed = false;
        });
        if let Some(book) = self.books.get_mut(&key.revision) {
            if steady {
                book.slots.forgive(key.slot);
            }
            if let Some(until) = book.slots.fail(key.slot, had_served, now) {
                self.timers.set(until, Timer::Backoff(key.revision, key.slot));
            }
        }
        if let Some(rollout) = self.open_rollout_mut()
            && rollout.target() == key.revision
        {
            rollout.note_failure(FailureRecord { instance: key, cause, at: now, after_ms, evidence: None });
        }
    }

    pub(super) fn remove(&mut self, key: InstanceKey) {
        self.cancel_timer(key);
        self.overdue.remove(&key);
        self.stoppable.remove(&key);
        let needs_route = self.needs_route();
        if self.instance(key).is_none() {
            return;
        }
        if let Some(book) = self.books.get_mut(&key.revision)
            && let Some(instance) = book.instances.remove(key.slot)
        {
            let class = Class::of(&instance, needs_route);
            self.totals.take(class);
            book.remove(class, instance.born, key);
            book.coming -= u32::from(instance.asked && class == Class::Starting);
            book.ready -= u32::from(instance.phase == Phase::Ready);
            book.routed -= u32::from(instance.phase == Phase::Ready && instance.routed);
            book.slots.release(key.slot, self.now);
        }
    }

    /// Changes an instance and moves it in the books.
    pub(super) fn change(&mut self, key: InstanceKey, with: impl FnOnce(&mut Instance, Millis)) {
        let needs_route = self.needs_route();
        let Some(book) = self.books.get_mut(&key.revision) else { return };
        let Some(instance) = book.instances.get_mut(key.slot).filter(|i| i.key == key) else { return };
        let (before, was_ready) = (Class::of(instance, needs_route), instance.phase == Phase::Ready);
        let was_routed = was_ready && instance.routed;
        with(instance, self.now);
        let (after, is_ready) = (Class::of(instance, needs_route), instance.phase == Phase::Ready);
        let is_routed = is_ready && instance.routed;
        instance.ever_available |= after == Class::Available;
        let (born, asked) = (instance.born, instance.asked);
        if before != after {
            let comes = |class| u32::from(asked && class == Class::Starting);
            book.coming = book.coming + comes(after) - comes(before);
            book.remove(before, born, key);
            book.insert(after, born, key);
            self.totals.take(before);
            self.totals.add(after);
        }
        book.ready = book.ready + u32::from(is_ready) - u32::from(was_ready);
        book.routed = book.routed + u32::from(is_routed) - u32::from(was_routed);
    }

    pub(super) fn set_phase(&mut self, key: InstanceKey, phase: Phase, also: impl FnOnce(&mut Instance)) {
        if matches!(phase, Phase::Draining | Phase::Stopping) {
            self.cancel_timer(key);
            self.overdue.remove(&key);
            self.stoppable.remove(&key);
        }
        self.change(key, |i, now| {
            i.phase = phase;
            i.phase_since = now;
            if phase != Phase::Ready {
                i.routed = false;
            }
            also(i);
        });
    }

    pub(super) fn set_timer(&mut self, key: InstanceKey, at: Millis, timer: Timer) {
        self.cancel_timer(key);
        self.timers.set(at, timer);
        if let Some(instance) = self.instance_mut(key) {
            instance.timer = Some((at, timer));
        }
    }

    pub(super) fn cancel_timer(&mut self, key: InstanceKey) {
        if let Some((at, timer)) = self.instance_mut(key).and_then(|i| i.timer.take()) {
            self.timers.cancel(at, timer);
        }
    }

    /// Settings changed: who is available may have changed with them.
    pub(super) fn refresh_all(&mut self) {
        let needs_route = self.needs_route();
        let wait = self.settings.as_ref().map_or(0, |s| s.rollout.min_healthy_time_ms);
        self.totals = super::Counts::default();
        let now = self.now;
        for book in self.books.values_mut() {
            book.clear_members();
            let mut instances = std::mem::take(&mut book.instances);
            for instance in instances.iter_mut() {
                // The new time counts from when it was ready.
                if let Some(since) = instance.ready_since
                    && instance.phase == Phase::Ready
                    && !instance.matured
                {
                    if let Some((at, timer)) = instance.timer.take() {
                        self.timers.cancel(at, timer);
                    }
                    instance.matured = since + wait <= now;
                    if !instance.matured {
                        let timer = (since + wait, Timer::Mature(instance.key));
                        self.timers.set(timer.0, timer.1);
                        instance.timer = Some(timer);
                    }
                }
                let class = Class::of(instance, needs_route);
                instance.ever_available |= class == Class::Available;
                book.insert(class, instance.born, instance.key);
                self.totals.add(class);
            }
            book.instances = instances;
        }
        if self.open_rollout().is_none() && !self.down {
            let desired = self.budget().desired;
            if let Some(book) = self.target.and_then(|t| self.books.get_mut(&t)) {
                book.want = desired;
            }
        }
    }
}

impl Instance {
    /// When this life of it began, as far as the journal knows: readiness counts from the last change of side.
    fn phase_started_at(&self) -> Millis {
        self.ready_since.unwrap_or(self.phase_since)
    }
}
