//! Which instances start and which leave, in one pass: rules 0 to 6 of the rollout semantics.
//!
//! All moves of a pass hold together in their worst order: starts are counted against the ceiling as if nothing had left
//! yet, and leaving ones against the floor as if nothing new came up.

use crate::event::{Action, StartPurpose, StopPurpose};
use crate::ids::{InstanceKey, RevisionNumber};
use crate::reason::{Group, Reason};
use crate::state::{AppState, Book, Class, Counts};

/// What one pass moves, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    pub actions: Vec<Action>,
    pub reasons: Vec<Reason>,
}

/// The moves that are allowed now.
pub fn moves(state: &AppState) -> Moves {
    let mut pass = Pass::new(state);
    pass.finish_drains();
    if state.is_down() {
        pass.take_all_down();
    } else if state.settings().is_some() {
        if state.recovering_since().is_some() {
            if state.is_halted() {
                pass.clear_dead()
            } else {
                pass.clear_failed()
            }
            pass.recover();
        } else if state.is_halted() {
            pass.clear_dead();
            if !pass.asked() {
                pass.hold_the_floor();
            }
        } else {
            pass.clear_failed();
            if !pass.asked() {
                pass.repair();
                pass.roll();
            }
        }
    }
    pass.moves
}

/// `batch`, or what `--step` makes of the budget, where it applies: the first rollout of an app ignores it.
pub fn batch_size(state: &AppState) -> Option<u32> {
    let rollout = state.open_rollout()?;
    let written = state.settings()?.rollout.batch;
    // Step by step without a batch: as many as the budget lets be in work at once.
    let slots = || rollout.step.then(|| state.budget().surge.saturating_add(state.budget().unavailable));
    let batch = written.or_else(slots)?;
    (!state.is_first_rollout()).then_some(batch.max(1))
}

/// How many places are through: the target stands there and nothing else is left of them.
fn done(state: &AppState) -> u32 {
    let target_available = state.counts_of(state.target()).available();
    let left_out = state.budget().desired - state.goal();
    let others = state.others().live().saturating_sub(left_out);
    target_available.min(state.goal().saturating_sub(others))
}

/// How many batches are complete; None where batches do not apply.
pub fn complete_batches(state: &AppState) -> Option<u32> {
    batch_size(state).map(|batch| done(state) / batch)
}

pub(super) struct Pass<'a> {
    pub(super) state: &'a AppState,
    desired: u32,
    /// How many places the target takes.
    goal: u32,
    floor: u32,
    ceiling: u32,
    target: Counts,
    pub(super) base: Counts,
    others: Counts,
    pub(super) total: Counts,
    /// Starts of this pass: they are live from now on.
    pub(super) started: u32,
    /// Of those that are available, how many this pass takes out.
    leaving: u32,
    pub(super) moves: Moves,
}

impl<'a> Pass<'a> {
    fn new(state: &'a AppState) -> Self {
        let budget = state.budget();
        let base_is_target = state.proven() == state.target();
        Self {
            state,
            desired: budget.desired,
            goal: state.goal(),
            floor: budget.floor(),
            ceiling: budget.ceiling(),
            target: state.counts_of(state.target()),
            base: if base_is_target { Counts::default() } else { state.counts_of(state.proven()) },
            others: state.others(),
            total: *state.totals(),
            started: 0,
            leaving: 0,
            moves: Moves::default(),
        }
    }

    /// Drains that are proven, or past their deadline, end in a stop: also while paused.
    fn finish_drains(&mut self) {
        for key in self.state.stoppable() {
            let Some(instance) = self.state.instance(key) else { continue };
            let purpose = instance.stop_purpose().unwrap_or(StopPurpose::Replaced);
            self.moves.actions.push(Action::Stop {
                instance: key,
                purpose,
                cut: instance.drained().is_none(),
            });
        }
    }

    fn take_all_down(&mut self) {
        let held: Vec<_> = self.members_of_all(&Class::TO_TAKE_DOWN);
        for key in held {
            self.take_out(key, StopPurpose::Down);
        }
    }

