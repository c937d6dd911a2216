//! What people and scripts see of an app: built from the state, the same with a daemon and without one.

mod changed;
mod lines;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trundle_core::event::{Evidence, FailureCause, Requests};
use trundle_core::ids::{InstanceKey, RevisionNumber, RolloutId};
use trundle_core::state::{AppState, FailureRecord, Instance, Phase, Rollout};

use crate::engine::App;

pub use changed::{Changed, changed};
pub use lines::{Line, line};

/// `status --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub app: String,
    pub replicas: u32,
    pub down: bool,
    pub revisions: Vec<RevisionStatus>,
    /// The newest, open or ended.
    pub rollout: Option<RolloutStatus>,
    /// Why it waits, or that there is nothing to do.
    pub reasons: Vec<serde_json::Value>,
    pub floor: u32,
    pub ceiling: u32,
    pub available: u32,
    pub live: u32,
    pub lowest_available: Option<u32>,
    pub highest_total: Option<u32>,
    pub peak_mix: BTreeMap<String, u32>,
    pub requests: Requests,
    /// By version, of all answers that were counted: not of this rollout alone.
    pub latency: BTreeMap<String, Latency>,
    pub instances: Vec<InstanceStatus>,
    pub listen: Vec<String>,
    /// What keeps Trundle itself from working, if anything.
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RevisionStatus {
    pub revision: u32,
    pub version: String,
    pub instances: u32,
    pub ready: u32,
    pub available: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutStatus {
    pub id: u32,
    pub from: Option<u32>,
    pub to: u32,
    pub from_version: Option<String>,
    pub to_version: String,
    /// Where it goes, once it turned back.
    pub back_to: Option<u32>,
    pub state: String,
    pub kind: String,
    pub strategy: String,
    pub by: String,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
    pub duration_ms: u64,
    pub failures: u32,
    pub reasons: Vec<serde_json::Value>,
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub id: String,
    pub revision: u32,
    pub phase: Phase,
    pub address: Option<String>,
    pub pid: Option<u32>,
    pub in_flight: Option<u64>,
    pub available: bool,
}

/// The failure card as data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    pub instance: String,
    pub revision: u32,
    pub version: String,
    pub gate: String,
    /// One line: what happened.
    pub cause: String,
    /// How many failed alike.
    pub count: u32,
    pub after_ms: u64,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// `artifact_changed`, `not_found` … when it could not even start.
    pub refused: Option<String>,
    pub probe: Option<ProbeStatus>,
    pub logs: Vec<String>,
    pub changed: Option<Changed>,
    pub base_version: Option<String>,
    pub base_shows_it_too: Option<bool>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeStatus {
    pub request: String,
    pub status: Option<u16>,
    pub body: Option<String>,
    pub error: Option<String>,
}

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
    pub latency: BTreeMap<String, Latency>,
}

/// The present of one app. `time_text` writes milliseconds since 1970 as RFC 3339.
pub fn status(app: &App, traffic: &Traffic, time_text: fn(u64) -> String) -> Status {
    let state = &app.state;
    let budget = state.budget();
    let rollout = state.last_rollout();
    let first = rollout.is_some_and(|r| r.from.is_none());
    let reasons: Vec<_> = trundle_core::decide::decide(state)
        .reasons
        .into_iter()
        .map(|r| reason_json(r, traffic, state))
        .chain(unstartable(app))
        .collect();
    Status {
        app: state.app().to_string(),
        replicas: state.settings().map_or(0, |s| s.replicas),
        down: state.is_down(),
        revisions: revisions(state),
        rollout: rollout.map(|r| rollout_status(app, r, reasons.clone(), time_text)),
        reasons,
        floor: budget.floor(),
        ceiling: budget.ceiling(),
        available: state.totals().available(),
        live: state.totals().live(),
        lowest_available: rollout.filter(|_| !first).map(|r| r.lowest_available),
        highest_total: rollout.filter(|_| !first).map(|r| r.highest_total),
        peak_mix: rollout.map(|r| peak_mix(state, &r.peak_mix)).unwrap_or_default(),
        requests: rollout.map(|r| requests_of(r, traffic)).unwrap_or_default(),
        latency: traffic.latency.clone(),
        instances: state.instances().map(|i| instance_status(state, i, traffic)).collect(),
        listen: state
            .settings()
            .and_then(|s| s.listen.as_ref())
            .map(|l| l.http.iter().map(|a| format!("http://{a}")).chain(l.unix.clone()).collect())
            .unwrap_or_default(),
        trouble: app.router_trouble.clone(),
    }
}

