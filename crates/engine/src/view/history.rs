//! `history`: what was, rollout by rollout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trundle_core::event::Requests;
use trundle_core::state::Rollout;

use super::{AsOf, Failure, Traffic, duration_ms, failure, had_to_keep, json_word, peak_mix, requests_of};
use crate::engine::App;

/// One row of `history`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryRow {
    pub rollout: u32,
    pub from_version: Option<String>,
    pub to: u32,
    pub to_version: String,
    pub state: String,
    pub kind: String,
    pub by: String,
    pub started_at: Option<String>,
    pub duration_ms: u64,
    pub requests: Option<Requests>,
    pub lowest_available: Option<u32>,
    #[serde(default)]
    pub lowest_floor: Option<u32>,
    pub highest_total: Option<u32>,
    #[serde(default)]
    pub highest_ceiling: Option<u32>,
    pub peak_mix: BTreeMap<String, u32>,
    pub cause: Option<String>,
    pub failure: Option<Failure>,
}

/// `history --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct History {
    pub app: String,
    pub revisions: Vec<HistoryRevision>,
    pub rollouts: Vec<HistoryRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryRevision {
    pub revision: u32,
    pub version: String,
    pub added_at: Option<String>,
    pub succeeded: bool,
    pub bad: bool,
    pub current: bool,
}

pub fn history(app: &App, traffic: &Traffic, as_of: AsOf, time_text: fn(u64) -> String) -> History {
    let state = &*as_of.of(&app.state);
    let revisions = state.revisions().keys().map(|number| HistoryRevision {
        revision: number.0,
        version: state.version_of(*number),
        added_at: app.chronicle.added.get(number).copied().map(time_text),
        succeeded: state.has_succeeded(*number),
        bad: state.is_bad(*number),
        current: state.target() == Some(*number),
    });
    let row = |rollout: &Rollout| {
        let kept = had_to_keep(app, rollout).then_some(rollout);
        HistoryRow {
            rollout: rollout.id.0,
            from_version: rollout.from.map(|f| state.version_of(f)),
            to: rollout.to.0,
            to_version: state.version_of(rollout.to),
            state: json_word(&rollout.state),
            kind: json_word(&rollout.kind),
            by: rollout.by.clone(),
            started_at: app.chronicle.began.get(&rollout.id).copied().map(time_text),
            duration_ms: duration_ms(state, rollout),
            requests: requests_of(app, rollout, traffic),
            lowest_available: kept.map(|r| r.lowest_available),
            lowest_floor: kept.map(|r| r.lowest_floor),
            highest_total: kept.map(|r| r.highest_total),
            highest_ceiling: kept.map(|r| r.highest_ceiling),
            peak_mix: peak_mix(state, &rollout.peak_mix),
            cause: rollout.cause.as_ref().map(|c| c.text()),
            failure: rollout.records.last().map(|record| failure(state, rollout, record)),
        }
    };
    let rollouts = state.rollouts().values().map(row);
    History { app: state.app().to_string(), revisions: revisions.collect(), rollouts: rollouts.collect() }
}
