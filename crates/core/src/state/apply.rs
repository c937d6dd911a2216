//! The fold: one event at a time, total, and the same on every machine.

use std::collections::{BTreeMap, BTreeSet};

use crate::Millis;
use crate::event::{Action, Command, Event, Exit, Fact, FailureCause, PauseCause};
use crate::ids::InstanceKey;

use super::AppState;
use super::instance::{Instance, Phase};
use super::rollout::{Rollout, RolloutState};
use super::timers::Timer;

impl AppState {
    /// Takes one event that happened at `at`. Time that would go back stands still instead.
    pub fn apply(&mut self, at: Millis, event: &Event) {
        self.advance(at);
        match event {
            Event::Commanded { by, command } => self.command(by, command),
            Event::Decided(action) => self.decided(action),
            Event::Observed { instance, fact } => self.observed(*instance, fact),
            Event::Evidence { instance, evidence } => {
                if let Some(rollout) = self.last_rollout_mut()
                    && let Some(record) = rollout.records.iter_mut().rev().find(|r| r.instance == *instance)
                {
                    record.evidence = Some((**evidence).clone());
                }
            }
            Event::Counted { requests } => {
                if let Some(rollout) = self.last_rollout_mut() {
                    let ended = rollout.state.is_terminal();
                    let taken =
                        if ended { &mut rollout.requests_after } else { &mut rollout.requests_before };
                    taken.get_or_insert_with(|| (**requests).clone());
                }
            }
            Event::Rebooted => self.rebooted(),
            Event::InvariantBroken { invariant, .. } => {
                let cause = PauseCause::Invariant { invariant: invariant.clone() };
                self.end_rollout(RolloutState::Failed, Some(cause));
            }
        }
        self.keep_watermarks();
    }

    /// Lets time pass: what was due by `now` becomes true.
    pub fn advance(&mut self, now: Millis) {
        while let Some((at, timer)) = self.timers.pop_due(now) {
            self.now = self.now.max(at);
            match timer {
                Timer::Mature(key) => self.mature(key),
                Timer::Overdue(key) => self.note_overdue(key),
                Timer::Cut(key) => {
                    self.stoppable.insert(key);
                }
                Timer::Backoff(revision, slot) => {
                    if let Some(book) = self.books.get_mut(&revision) {
                        book.slots.reopen(slot, at);
                    }
                }
                Timer::Wake => {}
            }
            self.keep_watermarks();
        }
        self.now = self.now.max(now);
    }

    fn command(&mut self, by: &str, command: &Command) {
        match command {
            Command::Configure { settings } => {
                let before = self.settings.replace((**settings).clone()).map_or(0, |s| s.replicas);
                self.share(before, settings.replicas);
                self.refresh_all();
                self.wake_for_clocks();
            }
            Command::AddRevision { revision } => {
                self.revisions.insert(revision.number, (**revision).clone());
            }
            Command::Roll { rollout, target, kind, step } => {
                self.release(&self.kept());
                self.end_rollout(RolloutState::Superseded, None);
                if *kind == crate::event::RolloutKind::Rollback
                    && let Some(left) = self.target
                {
                    self.bad.insert(left);
                }
                self.bad.remove(target);
                self.down = false;
                let from = self.base;
                self.target = Some(*target);
                let opened = Rollout {
                    id: *rollout,
                    from,
                    to: *target,
                    kind: *kind,
                    state: RolloutState::Running,
                    by: by.to_owned(),
                    opened_at: self.now,
                    ended_at: None,
                    back_to: None,
                    aborted: false,
                    cause: None,
                    failures: 0,
                    failures_in_all: 0,
                    records: Vec::new(),
                    batches: 0,
                    batch_reached_at: self.now,
                    bake_since: None,
                    step: *step,
                    stepped: 0,
                    skipped: BTreeSet::new(),
                    to_restore: 0,
                    retries: BTreeSet::new(),
                    lowest_available: self.totals.available(),
                    lowest_floor: self.bounds.floor,
                    highest_total: self.totals.live(),
                    highest_ceiling: self.bounds.ceiling,
                    peak_mix: BTreeMap::new(),
                    peak_rank: (0, 0),
                    progress: self.fresh_progress(),
                    share: None,
                    requests_before: None,
                    requests_after: None,
                };
                self.rollouts.insert(*rollout, opened);
                self.forgive_target();
            }
            Command::TurnBack { to, aborted } => {
                self.release(&self.kept());
                // A named person chose it.
                self.bad.remove(to);
                self.turn_back(*to, *aborted, PauseCause::Person { by: by.to_owned() });
            }
            Command::Pause => self.pause(PauseCause::Person { by: by.to_owned() }),
            // For people.
            Command::Forced { .. } => {}
            Command::Resume => self.resume(),
            Command::Share { of_a_hundred } => {
                if let Some(rollout) = self.open_rollout_mut() {
                    rollout.share = *of_a_hundred;
                }
            }
            Command::Retry { instance } => self.retry(*instance),
            Command::Skip { instance } => self.skip(*instance),
            Command::Down => {
                self.release(&self.kept());
                self.end_rollout(RolloutState::Aborted, Some(PauseCause::Person { by: by.to_owned() }));
                self.down = true;
                self.recovering_since = None;
                for book in self.books.values_mut() {
                    book.want = 0;
                }
            }
        }
    }

