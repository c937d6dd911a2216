//! The simulator is worth something only if the real thing does the same: equal settings, equal decisions in equal order.

use trundle_core::event::{Action, Command, Event};
use trundle_core::ids::RolloutId;
use trundle_core::limits::CountOrPercent;
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_core::state::Request;
use trundle_engine::journal::{Entry, SqliteJournal, Store};
use trundle_sim::{Disk, Fate, Setup, Sim};

use crate::harness::{Site, sample, wait_for};

/// Everything that was decided of the second rollout, in order, by name. Causes have their own words in each world.
fn decisions(entries: &[Entry]) -> Vec<String> {
    let second = entries.iter().position(|e| {
        matches!(e.event, Event::Commanded { command: Command::Roll { rollout: RolloutId(2), .. }, .. })
    });
    let told = |entry: &Entry| match &entry.event {
        Event::Decided(action) => Some(match action {
            Action::Start { instance, purpose } => format!("start {instance} {purpose:?}"),
            Action::Drain { instance, purpose } => format!("drain {instance} {purpose:?}"),
            Action::Stop { instance, purpose, cut } => format!("stop {instance} {purpose:?} {cut}"),
            Action::Fail { instance, .. } => format!("fail {instance}"),
            Action::PauseRollout { .. } => "pause".to_owned(),
            other => format!("{other:?}"),
        }),
        _ => None,
    };
    entries[second.unwrap()..].iter().filter_map(told).collect()
}

/// The same in both worlds: four replicas, within this budget.
#[derive(Clone, Copy)]
struct Budget {
    surge: u32,
    unavailable: u32,
    batch: Option<u32>,
}