    /// Rule 0. Failed ones of any revision, at once; it costs no budget.
    fn clear_failed(&mut self) {
        let failed = self.members_of_all(&[Class::Failed]);
        self.clear(failed);
    }

    /// While halted a failed one is kept for inspection as long as it lives.
    fn clear_dead(&mut self) {
        let mut failed = self.members_of_all(&[Class::Failed]);
        failed.retain(|key| self.state.instance(*key).is_some_and(|i| i.has_exited()));
        self.clear(failed);
    }

    pub(super) fn clear(&mut self, failed: Vec<InstanceKey>) {
        if failed.is_empty() {
            return;
        }
        self.moves.reasons.push(Reason::Clear { instances: group(self.state, failed.iter().copied()) });
        for key in failed {
            self.take_out(key, StopPurpose::Failed);
        }
    }

    /// Rule 1. Base instances that died are replaced, up to the floor, while the target is unproven.
    fn repair(&mut self) {
        let Some(base) = self.state.proven().filter(|b| Some(*b) != self.state.target()) else { return };
        let want = self.state.book(base).map_or(0, |b| b.want());
        let missing = want.saturating_sub(self.base.held() + self.in_backoff(base));
        let to_floor = self.below_floor(self.floor);
        self.start(base, missing.min(to_floor), StartPurpose::Repair, want);
    }

    /// While halted: the base holds the floor, for dead target instances too, and an app is never left at zero.
    fn hold_the_floor(&mut self) {
        let Some(base) = self.state.proven() else { return };
        let serving = self.total.available();
        let least = if serving == 0 { self.floor.max(self.desired.min(1)) } else { self.floor };
        let base_held = if self.state.proven() == self.state.target() { 0 } else { self.base.held() };
        let missing = least.saturating_sub(base_held + self.target_that_serves() + self.between_that_serve());
        // Places in back-off are not tried in other places instead; they do not keep others from coming back.
        let want = self.state.book(base).map_or(0, |b| b.want()).max(least);
        let may_start = missing.min(want.saturating_sub(base_held + self.in_backoff(base)));
        self.make_room(may_start);
        self.start(base, may_start, StartPurpose::Repair, least);
    }

    /// The floor comes before inspection: kept ones that stand in its way go, as many as that takes. Their logs and
    /// their card stay.
    fn make_room(&mut self, wanted: u32) {
        let on_their_way_out = self.total.of(Class::Draining) + self.total.of(Class::Stopping);
        let short = wanted.saturating_sub(self.room() + on_their_way_out);
        let kept = self.state.books().values().flat_map(|book| book.members(Class::Failed));
        let kept = kept.filter(|key| self.state.instance(*key).is_some_and(|i| !i.has_exited()));
        let kept: Vec<_> = kept.take(short as usize).collect();
        self.clear(kept);
    }

    /// After a reboot: the base to full strength first.
    fn recover(&mut self) {
        let Some(base) = self.state.proven() else { return };
        let held = self.state.counts_of(Some(base)).held();
        let missing = self.desired.saturating_sub(held + self.in_backoff(base));
        self.start(base, missing, StartPurpose::Repair, self.desired);
    }

    /// Rules 2, 3, 4 and 6.
    fn roll(&mut self) {
        let Some(target) = self.state.target() else { return };
        let limit = self.batch_limit();
        let stopped = self.stop_others(self.goal - limit + self.base_that_stays());
        let wanted = limit.saturating_sub(self.target.held() + self.in_backoff(target));
        let room = self.room();
        let (available, live) = (self.total.available(), self.total.live());
        let before = self.started;
        self.start(target, wanted, StartPurpose::Roll, limit);
        let started = self.started - before;
        if stopped + started > 0 {
            let (floor, ceiling) = (self.floor, self.ceiling);
            self.moves.reasons.push(Reason::Roll {
                start: started,
                stop: stopped,
                available,
                floor,
                live,
                ceiling,
            });
        }
        if wanted > room {
            let waiting_to_start = wanted - room;
            self.moves.reasons.push(Reason::Ceiling {
                live: live + self.started,
                ceiling: self.ceiling,
                waiting_to_start,
            });
        }
        self.stop_surplus(target);
    }

