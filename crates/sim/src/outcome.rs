//! What came of a simulated rollout.

use std::collections::BTreeMap;

use trundle_core::Millis;
use trundle_core::event::{Action, Event};
use trundle_core::limits::Budget;
use trundle_core::settings::AppSettings;
use trundle_core::state::RolloutState;
use trundle_engine::journal::Entry;

use crate::setup::Setup;

#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub state: RolloutState,
    pub budget: Budget,
    pub duration_ms: Millis,
    pub limit_ms: Millis,
    pub lowest_available: u32,
    pub highest_total: u32,
    /// Routed instances by version at the most mixed moment.
    pub peak_mix: BTreeMap<String, u32>,
    /// Records of decisions that the rollout took.
    pub decisions: u64,
    /// The first 10,000 of them, from the beginning of the rollout.
    pub steps: Vec<Step>,
}

/// Moves of one kind, of one revision, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub at_ms: Millis,
    pub action: &'static str,
    pub revision: u32,
    pub count: u32,
}

impl Step {
    pub fn since(&self, began: Millis) -> Self {
        Self { at_ms: self.at_ms.saturating_sub(began), ..self.clone() }
    }
}

/// Groups decisions into steps as they come.
#[derive(Debug, Default)]
pub struct Steps {
    /// All that was written into the journal, decisions among it.
    pub events: u64,
    pub decisions: u64,
    pub steps: Vec<Step>,
}

impl Steps {
    pub const MOST: usize = 10_000;

    pub fn note(&mut self, entry: &Entry, target: u32) {
        self.events += 1;
        let Event::Decided(action) = &entry.event else { return };
        self.decisions += 1;
        let (word, revision) = match action {
            Action::Start { instance, .. } => ("start", instance.revision.0),
            Action::Drain { instance, .. } => ("drain", instance.revision.0),
            Action::Stop { instance, .. } => ("stop", instance.revision.0),
            Action::Fail { instance, .. } => ("fail", instance.revision.0),
            Action::BatchReached { .. } => ("batch", target),
            Action::PauseRollout { .. } => ("pause", target),
            Action::TurnBack { to, .. } => ("turn_back", to.0),
            Action::Bake => ("bake", target),
            Action::Conclude { .. } => ("end", target),
            Action::Recovered => ("recovered", target),
        };
        let same = |s: &&mut Step| s.at_ms == entry.at_ms && s.action == word && s.revision == revision;
        // Those of one moment stand together at the end.
        if let Some(step) = self.steps.iter_mut().rev().take(16).find(same) {
            step.count += 1;
        } else if self.steps.len() < Self::MOST {
            self.steps.push(Step { at_ms: entry.at_ms, action: word, revision, count: 1 });
        }
    }
}

/// What physics allows: waves × (time to ready + `min_healthy_time` + time to stop), where a wave is what may be in work at
/// once. With `batch` a wave is within one batch; where both bounds let all of a batch come and go at the same time, it takes
/// the longer of the two. Delays between batches come on top.
pub fn limit_ms(settings: &AppSettings, setup: &Setup) -> Millis {
    let budget = settings.budget();
    let (surge, unavailable) = (u64::from(budget.surge), u64::from(budget.unavailable));
    let (desired, at_once) = (u64::from(budget.desired), (surge + unavailable).max(1));
    let comes = setup.start.mean() + settings.rollout.min_healthy_time_ms;
    let goes = setup.drain.mean() + setup.stop.mean();
    let Some(batch) = settings.rollout.batch.map(u64::from) else {
        return desired.div_ceil(at_once) * (comes + goes);
    };
    let of_a_batch = |size: u64| match size {
        0 => 0,
        _ if surge >= size && unavailable >= size => comes.max(goes),
        _ => size.div_ceil(at_once.min(size)) * (comes + goes),
    };
    let (batch, batches) = (batch.max(1), desired.div_ceil(batch.max(1)));
    let delays = settings.rollout.delay_ms * batches.saturating_sub(1);
    desired / batch * of_a_batch(batch) + of_a_batch(desired % batch) + delays
}