/// What a person does, one after the other, each once the one before has come to rest.
#[derive(Clone, Copy)]
enum Act {
    Deploy(&'static str),
    /// Its first instance exits.
    DeployBad(&'static str),
    DeployByStep(&'static str),
    Resume,
    Rollback,
    Scale(u32),
    Restart,
}

const REPLICAS: u32 = 4;

fn simulated(budget: Budget, acts: &[Act]) -> Vec<String> {
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Count(budget.surge)),
        max_unavailable: Some(CountOrPercent::Count(budget.unavailable)),
        batch: budget.batch,
        ..RolloutSettings::default()
    };
    let listen = Some(Listen::http("127.0.0.1:1"));
    let setup =
        Setup::new(AppSettings { replicas: REPLICAS, rollout, listen, fixed_port: false, gates: Vec::new() });
    let bad = std::rc::Rc::new(std::cell::Cell::new(0));
    let is_bad = bad.clone();
    let fates: trundle_sim::Fates = Box::new(move |key, nth, _| match (key.revision.0, nth) {
        (revision, 1) if revision == is_bad.get() => Fate::Exits(50),
        _ => Fate::Ready(100),
    });
    let disk = Disk::default();
    let mut sim = Sim::with_fates(setup, disk.clone(), fates);
    sim.start_daemon().unwrap();
    for act in [Act::Deploy("1")].iter().chain(acts) {
        match act {
            Act::Deploy(version) => drop(sim.deploy(version).unwrap().unwrap()),
            Act::DeployBad(version) => {
                bad.set(sim.state().unwrap().next_revision().0);
                sim.deploy(version).unwrap().unwrap();
            }
            Act::DeployByStep(version) => {
                sim.deploy_with(version, |request| request.step = true).unwrap().unwrap();
            }
            Act::Resume => drop(sim.ask(Request::Resume).unwrap()),
            Act::Rollback => drop(sim.ask(Request::Rollback(None)).unwrap()),
            Act::Scale(replicas) => drop(sim.ask(Request::Scale(*replicas)).unwrap()),
            Act::Restart => drop(sim.ask(Request::Restart).unwrap()),
        }
        while sim.step() {}
    }
    decisions(&disk.entries())
}

fn real(budget: Budget, acts: &[Act]) -> Vec<String> {
    let Budget { surge, unavailable, batch } = budget;
    let batch = batch.map_or(String::new(), |batch| format!("\nbatch = {batch}"));
    let rollout = format!("max_surge = {surge}\nmax_unavailable = {unavailable}{batch}");
    let site = Site::with(&sample(REPLICAS, "", &rollout));
    site.deploy("1", &[]).expect(0);
    let mut replicas = REPLICAS;
    for act in acts {
        match act {
            Act::Deploy(version) => {
                drop(site.deploy(version, &[&format!("--set=replicas={replicas}")]).expect(0))
            }
            Act::DeployBad(version) => {
                drop(site.deploy(version, &["--set", "run.env.FAIL=exit:3"]).expect(10))
            }
            Act::DeployByStep(version) => drop(site.deploy(version, &["--step"]).expect(10)),
            Act::Resume => drop(site.run(&["resume", "web"])),
            Act::Rollback => drop(site.run(&["rollback", "web"])),
            Act::Scale(n) => {
                replicas = *n;
                site.run(&["scale", "web", &n.to_string()]).expect(0);
            }
            Act::Restart => drop(site.run(&["restart", "web"]).expect(0)),
        }
        wait_for("the end of what moves", 20, || {
            let status = site.status();
            let paused = status["rollout"]["state"] == "paused";
            let instances = status["instances"].as_array().unwrap();
            let rest = instances.iter().all(|i| i["available"] == true);
            (rest && (paused || instances.len() == replicas as usize)).then_some(())
        });
    }
    decisions(&SqliteJournal::open_to_read(&site.state()).unwrap().load().unwrap())
}

fn check(budget: Budget, acts: &[Act], at_least: usize) {
    let (real, simulated) = (real(budget, acts), simulated(budget, acts));
    assert!(real.len() >= at_least, "{real:#?}");
    assert_eq!(real, simulated, "{real:#?}");
}

#[test]
fn one_at_a_time_is_decided_alike() {
    for (surge, unavailable) in [(0, 1), (1, 0)] {
        check(Budget { surge, unavailable, batch: None }, &[Act::Deploy("2")], 13);
    }
}

#[test]
fn a_failure_is_decided_alike() {
    check(Budget { surge: 0, unavailable: 1, batch: None }, &[Act::DeployBad("2")], 4);
}

/// A version step by step and back from its middle, a bad one, its correction over it, more and fewer, a restart, and back.
#[test]
fn a_whole_story_is_decided_alike() {
    let acts = [
        Act::DeployByStep("2"),
        Act::Resume,
        Act::Rollback,
        Act::DeployBad("3"),
        Act::Deploy("4"),
        Act::Scale(5),
        Act::Scale(3),
        Act::Restart,
        Act::Rollback,
    ];
    for (surge, unavailable) in [(0, 1), (1, 0)] {
        check(Budget { surge, unavailable, batch: Some(1) }, &acts, 60);
    }
}

/// What scripts read, with the numbers of the worked trace: eight replicas at 1/1 that need three minutes.
#[test]
fn simulate_prints_what_the_contract_says() {
    let site = Site::with(&sample(8, "", "max_surge = 1\nmax_unavailable = 1"));
    let said =
        site.run(&["simulate", "--json", "--start-time", "180s", "--stop-time", "0s"]).expect(0).json();
    for (key, number) in [
        ("duration_s", 720.0),
        ("limit_s", 720.0),
        ("max_surge", 1.0),
        ("max_unavailable", 1.0),
        ("floor", 7.0),
        ("ceiling", 9.0),
        ("lowest_available", 7.0),
        ("highest_total", 9.0),
    ] {
        assert_eq!(said[key].as_f64(), Some(number), "{key} in {said}");
    }
    assert_eq!(said["outcome"], "succeeded");
    let started: u64 = said["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["action"] == "start")
        .map(|step| step["count"].as_u64().unwrap())
        .sum();
    assert_eq!(started, 8, "{said}");
    assert!(said["decisions"].as_u64().unwrap() >= 24 && !said["peak_mix"].as_object().unwrap().is_empty());

    let fails = ["simulate", "--json", "--replicas", "50", "--fail", "0.3", "--seed", "7"];
    let said = site.run(&fails).expect(0).json();
    assert_eq!(said["outcome"], "paused", "{said}");
    assert_eq!(site.run(&fails).json(), said, "the same seed, the same rollout");
    assert!(site.run(&["simulate", "--fail", "2"]).expect(2).stderr.contains("0 to 1"));
    assert!(!site.state().exists(), "nothing was started and nothing is left");
}
