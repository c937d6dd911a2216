//! A scripted world for the engine: what outlives a daemon, and what it may be told.

#![allow(dead_code, clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use trundle_core::event::{Action, DrainProof, Event, Evidence, Fact, Requests};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::limits::CountOrPercent;
use trundle_core::revision::Template;
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_core::state::{DeployRequest, Request, RolloutState};
use trundle_engine::journal::{Entry, JournalError, MemoryJournal, Store};
use trundle_engine::ports::{Capabilities, Driver, Ensure, Report, RouteState, Router, Routes};
use trundle_engine::{Engine, Input};

/// What outlives a daemon: the journal, the processes, the router's table.
#[derive(Default)]
pub struct Outside {
    pub journal: MemoryJournal,
    pub running: BTreeSet<InstanceKey>,
    pub ever_started: BTreeMap<InstanceKey, u32>,
    pub routed: BTreeSet<InstanceKey>,
    pub reports: Vec<Report>,
    /// Instances start and never become ready.
    pub silent: bool,
    /// What effects were ordered without a durable intent.
    pub unfounded: Vec<InstanceKey>,
}

pub type World = Rc<RefCell<Outside>>;

pub struct Journal(pub World);
pub struct Processes(pub World);
pub struct Table(pub World);

pub fn app() -> AppName {
    "web".parse().unwrap()
}

impl Store for Journal {
    fn append(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        self.0.borrow_mut().journal.append(entries)
    }
    fn load(&mut self) -> Result<Vec<Entry>, JournalError> {
        self.0.borrow_mut().journal.load()
    }
    fn keep_time(&mut self, at_ms: u64) -> Result<(), JournalError> {
        self.0.borrow_mut().journal.keep_time(at_ms)
    }
    fn kept_time(&mut self) -> Result<u64, JournalError> {
        self.0.borrow_mut().journal.kept_time()
    }
    fn begin_epoch(&mut self) -> Result<u64, JournalError> {
        self.0.borrow_mut().journal.begin_epoch()
    }
    fn boot_id(&mut self) -> Result<Option<String>, JournalError> {
        self.0.borrow_mut().journal.boot_id()
    }
    fn set_boot_id(&mut self, boot_id: &str) -> Result<(), JournalError> {
        self.0.borrow_mut().journal.set_boot_id(boot_id)
    }
}

impl Driver for Processes {
    fn capabilities(&self) -> Capabilities {
        Capabilities { names: true, picks_victims: true, probes: true }
    }
    fn ensure(&mut self, command: &Ensure<'_>) {
        let mut world = self.0.borrow_mut();
        for kept in command.keep {
            let key = kept.instance;
            let intended = world.journal.entries.iter().any(
                |e| matches!(&e.event, Event::Decided(Action::Start { instance, .. }) if *instance == key),
            );
            if !intended {
                world.unfounded.push(key);
            }
            if !world.ever_started.contains_key(&key) {
                *world.ever_started.entry(key).or_default() += 1;
                world.running.insert(key);
            }
            let started = Fact::Started {
                pid: 1,
                address: Some("127.0.0.1:1".into()),
                incarnation: format!("{key}").into(),
            };
            let facts = if world.silent { vec![started] } else { vec![started, Fact::Ready] };
            for fact in facts {
                world.reports.push(Report::Seen { app: app(), instance: key, fact });
            }
        }
        for key in command.victims {
            world.running.remove(key);
            world.reports.push(Report::Seen { app: app(), instance: *key, fact: Fact::Gone });
        }
    }
    fn evidence(&mut self, _: &AppName, _: InstanceKey) -> Evidence {
        Evidence::default()
    }
}

impl Router for Table {
    fn set(&mut self, routes: &Routes<'_>) {
        let mut world = self.0.borrow_mut();
        if routes.whole {
            world.routed.clear();
        }
        for key in routes.routes.iter().map(|r| &r.instance).chain(&routes.unrouted) {
            world.routed.remove(key);
        }
        for route in &routes.routes {
            let fact = match route.state {
                RouteState::Routed => {
                    world.routed.insert(route.instance);
                    Fact::Routed(true)
                }
                RouteState::Draining | RouteState::Kept => Fact::Drained { proof: DrainProof::Proven },
                RouteState::Unready | RouteState::Cut => continue,
            };
            world.reports.push(Report::Seen { app: app(), instance: route.instance, fact });
        }
    }
    fn publish(&mut self) {}
    fn counts(&mut self, _: &AppName) -> Option<Requests> {
        Some(Requests::default())
    }
}

pub type TestEngine = Engine<Journal, Processes, Table>;

pub fn daemon(world: &World, boot: &str) -> TestEngine {
    Engine::recover(Journal(world.clone()), Processes(world.clone()), Table(world.clone()), boot, 0).unwrap()
}

pub fn deploy(version: &str) -> Input {
    let template = Template::plain(version.parse().unwrap(), vec!["app".into()]);
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Count(1)),
        max_unavailable: Some(CountOrPercent::Count(1)),
        ..RolloutSettings::default()
    };
    let listen = Listen::http("127.0.0.1:1");
    let settings =
        AppSettings { replicas: 4, rollout, listen: Some(listen), fixed_port: false, gates: Vec::new() };
    let request = DeployRequest::new(template, settings);
    Input::Request {
        app: app(),
        by: "ann".into(),
        request: Request::Deploy(Box::new(request)),
        reply: Box::new(|answer| assert!(answer.is_ok(), "{answer:?}")),
    }
}

/// Turns until nothing is reported any more; answers how many turns that took. Stops after turn `die_at`, with its reports on the way.
pub fn run(engine: &mut TestEngine, world: &World, mut inputs: Vec<Input>, die_at: usize) -> usize {
    for turn in 0..10_000 {
        let last_at = engine.last_at();
        engine.turn(last_at + 10, 0, std::mem::take(&mut inputs));
        if turn + 1 == die_at {
            return turn;
        }
        let reports = std::mem::take(&mut world.borrow_mut().reports);
        inputs = reports.into_iter().map(Input::Report).collect();
        if inputs.is_empty() {
            return turn;
        }
    }
    panic!("the engine does not come to rest");
}

pub fn outcome(engine: &TestEngine) -> (RolloutState, usize) {
    let state = &engine.apps()[&app()].state;
    if state.open_rollout().is_some() {
        println!("{:?}", trundle_core::decide::decide(state).reasons);
    }
    (state.last_rollout().unwrap().state, state.instances().count())
}
