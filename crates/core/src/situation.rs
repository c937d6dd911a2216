//! A described situation: what would be done next, and why? Answers `plan --state`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::decide::{complete_batches, moves, waits};
use crate::event::{
    Action, Command, Event, Fact, FailureCause, Outcome, RolloutKind, StartPurpose, StopPurpose,
};
use crate::ids::{InstanceKey, RevisionNumber, RolloutId};
use crate::limits::{CountOrPercent, Order};
use crate::reason::Reason;
use crate::settings::{AppSettings, RolloutSettings};
use crate::state::AppState;

/// As written in the file. Instances come oldest first.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Situation {
    pub replicas: u32,
    #[serde(default)]
    pub max_surge: Option<CountOrPercent>,
    #[serde(default)]
    pub max_unavailable: Option<CountOrPercent>,
    #[serde(default)]
    pub batch: Option<u32>,
    #[serde(default)]
    pub order: Option<Order>,
    #[serde(default)]
    pub min_healthy_time_s: f64,
    /// The revision wanted.
    pub target: u32,
    /// The revision that succeeded last; without it the oldest one that is there.
    #[serde(default)]
    pub base: Option<u32>,
    #[serde(default)]
    pub paused: bool,
    pub instances: Vec<Described>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Described {
    pub id: String,
    pub revision: u32,
    pub phase: DescribedPhase,
    /// Whether a ready one has passed `min_healthy_time`.
    #[serde(default)]
    pub available: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DescribedPhase {
    Intended,
    Starting,
    Ready,
    Unready,
    Draining,
    Stopping,
    Failed,
    Unknown,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    pub max_surge: u32,
    pub max_unavailable: u32,
    pub floor: u32,
    pub ceiling: u32,
    pub start: Vec<Start>,
    pub stop: Vec<String>,
    pub reasons: Vec<Told>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Start {
    pub revision: u32,
    pub count: u32,
}

/// A reason with its sentence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Told {
    #[serde(flatten)]
    pub reason: Reason,
    pub text: String,
}

impl From<Reason> for Told {
    fn from(reason: Reason) -> Self {
        let text = reason.text();
        Self { reason, text }
    }
}

/// A situation that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(pub String);

/// One pass of the decision for the situation.
///
/// # Errors
/// [`Impossible`] names what cannot be and what would be possible.
pub fn answer(situation: &Situation) -> Result<Answer, Impossible> {
    let built = Built::new(situation)?;
    let budget = built.state.budget();
    let mut start: BTreeMap<u32, u32> = BTreeMap::new();
    let mut stop = Vec::new();
    let found = moves(&built.state);
    for action in &found.actions {
        match action {
            Action::Start { instance, .. } => *start.entry(instance.revision.0).or_default() += 1,
            Action::Drain { instance, .. } | Action::Stop { instance, .. } => {
                stop.extend(built.names.get(instance).cloned());
            }
            _ => {}
        }
    }
    let mut reasons = found.reasons;
    reasons.extend(waits(&built.state));
    if reasons.is_empty() {
        reasons.push(Reason::NothingToDo);
    }
    let reasons = reasons.into_iter().map(|reason| built.told(reason)).collect();
    Ok(Answer {
        max_surge: budget.surge,
        max_unavailable: budget.unavailable,
        floor: budget.floor(),
        ceiling: budget.ceiling(),
        start: start.into_iter().map(|(revision, count)| Start { revision, count }).collect(),
        stop,
        reasons,
    })
}

struct Built {
    state: AppState,
    names: BTreeMap<InstanceKey, String>,
}

impl Built {
    fn new(situation: &Situation) -> Result<Self, Impossible> {
        let settings = settings(situation)?;
        let mht = settings.rollout.min_healthy_time_ms;
        let mut built = Self {
            state: AppState::new("app".parse().map_err(|e| Impossible(format!("{e}")))?),
            names: BTreeMap::new(),
        };
        let base = base(situation);
        built.command(0, Command::Configure { settings: Box::new(settings) });
        if let Some(base) = base {
            // It succeeded in a rollout of its own; all of it is wanted, so what is missing to the floor died.
            built.roll(1, base);
            built.apply(0, Event::Decided(Action::Conclude { outcome: Outcome::Succeeded, cause: None }));
        }
        let rolls = base != Some(situation.target)
            || situation.instances.iter().any(|i| i.revision != situation.target);
        if rolls || situation.paused {
            built.roll(2, situation.target);
        }
        let described = built.start_all(situation)?;
        for now in [0, mht] {
            built.state.advance(now);
            for (key, described) in &described {
                built.live(*key, described, now, mht);
            }
        }
        if let Some(batch) = complete_batches(&built.state) {
            built.apply(mht, Event::Decided(Action::BatchReached { batch }));
        }
        if situation.paused {
            built.command(mht, Command::Pause);
        }
        Ok(built)
    }

    /// Oldest first, each in a place of its own.
    fn start_all<'a>(
        &mut self,
        situation: &'a Situation,
    ) -> Result<Vec<(InstanceKey, &'a Described)>, Impossible> {
        let mut slots: BTreeMap<u32, u32> = BTreeMap::new();
        let mut keys = Vec::new();
        for described in situation.instances.iter().filter(|i| i.phase != DescribedPhase::Gone) {
            if self.names.values().any(|id| *id == described.id) {
                let id = described.id.escape_debug();
                return Err(Impossible(format!(
                    "two instances are called \"{id}\"; give each an id of its own"
                )));
            }
            let slot = slots.entry(described.revision).or_default();
            *slot += 1;
            let key = InstanceKey { revision: RevisionNumber(described.revision), slot: *slot, attempt: 1 };
            self.names.insert(key, described.id.clone());
            self.apply(0, Event::Decided(Action::Start { instance: key, purpose: StartPurpose::Roll }));
            keys.push((key, described));
        }
        Ok(keys)
    }

    fn apply(&mut self, at: Millis, event: Event) {
        self.state.apply(at, &event);
    }

    fn command(&mut self, at: Millis, command: Command) {
        self.apply(at, Event::Commanded { by: "the file".to_owned(), command });
    }

    fn roll(&mut self, id: u32, target: u32) {
        let (rollout, target) = (RolloutId(id), RevisionNumber(target));
        self.command(0, Command::Roll { rollout, target, kind: RolloutKind::Deploy, step: false });
    }

    /// What happened to it at the beginning (`now` = 0), and when `min_healthy_time` (`mht`) had passed.
    fn live(&mut self, key: InstanceKey, described: &Described, now: Millis, mht: Millis) {
        use DescribedPhase::{Draining, Failed, Gone, Intended, Ready, Starting, Stopping, Unknown, Unready};
        let seen = |fact| Event::Observed { instance: key, fact };
        let started =
            || seen(Fact::Started { pid: 1, address: None, incarnation: described.id.as_str().into() });
        let purpose = StopPurpose::Replaced;
        let event = match (described.phase, now == mht) {
            (Intended | Gone, _) | (Starting | Stopping | Failed | Unknown, true) => return,
            (Starting, false) => started(),
            (Ready, true) if described.available => return,
            (Ready, false) if !described.available => started(),
            (Ready, _) | (Unready, false) => seen(Fact::Ready),
            (Unready, true) => seen(Fact::Unready),
            (Draining, false) => return,
            (Draining, true) => Event::Decided(Action::Drain { instance: key, purpose }),
            (Stopping, false) => Event::Decided(Action::Stop { instance: key, purpose, cut: false }),
            (Failed, false) => {
                Event::Decided(Action::Fail { instance: key, cause: FailureCause::NotReady { after_ms: 0 } })
            }
            (Unknown, false) => seen(Fact::Unknown),
        };
        self.apply(now, event);
    }

    /// The reason with the names of the file.
    fn told(&self, reason: Reason) -> Told {
        let rename = |name: &mut String| {
            let key = InstanceKey::parse_name(self.state.app(), name);
            if let Some(id) = key.and_then(|key| self.names.get(&key)) {
                name.clone_from(id);
            }
        };
        let mut reason = reason;
        reason.names_mut().into_iter().for_each(rename);
        Told::from(reason)
    }
}

