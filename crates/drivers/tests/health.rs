//! Probing real processes: what is ready, what is not, and how fast it is told.

// Helpers outside of test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use support::{SAMPLE, World, eventually, http, is_gone, sample, shell};
use trundle_core::event::Fact;
use trundle_core::revision::{Check, Health, Port, Probe};
use trundle_drivers::{Draft, still_running};

fn quick(probe: Probe) -> Check {
    Check { interval_ms: 50, timeout_ms: 200, ..Check::new(probe) }
}

fn health(ready: Check) -> Health {
    Health { startup: None, ready, live: None, ready_assumed: false }
}

fn count(world: &World, instance: &str, fact: &Fact) -> usize {
    world.facts(instance).iter().filter(|f| *f == fact).count()
}

#[test]
fn ready_and_unready_are_told_on_change_only() {
    let mut world = World::new();
    let file = world.cwd().join("ready");
    let draft = sample(&world.cwd(), &[("READY_FILE", file.to_str().unwrap())]);
    let revision =
        world.revision(1, Draft { health: health(Check { interval_ms: 30, ..http("/ready") }), ..draft });
    world.ensure(&revision, &["1-1"], &[]);
    eventually("a failing probe", || world.evidence("1-1").probe.is_some_and(|p| p.status == Some(503)));
    let probe = world.evidence("1-1").probe.unwrap();
    assert_eq!((probe.request.as_str(), probe.body.as_deref()), ("GET /ready", Some("status 503 of")));
    std::fs::write(&file, "").unwrap();
    world.wait_for("1-1", &Fact::Ready);
    std::fs::remove_file(&file).unwrap();
    world.wait_for("1-1", &Fact::Unready);
    std::fs::write(&file, "").unwrap();
    eventually("ready again", || count(&world, "1-1", &Fact::Ready) == 2);
    assert_eq!(count(&world, "1-1", &Fact::Unready), 1);
    // Probes turned off: silence. The exit is told all the same.
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    std::fs::remove_file(&file).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(count(&world, "1-1", &Fact::Unready), 1);
    support::kill(world.started("1-1").0, "KILL");
    world.wait("1-1", "exit", |f| matches!(f, Fact::Exited(_)).then_some(()));
}

#[test]
fn an_adopted_instance_that_is_not_ready_any_more_is_told_so() {
    let mut world = World::new();
    let file = world.cwd().join("ready");
    std::fs::write(&file, "").unwrap();
    let draft = sample(&world.cwd(), &[("READY_FILE", file.to_str().unwrap())]);
    let revision =
        world.revision(1, Draft { health: health(Check { interval_ms: 30, ..http("/ready") }), ..draft });
    world.ensure(&revision, &["1-1"], &[]);
    world.wait_for("1-1", &Fact::Ready);
    world.end();
    std::fs::remove_file(&file).unwrap();
    world.begin();
    world.ensure(&revision, &["1-1"], &[]);
    world.wait_for("1-1", &Fact::Unready);
    assert_eq!(count(&world, "1-1", &Fact::Ready), 0);
}

#[test]
fn an_adopted_instance_that_hangs_is_not_live_though_this_daemon_never_saw_it_ready() {
    let mut world = World::new();
    let check = || quick(http("/ready").probe);
    let health = |live| Health { startup: Some(check()), ready: check(), live, ready_assumed: false };
    let watched = Draft { health: health(Some(check())), ..sample(&world.cwd(), &[]) };
    let watched = world.revision(1, watched);
    let unwatched = Draft { health: health(None), ..sample(&world.cwd(), &[]) };
    let unwatched = world.revision(2, unwatched);
    world.ensure(&watched, &["1-1"], &[]);
    world.ensure(&unwatched, &["2-1"], &[]);
    world.wait_for("1-1", &Fact::Ready);
    world.wait_for("2-1", &Fact::Ready);
    let pids = [world.started("1-1").0, world.started("2-1").0];
    world.end();
    pids.iter().for_each(|pid| support::kill(*pid, "STOP"));
    world.begin();
    world.ensure(&watched, &["1-1", "1-2"], &[]);
    world.ensure(&unwatched, &["2-1"], &[]);
    world.wait_for("1-1", &Fact::Unready);
    world.wait_for("1-1", &Fact::NotLive);
    world.wait_for("2-1", &Fact::Unready);
    // Only `live` may end one: the startup check judges nobody, and one without `live` waits.
    assert!(!world.facts("2-1").iter().any(|f| matches!(f, Fact::NotLive | Fact::Exited(_))));
    world.wait_for("1-2", &Fact::Ready);
    pids.iter().for_each(|pid| support::kill(*pid, "CONT"));
    world.wait_for("2-1", &Fact::Ready);
    assert_eq!(count(&world, "2-1", &Fact::Unready), 1);
}

