//! What people and scripts see of an app: built from the state, the same with a daemon and without one.

mod changed;
mod failure;
mod history;
mod lines;
mod timeline;
mod traffic;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trundle_core::Millis;
use trundle_core::event::Requests;
use trundle_core::formats::{Caller, Format};
use trundle_core::ids::{InstanceKey, RevisionNumber, RolloutId};
use trundle_core::reason::Reason;
use trundle_core::settings::{Listen, Maintenance};
use trundle_core::state::{
    AppState, FailureRecord, GateState, Instance, Phase, Request, Rollout, RolloutState,
};
use trundle_core::traffic::Sticky;

use crate::engine::App;

pub use changed::{Changed, changed};
pub use failure::{Failure, ProbeStatus, failure};
pub use history::{History, HistoryRevision, HistoryRow, history};
pub use lines::{Line, line};
pub use timeline::{Level, Life, Stage, Stay, Timeline, Told, timeline};
pub use traffic::{Latency, Traffic, requests_of};

/// The moment that a view is of.
#[derive(Debug, Clone, Copy)]
pub enum AsOf {
    /// A daemon watches: the journal's clock, and the one people read.
    Now { watched_ms: Millis, wall_ms: u64 },
    /// Nobody watches: no time has passed since the last record.
    LastRecord,
}

impl AsOf {
    fn of(self, state: &AppState) -> Cow<'_, AppState> {
        match self {
            Self::Now { watched_ms, .. } if watched_ms > state.now() => {
                let mut later = state.clone();
                later.advance(watched_ms);
                Cow::Owned(later)
            }
            Self::Now { .. } | Self::LastRecord => Cow::Borrowed(state),
        }
    }
}