    /// Rule 4. How many of the target there may be before the batch in work is done.
    fn batch_limit(&mut self) -> u32 {
        let (Some(batch), Some(rollout)) = (batch_size(self.state), self.state.open_rollout()) else {
            return self.goal;
        };
        let complete = rollout.batches.min(done(self.state) / batch);
        let delay_ms = self.state.settings().map_or(0, |s| s.rollout.delay_ms);
        let next_at = rollout.batch_reached_at + delay_ms;
        let waits = complete > 0 && complete == rollout.batches && self.state.now() < next_at;
        let limit = batch.saturating_mul(complete + u32::from(!waits)).min(self.goal);
        if limit < self.goal {
            self.moves.reasons.push(if waits {
                Reason::Delay { batch: complete, left_ms: next_at - self.state.now() }
            } else {
                Reason::BatchBarrier {
                    batch: complete + 1,
                    done: done(self.state) - batch * complete,
                    of: batch,
                }
            });
        }
        limit
    }

    /// Of the places that were left out, those in which the base stands. Who else stands in one holds it from the base.
    fn base_that_stays(&self) -> u32 {
        let left_out = self.desired - self.goal;
        if self.state.proven() == self.state.target() { left_out } else { left_out.min(self.base.held()) }
    }

    /// Rule 2. Unavailable target instances never pay for stopping others.
    fn stop_others(&mut self, down_to: u32) -> u32 {
        let unproven = self.target.held() - self.target.available();
        let may_stop = i64::from(self.total.held()) - i64::from(self.floor) - i64::from(unproven);
        let to_barrier = self.others.held().saturating_sub(down_to);
        let may_stop = u32::try_from(may_stop).unwrap_or(0).min(to_barrier);
        let broken = self.others_of(may_stop, &[], |book, n| book.unavailable(n, false));
        let left = may_stop - count(&broken);
        let sound = self.others_of(left.min(self.spare()), &broken, |book, n| {
            book.members(Class::Available).take(n as usize).collect()
        });
        let stopped = count(&broken) + count(&sound);
        if self.others.held() > stopped {
            let (available, floor) = (self.total.available() - count(&sound), self.floor);
            let waiting_to_stop = self.others.held() - stopped;
            if to_barrier > stopped {
                self.moves.reasons.push(Reason::Floor { available, floor, waiting_to_stop });
            }
        }
        for key in broken.into_iter().chain(sound) {
            self.take_out(key, StopPurpose::Replaced);
        }
        stopped
    }

    /// Rule 6. More of the target than desired: the unavailable first, then the newest.
    fn stop_surplus(&mut self, target: RevisionNumber) {
        let surplus = self.target.held().saturating_sub(self.goal);
        let Some(book) = self.state.book(target).filter(|_| surplus > 0) else { return };
        let broken = book.unavailable(surplus, true);
        let left = (surplus - count(&broken)).min(self.spare()) as usize;
        let sound: Vec<_> = book.members(Class::Available).rev().take(left).collect();
        let stop = count(&broken) + count(&sound);
        self.moves.reasons.push(Reason::Surplus { stop, desired: self.desired });
        for key in broken.into_iter().chain(sound) {
            self.take_out(key, StopPurpose::Surplus);
        }
    }

