//! What a rollout would do if all went well: the shipping decision, driven through an ideal world.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::Millis;
use crate::decide::decide;
use crate::event::{Action, DrainProof, Event, Fact};
use crate::ids::{InstanceKey, RevisionNumber};
use crate::limits::Budget;
use crate::state::AppState;

/// How long things take in the ideal world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assumed {
    /// From the start of a process to its first successful check.
    pub start_ms: Millis,
    /// From the signal to gone, requests finished.
    pub stop_ms: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    #[serde(skip)]
    pub budget: Budget,
    /// Moves that belong together: a batch, or without `batch` what happens at one moment.
    pub batches: Vec<Vec<Step>>,
    /// Routed instances of each revision at the most mixed moment.
    pub peak_mix: BTreeMap<RevisionNumber, u32>,
    pub expected_ms: Millis,
    pub lowest_available: u32,
    pub highest_total: u32,
    /// It came to its end within the bounds of this calculation.
    pub ends: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub action: StepAction,
    pub revision: u32,
    pub count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    Start,
    Stop,
}

/// Passes after which a plan is given up: far beyond any rollout that is shown to a person.
const MOST_PASSES: u32 = 1_000_000;

/// Drives `state`, in which the rollout was just opened, to its end.
pub fn plan(mut state: AppState, assumed: Assumed) -> Plan {
    let mut world = Ideal { assumed, due: BTreeMap::new() };
    let began = state.now();
    let mut batches: Vec<(Key, Vec<Step>)> = Vec::new();
    let mut ends = false;
    for _ in 0..MOST_PASSES {
        let decision = decide(&state);
        let at = state.now();
        let key = match crate::decide::batch_size(&state).zip(state.open_rollout()) {
            Some((_, rollout)) => Key::Batch(rollout.batches),
            None => Key::Moment(at),
        };
        for action in &decision.actions {
            note(&mut batches, key, &state, action);
            state.apply(at, &Event::Decided(action.clone()));
            world.begin(&state, at, action);
        }
        if !decision.actions.is_empty() {
            continue;
        }
        ends = state.open_rollout().is_none();
        if ends {
            break;
        }
        let Some(at) = world.next_at().into_iter().chain(decision.wake_at).min() else { break };
        state.advance(at);
        for event in world.happens(at) {
            state.apply(at, &event);
        }
    }
    let rollout = state.last_rollout();
    Plan {
        budget: state.budget(),
        batches: batches.into_iter().map(|(_, steps)| steps).collect(),
        peak_mix: rollout.map(|r| r.peak_mix.clone()).unwrap_or_default(),
        expected_ms: state.now() - began,
        lowest_available: rollout.map_or(0, |r| r.lowest_available),
        highest_total: rollout.map_or(0, |r| r.highest_total),
        ends,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Batch(u32),
    Moment(Millis),
}

fn note(batches: &mut Vec<(Key, Vec<Step>)>, key: Key, state: &AppState, action: &Action) {
    let (step, instance) = match action {
        Action::Start { instance, .. } => (StepAction::Start, instance),
        Action::Drain { instance, .. } => (StepAction::Stop, instance),
        // The stop after a drain was counted there.
        Action::Stop { instance, .. } if !is_draining(state, *instance) => (StepAction::Stop, instance),
        _ => return,
    };
    if batches.last().is_none_or(|(last, _)| *last != key) {
        batches.push((key, Vec::new()));
    }
    let Some((_, steps)) = batches.last_mut() else { return };
    let revision = instance.revision.0;
    match steps.iter_mut().find(|s| s.action == step && s.revision == revision) {
        Some(known) => known.count += 1,
        None => steps.push(Step { action: step, revision, count: 1 }),
    }
}

fn is_draining(state: &AppState, key: InstanceKey) -> bool {
    state.instance(key).is_some_and(|i| i.phase() == crate::state::Phase::Draining)
}

/// Everything starts and stops in its time, nothing fails.
struct Ideal {
    assumed: Assumed,
    due: BTreeMap<Millis, VecDeque<(InstanceKey, Fact)>>,
}

impl Ideal {
    fn begin(&mut self, state: &AppState, now: Millis, action: &Action) {
        let mut later = |wait, instance: &InstanceKey, fact| {
            self.due.entry(now + wait).or_default().push_back((*instance, fact));
        };
        match action {
            Action::Start { instance, .. } => {
                later(self.assumed.start_ms, instance, Fact::Ready);
                if state.settings().is_some_and(|s| s.listen.is_some()) {
                    later(self.assumed.start_ms, instance, Fact::Routed(true));
                }
            }
            Action::Drain { instance, .. } => later(0, instance, Fact::Drained { proof: DrainProof::Proven }),
            Action::Stop { instance, .. } => later(self.assumed.stop_ms, instance, Fact::Gone),
            _ => {}
        }
    }

    fn next_at(&self) -> Option<Millis> {
        self.due.keys().next().copied()
    }

    fn happens(&mut self, now: Millis) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(first) = self.due.first_entry().filter(|e| *e.key() <= now) {
            events.extend(
                first.remove().into_iter().map(|(instance, fact)| Event::Observed { instance, fact }),
            );
        }
        events
    }
}
