//! What a search must have met at least once: a proof over worlds in which nothing happens proves nothing.

use std::collections::BTreeSet;

use trundle_core::decide::Decision;
use trundle_core::event::{Action, Event, Outcome, PauseCause, StartPurpose, StopPurpose};
use trundle_core::reason::Reason;
use trundle_core::state::{AppState, Class, Phase, RolloutState};

/// Names of moments, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sometimes(pub BTreeSet<&'static str>);

/// All that must be met by the searches of the test together.
pub const MUST: &[&str] = &[
    "a rollout completes",
    "a rollout is aborted",
    "it turns back with 0 new available",
    "it turns back with 1 new available",
    "it turns back with 2 new available",
    "it is rolled back",
    "a way back fails",
    "a way back is paused",
    "pause with one intended",
    "pause with one starting",
    "pause with one ready",
    "pause with one unready",
    "pause with one draining",
    "pause with one stopping",
    "pause with one failed",
    "pause with one unknown",
    "S1 is tight",
    "S2 is tight",
    "S2 is tight above what is desired",
    "supersede while one drains",
    "supersede with three versions alive",
    "skip ends as failed",
    "retry in a pause",
    "restore in a pause",
    "repair in a pause",
    "repair in a rollout",
    "share of more replicas",
    "share of fewer replicas",
    "surplus leaves",
    "kept ones make room for the floor",
    "reboot with an open rollout",
    "recovered after a reboot",
    "paused by failures",
    "paused by the progress deadline",
    "paused after a step",
    "not ready in time",
    "a drain past its deadline is cut",
    "it bakes",
    "a batch holds back",
    "a delay holds back",
    "a place waits in back-off",
    "the floor holds back",
    "the ceiling holds back",
    "down in a rollout",
    "the first rollout pauses",
    "it ends as failed with `continue`",
    "pause with three versions alive",
    "a death in the bake time begins it anew",
];

impl Sometimes {
    pub fn and(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    pub fn missing(&self) -> Vec<&'static str> {
        MUST.iter().copied().filter(|name| !self.0.contains(name)).collect()
    }

    fn met(&mut self, name: &'static str) {
        debug_assert!(MUST.contains(&name), "{name} is not in the list of what must be met");
        self.0.insert(name);
    }

    /// Before an event is applied.
    pub fn before(&mut self, state: &AppState, event: &Event) {
        use trundle_core::event::{Command, Fact};
        let open = state.open_rollout();
        let drains = state.totals().of(Class::Draining) > 0;
        match event {
            Event::Commanded { command: Command::Roll { .. }, .. } if open.is_some() && drains => {
                self.met("supersede while one drains");
            }
            Event::Commanded { command: Command::Pause, .. } => self.paused_now(state),
            Event::Commanded { command: Command::Down, .. } if open.is_some() => {
                self.met("down in a rollout")
            }
            Event::Commanded { command: Command::TurnBack { .. }, .. }
            | Event::Decided(Action::TurnBack { .. }) => match state.counts_of(state.target()).available() {
                0 => self.met("it turns back with 0 new available"),
                1 => self.met("it turns back with 1 new available"),
                _ => self.met("it turns back with 2 new available"),
            },
            Event::Observed { instance, fact: Fact::Exited(_) }
                if open.is_some_and(|r| r.bake_since.is_some()) && state.is_available(*instance) =>
            {
                self.met("a death in the bake time begins it anew");
            }
            Event::Rebooted if open.is_some() => self.met("reboot with an open rollout"),
            _ => {}
        }
    }

    fn paused_now(&mut self, state: &AppState) {
        for instance in state.instances() {
            self.met(match instance.phase() {
                Phase::Intended => "pause with one intended",
                Phase::Starting => "pause with one starting",
                Phase::Ready => "pause with one ready",
                Phase::Unready => "pause with one unready",
                Phase::Draining => "pause with one draining",
                Phase::Stopping => "pause with one stopping",
                Phase::Failed => "pause with one failed",
                Phase::Unknown => "pause with one unknown",
            });
        }
        if state.open_rollout().is_some_and(|r| r.back_to.is_some()) {
            self.met("a way back is paused");
        }
    }

    /// After an event was applied.
    pub fn after(&mut self, state: &AppState, event: &Event, had_ended: bool) {
        let Some(last) = state.last_rollout() else { return };
        if !had_ended {
            match (last.state, last.back_to) {
                (RolloutState::Succeeded, _) => self.met("a rollout completes"),
                (RolloutState::Aborted, Some(_)) => self.met("a rollout is aborted"),
                (RolloutState::RolledBack, _) => self.met("it is rolled back"),
                (RolloutState::Failed, Some(_)) => self.met("a way back fails"),
                _ => {}
            }
        }
        let alive = state.books().values().filter(|b| b.counts().held() > 0).count();
        if state.open_rollout().is_some() && alive > 2 {
            self.met("supersede with three versions alive");
            if state.is_halted() {
                self.met("pause with three versions alive");
            }
        }
        if let Event::Decided(action) = event {
            self.done(state, action);
        }
    }

