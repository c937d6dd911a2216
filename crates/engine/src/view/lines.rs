//! One journal entry as a line that people read and scripts parse.

use serde::{Deserialize, Serialize};
use trundle_core::event::{Action, Command, Event, Fact, Outcome, StartPurpose, StopPurpose};
use trundle_core::ids::InstanceKey;
use trundle_core::state::AppState;

use crate::engine::App;
use crate::journal::Entry;

/// `{"at": RFC 3339, "n": …, "type": …, "text": …}` and the instance and revision it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub at: String,
    pub n: u64,
    #[serde(rename = "type")]
    pub kind: String,
    pub app: String,
    pub rollout: Option<u32>,
    pub instance: Option<String>,
    pub revision: Option<u32>,
    pub text: String,
}

/// The line of an entry; None for what only matters to the books. `app` is the app after it, or later.
pub fn line(entry: &Entry, app: &App, time_text: fn(u64) -> String) -> Option<Line> {
    let (kind, instance, text) = words(&entry.event, app)?;
    Some(Line {
        at: time_text(entry.wall_ms),
        n: entry.n,
        kind: kind.to_owned(),
        app: entry.app.to_string(),
        rollout: app.state.last_rollout().map(|r| r.id.0),
        instance: instance.map(|key| key.name(&entry.app)),
        revision: instance.map(|key| key.revision.0),
        text,
    })
}

type Words = (&'static str, Option<InstanceKey>, String);

fn words(event: &Event, app: &App) -> Option<Words> {
    let state = &app.state;
    match event {
        Event::Commanded { by, command } => command_words(by, command, state),
        Event::Decided(action) => Some(action_words(action, app)),
        Event::Observed { instance, fact } => fact_words(*instance, fact, state),
        Event::Evidence { .. } | Event::Counted { .. } => None,
        Event::Rebooted => Some(("rebooted", None, "the machine was started anew".to_owned())),
        Event::InvariantBroken { invariant, detail } => {
            Some(("bug", None, format!("stopped before breaking {invariant}: {detail}; please report this")))
        }
    }
}

fn command_words(by: &str, command: &Command, state: &AppState) -> Option<Words> {
    let (kind, text) = match command {
        Command::Configure { settings } => {
            let replicas = if settings.replicas == 1 { "replica" } else { "replicas" };
            ("configured", format!("{} {replicas}", settings.replicas))
        }
        Command::AddRevision { .. } => return None,
        Command::Roll { rollout, target, .. } => (
            "rollout",
            format!("rollout {rollout} to {} (revision {target}), by {by}", state.version_of(*target)),
        ),
        Command::TurnBack { to, .. } => {
            ("rolling_back", format!("goes back to {}, by {by}", state.version_of(*to)))
        }
        Command::Forced { against } => ("forced", format!("forced by {by} although {}", against.join("; "))),
        Command::Pause => ("paused", format!("paused by {by}")),
        Command::Resume => ("resumed", format!("resumed by {by}")),
        Command::Share { of_a_hundred: Some(share) } => {
            ("share", format!("the new version gets {share} of 100 requests, by {by}"))
        }
        Command::Share { of_a_hundred: None } => {
            ("share", format!("the new version gets what its instances are, by {by}"))
        }
        Command::Retry { instance } => {
            return Some((
                "retry",
                Some(*instance),
                format!("{} is tried again, by {by}", instance.name(state.app())),
            ));
        }
        Command::Skip { instance } => {
            let name = instance.name(state.app());
            return Some(("skip", Some(*instance), format!("{name} is left out of the rollout, by {by}")));
        }
        Command::Down => ("down", format!("taken down by {by}")),
    };
    Some((kind, None, text))
}

fn action_words(action: &Action, app: &App) -> Words {
    let state = &app.state;
    let name = |key: &InstanceKey| format!("{} ({})", key.name(state.app()), state.version_of(key.revision));
    match action {
        Action::Start { instance, purpose } => {
            let why = match purpose {
                StartPurpose::Repair => " in place of one that died",
                StartPurpose::Roll if app.chronicle.repairs.contains(instance) => {
                    " in place of one that died"
                }
                StartPurpose::Roll => "",
                StartPurpose::Retry => " once more, as asked",
                StartPurpose::Restore => " in place of one that was left out",
                StartPurpose::Scale => ", its share of more replicas",
            };
            ("start", Some(*instance), format!("starts {}{why}", name(instance)))
        }
        Action::Drain { instance, purpose } => {
            ("drain", Some(*instance), format!("drains {}{}", name(instance), purpose_words(*purpose)))
        }
        Action::Stop { instance, cut: true, .. } => {
            ("stop", Some(*instance), format!("stops {}, cutting what was still running", name(instance)))
        }
        Action::Stop { instance, purpose, cut: false } => {
            ("stop", Some(*instance), format!("stops {}{}", name(instance), purpose_words(*purpose)))
        }
        Action::Fail { instance, cause } => {
            ("failed", Some(*instance), format!("{} failed: {}", name(instance), cause.text()))
        }
        Action::BatchReached { batch } => ("batch", None, format!("batch {batch} is complete")),
        Action::PauseRollout { cause } => ("paused", None, format!("paused: {}", cause.text())),
        Action::TurnBack { to, cause } => {
            ("rolling_back", None, format!("goes back to {}: {}", state.version_of(*to), cause.text()))
        }
        Action::Bake => ("bake", None, "everything is replaced; the bake time begins".to_owned()),
        Action::Conclude { outcome, cause } => {
            let why = cause.as_ref().map(|cause| format!(" ({})", cause.text())).unwrap_or_default();
            ("end", None, format!("{}{why}", outcome_words(*outcome)))
        }
        Action::Recovered => ("recovered", None, "the proven version is back at full strength".to_owned()),
    }
}

fn purpose_words(purpose: StopPurpose) -> &'static str {
    match purpose {
        StopPurpose::Replaced => "",
        StopPurpose::Surplus => ", more than are desired",
        StopPurpose::Failed => ", which failed",
        StopPurpose::Skipped => ", which was left out",
        StopPurpose::Down => ", the app goes down",
    }
}

fn outcome_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::RolledBack => "rolled back",
        Outcome::Aborted => "aborted, and went back",
        Outcome::Failed => "failed; a person must decide",
    }
}

fn fact_words(key: InstanceKey, fact: &Fact, state: &AppState) -> Option<Words> {
    let name = format!("{} ({})", key.name(state.app()), state.version_of(key.revision));
    let (kind, text) = match fact {
        Fact::Started { pid, .. } => ("started", format!("{name} runs as pid {pid}")),
        Fact::StartRefused { code, text } => {
            ("failed", format!("{name} could not start ({}): {text}", super::json_word(code)))
        }
        Fact::Ready => ("ready", format!("{name} is ready")),
        Fact::Unready => ("unready", format!("{name} is not ready any more")),
        Fact::NotLive => ("failed", format!("{name} failed its liveness check")),
        Fact::Exited(exit) => ("exited", format!("{name} {}", exit.text())),
        Fact::Gone => ("gone", format!("{name} is gone")),
        Fact::Unknown => ("unknown", format!("{name} may or may not be alive")),
        Fact::Routed(true) => ("routed", format!("{name} takes requests")),
        Fact::Routed(false) => return None,
        Fact::Released => ("released", format!("nobody has a page of {name} any more")),
        Fact::Drained { .. } => ("drained", format!("{name} finished its last request")),
    };
    Some((kind, Some(key), text))
}