    /// Rule 3, for any revision: never past the ceiling, never into a place that is in back-off.
    pub(super) fn start(&mut self, revision: RevisionNumber, wanted: u32, purpose: StartPurpose, of: u32) {
        let n = wanted.min(self.room());
        if n == 0 {
            return;
        }
        let fresh = crate::state::Slots::default();
        let slots = self.state.book(revision).map_or(&fresh, |b| b.slots());
        for (slot, attempt) in slots.offer(n) {
            let instance = InstanceKey { revision, slot, attempt };
            self.moves.actions.push(Action::Start { instance, purpose });
        }
        self.started += n;
        if purpose == StartPurpose::Repair {
            let held = self.state.counts_of(Some(revision)).held();
            self.moves.reasons.push(Reason::Repair { start: n, revision: revision.0, held, wanted: of });
        }
    }

    /// A drain where requests may still run, else a stop.
    pub(super) fn take_out(&mut self, instance: InstanceKey, purpose: StopPurpose) {
        self.leaving += u32::from(self.state.is_available(instance));
        let may_be_busy = self.state.may_be_busy(instance);
        self.moves.actions.push(if may_be_busy {
            Action::Drain { instance, purpose }
        } else {
            Action::Stop { instance, purpose, cut: false }
        });
    }

    /// How many available ones may leave, beside those that leave already by another rule of this pass.
    pub(super) fn spare(&self) -> u32 {
        self.total.available().saturating_sub(self.floor + self.leaving)
    }

    pub(super) fn room(&self) -> u32 {
        self.ceiling.saturating_sub(self.total.live() + self.started)
    }

    /// Places that shall not be tried yet; no other place is tried instead.
    pub(super) fn in_backoff(&self, revision: RevisionNumber) -> u32 {
        self.state.book(revision).map_or(0, |b| b.slots().in_backoff())
    }

    fn below_floor(&self, floor: u32) -> u32 {
        floor.saturating_sub(self.base.held() + self.target.available() + self.between_that_serve())
    }

    /// Of versions that were superseded on their way: they serve until they are replaced, or were asked for in a pause.
    fn between_that_serve(&self) -> u32 {
        let ends = [self.state.target(), self.state.proven()];
        let between = self.state.books().iter().filter(|(revision, _)| !ends.contains(&Some(**revision)));
        between.map(|(_, book)| book.counts().available() + book.coming()).sum()
    }

    fn target_that_serves(&self) -> u32 {
        if self.state.proven() == self.state.target() {
            return self.target.held();
        }
        // What a person asked for in the pause is on its way: the base does not take its place.
        let coming = self.state.target().and_then(|t| self.state.book(t)).map_or(0, Book::coming);
        self.target.available() + coming
    }

    /// The first `n` of revisions other than the target: oldest revision first, oldest instance first. `leaving` go already.
    fn others_of(
        &self,
        n: u32,
        leaving: &[InstanceKey],
        of: impl Fn(&Book, u32) -> Vec<InstanceKey>,
    ) -> Vec<InstanceKey> {
        let mut found = Vec::new();
        let left_out = self.desired - self.goal;
        for (revision, book) in self.state.books() {
            let wanted = n - count(&found);
            if Some(*revision) == self.state.target() {
                continue;
            }
            // The base stays in the places that were left out.
            let stays = if Some(*revision) == self.state.proven() { left_out } else { 0 };
            let go_already = leaving.iter().filter(|key| key.revision == *revision).count();
            let may_leave =
                book.counts().held().saturating_sub(stays + u32::try_from(go_already).unwrap_or(u32::MAX));
            found.extend(of(book, wanted.min(may_leave)));
        }
        found
    }

    fn members_of_all(&self, classes: &[Class]) -> Vec<InstanceKey> {
        let books = self.state.books().values();
        books.flat_map(|book| classes.iter().flat_map(|class| book.members(*class))).collect()
    }
}

pub(super) fn count(keys: &[InstanceKey]) -> u32 {
    u32::try_from(keys.len()).unwrap_or(u32::MAX)
}

/// How many, and the first ten by name.
pub fn group(state: &AppState, keys: impl Iterator<Item = InstanceKey>) -> Group {
    let mut found = Group::default();
    for key in keys {
        found.count += 1;
        if found.examples.len() < Group::EXAMPLES {
            found.examples.push(key.name(state.app()));
        }
    }
    found
}
