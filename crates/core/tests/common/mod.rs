//! A small world for the decision: instances that start, fail and stop as a script says, and a picture of each moment.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;

use trundle_core::Millis;
use trundle_core::decide::{Decision, decide};
use trundle_core::event::{Action, Command, DrainProof, Event, Exit, Fact, RolloutKind};
use trundle_core::ids::{InstanceKey, RevisionNumber};
use trundle_core::invariants::{self, Witness};
use trundle_core::limits::CountOrPercent;
use trundle_core::revision::{Revision, Template};
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_core::state::{AppState, Phase, Request, Rollout, RolloutState};

pub const START_MS: Millis = 1000;

pub fn template(version: &str) -> Template {
    Template::plain(version.parse().unwrap(), vec!["app".into(), version.into()])
}

pub fn settings(replicas: u32, change: impl FnOnce(&mut RolloutSettings)) -> AppSettings {
    let mut rollout = RolloutSettings::default();
    change(&mut rollout);
    let listen = Listen::http("127.0.0.1:1");
    AppSettings { replicas, rollout, listen: Some(listen), fixed_port: false, gates: Vec::new() }
}

/// Both bounds as counts.
pub fn counts(surge: u32, unavailable: u32) -> impl Fn(&mut RolloutSettings) {
    move |r| {
        r.max_surge = Some(CountOrPercent::Count(surge));
        r.max_unavailable = Some(CountOrPercent::Count(unavailable));
    }
}

/// What becomes of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Ready,
    Never,
    Exits,
}

pub struct World {
    pub state: AppState,
    pub at: Millis,
    /// Decides the fate of each start; the number counts the starts of its revision from 1.
    pub fate: Box<dyn Fn(InstanceKey, u32) -> Fate>,
    started: BTreeMap<RevisionNumber, u32>,
    due: BTreeMap<Millis, Vec<(InstanceKey, Fact)>>,
    /// One picture per change: `ooooonn·~x`.
    pub pictures: Vec<String>,
    pub lowest_available: u32,
    pub highest_live: u32,
    pub last: Decision,
    /// From the signal to gone.
    pub stop_ms: Millis,
}

impl World {
    /// The first version runs already.
    pub fn with(settings: AppSettings) -> Self {
        let mut world = Self::empty();
        world.command(Command::Configure { settings: Box::new(settings) });
        world.deploy("1");
        world.run();
        assert_eq!(world.outcome(), RolloutState::Succeeded);
        world.reset_marks();
        world
    }

    pub fn empty() -> Self {
        Self {
            state: AppState::new("web".parse().unwrap()),
            at: 0,
            fate: Box::new(|_, _| Fate::Ready),
            started: BTreeMap::new(),
            due: BTreeMap::new(),
            pictures: Vec::new(),
            lowest_available: u32::MAX,
            highest_live: 0,
            last: Decision::default(),
            stop_ms: 10,
        }
    }

    pub fn reset_marks(&mut self) {
        self.pictures.clear();
        self.lowest_available = self.state.totals().available();
        self.highest_live = self.state.totals().live();
    }

    pub fn command(&mut self, command: Command) {
        self.apply(Event::Commanded { by: "test".into(), command });
    }

    pub fn request(&mut self, request: Request) {
        let step = self.state.permit(&request).unwrap();
        for command in step.commands {
            self.command(command);
        }
        self.settle();
    }

    /// Opens a rollout to the version, numbered by the label's first appearance.
    pub fn deploy(&mut self, version: &str) {
        self.roll(version, false);
    }

    pub fn roll(&mut self, version: &str, step: bool) {
        let template = template(version);
        let known = self.state.revisions().values().find(|r| r.template == template).map(|r| r.number);
        let target = known.unwrap_or_else(|| {
            let number = self.state.next_revision();
            self.command(Command::AddRevision { revision: Box::new(Revision { number, template }) });
            number
        });
        self.command(Command::Roll {
            rollout: self.state.next_rollout(),
            target,
            kind: RolloutKind::Deploy,
            step,
        });
        self.settle();
    }

    pub fn see(&mut self, instance: InstanceKey, fact: Fact) {
        self.apply(Event::Observed { instance, fact });
        self.settle();
    }

    pub fn apply(&mut self, event: Event) {
        let before = Witness::new(&self.state, self.at, &event);
        self.state.apply(self.at, &event);
        before.check(&event, &self.state).unwrap();
        self.check();
    }

