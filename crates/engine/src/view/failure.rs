//! The failure card as data: what failed, what was seen of it, and what had changed.

use serde::{Deserialize, Serialize};
use trundle_core::event::{Evidence, FailureCause};
use trundle_core::ids::RevisionNumber;
use trundle_core::state::{AppState, FailureRecord, Rollout};

use super::{Changed, changed, json_word};

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

/// The newest failure of a rollout, with what changed since the version that ran before.
pub fn failure(state: &AppState, rollout: &Rollout, record: &FailureRecord) -> Failure {
    let evidence = record.evidence.clone().unwrap_or_default();
    let number = record.instance.revision;
    // What ran when the rollout began: the base of today may have come after it.
    let other = |of: Option<RevisionNumber>| of.filter(|of| *of != number);
    let before = other(rollout.from).or(other(state.base()));
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
        count: rollout.failures_in_all,
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

/// `could not start: ./server was changed …`, `not ready after 5 s: GET /ready answered 503 "too many connections"`, `exited with code 3: KeyError: 'CURRENCY'`.
pub(super) fn cause_line(cause: &FailureCause, evidence: &Evidence) -> String {
    if let FailureCause::Refused { .. } = cause {
        return format!("could not start: {}", cause.text());
    }
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
