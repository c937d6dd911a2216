//! What people read of the past: wall times of rollouts and revisions, and the timeline of each rollout. A fold like the
//! state, but nothing is decided from it.

use std::collections::{BTreeMap, BTreeSet};

use trundle_core::event::{Action, Command, Event, Fact, RefusalCode, StartPurpose};
use trundle_core::ids::{InstanceKey, RevisionNumber, RolloutId};
use trundle_core::state::{AppState, Phase, RolloutState};

use crate::journal::Entry;

#[derive(Debug, Clone, Default)]
pub struct Chronicle {
    /// Milliseconds since 1970.
    pub began: BTreeMap<RolloutId, u64>,
    pub ended: BTreeMap<RolloutId, u64>,
    pub added: BTreeMap<RevisionNumber, u64>,
    /// The first record of each rollout.
    pub first_record: BTreeMap<RolloutId, u64>,
    /// Of each revision, whose start was refused last and why; gone once one starts again.
    pub refused: BTreeMap<RevisionNumber, (InstanceKey, RefusalCode, String)>,
    /// When the last record was written.
    pub last_wall_ms: Option<u64>,
    /// Rollouts that began while the app was down, or took over from one that did: there was nothing to keep available.
    pub from_nothing: BTreeSet<RolloutId>,
    /// Started in place of one that died while nothing rolled. The decision calls that a step like any other.
    pub repairs: BTreeSet<InstanceKey>,
    /// Died while nothing rolled, and whether another was started in its place.
    dead: BTreeMap<InstanceKey, bool>,
    down: bool,
}

impl Chronicle {
    /// Takes one entry; `state` is the state after it.
    pub fn note(&mut self, entry: &Entry, state: &AppState) {
        match &entry.event {
            Event::Commanded { command: Command::Roll { rollout, .. }, .. } => {
                self.began.insert(*rollout, entry.wall_ms);
                self.first_record.insert(*rollout, entry.n);
                let superseded =
                    state.rollouts().values().rev().nth(1).filter(|r| r.state == RolloutState::Superseded);
                if self.down || superseded.is_some_and(|before| self.from_nothing.contains(&before.id)) {
                    self.from_nothing.insert(*rollout);
                }
                self.down = false;
                self.dead.clear();
            }
            Event::Commanded { command: Command::Down, .. } => {
                self.down = true;
                self.dead.clear();
            }
            Event::Commanded { command: Command::AddRevision { revision }, .. } => {
                self.added.insert(revision.number, entry.wall_ms);
            }
            Event::Observed { instance, fact: Fact::StartRefused { code, text } } => {
                self.refused.insert(instance.revision, (*instance, *code, text.clone()));
            }
            Event::Observed { instance, fact: Fact::Started { .. } } => {
                self.refused.remove(&instance.revision);
            }
            _ => {}
        }
        self.note_death(&entry.event, state);
        self.last_wall_ms = Some(entry.wall_ms);
        // A superseded one ends with the record that opens its successor.
        for rollout in state.rollouts().values().rev().take(2) {
            if rollout.state.is_terminal() {
                self.ended.entry(rollout.id).or_insert(entry.wall_ms);
            }
        }
    }

    fn note_death(&mut self, event: &Event, state: &AppState) {
        if state.open_rollout().is_some() {
            return;
        }
        match event {
            Event::Observed { instance, .. } | Event::Decided(Action::Fail { instance, .. }) => {
                if state.instance(*instance).is_some_and(|i| i.phase() == Phase::Failed) {
                    self.dead.entry(*instance).or_insert(false);
                }
                self.dead.retain(|key, replaced| !*replaced || state.instance(*key).is_some());
            }
            Event::Decided(Action::Start { instance, purpose }) => {
                let missed = |(key, replaced): &(&InstanceKey, &mut bool)| {
                    key.revision == instance.revision && !**replaced
                };
                if let Some((_, replaced)) = self.dead.iter_mut().find(missed) {
                    *replaced = true;
                    if *purpose == StartPurpose::Roll {
                        self.repairs.insert(*instance);
                    }
                }
            }
            _ => {}
        }
    }
}