/// Those of one rollout: from its beginning to its end, or to now.
pub fn requests_of(rollout: &Rollout, traffic: &Traffic) -> Requests {
    let before = rollout.requests_before.clone().unwrap_or_default();
    let after = rollout.requests_after.as_ref().or(traffic.requests.as_ref());
    after.map(|now| now.since(&before)).unwrap_or_default()
}

pub fn peak_mix(state: &AppState, mix: &BTreeMap<RevisionNumber, u32>) -> BTreeMap<String, u32> {
    let mut labelled = BTreeMap::new();
    // Two revisions may carry one label, as after a restart.
    for (revision, n) in mix {
        *labelled.entry(state.version_of(*revision)).or_default() += n;
    }
    labelled
}

fn revisions(state: &AppState) -> Vec<RevisionStatus> {
    let shown = |number: &RevisionNumber| {
        let live = state.book(*number).is_some_and(|b| b.counts().live() > 0);
        live || Some(*number) == state.target()
    };
    let row = |number: &RevisionNumber| {
        let counts = state.counts_of(Some(*number));
        RevisionStatus {
            revision: number.0,
            version: state.version_of(*number),
            instances: counts.live(),
            ready: state.book(*number).map_or(0, |b| b.ready()),
            available: counts.available(),
        }
    };
    state.revisions().keys().filter(|n| shown(n)).map(row).collect()
}

fn rollout_status(
    app: &App,
    rollout: &Rollout,
    reasons: Vec<serde_json::Value>,
    time_text: fn(u64) -> String,
) -> RolloutStatus {
    let state = &app.state;
    let wall = |map: &BTreeMap<RolloutId, u64>| map.get(&rollout.id).copied().map(time_text);
    RolloutStatus {
        id: rollout.id.0,
        from: rollout.from.map(|f| f.0),
        to: rollout.to.0,
        from_version: rollout.from.map(|f| state.version_of(f)),
        to_version: state.version_of(rollout.to),
        back_to: rollout.back_to.map(|b| b.0),
        state: json_word(&rollout.state),
        kind: json_word(&rollout.kind),
        strategy: "rolling".to_owned(),
        by: rollout.by.clone(),
        started_at: wall(&app.chronicle.began),
        ended_at: wall(&app.chronicle.ended),
        duration_ms: rollout.ended_at.unwrap_or(state.now()) - rollout.opened_at,
        failures: u32::try_from(rollout.records.len()).unwrap_or(u32::MAX),
        reasons: if rollout.state.is_terminal() && rollout.cause.is_none() { Vec::new() } else { reasons },
        failure: rollout.records.last().map(|record| failure(state, rollout, record)),
    }
}

/// The newest failure of a rollout, with what changed since the version that ran before.
pub fn failure(state: &AppState, rollout: &Rollout, record: &FailureRecord) -> Failure {
    let evidence = record.evidence.clone().unwrap_or_default();
    let number = record.instance.revision;
    let before = state.base().filter(|b| *b != number).or(rollout.from).filter(|b| *b != number);
    let templates = before.and_then(|b| state.revision(b)).zip(state.revision(number));
    let (exit_code, signal) = match &record.cause {
        FailureCause::Exited(exit) => (exit.code, exit.signal),
        FailureCause::Refused { .. }
        | FailureCause::NotReady { .. }
        | FailureCause::Unstable { .. }
        | FailureCause::NotLive => (None, None),
    };
    Failure {
        instance: record.instance.name(state.app()),
        revision: number.0,
        version: state.version_of(number),
        gate: record.cause.gate().to_owned(),
        cause: cause_line(&record.cause, &evidence),
        count: u32::try_from(rollout.records.len()).unwrap_or(u32::MAX),
        after_ms: record.after_ms,
        exit_code,
        signal,
        refused: match &record.cause {
            FailureCause::Refused { code, .. } => Some(json_word(code)),
            _ => None,
        },
        probe: evidence.probe.map(|p| ProbeStatus {
            request: p.request,
            status: p.status,
            body: p.body,
            error: p.error,
        }),
        logs: evidence.logs,
        changed: templates.map(|(old, new)| changed(&old.template, &new.template)),
        base_version: before.map(|b| state.version_of(b)),
        base_shows_it_too: evidence.base_shows_it_too,
    }
}

