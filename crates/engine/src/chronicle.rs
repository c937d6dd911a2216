//! What people read of the past: wall times of rollouts and revisions, and the timeline of each rollout. A fold like the
//! state, but nothing is decided from it.

use std::collections::BTreeMap;

use trundle_core::event::{Command, Event, Fact, RefusalCode};
use trundle_core::ids::{InstanceKey, RevisionNumber, RolloutId};
use trundle_core::state::AppState;

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
}

impl Chronicle {
    /// Takes one entry; `state` is the state after it.
    pub fn note(&mut self, entry: &Entry, state: &AppState) {
        match &entry.event {
            Event::Commanded { command: Command::Roll { rollout, .. }, .. } => {
                self.began.insert(*rollout, entry.wall_ms);
                self.first_record.insert(*rollout, entry.n);
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
        // A superseded one ends with the record that opens its successor.
        for rollout in state.rollouts().values().rev().take(2) {
            if rollout.state.is_terminal() {
                self.ended.entry(rollout.id).or_insert(entry.wall_ms);
            }
        }
    }
}
