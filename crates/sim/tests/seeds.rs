//! Random worlds with every fault at once, each from a seed: what is journaled holds the invariants, what serves never goes
//! below the floor by the engine's hand, and in the end a fair world comes to its end.
//!
//! `TRUNDLE_SEEDS=100000 cargo test -p trundle-sim --test seeds` for nights, `TRUNDLE_SEED=17` for one, with its trace. A seed
//! that fails prints its trace in any case.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use trundle_core::ids::InstanceKey;
use trundle_core::limits::CountOrPercent;
use trundle_core::settings::{AppSettings, Listen, OnFailure, RolloutSettings};
use trundle_core::state::{Phase, Request, RolloutState};
use trundle_engine::audit::audit;
use trundle_sim::{CrashAt, Disk, Fate, Setup, Sim, Spread, Trace};

/// What was done to a world. Each must have been done to some, or the test proves less than it says.
const SITES: &[&str] = &[
    "deploy",
    "deploy step by step",
    "deploy if idle",
    "deploy with other settings",
    "supersede",
    "down",
    "pause",
    "resume",
    "abort",
    "rollback",
    "retry",
    "skip",
    "scale up",
    "scale down",
    "restart",
    "instance dies",
    "instance flaps",
    "start exits",
    "start never ready",
    "start refused",
    "word repeated or late",
    "daemon killed",
    "daemon killed before a write",
    "daemon killed after a write",
    "daemon killed as it starts",
    "disk full",
    "reboot",
    "no daemon for a while",
    "clock stands still for the daemon",
];

type Reached = BTreeMap<&'static str, u64>;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

#[test]
fn no_seed_breaks_anything() {
    if let Some(seed) = setting("TRUNDLE_SEED") {
        run(seed, &mut Reached::new()).iter().for_each(|line| println!("{line}"));
        return;
    }
    let seeds = setting("TRUNDLE_SEEDS").unwrap_or(2_000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(8);
    let reached: Vec<Reached> = std::thread::scope(|scope| {
        let each = |thread: u64| {
            scope.spawn(move || {
                let mut reached = Reached::new();
                for seed in (1..=seeds).filter(|seed| seed % threads == thread) {
                    let run = std::panic::AssertUnwindSafe(|| run(seed, &mut reached));
                    let outcome = std::panic::catch_unwind(run);
                    assert!(
                        outcome.is_ok(),
                        "seed {seed} fails; it is played again with TRUNDLE_SEED={seed}"
                    );
                }
                reached
            })
        };
        let running: Vec<_> = (0..threads).map(each).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = Reached::new();
    for (site, n) in reached.into_iter().flatten() {
        *all.entry(site).or_default() += n;
    }
    println!("{seeds} seeds: {all:?}");
    for site in SITES {
        assert!(all.contains_key(site), "nothing of «{site}» happened in {seeds} seeds");
    }
}

fn settings(dice: &mut fastrand::Rng) -> AppSettings {
    let replicas = dice.u32(1..9);
    let (surge, unavailable) = *dice.choice(&[(1, 0), (0, 1), (1, 1), (2, 2), (3, 0), (9, 0)]).unwrap();
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Count(surge)),
        max_unavailable: Some(CountOrPercent::Count(unavailable)),
        batch: dice.bool().then(|| dice.u32(1..4)),
        delay_ms: 0,
        min_healthy_time_ms: *dice.choice(&[0, 0, 500, 3_000]).unwrap(),
        healthy_deadline_ms: 10_000,
        progress_deadline_ms: 60_000,
        on_failure: *dice.choice(&[OnFailure::Pause, OnFailure::Rollback, OnFailure::Continue]).unwrap(),
        max_failures: CountOrPercent::Count(dice.u32(1..4)),
        drain_timeout_ms: 5_000,
        history_limit: dice.u32(0..4),
        ..RolloutSettings::default()
    };
    let listen = Listen::http("127.0.0.1:1");
    AppSettings {
        replicas,
        rollout,
        listen: dice.u8(..4).gt(&0).then_some(listen),
        fixed_port: false,
        gates: Vec::new(),
    }
}

/// What a person reads who plays a failed seed again must be what failed.
#[test]
fn a_seed_played_again_is_the_same_to_the_millisecond() {
    let mut lines = 0;
    for seed in 1..=40 {
        let [first, second] = [(); 2].map(|()| run(seed, &mut Reached::new()));
        assert_eq!(first, second, "seed {seed}");
        lines += first.len();
    }
    assert!(lines > 500, "{lines} lines: too few to be a story");
}

/// Printed also when a world breaks half-way.
struct Told(u64, Trace);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.1.lines().join("\n");
            println!("the trace of TRUNDLE_SEED={}:\n{lines}", self.0);
        }
    }
}

/// Floor and ceiling as they bind now, looked at where the processes are.
#[derive(Default)]
struct Bounds {
    floor: u32,
    ceiling: u32,
}

struct Run<'a> {
    sim: Sim,
    bounds: Bounds,
    dice: fastrand::Rng,
    reached: &'a mut Reached,
    version: u32,
}