/// `not ready after 5 s: GET /ready answered 503 "too many connections"`, `exited with code 3: KeyError: 'CURRENCY'`.
fn cause_line(cause: &FailureCause, evidence: &Evidence) -> String {
    if let FailureCause::Exited(_) = cause {
        // What a process says last is most often why it ends.
        let last = evidence.logs.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty());
        let said = last.map(|line| format!(": {}", line.chars().take(120).collect::<String>()));
        return cause.text() + &said.unwrap_or_default();
    }
    let probe = match (&evidence.probe, cause) {
        (
            Some(probe),
            FailureCause::NotReady { .. } | FailureCause::Unstable { .. } | FailureCause::NotLive,
        ) => probe,
        _ => return cause.text(),
    };
    let answer = match (probe.status, &probe.error, &probe.body) {
        (Some(status), _, Some(body)) if !body.trim().is_empty() => {
            let line: String = body.trim().lines().next().unwrap_or_default().chars().take(120).collect();
            format!("answered {status} \"{line}\"")
        }
        (Some(status), _, _) => format!("answered {status}"),
        (None, Some(error), _) => error.clone(),
        (None, None, _) => "gave no answer".to_owned(),
    };
    format!("{}: {} {answer}", cause.text(), probe.request)
}

fn instance_status(state: &AppState, instance: &Instance, traffic: &Traffic) -> InstanceStatus {
    let needs_route = state.settings().is_some_and(|s| s.listen.is_some());
    InstanceStatus {
        id: instance.key().name(state.app()),
        revision: instance.key().revision.0,
        phase: instance.phase(),
        address: instance.address().map(str::to_owned),
        pid: instance.pid().filter(|_| !instance.has_exited()),
        in_flight: traffic.in_flight.get(&instance.key()).copied(),
        available: instance.phase() == Phase::Ready
            && instance.matures_at().is_none()
            && (instance.is_routed() || !needs_route),
    }
}

/// With its sentence, and with what only the router knows.
fn reason_json(
    mut reason: trundle_core::reason::Reason,
    traffic: &Traffic,
    state: &AppState,
) -> serde_json::Value {
    if let trundle_core::reason::Reason::Draining { instance, in_flight, .. } = &mut reason {
        *in_flight = InstanceKey::parse_name(state.app(), instance)
            .and_then(|key| traffic.in_flight.get(&key).copied());
    }
    let text = reason.text();
    let mut value = serde_json::to_value(&reason).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("text".to_owned(), text.into());
    }
    value
}

/// Revisions that are wanted and cannot be started, such as an old one whose bytes were overwritten: nothing repairs them.
fn unstartable(app: &App) -> impl Iterator<Item = serde_json::Value> {
    let misses = |number: &RevisionNumber| {
        app.state.book(*number).is_some_and(|book| book.slots().in_backoff() > 0 && book.want() > 0)
    };
    let refused = app.chronicle.refused.iter().filter(move |(number, _)| misses(number));
    refused.map(|(number, (instance, code, text))| {
        let name = instance.name(app.state.app());
        let text = format!("{name} ({}) cannot be started: {text}", app.state.version_of(*number));
        serde_json::json!({ "code": json_word(code), "instance": name, "text": text })
    })
}

/// A word of an enum as JSON writes it.
pub fn json_word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

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
    pub requests: Requests,
    pub lowest_available: Option<u32>,
    pub highest_total: Option<u32>,
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

pub fn history(app: &App, traffic: &Traffic, time_text: fn(u64) -> String) -> History {
    let state = &app.state;
    let revisions = state.revisions().keys().map(|number| HistoryRevision {
        revision: number.0,
        version: state.version_of(*number),
        added_at: app.chronicle.added.get(number).copied().map(time_text),
        succeeded: state.has_succeeded(*number),
        bad: state.is_bad(*number),
        current: state.target() == Some(*number),
    });
    let rollouts = state.rollouts().values().map(|rollout| HistoryRow {
        rollout: rollout.id.0,
        from_version: rollout.from.map(|f| state.version_of(f)),
        to: rollout.to.0,
        to_version: state.version_of(rollout.to),
        state: json_word(&rollout.state),
        kind: json_word(&rollout.kind),
        by: rollout.by.clone(),
        started_at: app.chronicle.began.get(&rollout.id).copied().map(time_text),
        duration_ms: rollout.ended_at.unwrap_or(state.now()) - rollout.opened_at,
        requests: requests_of(rollout, traffic),
        lowest_available: rollout.from.map(|_| rollout.lowest_available),
        highest_total: rollout.from.map(|_| rollout.highest_total),
        peak_mix: peak_mix(state, &rollout.peak_mix),
        cause: rollout.cause.as_ref().map(|c| c.text()),
        failure: rollout.records.last().map(|record| failure(state, rollout, record)),
    });
    History { app: state.app().to_string(), revisions: revisions.collect(), rollouts: rollouts.collect() }
}