fn base(situation: &Situation) -> Option<u32> {
    let present = situation.instances.iter().filter(|i| i.phase != DescribedPhase::Gone).map(|i| i.revision);
    situation.base.or_else(|| present.min())
}

fn settings(situation: &Situation) -> Result<AppSettings, Impossible> {
    if !(0.0..=86_400_000.0).contains(&situation.min_healthy_time_s) {
        return Err(Impossible("min_healthy_time_s must be between 0 and 86400000".to_owned()));
    }
    // At least 1 ms, so that a ready one that is not available yet can be told.
    let min_healthy_time_ms = ((situation.min_healthy_time_s * 1000.0) as Millis).max(1);
    let defaults = RolloutSettings::default();
    let rollout = RolloutSettings {
        max_surge: situation.max_surge,
        max_unavailable: situation.max_unavailable,
        batch: situation.batch,
        order: situation.order,
        min_healthy_time_ms,
        healthy_deadline_ms: min_healthy_time_ms + defaults.healthy_deadline_ms,
        progress_deadline_ms: 2 * min_healthy_time_ms + defaults.progress_deadline_ms,
        ..defaults
    };
    let settings = AppSettings {
        replicas: situation.replicas,
        rollout,
        listen: None,
        fixed_port: false,
        gates: Vec::new(),
    };
    match settings.problems().into_iter().next() {
        None => Ok(settings),
        Some(problem) => Err(Impossible(format!("{}: {}; {}", problem.key, problem.message, problem.hint))),
    }
}
