//! The state of one app: a fold over its events. Fields are private; only [`AppState::apply`] and
//! [`AppState::advance`] change them, and both keep the counts that decisions are made from.

mod apply;
mod asked;
mod book;
mod gates;
mod instance;
mod lives;
mod places;
mod request;
mod rollout;
mod slab;
mod timers;
mod turns;
mod watermarks;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::Millis;
use crate::event::Fact;
use crate::ids::{AppName, InstanceKey, RevisionNumber, RolloutId};
use crate::limits::Budget;
use crate::revision::Revision;
use crate::settings::AppSettings;

pub use book::{Book, Class, Counts, Slots};
pub use gates::{Gate, GateState};
pub use instance::{Instance, Phase};
pub use request::{DeployRequest, Known, Refusal, Request, Step};
pub use rollout::{FailureRecord, Progress, Rollout, RolloutState};
use timers::Timers;
use watermarks::Bounds;
pub use window::Window;

#[derive(Debug, Clone)]
pub struct AppState {
    app: AppName,
    now: Millis,
    settings: Option<AppSettings>,
    revisions: BTreeMap<RevisionNumber, Revision>,
    /// Revisions in the order in which they last succeeded, newest last.
    succeeded: Vec<RevisionNumber>,
    bad: BTreeSet<RevisionNumber>,
    /// What shall run.
    target: Option<RevisionNumber>,
    /// What succeeded last.
    base: Option<RevisionNumber>,
    rollouts: BTreeMap<RolloutId, Rollout>,
    down: bool,
    /// Since a reboot, until the base is at full strength again.
    recovering_since: Option<Millis>,
    books: BTreeMap<RevisionNumber, Book>,
    totals: Counts,
    bounds: Bounds,
    births: u64,
    timers: Timers,
    /// Starting ones whose healthy deadline passed.
    overdue: BTreeSet<InstanceKey>,
    /// Draining ones that may be stopped: drained, or past their deadline.
    stoppable: BTreeSet<InstanceKey>,
}

impl AppState {
    pub fn new(app: AppName) -> Self {
        Self {
            app,
            now: 0,
            settings: None,
            revisions: BTreeMap::new(),
            succeeded: Vec::new(),
            bad: BTreeSet::new(),
            target: None,
            base: None,
            rollouts: BTreeMap::new(),
            down: false,
            recovering_since: None,
            books: BTreeMap::new(),
            totals: Counts::default(),
            bounds: Bounds::default(),
            births: 0,
            timers: Timers::default(),
            overdue: BTreeSet::new(),
            stoppable: BTreeSet::new(),
        }
    }

