//! The simulator is worth something only if the real thing does the same: equal settings, equal decisions in equal order.

use trundle_core::event::{Action, Command, Event};
use trundle_core::ids::RolloutId;
use trundle_core::limits::CountOrPercent;
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_engine::journal::{Entry, SqliteJournal, Store};
use trundle_sim::{Disk, Fate, Setup, Sim};

use crate::harness::{Site, sample};

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

fn simulated(surge: u32, unavailable: u32, bad: Option<u32>) -> Vec<String> {
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Count(surge)),
        max_unavailable: Some(CountOrPercent::Count(unavailable)),
        ..RolloutSettings::default()
    };
    let listen = Listen::http("127.0.0.1:1");
    let setup = Setup::new(AppSettings { replicas: 4, rollout, listen: Some(listen), fixed_port: false });
    let fate = move |nth| if Some(nth) == bad { Fate::Exits(50) } else { Fate::Ready(100) };
    let fates: trundle_sim::Fates =
        Box::new(move |key, nth, _| if key.revision.0 == 2 { fate(nth) } else { Fate::Ready(100) });
    let disk = Disk::default();
    let mut sim = Sim::with_fates(setup, disk.clone(), fates);
    sim.start_daemon().unwrap();
    for version in ["1", "2"] {
        sim.deploy(version).unwrap().unwrap();
        assert!(sim.run(100_000));
    }
    decisions(&disk.entries())
}

fn real(surge: u32, unavailable: u32, bad: bool) -> Vec<String> {
    let rollout = format!("max_surge = {surge}\nmax_unavailable = {unavailable}");
    let site = Site::with(&sample(4, "", &rollout));
    site.deploy("1", &[]).expect(0);
    if bad {
        site.deploy("2", &["--set", "run.env.FAIL=exit:3"]).expect(10);
    } else {
        site.deploy("2", &[]).expect(0);
    }
    decisions(&SqliteJournal::open_to_read(&site.state()).unwrap().load().unwrap())
}

#[test]
fn one_at_a_time_is_decided_alike() {
    for (surge, unavailable) in [(0, 1), (1, 0)] {
        let (real, simulated) = (real(surge, unavailable, false), simulated(surge, unavailable, None));
        assert!(real.len() > 12, "{real:?}");
        assert_eq!(real, simulated, "at {surge}/{unavailable}");
    }
}

#[test]
fn a_failure_is_decided_alike() {
    assert_eq!(real(0, 1, true), simulated(0, 1, Some(1)));
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
