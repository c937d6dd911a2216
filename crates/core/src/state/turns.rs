//! The turns of a rollout: paused, resumed, turned back, ended; and what a reboot makes of everything.

use crate::event::{Outcome, PauseCause};
use crate::ids::{RevisionNumber, RolloutId};

use super::AppState;
use super::instance::Instance;
use super::rollout::{Rollout, RolloutState};
use super::timers::Timer;

impl AppState {
    pub(super) fn pause(&mut self, cause: PauseCause) {
        if let Some(rollout) = self.open_rollout_mut() {
            rollout.state = RolloutState::Paused;
            if let PauseCause::Step { batch } = cause {
                rollout.stepped = batch;
            }
            rollout.cause = Some(cause);
        }
    }

    pub(super) fn resume(&mut self) {
        let progress = self.fresh_progress();
        if let Some(rollout) = self.open_rollout_mut() {
            rollout.state =
                if rollout.back_to.is_some() { RolloutState::RollingBack } else { RolloutState::Running };
            rollout.cause = None;
            rollout.failures = 0;
            rollout.share = None;
            rollout.retries.clear();
            rollout.progress = progress;
        }
        self.forgive_target();
    }

    pub(super) fn turn_back(&mut self, to: RevisionNumber, aborted: bool, cause: PauseCause) {
        let Some(left) = self.open_rollout().map(|r| r.to) else { return };
        self.bad.insert(left);
        self.target = Some(to);
        let progress = self.fresh_progress();
        for book in self.books.values_mut() {
            book.owed = 0;
        }
        if let Some(rollout) = self.open_rollout_mut() {
            rollout.state = RolloutState::RollingBack;
            rollout.back_to = Some(to);
            rollout.aborted = aborted;
            rollout.share = None;
            rollout.cause = Some(cause);
            rollout.failures = 0;
            rollout.batches = 0;
            rollout.step = false;
            rollout.retries.clear();
            rollout.bake_since = None;
            rollout.progress = progress;
        }
        self.forgive_target();
    }

    pub(super) fn conclude(&mut self, outcome: Outcome, cause: Option<PauseCause>) {
        let state = match outcome {
            Outcome::Succeeded => RolloutState::Succeeded,
            Outcome::RolledBack => RolloutState::RolledBack,
            Outcome::Aborted => RolloutState::Aborted,
            Outcome::Failed => RolloutState::Failed,
        };
        let target = self.target;
        self.end_rollout(state, cause);
        if outcome == Outcome::Failed {
            return;
        }
        if let Some(target) = target {
            self.base = Some(target);
            self.succeeded.retain(|r| *r != target);
            self.succeeded.push(target);
            self.books.entry(target).or_default();
        }
        let desired = self.budget().desired;
        for (revision, book) in &mut self.books {
            book.want = if Some(*revision) == target { desired } else { 0 };
        }
        self.forget_old();
    }

    pub(super) fn end_rollout(&mut self, state: RolloutState, cause: Option<PauseCause>) {
        let now = self.now;
        if let Some(rollout) = self.open_rollout_mut() {
            rollout.state = state;
            rollout.ended_at = Some(now);
            rollout.progress.running_since = None;
            if cause.is_some() {
                rollout.cause = cause;
            }
        }
        for book in self.books.values_mut() {
            book.owed = 0;
            book.slots.reopen_closed();
        }
    }

    /// Nothing of the last boot is left: held ones failed with it, the others are gone.
    pub(super) fn rebooted(&mut self) {
        let keys: Vec<_> = self.instances().map(Instance::key).collect();
        for key in keys {
            self.remove(key);
        }
        for book in self.books.values_mut() {
            book.slots.forgive_all();
        }
        if self.base.is_some() && !self.down {
            self.recovering_since = Some(self.now);
            let patience = self.settings.as_ref().map_or(0, |s| s.rollout.healthy_deadline_ms);
            self.timers.set(self.now + patience, Timer::Wake);
        }
    }

    /// A person asked for it, so every place of the target may be tried at once.
    pub(super) fn forgive_target(&mut self) {
        if let Some(book) = self.target.and_then(|t| self.books.get_mut(&t)) {
            book.slots.forgive_all();
        }
    }

    pub(super) fn last_rollout_mut(&mut self) -> Option<&mut Rollout> {
        self.rollouts.values_mut().next_back()
    }

    pub(super) fn open_rollout_mut(&mut self) -> Option<&mut Rollout> {
        self.last_rollout_mut().filter(|r| !r.state.is_terminal())
    }

    /// The number the next rollout gets.
    pub fn next_rollout(&self) -> RolloutId {
        RolloutId(self.rollouts.keys().next_back().map_or(1, |id| id.0 + 1))
    }

    /// The number the next revision gets.
    pub fn next_revision(&self) -> RevisionNumber {
        RevisionNumber(self.revisions.keys().next_back().map_or(1, |n| n.0 + 1))
    }
}