/// `status --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub app: String,
    /// Of which moment all this is, RFC 3339: now, or without a daemon that of the last record.
    pub as_of: Option<String>,
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
    /// Since the rollout began; None where there was nothing to keep available.
    pub lowest_available: Option<u32>,
    /// The floor that bound when the fewest were available; the ceiling when the most lived. Others than those of now after
    /// the app was scaled.
    #[serde(default)]
    pub lowest_floor: Option<u32>,
    pub highest_total: Option<u32>,
    #[serde(default)]
    pub highest_ceiling: Option<u32>,
    pub peak_mix: BTreeMap<String, u32>,
    /// Since the rollout began; None when nobody can tell.
    pub requests: Option<Requests>,
    /// By version, of all answers that were counted: not of this rollout alone.
    pub latency: BTreeMap<String, Latency>,
    pub instances: Vec<InstanceStatus>,
    pub listen: Vec<String>,
    /// Clients are answered in the place of the app.
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
    /// Who gets which version while two serve; None where nothing is set up for it.
    #[serde(default)]
    pub window: Option<WindowStatus>,
    /// Flags that open when all instances are of a version that they are for.
    #[serde(default)]
    pub gates: Vec<GateState>,
    /// What clients speak, and who still speaks it.
    #[serde(default)]
    pub formats: Vec<FormatStatus>,
    /// Of `pause`, `resume`, `abort` and `rollback` those that would do something now.
    #[serde(default)]
    pub allowed: Vec<String>,
    /// What keeps Trundle itself from working, if anything.
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FormatStatus {
    pub name: String,
    /// The versions that serve it: a range.
    pub served: String,
    /// It is looked at for so long; None: not yet, or nobody can tell now.
    pub watched_ms: Option<u64>,
    /// The last one first.
    pub callers: Vec<Caller>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WindowStatus {
    pub sticky: Sticky,
    /// No client that has been answered by it goes back, unless it has nobody.
    pub newest: Option<String>,
    /// Of a hundred so many get it, as a person said; None: as many as its instances are.
    pub share: Option<u32>,
    /// Of the answers since the rollout began, each version's part in percent.
    pub answered: BTreeMap<String, f64>,
    /// Since the rollout began, as in `requests`.
    pub mixed: BTreeMap<String, u64>,
    /// How many clients have pages of a version open that may still load what belongs to them.
    pub pinned: BTreeMap<String, u64>,
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

/// The present of one app. `time_text` writes milliseconds since 1970 as RFC 3339.
pub fn status(app: &App, traffic: &Traffic, as_of: AsOf, time_text: fn(u64) -> String) -> Status {
    let state = &*as_of.of(&app.state);
    let budget = state.budget();
    let rollout = state.last_rollout();
    let kept = rollout.filter(|r| had_to_keep(app, r));
    let reasons: Vec<_> = trundle_core::decide::decide(state)
        .reasons
        .into_iter()
        .map(|r| reason_json(r, traffic, state))
        .chain(unstartable(app))
        .collect();
    let wall_ms = match as_of {
        AsOf::Now { wall_ms, .. } => Some(wall_ms),
        AsOf::LastRecord => app.chronicle.last_wall_ms,
    };
    let requests = rollout.and_then(|r| requests_of(app, r, traffic));
    Status {
        gates: state.gates(),
        formats: format_status(state, traffic),
        window: window_status(state, traffic, requests.as_ref()),
        app: state.app().to_string(),
        as_of: wall_ms.map(time_text),
        replicas: state.settings().map_or(0, |s| s.replicas),
        down: state.is_down(),
        revisions: revisions(state),
        rollout: rollout.map(|r| rollout_status(app, state, r, reasons.clone(), time_text)),
        reasons,
        floor: budget.floor(),
        ceiling: budget.ceiling(),
        available: state.totals().available(),
        live: state.totals().live(),
        lowest_available: kept.map(|r| r.lowest_available),
        lowest_floor: kept.map(|r| r.lowest_floor),
        highest_total: kept.map(|r| r.highest_total),
        highest_ceiling: kept.map(|r| r.highest_ceiling),
        peak_mix: rollout.map(|r| peak_mix(state, &r.peak_mix)).unwrap_or_default(),
        requests,
        latency: traffic.latency.clone(),
        instances: state.instances().map(|i| instance_status(state, i, traffic)).collect(),
        listen: state.settings().and_then(|s| s.listen.as_ref()).map(addresses).unwrap_or_default(),
        maintenance: state.settings().and_then(|s| s.listen.as_ref()?.maintenance.clone()),
        allowed: allowed(state),
        trouble: app.router_trouble.clone().or_else(|| app.gate_trouble.clone()),
    }
}

impl Status {
    /// Without what time alone moves: when this changes, something happened.
    #[must_use]
    pub fn still(&self) -> Self {
        let mut still = self.clone();
        still.as_of = None;
        for format in &mut still.formats {
            format.watched_ms = None;
            format.callers.iter_mut().for_each(|caller| caller.ago_ms = 0);
        }
        let of_rollout = still.rollout.as_mut().map(|rollout| {
            rollout.duration_ms = 0;
            &mut rollout.reasons
        });
        for reason in still.reasons.iter_mut().chain(of_rollout.into_iter().flatten()) {
            if let Some(object) = reason.as_object_mut()
                && object.remove("left_ms").is_some()
            {
                object.remove("text");
            }
        }
        still
    }

    /// Time goes by for somebody: a rollout that is open, or a wait with an end.
    pub fn is_timed(&self) -> bool {
        let open = self.rollout.as_ref().is_some_and(|r| r.ended_at.is_none());
        open || self.reasons.iter().any(|reason| reason.get("left_ms").is_some())
    }
}

/// On an app's first rollout, or after `down`, there was nothing that had to be kept available.
fn had_to_keep(app: &App, rollout: &Rollout) -> bool {
    rollout.from.is_some() && !app.chronicle.from_nothing.contains(&rollout.id)
}

fn format_status(state: &AppState, traffic: &Traffic) -> Vec<FormatStatus> {
    let formats = state.settings().and_then(|s| s.listen.as_ref()).map(|listen| &listen.formats);
    let of = |format: &Format| {
        let watched = traffic.watched.iter().flatten().find(|watched| watched.format == format.name);
        let mut callers = watched.map(|watched| watched.callers.clone()).unwrap_or_default();
        callers.sort_by_key(|caller| caller.ago_ms);
        FormatStatus {
            name: format.name.clone(),
            served: format.served.clone(),
            watched_ms: watched.and_then(|watched| watched.for_ms),
            callers,
        }
    };
    formats.into_iter().flatten().map(of).collect()
}

fn window_status(
    state: &AppState,
    traffic_now: &Traffic,
    requests: Option<&Requests>,
) -> Option<WindowStatus> {
    let traffic = state.settings().and_then(|s| s.listen.as_ref()?.traffic.as_ref());
    let window = state.window();
    if traffic.is_none() && window.share.is_none() {
        return None;
    }
    let all: u64 = requests.map_or(0, |requests| requests.by_version.values().sum());
    let part = |n: u64| (n as f64 * 1_000.0 / all as f64).round() / 10.0;
    let answered = requests
        .map(|requests| requests.by_version.iter().map(|(version, n)| (version.clone(), part(*n))).collect());
    Some(WindowStatus {
        sticky: traffic.map_or(Sticky::None, |traffic| traffic.sticky),
        newest: window.newest.map(|revision| state.version_of(revision)),
        share: window.share,
        answered: answered.filter(|_| all > 0).unwrap_or_default(),
        mixed: requests.map(|requests| requests.mixed.clone()).unwrap_or_default(),
        pinned: traffic_now
            .pinned
            .iter()
            .map(|(revision, count)| (state.version_of(RevisionNumber(*revision)), *count))
            .collect(),
    })
}

fn allowed(state: &AppState) -> Vec<String> {
    let requests = [
        ("pause", Request::Pause),
        ("resume", Request::Resume),
        ("abort", Request::Abort),
        ("rollback", Request::Rollback(None)),
    ];
    let does = |request: &Request| state.permit(request).is_ok_and(|step| !step.commands.is_empty());
    requests.iter().filter(|(_, r)| does(r)).map(|(word, _)| (*word).to_owned()).collect()
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
    state: &AppState,
    rollout: &Rollout,
    reasons: Vec<serde_json::Value>,
    time_text: fn(u64) -> String,
) -> RolloutStatus {
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
        duration_ms: duration_ms(state, rollout),
        failures: rollout.failures_in_all,
        reasons: if rollout.state.is_terminal() && rollout.cause.is_none() { Vec::new() } else { reasons },
        failure: shown_failure(rollout).map(|record| failure(state, rollout, record)),
    }
}

/// As a client writes them.
fn addresses(listen: &Listen) -> Vec<String> {
    let http = listen.http.iter().map(|address| format!("http://{address}"));
    let https = listen.https.iter().map(|address| format!("https://{address}"));
    let tcp = listen.tcp.iter().map(|address| format!("tcp://{address}"));
    http.chain(https).chain(listen.unix.clone()).chain(tcp).collect()
}

/// Of one that stands still, what it stands still for; of one that runs or ran, the newest.
fn shown_failure(rollout: &Rollout) -> Option<&FailureRecord> {
    match rollout.state {
        RolloutState::Paused | RolloutState::Failed => rollout.blamed(),
        RolloutState::Running
        | RolloutState::RollingBack
        | RolloutState::RolledBack
        | RolloutState::Succeeded
        | RolloutState::Aborted
        | RolloutState::Superseded => rollout.records.last(),
    }
}

fn instance_status(state: &AppState, instance: &Instance, traffic: &Traffic) -> InstanceStatus {
    InstanceStatus {
        id: instance.key().name(state.app()),
        revision: instance.key().revision.0,
        phase: instance.phase(),
        address: instance.address().map(|a| a.to_string()),
        pid: instance.pid().filter(|_| !instance.has_exited()),
        in_flight: traffic.in_flight.get(&instance.key()).copied(),
        available: is_available(state, instance),
    }
}

/// Ready for long enough, and routed if the app takes requests.
fn is_available(state: &AppState, instance: &Instance) -> bool {
    let needs_route = state.settings().is_some_and(|s| s.listen.is_some());
    instance.phase() == Phase::Ready
        && instance.matures_at().is_none()
        && (instance.is_routed() || !needs_route)
}

/// With its sentence, and with what only the router knows.
fn reason_json(mut reason: Reason, traffic: &Traffic, state: &AppState) -> serde_json::Value {
    match &mut reason {
        Reason::Draining { instance, in_flight, .. } => {
            *in_flight = InstanceKey::parse_name(state.app(), instance)
                .and_then(|key| traffic.in_flight.get(&key).copied());
        }
        Reason::Kept { instance, pages, .. } if traffic.requests.is_some() => {
            *pages = InstanceKey::parse_name(state.app(), instance)
                .map(|key| traffic.pinned.get(&key.revision.0).copied().unwrap_or(0));
        }
        _ => {}
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

/// From its beginning to its end, or to now.
fn duration_ms(state: &AppState, rollout: &Rollout) -> Millis {
    rollout.ended_at.unwrap_or(state.now()).saturating_sub(rollout.opened_at)
}

#[cfg(test)]
mod tests;