    /// Decides until nothing more is to do at this moment.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            let decision = decide(&self.state);
            assert!(!decision.reasons.is_empty(), "no decision without a reason");
            invariants::check(&self.state, &decision.actions).unwrap();
            for action in &decision.actions {
                self.apply(Event::Decided(action.clone()));
                self.begin(action);
            }
            self.last = decision;
            if self.last.actions.is_empty() {
                self.picture();
                return;
            }
        }
        panic!("the decision does not come to rest: {:?}", self.last);
    }

    fn begin(&mut self, action: &Action) {
        let stop_ms = self.stop_ms;
        let mut later =
            |wait, key: &InstanceKey, fact| self.due.entry(self.at + wait).or_default().push((*key, fact));
        match action {
            Action::Start { instance, .. } => {
                let nth = self.started.entry(instance.revision).or_default();
                *nth += 1;
                match (self.fate)(*instance, *nth) {
                    Fate::Ready => {
                        later(START_MS, instance, Fact::Ready);
                        later(START_MS, instance, Fact::Routed(true));
                    }
                    Fate::Never => {}
                    Fate::Exits => {
                        later(START_MS, instance, Fact::Exited(Exit { code: Some(1), signal: None }))
                    }
                }
            }
            // Its pages hold it until somebody says otherwise.
            Action::Drain { instance, .. } if self.state.kept().contains(instance) => {}
            Action::Drain { instance, .. } => {
                later(stop_ms, instance, Fact::Drained { proof: DrainProof::Proven })
            }
            Action::Stop { instance, .. } => later(stop_ms, instance, Fact::Gone),
            _ => {}
        }
    }

    /// Until the rollout ends or stands still.
    pub fn run(&mut self) {
        for _ in 0..3_000 {
            let waits_for_nobody = |r: &Rollout| r.state != RolloutState::Paused;
            if !self.state.open_rollout().is_some_and(waits_for_nobody)
                && (self.due.is_empty() || self.state.is_halted())
            {
                return;
            }
            if !self.step() {
                return;
            }
        }
        panic!("the rollout does not end: {:?}", self.last.reasons);
    }

    /// To the next moment at which anything happens; false when nothing ever will.
    pub fn step(&mut self) -> bool {
        let next = self.due.keys().next().copied();
        let Some(at) = next.into_iter().chain(self.state.next_timer_at()).min() else { return false };
        self.at = at;
        self.state.advance(at);
        for (instance, fact) in self.due.remove(&at).unwrap_or_default() {
            self.apply(Event::Observed { instance, fact });
        }
        self.settle();
        true
    }

    /// The moments at which somebody looks: every event.
    fn check(&mut self) {
        invariants::scan(&self.state).unwrap();
        self.lowest_available = self.lowest_available.min(self.state.totals().available());
        self.highest_live = self.highest_live.max(self.state.totals().live());
    }

    fn picture(&mut self) {
        let target = self.state.target();
        let mut signs: Vec<(u8, char)> = self
            .state
            .instances()
            .map(|i| match i.phase() {
                Phase::Ready if Some(i.key().revision) == target => (1, 'n'),
                Phase::Ready => (0, 'o'),
                Phase::Intended | Phase::Starting => (2, '·'),
                Phase::Unready => (3, 'u'),
                Phase::Draining | Phase::Stopping => (4, '~'),
                Phase::Failed => (5, 'x'),
                Phase::Unknown => (6, '?'),
            })
            .collect();
        signs.sort_unstable();
        let picture: String = signs.into_iter().map(|(_, sign)| sign).collect();
        if self.pictures.last() != Some(&picture) {
            self.pictures.push(picture);
        }
    }

    pub fn outcome(&self) -> RolloutState {
        self.state.last_rollout().unwrap().state
    }

    pub fn codes(&self) -> Vec<String> {
        let code = |r| serde_json::to_value(r).unwrap()["code"].as_str().unwrap().to_owned();
        self.last.reasons.iter().map(code).collect()
    }

    pub fn ready_of(&self, revision: u32) -> Vec<InstanceKey> {
        let book = self.state.book(RevisionNumber(revision));
        book.map(|b| b.members(trundle_core::state::Class::Available).collect()).unwrap_or_default()
    }
}
