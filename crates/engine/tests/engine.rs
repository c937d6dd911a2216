//! The engine over a scripted world: intents are durable before effects, a daemon may die at any turn, a full disk
//! stops everything but the traffic.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::mpsc;

use trundle_core::event::{Action, DrainProof, Event, Evidence, Fact, Requests};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::limits::CountOrPercent;
use trundle_core::revision::{Check, Health, Port, Probe, Run, StopSignal, Template};
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_core::state::{DeployRequest, Request, RolloutState};
use trundle_engine::journal::{Entry, JournalError, MemoryJournal, Store};
use trundle_engine::ports::{Capabilities, Driver, Ensure, Report, RouteState, Router, Routes};
use trundle_engine::{Engine, Input};

/// What outlives a daemon: the journal, the processes, the router's table.
#[derive(Default)]
struct Outside {
    journal: MemoryJournal,
    running: BTreeSet<InstanceKey>,
    ever_started: BTreeMap<InstanceKey, u32>,
    routed: BTreeSet<InstanceKey>,
    reports: Vec<Report>,
    /// Instances start and never become ready.
    silent: bool,
    /// What effects were ordered without a durable intent.
    unfounded: Vec<InstanceKey>,
}

type World = Rc<RefCell<Outside>>;

struct Journal(World);
struct Processes(World);
struct Table(World);

