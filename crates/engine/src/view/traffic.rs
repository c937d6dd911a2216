//! Requests: what the router knows now, and what of it one rollout has seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trundle_core::event::Requests;
use trundle_core::formats::Watched;
use trundle_core::ids::{InstanceKey, RolloutId};
use trundle_core::state::{Rollout, RolloutState};

use crate::engine::App;

/// From the first byte of a request to the last byte of its answer, as the router saw it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
}

/// What the router knows at this moment.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// None: nobody can tell now.
    pub requests: Option<Requests>,
    pub in_flight: BTreeMap<InstanceKey, u64>,
    /// How many clients have pages of a revision open, by its number.
    pub pinned: BTreeMap<u32, u64>,
    /// Who uses which format; None: nobody can tell now.
    pub watched: Option<Vec<Watched>>,
    pub latency: BTreeMap<String, Latency>,
}

/// Those of one rollout: from its beginning to its end, or to now. None: they were not counted, or nobody can tell now.
pub fn requests_of(app: &App, rollout: &Rollout, traffic: &Traffic) -> Option<Requests> {
    // A worker is not asked for anything.
    app.state.settings()?.listen.as_ref()?;
    let nothing = Requests::default();
    // Before its first rollout nobody could ask the app for anything.
    let is_first = rollout.id == RolloutId(1);
    let before = rollout.requests_before.as_ref().or(is_first.then_some(&nothing))?;
    let after = match rollout.state {
        RolloutState::Running | RolloutState::Paused | RolloutState::RollingBack => traffic.requests.as_ref(),
        // It ended as the next one began.
        RolloutState::Superseded => {
            app.state.rollouts().get(&RolloutId(rollout.id.0 + 1))?.requests_before.as_ref()
        }
        RolloutState::RolledBack | RolloutState::Succeeded | RolloutState::Failed | RolloutState::Aborted => {
            rollout.requests_after.as_ref()
        }
    }?;
    // Fewer than before: the router began to count anew.
    (after.total >= before.total).then(|| after.since(before))
}