    fn decided(&mut self, action: &Action) {
        match action {
            Action::Start { instance, purpose } => self.start(*instance, *purpose),
            Action::Drain { instance, purpose } => {
                self.unwant(*instance, *purpose);
                self.set_phase(*instance, Phase::Draining, |i| i.stop_purpose = Some(*purpose));
                let for_pages_ms = self.keeps_for_pages(*instance, *purpose);
                if for_pages_ms > 0 {
                    self.change(*instance, |i, _| i.kept = true);
                }
                let drain_ms = self.settings.as_ref().map_or(0, |s| s.rollout.drain_timeout_ms);
                self.set_timer(*instance, self.now + for_pages_ms + drain_ms, Timer::Cut(*instance));
            }
            Action::Stop { instance, purpose, cut } => {
                if self.instance(*instance).is_some_and(|i| i.phase.is_held()) {
                    self.unwant(*instance, *purpose);
                }
                self.set_phase(*instance, Phase::Stopping, |i| {
                    i.stop_purpose = Some(*purpose);
                    i.cut = *cut;
                });
            }
            Action::Fail { instance, cause } => self.fail(*instance, cause.clone(), false),
            Action::BatchReached { batch } => {
                let (now, delay) = (self.now, self.settings.as_ref().map_or(0, |s| s.rollout.delay_ms));
                if let Some(rollout) = self.open_rollout_mut() {
                    rollout.batches = *batch;
                    rollout.batch_reached_at = now;
                }
                if delay > 0 {
                    self.timers.set(now + delay, Timer::Wake);
                }
            }
            Action::PauseRollout { cause } => self.pause(cause.clone()),
            Action::TurnBack { to, cause } => {
                self.release(&self.kept());
                self.turn_back(*to, false, cause.clone());
            }
            Action::Bake => {
                let (now, bake) = (self.now, self.settings.as_ref().map_or(0, |s| s.rollout.bake_time_ms));
                if let Some(rollout) = self.open_rollout_mut() {
                    rollout.bake_since = Some(now);
                }
                self.timers.set(now + bake, Timer::Wake);
            }
            Action::Conclude { outcome, cause } => self.conclude(*outcome, cause.clone()),
            Action::Recovered => self.recovering_since = None,
        }
    }

    fn observed(&mut self, key: InstanceKey, fact: &Fact) {
        let Some(phase) = self.instance(key).map(|i| i.phase) else { return };
        match fact {
            Fact::Started { pid, address, incarnation } => {
                self.change(key, |i, _| {
                    i.pid = Some(*pid);
                    i.address.clone_from(address);
                    i.incarnation = Some(incarnation.clone());
                });
                if matches!(phase, Phase::Intended | Phase::Unknown) {
                    self.set_phase(key, Phase::Starting, |_| ());
                }
            }
            Fact::StartRefused { code, text } => {
                if phase.is_held() {
                    self.fail(key, FailureCause::Refused { code: *code, text: text.clone() }, true);
                }
            }
            Fact::Ready => self.ready(key, phase),
            Fact::Unready => self.unready(key, phase),
            Fact::NotLive => {
                if phase.is_held() {
                    self.fail(key, FailureCause::NotLive, false);
                }
            }
            Fact::Exited(exit) => self.exited(key, phase, *exit),
            Fact::Gone => match phase {
                Phase::Draining | Phase::Stopping | Phase::Failed => self.remove(key),
                // Nobody told it to go: that is a loss like any other.
                Phase::Intended | Phase::Starting | Phase::Ready | Phase::Unready | Phase::Unknown => {
                    self.exited(key, phase, Exit { code: None, signal: None });
                }
            },
            Fact::Unknown => {
                if phase.is_held() {
                    self.set_phase(key, Phase::Unknown, |_| ());
                }
            }
            Fact::Routed(routed) => {
                if phase == Phase::Ready || !routed {
                    self.change(key, |i, _| i.routed = *routed);
                }
            }
            Fact::Released => {
                if self.instance(key).is_some_and(Instance::is_kept) {
                    self.release(&[key]);
                }
            }
            Fact::Drained { proof } => {
                if phase == Phase::Draining {
                    self.change(key, |i, _| i.drained = Some(*proof));
                    self.stoppable.insert(key);
                }
            }
        }
    }
}