fn app() -> AppName {
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
            let started =
                Fact::Started { pid: 1, address: Some("127.0.0.1:1".into()), incarnation: format!("{key}") };
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
        world.routed.clear();
        for route in &routes.routes {
            let fact = match route.state {
                RouteState::Routed => {
                    world.routed.insert(route.instance);
                    Fact::Routed(true)
                }
                RouteState::Draining => Fact::Drained { proof: DrainProof::Proven },
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

type TestEngine = Engine<Journal, Processes, Table>;

fn daemon(world: &World, boot: &str) -> TestEngine {
    Engine::recover(Journal(world.clone()), Processes(world.clone()), Table(world.clone()), boot, 0).unwrap()
}

fn deploy(version: &str) -> Input {
    let template = Template {
        version: version.parse().unwrap(),
        run: Run {
            command: vec!["app".into()],
            cwd: "/".into(),
            env: BTreeMap::new(),
            sealed: None,
            artifact: None,
            bytes: BTreeMap::new(),
            stop_signal: StopSignal::Term,
            port: Port::Auto,
        },
        health: Health { startup: None, ready: Check::new(Probe::Tcp), live: None, ready_assumed: true },
        restarts: 0,
    };
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Count(1)),
        max_unavailable: Some(CountOrPercent::Count(1)),
        ..RolloutSettings::default()
    };
    let listen = Listen {
        http: Some("127.0.0.1:1".into()),
        unix: None,
        trusted_proxies: vec![],
        version_header: None,
    };
    let settings = AppSettings { replicas: 4, rollout, listen: Some(listen), fixed_port: false };
    let request = DeployRequest { template, settings, if_idle: false, seen_rollout: None };
    Input::Request {
        app: app(),
        by: "ann".into(),
        request: Request::Deploy(Box::new(request)),
        reply: Box::new(|answer| assert!(answer.is_ok(), "{answer:?}")),
    }
}

/// Turns until nothing is reported any more; answers how many turns that took. Stops after turn `die_at`, with its reports on the way.
fn run(engine: &mut TestEngine, world: &World, mut inputs: Vec<Input>, die_at: usize) -> usize {
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

fn outcome(engine: &TestEngine) -> (RolloutState, usize) {
    let state = &engine.apps()[&app()].state;
    if state.open_rollout().is_some() {
        println!("{:?}", trundle_core::decide::decide(state).reasons);
    }
    (state.last_rollout().unwrap().state, state.instances().count())
}

#[test]
fn a_daemon_that_dies_at_any_turn_ends_the_same() {
    let world = World::default();
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    assert_eq!(outcome(&engine), (RolloutState::Succeeded, 4));
    let turns = run(&mut engine, &world, vec![deploy("2")], usize::MAX);
    assert!(turns >= 6, "{turns}");
    let uncrashed: BTreeSet<_> = world.borrow().running.clone();

    for die_at in 1..=turns {
        let world = World::default();
        let mut engine = daemon(&world, "boot");
        run(&mut engine, &world, vec![deploy("1")], usize::MAX);
        run(&mut engine, &world, vec![deploy("2")], die_at);
        drop(engine);
        // What was reported while nobody listened is lost.
        world.borrow_mut().reports.clear();
        let mut engine = daemon(&world, "boot");
        run(&mut engine, &world, vec![], usize::MAX);
        assert_eq!(outcome(&engine), (RolloutState::Succeeded, 4), "died at turn {die_at}");
        let world = world.borrow();
        assert_eq!(world.running, uncrashed, "died at turn {die_at}");
        assert_eq!(world.routed, uncrashed);
        assert!(world.ever_started.values().all(|n| *n == 1), "a twin after turn {die_at}");
        assert!(world.unfounded.is_empty(), "an effect before its intent: {:?}", world.unfounded);
    }
}

/// The proxy answers before the health checks do: what it says counts as soon as everybody was seen, not at the next timer.
#[test]
fn after_a_restart_reports_come_one_at_a_time() {
    for die_at in 1..6 {
        let world = World::default();
        let mut engine = daemon(&world, "boot");
        run(&mut engine, &world, vec![deploy("1")], usize::MAX);
        run(&mut engine, &world, vec![deploy("2")], die_at);
        drop(engine);
        world.borrow_mut().reports.clear();
        let mut engine = daemon(&world, "boot");
        run(&mut engine, &world, vec![], 1);
        let mut waiting: std::collections::VecDeque<Report> = Default::default();
        loop {
            waiting.extend(std::mem::take(&mut world.borrow_mut().reports));
            let Some(next) = waiting.pop_front() else { break };
            let at = engine.last_at() + 1;
            engine.turn(at, 0, vec![Input::Report(next)]);
        }
        assert_eq!(outcome(&engine), (RolloutState::Succeeded, 4), "died at turn {die_at}");
    }
}

#[test]
fn a_full_disk_stops_everything_but_the_traffic() {
    let world = World::default();
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    run(&mut engine, &world, vec![deploy("2")], 3);
    world.borrow_mut().journal.full = true;
    let (running, routed) = (world.borrow().running.clone(), world.borrow().routed.clone());
    for _ in 0..5 {
        // The world goes on; the engine only listens.
        let reports = std::mem::take(&mut world.borrow_mut().reports);
        let at = engine.last_at() + 1_000;
        engine.turn(at, 0, reports.into_iter().map(Input::Report).collect());
    }
    assert!(engine.trouble().unwrap().contains("no space"), "{:?}", engine.trouble());
    assert_eq!(world.borrow().running, running, "nothing starts or stops");
    assert!(world.borrow().routed.is_superset(&routed), "the traffic goes on");

    let (answer, asked) = mpsc::channel();
    let reply = Box::new(move |said| answer.send(said).unwrap());
    let at = engine.last_at();
    engine.turn(at, 0, vec![Input::Request { app: app(), by: "ann".into(), request: Request::Pause, reply }]);
    assert!(asked.recv().unwrap().unwrap_err().to_string().contains("journal"));

    world.borrow_mut().journal.full = false;
    run(&mut engine, &world, vec![], usize::MAX);
    run(&mut engine, &world, vec![], usize::MAX);
    assert_eq!((outcome(&engine), engine.trouble()), ((RolloutState::Succeeded, 4), None));
}

#[test]
fn after_a_reboot_the_base_comes_back_and_the_rollout_goes_on() {
    let world = World::default();
    let mut engine = daemon(&world, "boot 1");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    run(&mut engine, &world, vec![deploy("2")], 5);
    drop(engine);
    world.borrow_mut().reports.clear();
    world.borrow_mut().running.clear();
    // Killed before its first turn: the next one knows of the reboot all the same.
    drop(daemon(&world, "boot 2"));
    let mut engine = daemon(&world, "boot 2");
    run(&mut engine, &world, vec![], 1);
    let base: Vec<_> = world.borrow().running.iter().map(|k| k.revision.0).collect();
    assert_eq!(base, [1, 1, 1, 1]);
    run(&mut engine, &world, vec![], usize::MAX);
    assert_eq!(outcome(&engine), (RolloutState::Succeeded, 4));
}

#[test]
fn the_journal_tells_the_same_state_again() {
    let world = World::default();
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    run(&mut engine, &world, vec![deploy("2")], 4);
    let told = format!("{:?}", engine.apps()[&app()].state);
    let again = daemon(&world, "boot");
    assert_eq!(format!("{:?}", again.apps()[&app()].state), told);
}

#[test]
fn a_daemon_that_dies_again_and_again_still_sees_a_deadline_pass() {
    let world = World::default();
    world.borrow_mut().silent = true;
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], 1);
    // Each life lasts for 300 ms; the healthy deadline is 5 minutes.
    for _ in 0..1_200 {
        engine = daemon(&world, "boot");
        let began = engine.last_at();
        engine.turn(began + 300, 0, vec![]);
    }
    assert_eq!(outcome(&engine).0, RolloutState::Paused);
}
