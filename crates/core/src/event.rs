//! Everything that can change an app's state: what people said, what was decided, what was seen.
//!
//! The journal is a list of these. State is their fold, so a daemon that was killed knows as much as one that was not.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::ids::{InstanceKey, RevisionNumber, RolloutId};
use crate::revision::Revision;
use crate::settings::AppSettings;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Commanded {
        by: String,
        command: Command,
    },
    Decided(Action),
    Observed {
        instance: InstanceKey,
        fact: Fact,
    },
    /// What the world said about a failure: for people; it changes no decision.
    Evidence {
        instance: InstanceKey,
        evidence: Box<Evidence>,
    },
    /// The requests that the router counted, taken as a rollout begins and as it ends: what came between is its share.
    Counted {
        requests: Box<Requests>,
    },
    /// The machine was started anew: nothing that ran before runs now.
    Rebooted,
    /// A bug of ours: the rollout stops here, the traffic goes on.
    InvariantBroken {
        invariant: String,
        detail: String,
    },
}

impl Event {
    /// The instance that it is about, if it is about one.
    pub fn instance(&self) -> Option<InstanceKey> {
        match self {
            Self::Observed { instance, .. } | Self::Evidence { instance, .. } => Some(*instance),
            Self::Decided(
                Action::Start { instance, .. }
                | Action::Drain { instance, .. }
                | Action::Stop { instance, .. }
                | Action::Fail { instance, .. },
            ) => Some(*instance),
            Self::Decided(
                Action::BatchReached { .. }
                | Action::PauseRollout { .. }
                | Action::TurnBack { .. }
                | Action::Bake
                | Action::Conclude { .. }
                | Action::Recovered,
            )
            | Self::Commanded { .. }
            | Self::Counted { .. }
            | Self::Rebooted
            | Self::InvariantBroken { .. } => None,
        }
    }
}

/// Requests since the router's counting began. Each request is in exactly one class; lost has one meaning everywhere:
/// the client saw refused, reset, a timeout, or a 502, 503 or 504 made by the router.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    pub total: u64,
    pub lost: u64,
    /// In flight in an instance that died by itself.
    pub crashed: u64,
    /// Past the drain timeout.
    pub cut: u64,
    /// A stream that was asked to reconnect.
    pub told: u64,
    /// Told and cut by what they were: `request`, `websocket`, `events`.
    #[serde(default)]
    pub told_by_kind: BTreeMap<String, u64>,
    #[serde(default)]
    pub cut_by_kind: BTreeMap<String, u64>,
    /// Those that waited for an instance while there was none, whatever became of them.
    #[serde(default)]
    pub held: u64,
    /// The app's own 5xx.
    pub app_errors: u64,
    pub by_version: BTreeMap<String, u64>,
    /// Of those that could have met either of two versions: what came of it, by name.
    #[serde(default)]
    pub mixed: BTreeMap<String, u64>,
    /// Requests of a format by a caller: `orders-v1 by curl/8`.
    #[serde(default)]
    pub uses: BTreeMap<String, u64>,
}

impl Requests {
    /// What was counted since `before`. Counters that were reset in between count from 0.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let each = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let since = now
                .iter()
                .map(|(name, n)| (name.clone(), n.saturating_sub(before.get(name).copied().unwrap_or(0))));
            since.filter(|(_, n)| *n > 0).collect()
        };
        Self {
            total: self.total.saturating_sub(before.total),
            lost: self.lost.saturating_sub(before.lost),
            crashed: self.crashed.saturating_sub(before.crashed),
            cut: self.cut.saturating_sub(before.cut),
            told: self.told.saturating_sub(before.told),
            app_errors: self.app_errors.saturating_sub(before.app_errors),
            told_by_kind: each(&self.told_by_kind, &before.told_by_kind),
            cut_by_kind: each(&self.cut_by_kind, &before.cut_by_kind),
            held: self.held.saturating_sub(before.held),
            by_version: each(&self.by_version, &before.by_version),
            mixed: each(&self.mixed, &before.mixed),
            uses: each(&self.uses, &before.uses),
        }
    }
}

/// What a person asked for, after it was found to be allowed ([`crate::state::AppState::permit`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    Configure {
        settings: Box<AppSettings>,
    },
    AddRevision {
        revision: Box<Revision>,
    },
    /// Opens a rollout; one that is open is superseded by the same record.
    Roll {
        rollout: RolloutId,
        target: RevisionNumber,
        kind: RolloutKind,
        /// It pauses after each batch.
        #[serde(default)]
        step: bool,
    },
    /// The open rollout goes back to `to`; the revision it left counts as judged bad.
    TurnBack {
        to: RevisionNumber,
        aborted: bool,
    },
    /// What comes with it was allowed although this spoke against it.
    Forced {
        against: Vec<String>,
    },
    Pause,
    Resume,
    /// Of a hundred clients or requests so many get the target, as long as the rollout stands still; None: by its instances.
    Share {
        of_a_hundred: Option<u32>,
    },
    /// That place once more, now; a pause stays.
    Retry {
        instance: InstanceKey,
    },
    /// That place is left out of the rollout: the base comes back to it.
    Skip {
        instance: InstanceKey,
    },
    /// Every instance is drained and stopped, by force of a person: no floor holds.
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutKind {
    Deploy,
    Rollback,
    Restart,
}