#[test]
fn a_stranger_who_answers_is_never_ready() {
    let mut world = World::new();
    let port = *world.ports.start() + 15;
    // The instance does not listen; somebody else does, a moment after the start.
    let draft = Draft { port: Port::Fixed(port), ..shell(&world.cwd(), "exec sleep 100") };
    let revision = world.revision(1, draft);
    world.ensure(&revision, &["1-1"], &[]);
    world.started("1-1");
    let mut stranger = std::process::Command::new(SAMPLE)
        .env("PORT", port.to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let expect = format!("pid {}", stranger.id());
    eventually("it is named", || {
        let error = world.evidence("1-1").probe.and_then(|p| p.error).unwrap_or_default();
        error.starts_with("identity_unverified") && error.contains(&expect)
    });
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(count(&world, "1-1", &Fact::Ready), 0);
    assert_eq!(world.evidence("1-1").probe.unwrap().status, Some(200), "it did answer");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_socket_of_a_child_process_is_the_instances() {
    let mut world = World::new();
    // The app runs below a shell, in a session of its own.
    let revision = world.revision(1, shell(&world.cwd(), &format!("setsid {SAMPLE} & wait")));
    world.ensure(&revision, &["1-1"], &[]);
    world.wait_for("1-1", &Fact::Ready);
}

#[test]
fn what_speaks_against_it_is_told() {
    let mut world = World::new();
    let hang = Check { timeout_ms: 1000, ..quick(http("/ready").probe) };
    let cases = [
        ("302", "a redirect to /login is not followed", sample(&world.cwd(), &[("READY_STATUS", "302")])),
        (
            "",
            "timed out after 1 s",
            Draft { health: health(hang), ..sample(&world.cwd(), &[("SLOW_MS", "1500")]) },
        ),
        ("", "connection refused", shell(&world.cwd(), "exec sleep 100")),
        (
            "",
            "exit status: 4",
            Draft {
                health: health(quick(Probe::Exec(
                    ["sh", "-c", "echo no {port}; exit 4"].map(str::to_owned).into(),
                ))),
                ..shell(&world.cwd(), "exec sleep 100")
            },
        ),
        (
            "",
            "timed out after 200 ms",
            Draft {
                health: health(quick(Probe::Exec(
                    ["sh", "-c", "sleep 1000 & sleep 1000"].map(str::to_owned).into(),
                ))),
                ..shell(&world.cwd(), "exec sleep 100")
            },
        ),
    ];
    for (n, (status, error, draft)) in (1..).zip(cases) {
        let revision = world.revision(n, draft);
        let instance = format!("{n}-1");
        world.ensure(&revision, &[&instance], &[]);
        eventually(error, || {
            world.evidence(&instance).probe.is_some_and(|p| p.error.as_deref() == Some(error))
        });
        let probe = world.evidence(&instance).probe.unwrap();
        assert_eq!(probe.status.map(|s| s.to_string()).unwrap_or_default(), status);
        if error.starts_with("exit status") {
            assert_eq!(probe.body, Some(format!("no {}", world.started(&instance).1)));
        }
        assert_eq!(count(&world, &instance, &Fact::Ready), 0);
        world.ensure(&revision, &[], &[&instance]);
        world.wait_for(&instance, &Fact::Gone);
        assert!(still_running(&world.state).is_empty(), "the probes of {error} are gone too");
    }
}

#[test]
fn startup_comes_first_and_liveness_after_ready() {
    let mut world = World::new();
    let (started, alive) = (world.cwd().join("started"), world.cwd().join("alive"));
    let exists =
        |path: &std::path::Path| Probe::Exec(vec!["test".into(), "-e".into(), path.to_str().unwrap().into()]);
    let live = Check { fall: 2, ..quick(exists(&alive)) };
    let health = Health {
        startup: Some(quick(exists(&started))),
        ready: quick(Probe::Tcp),
        live: Some(live),
        ready_assumed: true,
    };
    let revision = world.revision(1, Draft { health, ..sample(&world.cwd(), &[]) });
    world.ensure(&revision, &["1-1"], &[]);
    eventually("it listens", || world.log("1-1").iter().any(|l| l.starts_with("listening")));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(world.facts("1-1").len(), 1, "the gate is closed: {:?}", world.facts("1-1"));
    std::fs::write(&alive, "").unwrap();
    std::fs::write(&started, "").unwrap();
    world.wait_for("1-1", &Fact::Ready);
    std::fs::remove_file(&alive).unwrap();
    world.wait_for("1-1", &Fact::NotLive);
    assert_eq!(world.evidence("1-1").probe.unwrap().error.as_deref(), Some("exit status: 1"));
    let pid = world.started("1-1").0;
    assert!(!is_gone(pid), "judging is not ours");
}

#[test]
fn ready_is_told_soon_after_the_app_can_answer() {
    let mut world = World::new();
    let revision = world.revision(1, sample(&world.cwd(), &[("START_DELAY_MS", "200")]));
    let mut took: Vec<u128> = (1..=20)
        .map(|n| {
            let instance = format!("1-{n}");
            world.ensure(&revision, &[&instance], &[]);
            world.wait_for(&instance, &Fact::Ready);
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
            let mut since = None;
            eventually("its own word", || {
                let line = world.log(&instance).into_iter().find(|l| l.starts_with("listening since "));
                since = line.map(|l| l["listening since ".len()..].parse::<u128>().unwrap());
                since.is_some()
            });
            world.ensure(&revision, &[], &[&instance]);
            now.saturating_sub(since.unwrap())
        })
        .collect();
    took.sort_unstable();
    println!("from listening to ready: median {} us, most {} us", took[took.len() / 2], took[took.len() - 1]);
    // The other tests run on the same two cores: the bar of 15 ms is for the median here.
    assert!(took[took.len() / 2] <= 15_000, "{took:?}");
}