    pub fn app(&self) -> &AppName {
        &self.app
    }
    pub fn now(&self) -> Millis {
        self.now
    }
    pub fn settings(&self) -> Option<&AppSettings> {
        self.settings.as_ref()
    }
    pub fn revisions(&self) -> &BTreeMap<RevisionNumber, Revision> {
        &self.revisions
    }
    pub fn revision(&self, number: RevisionNumber) -> Option<&Revision> {
        self.revisions.get(&number)
    }
    /// The label of a revision; its number where the revision is not known.
    pub fn version_of(&self, number: RevisionNumber) -> String {
        self.revisions
            .get(&number)
            .map_or_else(|| format!("revision {number}"), |r| r.template.version.to_string())
    }
    /// The same, shared.
    pub fn label_of(&self, number: RevisionNumber) -> Arc<str> {
        self.revisions
            .get(&number)
            .map_or_else(|| format!("revision {number}").into(), |r| r.template.version.shared())
    }
    pub fn target(&self) -> Option<RevisionNumber> {
        self.target
    }
    pub fn base(&self) -> Option<RevisionNumber> {
        self.base
    }
    /// The revision that replaces what dies while the target is unproven: the base, unless it was judged bad; then the
    /// target, if it succeeded before.
    pub fn proven(&self) -> Option<RevisionNumber> {
        let good = |r: &RevisionNumber| !self.bad.contains(r);
        self.base.filter(good).or_else(|| self.target.filter(|t| good(t) && self.succeeded.contains(t)))
    }
    pub fn is_bad(&self, number: RevisionNumber) -> bool {
        self.bad.contains(&number)
    }
    /// Those that were judged bad.
    pub fn bad_revisions(&self) -> &BTreeSet<RevisionNumber> {
        &self.bad
    }
    pub fn has_succeeded(&self, number: RevisionNumber) -> bool {
        self.succeeded.contains(&number)
    }
    pub fn is_down(&self) -> bool {
        self.down
    }
    pub fn recovering_since(&self) -> Option<Millis> {
        self.recovering_since
    }
    pub fn rollouts(&self) -> &BTreeMap<RolloutId, Rollout> {
        &self.rollouts
    }
    /// The newest, open or ended.
    pub fn last_rollout(&self) -> Option<&Rollout> {
        self.rollouts.values().next_back()
    }
    pub fn open_rollout(&self) -> Option<&Rollout> {
        self.last_rollout().filter(|r| !r.state.is_terminal())
    }
    /// No rollout moves anything: it is paused, or it failed and waits for a person.
    pub fn is_halted(&self) -> bool {
        self.last_rollout().is_some_and(|r| matches!(r.state, RolloutState::Paused | RolloutState::Failed))
    }
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.books.values().flat_map(|book| book.instances.iter())
    }
    pub fn instance(&self, key: InstanceKey) -> Option<&Instance> {
        self.books.get(&key.revision)?.instances.get(key.slot).filter(|i| i.key == key)
    }
    pub fn books(&self) -> &BTreeMap<RevisionNumber, Book> {
        &self.books
    }
    pub fn book(&self, number: RevisionNumber) -> Option<&Book> {
        self.books.get(&number)
    }
    /// Whether a fact tells anything that the state does not say already: only then is it worth a record.
    pub fn is_news(&self, key: InstanceKey, fact: &Fact) -> bool {
        let Some(instance) = self.instance(key) else { return false };
        let phase = instance.phase();
        match fact {
            Fact::Started { incarnation, .. } => {
                instance.incarnation() != Some(incarnation)
                    || matches!(phase, Phase::Intended | Phase::Unknown)
            }
            Fact::Ready => {
                matches!(phase, Phase::Intended | Phase::Starting | Phase::Unready | Phase::Unknown)
            }
            Fact::Unready => phase == Phase::Ready,
            Fact::Routed(routed) => phase == Phase::Ready && instance.is_routed() != *routed,
            Fact::Released => instance.is_kept(),
            Fact::Drained { .. } => phase == Phase::Draining && instance.drained().is_none(),
            Fact::NotLive | Fact::StartRefused { .. } | Fact::Unknown => phase.is_held(),
            Fact::Exited(_) => !(phase == Phase::Failed && instance.has_exited()),
            Fact::Gone => true,
        }
    }
    /// Whatever attempt stands in that place now.
    pub fn at_place(&self, revision: RevisionNumber, slot: u32) -> Option<&Instance> {
        self.books.get(&revision)?.instances.get(slot)
    }
    fn instance_mut(&mut self, key: InstanceKey) -> Option<&mut Instance> {
        self.books.get_mut(&key.revision)?.instances.get_mut(key.slot).filter(|i| i.key == key)
    }
    pub fn is_available(&self, key: InstanceKey) -> bool {
        self.instance(key).is_some_and(|i| i.is_available(self.needs_route()))
    }
    /// Over all revisions.
    pub fn totals(&self) -> &Counts {
        &self.totals
    }
    pub fn counts_of(&self, number: Option<RevisionNumber>) -> Counts {
        number.and_then(|n| self.books.get(&n)).map(|b| *b.counts()).unwrap_or_default()
    }
    /// Starting ones whose healthy deadline passed.
    pub fn overdue(&self) -> impl Iterator<Item = InstanceKey> {
        self.overdue.iter().copied()
    }
    /// Draining ones that may be stopped now.
    pub fn stoppable(&self) -> impl Iterator<Item = InstanceKey> {
        self.stoppable.iter().copied()
    }
    /// When something becomes true without an event.
    pub fn next_timer_at(&self) -> Option<Millis> {
        self.timers.next_at()
    }

    /// The bounds of now. Down: nothing is desired.
    pub fn budget(&self) -> Budget {
        match &self.settings {
            Some(settings) if !self.down => settings.budget(),
            _ => Budget { desired: 0, surge: 0, unavailable: 0 },
        }
    }

    /// Whether the first rollout of the app is under way: there is nothing to keep serving and nothing to go back to.
    pub fn is_first_rollout(&self) -> bool {
        self.base.is_none()
    }

    /// The newest succeeded revision other than the target that was not judged bad. A restart makes a revision of the same
    /// content: once it has succeeded, going back from it goes past all that are the same.
    pub fn rollback_target(&self) -> Option<RevisionNumber> {
        self.way_back(self.target)
    }

    /// The same, if `from` were the target: where a rollback goes once the one that is under way has failed.
    pub fn way_back(&self, from: Option<RevisionNumber>) -> Option<RevisionNumber> {
        let is_same = |a: RevisionNumber, b: RevisionNumber| {
            self.revision(a).zip(self.revision(b)).is_some_and(|(a, b)| a.template.same_as(&b.template))
        };
        let left = from.filter(|from| self.base == Some(*from));
        let gone_from = self.bad.iter().copied().filter(|bad| self.succeeded.contains(bad)).chain(left);
        let gone_from: Vec<_> = gone_from.collect();
        let is_left = |r: RevisionNumber| gone_from.iter().any(|left| is_same(*left, r));
        let others = self.succeeded.iter().rev().copied();
        others.filter(|r| Some(*r) != from && !self.bad.contains(r)).find(|r| !is_left(*r))
    }

    /// How many places the target takes: all but those that a person left out.
    pub fn goal(&self) -> u32 {
        let left_out = self.open_rollout().map_or(0, Rollout::left_out);
        self.budget().desired.saturating_sub(left_out)
    }

    /// All that shall be of the target is available, and nothing lives beyond what is desired.
    pub fn is_complete(&self) -> bool {
        let available = self.counts_of(self.target).available();
        available == self.goal() && self.totals.live() == self.budget().desired
    }

    /// How many instances of revisions other than the target there are.
    pub fn others(&self) -> Counts {
        self.totals.minus(&self.counts_of(self.target))
    }

    /// Requests may be running in it: it was routed at some time, and its process lives.
    pub fn may_be_busy(&self, key: InstanceKey) -> bool {
        self.needs_route() && self.instance(key).is_some_and(|i| i.was_ever_ready() && !i.has_exited())
    }

    pub(crate) fn needs_route(&self) -> bool {
        self.settings.as_ref().is_some_and(|s| s.listen.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Action, Event, StartPurpose};
    use crate::invariants::scan;

    /// Nothing but a bug of ours makes such a book, so it is made by hand.
    #[test]
    fn a_book_that_is_wrong_is_found_out_by_counting_anew() {
        let instance = InstanceKey { revision: RevisionNumber(1), slot: 1, attempt: 1 };
        let mut sound = AppState::new("web".parse().unwrap());
        sound.apply(0, &Event::Decided(Action::Start { instance, purpose: StartPurpose::Roll }));
        assert_eq!(scan(&sound), Ok(()));
        type Damage = fn(&mut AppState);
        let damages: [(&str, Damage); 4] = [
            ("books say 2 live, there are 1", |s| s.totals.add(Class::Failed)),
            ("books say 0 held, there are 1", |s| {
                s.totals.take(Class::Starting);
                s.totals.add(Class::Failed);
            }),
            ("books say 1 ready, there are 0", |s| s.books.values_mut().for_each(|b| b.ready += 1)),
            ("the books of revisions hold 2, there are 1", |s| {
                s.books.values_mut().for_each(|b| b.counts.add(Class::Failed));
            }),
        ];
        for (found, damage) in damages {
            let mut state = sound.clone();
            damage(&mut state);
            assert_eq!(scan(&state), Err(found.to_owned()));
        }
    }
}