/// An intent. It is durable before its effect begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Start {
        instance: InstanceKey,
        purpose: StartPurpose,
    },
    /// Out of the routing table; stopped once its requests are finished.
    Drain {
        instance: InstanceKey,
        purpose: StopPurpose,
    },
    /// Signal, grace, kill. `cut`: requests were still running when the drain deadline passed.
    Stop {
        instance: InstanceKey,
        purpose: StopPurpose,
        cut: bool,
    },
    /// The verdict on an instance that had its time.
    Fail {
        instance: InstanceKey,
        cause: FailureCause,
    },
    /// The `batch`-th batch is complete; the delay counts from here.
    BatchReached {
        batch: u32,
    },
    PauseRollout {
        cause: PauseCause,
    },
    TurnBack {
        to: RevisionNumber,
        cause: PauseCause,
    },
    /// All instances are replaced; the bake time counts from here.
    Bake,
    Conclude {
        outcome: Outcome,
        /// Why it failed; None: as in the pause or way back before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<PauseCause>,
    },
    /// After a reboot the base is at full strength again.
    Recovered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartPurpose {
    /// A step of the rollout, or of scaling: raises what is wanted of the revision.
    Roll,
    /// In place of one that died: what is wanted stays.
    Repair,
    /// A person asked for this place once more.
    Retry,
    /// The base comes back to a place that was skipped.
    Restore,
    /// Its revision's share of a new number of replicas.
    Scale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopPurpose {
    /// The target takes its place.
    Replaced,
    /// More than is desired.
    Surplus,
    /// It failed.
    Failed,
    /// A person left its place out of the rollout.
    Skipped,
    /// The app goes down.
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    RolledBack,
    Aborted,
    Failed,
}

/// Why a rollout stopped by itself or by a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseCause {
    Person {
        by: String,
    },
    Failures {
        failures: u32,
        max_failures: u32,
    },
    ProgressDeadline {
        after_ms: Millis,
    },
    /// `--step`: a person looks before the next batch.
    Step {
        batch: u32,
    },
    /// Places that a person left out: the wanted revision does not run everywhere.
    Skipped {
        count: u32,
    },
    Invariant {
        invariant: String,
    },
}

/// Why an instance counts as failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    Exited(Exit),
    /// It could not be started at all.
    Refused {
        code: RefusalCode,
        text: String,
    },
    NotReady {
        after_ms: Millis,
    },
    /// Turned unready within `min_healthy_time`.
    Unstable {
        after_ms: Millis,
    },
    NotLive,
}

/// How a process ended. `None` in both: nobody saw it end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The bytes on disk are not those of the revision.
    ArtifactChanged,
    /// The program, folder or file is not there or may not be run.
    NotFound,
    /// The port is taken, or none of the range is free.
    PortInUse,
    /// The socket that answers on the port is not the instance's.
    IdentityUnverified,
    /// The sealed values could not be opened.
    Secrets,
    /// Anything else the system said.
    System,
}

/// What a driver or the router saw of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// The process runs. `incarnation` is new for each process that ever ran.
    Started {
        pid: u32,
        address: Option<Arc<str>>,
        incarnation: Arc<str>,
    },
    StartRefused {
        code: RefusalCode,
        text: String,
    },
    Ready,
    Unready,
    /// The liveness check said no.
    NotLive,
    /// The process ended by itself, and nothing of its session is left.
    Exited(Exit),
    /// It was to be stopped, and nothing of it is left.
    Gone,
    /// Nobody can tell: it may be alive.
    Unknown,
    /// The router acknowledged a table in which it is (or is not) routed.
    Routed(bool),
    /// It was kept for the pages of clients, and none of them has one any more: it drains as others do.
    Released,
    /// Out of every table and without a request in flight.
    Drained {
        proof: DrainProof,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainProof {
    /// The router counted zero requests after the switch.
    Proven,
    /// The router cannot know; the plan and the report say so.
    Assumed,
}

/// The world's words about one failure, for the card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub probe: Option<ProbeEvidence>,
    /// The last lines of its log, oldest first, printable.
    pub logs: Vec<String>,
    /// Whether the base revision shows the same probe error now; None: there is none to compare.
    pub base_shows_it_too: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeEvidence {
    /// `GET /ready`
    pub request: String,
    pub status: Option<u16>,
    /// The beginning of the answer.
    pub body: Option<String>,
    /// What went wrong when there was no answer: `connection refused`.
    pub error: Option<String>,
}

impl Exit {
    /// `exited with code 3`, `killed by SIGSEGV`.
    pub fn text(self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("killed by {}", signal_name(signal)),
            (None, None) => "ended, and nobody saw how".to_owned(),
        }
    }
}

fn signal_name(signal: i32) -> String {
    const NAMES: [(i32, &str); 14] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (10, "SIGUSR1"),
        (11, "SIGSEGV"),
        (12, "SIGUSR2"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
    ];
    NAMES
        .iter()
        .find(|(n, _)| *n == signal)
        .map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}