/// One world, and its story.
fn run(seed: u64, reached: &mut Reached) -> Vec<String> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut setup = Setup::new(settings(&mut dice));
    setup.seed = seed;
    setup.start = Spread::Between(100, 4_000);
    setup.stop = Spread::Between(0, 2_000);
    setup.drain = Spread::Between(0, 7_000);
    let trouble = dice.u32(..4);
    let fated: Rc<RefCell<Vec<&'static str>>> = Rc::default();
    let noted = Rc::clone(&fated);
    let fates: trundle_sim::Fates = Box::new(move |key, _, dice| {
        let after = dice.u64(100..4_000);
        let (site, fate) = match dice.u32(..40) {
            n if key.revision.0 == 1 || n >= 4 * trouble => return Fate::Ready(after),
            n if n % 4 == 0 => ("start refused", Fate::Refused),
            n if n % 4 == 1 => ("start never ready", Fate::Never),
            _ => ("start exits", Fate::Exits(after)),
        };
        noted.borrow_mut().push(site);
        fate
    });
    let mut sim = Sim::with_fates(setup, Disk::default(), fates);
    let told = Told(seed, Trace::of(&mut sim));
    sim.start_daemon().unwrap();
    let mut run = Run { sim, bounds: Bounds::default(), dice, reached, version: 1 };
    run.deploy(1);
    assert!(run.sim.run(100_000), "the first version does not come up");
    run.bounds.ceiling = run.sim.state().map_or(0, |s| s.budget().ceiling());
    for _ in 0..run.dice.u32(5..40) {
        run.anything();
        run.look();
        for _ in 0..run.dice.u32(..12) {
            run.step();
        }
    }
    run.fair_end();
    for site in fated.take() {
        run.note(site);
    }
    let findings: Vec<String> = audit(&run.sim.disk.entries()).iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{findings:#?}");
    let world = run.sim.world.borrow();
    assert!(world.broken.is_empty(), "{:?}", world.broken);
    let state = run.sim.state().unwrap();
    let budget = state.budget();
    assert!(state.open_rollout().is_none(), "{:?}", state.last_rollout());
    assert_eq!(world.alive, state.totals().live(), "what lives is what the journal says");
    assert_eq!(state.totals().available(), budget.desired);
    assert_eq!(state.last_rollout().map(|r| r.state == RolloutState::Failed), Some(false));
    if state.settings().is_some_and(|s| s.listen.is_some()) {
        assert_eq!(world.serving, budget.desired);
    }
    told.1.lines()
}

