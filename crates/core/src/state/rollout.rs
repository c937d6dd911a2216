//! The record of one rollout.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::event::{Evidence, FailureCause, PauseCause, Requests, RolloutKind};
use crate::ids::{InstanceKey, RevisionNumber, RolloutId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    Running,
    Paused,
    RollingBack,
    RolledBack,
    Succeeded,
    Failed,
    Aborted,
    Superseded,
}

impl RolloutState {
    /// Terminal states never change.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::RollingBack => false,
            Self::RolledBack | Self::Succeeded | Self::Failed | Self::Aborted | Self::Superseded => true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureRecord {
    pub instance: InstanceKey,
    pub cause: FailureCause,
    pub at: Millis,
    /// From the start of the instance to its failure.
    pub after_ms: Millis,
    pub evidence: Option<Evidence>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    pub id: RolloutId,
    /// What ran before: None on the first.
    pub from: Option<RevisionNumber>,
    pub to: RevisionNumber,
    pub kind: RolloutKind,
    pub state: RolloutState,
    pub by: String,
    pub opened_at: Millis,
    pub ended_at: Option<Millis>,
    /// Once it turned back: where to.
    pub back_to: Option<RevisionNumber>,
    /// It turned back because a person aborted it.
    pub aborted: bool,
    /// Why it is paused, turned back or failed.
    pub cause: Option<PauseCause>,
    /// Attempts of the target that failed since the last resume.
    pub failures: u32,
    /// All attempts of the target that failed.
    pub failures_in_all: u32,
    /// The failures, oldest first; the last [`Self::MAX_RECORDS`] of them.
    pub records: Vec<FailureRecord>,
    /// Batches that were complete, and when the last one was.
    pub batches: u32,
    pub batch_reached_at: Millis,
    pub bake_since: Option<Millis>,
    /// It pauses after each batch; the last one it paused after.
    pub step: bool,
    pub stepped: u32,
    /// Places of `to` that a person left out.
    pub skipped: BTreeSet<u32>,
    /// Of these, how many the base has still to come back to.
    pub to_restore: u32,
    /// Places of the target that a person asked for once more.
    pub retries: BTreeSet<u32>,
    /// Of the moments since it began the one that was furthest below the floor, else the one with the fewest available;
    /// and the floor that bound just then.
    pub lowest_available: u32,
    pub lowest_floor: u32,
    /// The same of all that lived, and the ceiling.
    pub highest_total: u32,
    pub highest_ceiling: u32,
    /// Routed instances of each revision at the most mixed moment: of the pairs (others, target) after each change of the
    /// table, the one with the largest minimum, then the largest sum.
    pub peak_mix: BTreeMap<RevisionNumber, u32>,
    pub(super) peak_rank: (u32, u32),
    pub progress: Progress,
    /// Of a hundred, so many get the target while the rollout stands still: a person said so.
    pub share: Option<u32>,
    /// Counted as it began and as it ended.
    pub requests_before: Option<Requests>,
    pub requests_after: Option<Requests>,
}

impl Rollout {
    pub const MAX_RECORDS: usize = 100;

    /// The revision that shall run when it ends.
    pub fn target(&self) -> RevisionNumber {
        self.back_to.unwrap_or(self.to)
    }

    /// The failure that it stands still or went back for: none where a person or a batch made it pause.
    pub fn blamed(&self) -> Option<&FailureRecord> {
        let last = self.records.last();
        match self.cause.as_ref()? {
            PauseCause::Failures { .. } | PauseCause::Skipped { .. } => last,
            PauseCause::ProgressDeadline { .. } => last.filter(|_| self.failures > 0),
            PauseCause::Person { .. } | PauseCause::Step { .. } | PauseCause::Invariant { .. } => None,
        }
    }

    /// A failure more; beyond the most that are kept, the oldest goes.
    pub(super) fn note_failure(&mut self, record: FailureRecord) {
        self.failures += 1;
        self.failures_in_all += 1;
        if self.records.len() == Self::MAX_RECORDS {
            self.records.remove(0);
        }
        self.records.push(record);
    }

    /// How many places the target does not take. On the way back it takes all of them.
    pub fn left_out(&self) -> u32 {
        if self.back_to.is_some() { 0 } else { u32::try_from(self.skipped.len()).unwrap_or(u32::MAX) }
    }
}

/// The progress deadline: it runs only while a target instance is on its way, and only new highs count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub best_available: u32,
    pub lowest_others: u32,
    /// Spent since the last progress, but for the stretch that runs.
    pub spent_ms: Millis,
    pub running_since: Option<Millis>,
}

impl Progress {
    pub fn spent_at(&self, now: Millis) -> Millis {
        self.spent_ms + self.running_since.map_or(0, |since| now.saturating_sub(since))
    }
}