    fn done(&mut self, state: &AppState, action: &Action) {
        match action {
            Action::Recovered => self.met("recovered after a reboot"),
            Action::Bake => self.met("it bakes"),
            Action::Fail { .. } => self.met("not ready in time"),
            Action::Stop { cut: true, .. } => self.met("a drain past its deadline is cut"),
            Action::PauseRollout { cause } => {
                if state.is_first_rollout() {
                    self.met("the first rollout pauses");
                }
                match cause {
                    PauseCause::Failures { .. } => self.met("paused by failures"),
                    PauseCause::ProgressDeadline { .. } => self.met("paused by the progress deadline"),
                    PauseCause::Step { .. } => self.met("paused after a step"),
                    PauseCause::Person { .. } | PauseCause::Skipped { .. } | PauseCause::Invariant { .. } => {
                    }
                }
            }
            Action::Conclude { outcome: Outcome::Failed, cause } => match cause {
                Some(PauseCause::Skipped { .. }) => self.met("skip ends as failed"),
                Some(PauseCause::ProgressDeadline { .. })
                    if state.last_rollout().is_some_and(|r| r.back_to.is_none()) =>
                {
                    self.met("it ends as failed with `continue`");
                }
                _ => {}
            },
            Action::Start { .. }
            | Action::Drain { .. }
            | Action::Stop { .. }
            | Action::BatchReached { .. }
            | Action::TurnBack { .. }
            | Action::Conclude { .. } => {}
        }
    }

    /// A whole pass, before it is applied.
    pub fn decided(&mut self, state: &AppState, decision: &Decision) {
        let budget = state.budget();
        let (mut started, mut taken) = (0, 0);
        for action in &decision.actions {
            match action {
                Action::Start { purpose, .. } => {
                    started += 1;
                    self.started(state, *purpose);
                }
                Action::Drain { instance, purpose } | Action::Stop { instance, purpose, .. } => {
                    taken += u32::from(*purpose != StopPurpose::Down && state.is_available(*instance));
                    let share = state.book(instance.revision).is_some_and(|b| b.owed() < 0);
                    match purpose {
                        StopPurpose::Surplus if share => self.met("share of fewer replicas"),
                        StopPurpose::Surplus => self.met("surplus leaves"),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        if taken > 0 && budget.floor() > 0 && state.totals().available() - taken == budget.floor() {
            self.met("S1 is tight");
        }
        let live = state.totals().live() + started;
        if started > 0 && live == budget.ceiling() {
            self.met("S2 is tight");
            if live > budget.desired {
                self.met("S2 is tight above what is desired");
            }
        }
        decision.reasons.iter().for_each(|reason| self.said(state, reason, started));
    }

    fn started(&mut self, state: &AppState, purpose: StartPurpose) {
        match purpose {
            StartPurpose::Retry => self.met("retry in a pause"),
            StartPurpose::Restore if state.is_halted() => self.met("restore in a pause"),
            StartPurpose::Repair if state.is_halted() => self.met("repair in a pause"),
            StartPurpose::Repair if state.open_rollout().is_some() => self.met("repair in a rollout"),
            StartPurpose::Scale => self.met("share of more replicas"),
            StartPurpose::Restore | StartPurpose::Repair | StartPurpose::Roll => {}
        }
    }

    fn said(&mut self, state: &AppState, reason: &Reason, started: u32) {
        match reason {
            Reason::BatchBarrier { .. } => self.met("a batch holds back"),
            Reason::Delay { .. } => self.met("a delay holds back"),
            Reason::Backoff { .. } => self.met("a place waits in back-off"),
            Reason::Floor { .. } => self.met("the floor holds back"),
            Reason::Ceiling { .. } => self.met("the ceiling holds back"),
            Reason::Clear { .. } if state.is_halted() && started == 0 && self.kept_alive(state) => {
                self.met("kept ones make room for the floor");
            }
            _ => {}
        }
    }

    fn kept_alive(&self, state: &AppState) -> bool {
        let mut failed = state.instances().filter(|i| i.phase() == Phase::Failed).peekable();
        let nobody_asked = state.open_rollout().is_none_or(|r| r.retries.is_empty() && r.skipped.is_empty());
        failed.peek().is_some() && failed.all(|i| !i.has_exited()) && nobody_asked
    }
}