impl Run<'_> {
    fn note(&mut self, site: &'static str) {
        *self.reached.entry(site).or_default() += 1;
    }

    fn deploy(&mut self, version: u32) {
        let open = self.sim.state().is_some_and(|s| s.open_rollout().is_some());
        if self.sim.deploy(&version.to_string()).unwrap().is_ok() {
            self.note(if open { "supersede" } else { "deploy" });
        }
    }

    fn ask(&mut self, site: &'static str, request: Request) {
        if self.sim.ask(request).is_ok() {
            self.note(site);
        }
    }

    fn some_instance(&mut self) -> Option<InstanceKey> {
        let keys: Vec<_> = self.sim.state()?.instances().map(|i| i.key()).collect();
        (!keys.is_empty()).then(|| keys[self.dice.usize(..keys.len())])
    }

    fn anything(&mut self) {
        match self.dice.u32(..24) {
            0..=3 => {
                self.version = self.dice.u32(1..6);
                self.deploy(self.version);
            }
            4 => self.deploy_otherwise(),
            5 => self.ask("pause", Request::Pause),
            6 | 7 => self.ask("resume", Request::Resume),
            8 => self.ask("abort", Request::Abort),
            9 => self.ask("rollback", Request::Rollback(None)),
            10 => self.ask("restart", Request::Restart),
            11 => {
                let replicas = self.dice.u32(1..9);
                let before = self.sim.state().map_or(0, |s| s.budget().desired);
                self.ask(if replicas > before { "scale up" } else { "scale down" }, Request::Scale(replicas));
            }
            12 => {
                let last = |r: &trundle_core::state::Rollout| r.records.last().map(|record| record.instance);
                let failed = self.sim.state().and_then(|s| s.open_rollout()).and_then(last);
                let Some(key) = failed.or_else(|| self.some_instance()) else { return };
                self.ask("retry", Request::Retry(key));
            }
            13 => {
                let Some(key) = self.some_instance() else { return };
                self.ask("skip", Request::Skip(key));
            }
            14 | 15 => self.hurt("instance dies", |world, key, _| world.kill(key)),
            16 => self.hurt("instance flaps", |world, key, ms| world.flap(key, ms)),
            17 => self.hurt("word repeated or late", |world, key, ms| world.repeat(key, ms)),
            18 => {
                self.note("daemon killed");
                self.sim.kill_daemon();
                self.without_daemon();
            }
            19 | 20 => {
                let crash = CrashAt { append: self.dice.u64(1..4), after: self.dice.bool() };
                self.sim.disk.crash_at(crash);
                for _ in 0..20 {
                    self.step();
                }
                if !self.sim.has_daemon() {
                    self.note(if crash.after {
                        "daemon killed after a write"
                    } else {
                        "daemon killed before a write"
                    });
                }
                self.without_daemon();
            }
            21 => {
                let refused = self.sim.disk.refused();
                self.sim.disk.set_full(true);
                for _ in 0..10 {
                    self.step();
                }
                self.sim.disk.set_full(false);
                if self.sim.disk.refused() > refused {
                    self.note("disk full");
                }
            }
            22 if self.dice.u8(..4) == 0 => {
                self.note("reboot");
                self.sim.reboot();
                self.without_daemon();
            }
            _ => {
                // A daemon that was stopped for a minute: everything that was due comes at once.
                self.note("clock stands still for the daemon");
                self.sim.world.borrow_mut().now += 60_000;
                self.step();
            }
        }
    }

    fn deploy_otherwise(&mut self) {
        let version = self.dice.u32(1..6).to_string();
        let other = settings(&mut self.dice);
        let (site, answer) = match self.dice.u8(..4) {
            0 => ("deploy step by step", self.sim.deploy_with(&version, |request| request.step = true)),
            1 => ("deploy if idle", self.sim.deploy_with(&version, |request| request.if_idle = true)),
            2 => {
                let asked = self.sim.deploy_with(&version, |request| {
                    // Whether it listens stays as it is: the world's router is there or not.
                    let listen = request.settings.listen.clone();
                    request.settings = AppSettings { listen, ..other };
                });
                ("deploy with other settings", asked)
            }
            _ => ("down", Ok(self.sim.ask(Request::Down))),
        };
        if answer.unwrap().is_ok() {
            self.note(site);
        }
    }

    fn hurt(&mut self, site: &'static str, how: impl FnOnce(&mut trundle_sim::World, InstanceKey, u64)) {
        let mut world = self.sim.world.borrow_mut();
        let Some(key) = world.any_alive() else { return };
        how(&mut world, key, self.dice.u64(1..5_000));
        drop(world);
        self.note(site);
    }

    /// The world goes on for a while, and then the next daemon comes.
    fn without_daemon(&mut self) {
        if self.sim.has_daemon() {
            return;
        }
        if self.dice.bool() {
            self.note("no daemon for a while");
            for _ in 0..self.dice.u32(1..20) {
                self.step();
            }
        }
        // One that dies over its first write is followed by another.
        while self.sim.start_daemon().is_err() {
            self.note("daemon killed as it starts");
        }
    }

    /// One moment.
    fn step(&mut self) {
        self.sim.step();
        self.look();
    }

    /// The floor and the ceiling, where the processes are.
    fn look(&mut self) {
        let world = self.sim.world.borrow();
        assert!(world.broken.is_empty(), "{:?}", world.broken);
        let (serving, alive) = (world.serving, world.alive);
        // Without a daemon nothing is moved by the engine's hand, and what it was asked for last is not known here.
        let Some(state) = self.sim.state() else { return };
        // A bound that was just moved cannot be met at once; who serves and is not available yet may leave.
        let (budget, available) = (state.budget(), state.totals().available());
        self.bounds.floor = budget.floor().min(self.bounds.floor.max(available.min(serving)));
        self.bounds.ceiling = budget.ceiling().max(self.bounds.ceiling.min(alive));
        if state.settings().is_none_or(|s| s.listen.is_none()) {
            self.bounds.floor = 0;
        }
        assert!(alive <= self.bounds.ceiling, "{alive} live, the ceiling is {}", self.bounds.ceiling);
        let held = world.disturbed || serving >= self.bounds.floor;
        assert!(held, "{serving} serve, the floor is {}, and nothing happened to any", self.bounds.floor);
    }

    /// From here on everything starts, a person says go on, and what has failed for good is deployed anew.
    fn fair_end(&mut self) {
        self.sim.disk.set_full(false);
        self.sim.disk.no_more_crashes();
        {
            let mut world = self.sim.world.borrow_mut();
            world.fates = Box::new(|_, _, _| Fate::Ready(1_000));
        }
        if !self.sim.has_daemon() {
            self.sim.start_daemon().unwrap();
        }
        for _ in 0..30 {
            let _ = self.sim.ask(Request::Resume);
            self.sim.run(20_000);
            // What never answers and is no target any more is stuck for good in this world: it ends.
            let stuck: Vec<_> = self
                .sim
                .state()
                .unwrap()
                .instances()
                .filter(|i| i.phase() == Phase::Unready)
                .map(|i| i.key())
                .collect();
            for key in stuck {
                self.sim.world.borrow_mut().kill(key);
            }
            let state = self.sim.state().unwrap();
            let failed = state.last_rollout().is_some_and(|r| r.state == RolloutState::Failed);
            let desired = state.budget().desired;
            let complete = state.totals().live() == desired && state.totals().available() == desired;
            let at_rest = state.open_rollout().is_none() && complete;
            if at_rest && !failed && self.sim.world.borrow().next_at().is_none() {
                return;
            }
            if failed {
                self.version += 1;
                self.deploy(self.version + 10);
            }
            for _ in 0..2_000 {
                if !self.sim.step() {
                    break;
                }
            }
        }
    }
}
