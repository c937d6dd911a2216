//! What a person asked for by name or by number, also in a pause: one place once more, one place left out, and the shares of
//! a new number of replicas. A pass that does any of it does nothing else.

use crate::event::{Action, StartPurpose, StopPurpose};
use crate::ids::InstanceKey;
use crate::reason::Reason;
use crate::state::{Class, Phase};

use super::moves::{Pass, count};

impl Pass<'_> {
    /// Whether anything of it is moved in this pass.
    pub(super) fn asked(&mut self) -> bool {
        let before = self.moves.actions.len();
        for rule in [Self::try_again, Self::leave_out, Self::share] {
            rule(self);
            if self.moves.actions.len() > before {
                return true;
            }
        }
        false
    }

    /// Places that a person wants once more while everything else stands still.
    fn try_again(&mut self) {
        let (Some(rollout), Some(target)) = (self.state.open_rollout(), self.state.target()) else { return };
        let Some(book) = self.state.book(target).filter(|_| self.state.is_halted()) else { return };
        // One that is dead is taken away in any case.
        let kept = book.members(Class::Failed).filter(|key| {
            rollout.retries.contains(&key.slot) && self.state.instance(*key).is_some_and(|i| !i.has_exited())
        });
        self.clear(kept.collect());
        for slot in &rollout.retries {
            let Some(attempt) = book.slots().next_attempt(*slot).filter(|_| self.room() > 0) else {
                continue;
            };
            let instance = InstanceKey { revision: target, slot: *slot, attempt };
            self.moves.actions.push(Action::Start { instance, purpose: StartPurpose::Retry });
            self.moves.reasons.push(Reason::Retry { instance: instance.name(self.state.app()) });
            self.started += 1;
        }
    }

    /// Places that a person left out: what stands there goes, and the base comes back.
    fn leave_out(&mut self) {
        let (Some(rollout), Some(base)) = (self.state.open_rollout(), self.state.proven()) else { return };
        let left_out = rollout.left_out();
        if left_out == 0 || Some(base) == self.state.target() {
            return;
        }
        let missing = left_out.saturating_sub(self.base.held() + self.in_backoff(base));
        let before = self.started;
        self.start(base, missing.max(rollout.to_restore), StartPurpose::Restore, left_out);
        if self.started > before {
            let start = self.started - before;
            self.moves.reasons.push(Reason::Restore { start, revision: base.0, left_out });
        }
        let mut spare = self.spare();
        for slot in &rollout.skipped {
            let Some(instance) = self.state.at_place(rollout.to, *slot) else { continue };
            let key = instance.key();
            let leaves = match instance.phase() {
                Phase::Ready if self.state.is_available(key) && spare == 0 => false,
                Phase::Intended | Phase::Starting | Phase::Ready | Phase::Unready => true,
                // Where nothing is halted, what failed is cleared in any case, and so is what is dead.
                Phase::Failed => self.state.is_halted() && !instance.has_exited(),
                Phase::Draining | Phase::Stopping | Phase::Unknown => false,
            };
            if leaves {
                spare -= u32::from(self.state.is_available(key));
                self.take_out(key, StopPurpose::Skipped);
            }
        }
    }

    /// What a new number of replicas gave or took: of each revision the unavailable leave first, then the newest.
    fn share(&mut self) {
        let mut spare = self.spare();
        for (revision, book) in self.state.books() {
            let owed = u32::try_from(book.owed().abs()).unwrap_or(u32::MAX);
            if book.owed() > 0 && !self.state.is_bad(*revision) {
                let before = self.started;
                self.start(*revision, owed, StartPurpose::Scale, owed);
                if self.started > before {
                    let start = self.started - before;
                    self.moves.reasons.push(Reason::Share { start, stop: 0, revision: revision.0 });
                }
            }
            // Places that stand empty are the first to go.
            let leave =
                if book.owed() < 0 { owed.min(book.counts().held().saturating_sub(book.want())) } else { 0 };
            if leave > 0 {
                let broken = book.unavailable(leave, true);
                let left = (leave - count(&broken)).min(spare);
                let sound: Vec<_> = book.members(Class::Available).rev().take(left as usize).collect();
                spare -= count(&sound);
                let stop = count(&broken) + count(&sound);
                self.moves.reasons.push(Reason::Share { start: 0, stop, revision: revision.0 });
                for key in broken.into_iter().chain(sound) {
                    self.take_out(key, StopPurpose::Surplus);
                }
            }
        }
    }
}
