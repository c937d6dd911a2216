//! The exit codes and the words of the command line.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Site, sample, wait_for};

const SURGE: &str = "max_surge = 1\nmax_unavailable = 0";

/// Ready after a while, so that a rollout can be met in its middle.
fn slow_site() -> Site {
    let site = Site::with(&sample(2, r#"START_MS = "50""#, SURGE));
    site.deploy("1.0", &[]).expect(0);
    site
}

const SLOW: [&str; 2] = ["--set", "run.env.START_MS=3000"];

fn begin_slow(site: &Site, version: &str) {
    site.deploy(version, &[&SLOW[..], &["--detach"]].concat()).expect(0);
    assert_eq!(site.status()["rollout"]["state"], "running");
}

#[test]
fn the_same_revision_again_is_nothing_to_do() {
    let site = slow_site();
    let before = site.status();
    let said = site.deploy("1.0", &[]).expect(0);
    assert!(!said.stdout.contains("starts"), "{said}");
    let (rollouts, instances) = ("rollout", "instances");
    let pids = |status: &Value| -> Vec<Value> {
        status[instances].as_array().unwrap().iter().map(|i| i["pid"].clone()).collect()
    };
    let after = site.status();
    assert_eq!(before[rollouts]["id"], after[rollouts]["id"]);
    assert_eq!(pids(&before), pids(&after));
}

#[test]
fn refused_while_another_rollout_runs() {
    let site = slow_site();
    begin_slow(&site, "2.0");
    let said = site.deploy("3.0", &["--if-idle"]).expect(13);
    assert!(said.stderr.contains("2.0") && said.stderr.contains("rollout 2"), "which one holds it:\n{said}");
    assert_eq!(site.status()["rollout"]["to_version"], "2.0");
    site.run(&["wait"]).expect(0);
}

#[test]
fn refused_when_there_is_nothing_to_pause() {
    let site = slow_site();
    for command in ["pause", "resume"] {
        let said = site.run(&[command]).expect(13);
        assert!(said.stderr.contains("refused"), "{said}");
    }
    assert_eq!(site.run(&["abort"]).code, 0, "with nothing running it does nothing");
    let said = site.run(&["rollback"]).expect(13);
    assert!(said.stderr.contains("refused"), "there is no older version:\n{said}");
}

#[test]
fn superseded_says_by_which() {
    let site = slow_site();
    let first = site.start(&[&["deploy", "--set", "version=2.0"][..], &SLOW].concat());
    wait_for("the first to begin", 10, || (site.status()["rollout"]["to_version"] == "2.0").then_some(()));
    site.deploy("3.0", &[]).expect(0);
    let first = first.finish().expect(14);
    assert!(first.stderr.contains("rollout 3") && first.stderr.contains("3.0"), "{first}");
    assert!(first.stderr.contains("trundle wait 3"), "{first}");
    assert_eq!(crate::bad_version::versions(&site.status()), [("3.0".to_owned(), 2)].into());
}

#[test]
fn a_timeout_leaves_the_rollout_alone() {
    let site = slow_site();
    let said = site.deploy("2.0", &[&SLOW[..], &["--timeout", "300ms"]].concat()).expect(15);
    assert!(said.stderr.contains("trundle wait"), "how to follow:\n{said}");
    assert_eq!(site.status()["rollout"]["state"], "running");
    site.run(&["wait"]).expect(0);
    assert_eq!(site.status()["rollout"]["state"], "succeeded");
}

#[test]
fn an_interrupt_leaves_the_rollout_alone() {
    let site = slow_site();
    let following = site.start(&[&["deploy", "--set", "version=2.0"][..], &SLOW].concat());
    wait_for("the rollout", 10, || (site.status()["rollout"]["to_version"] == "2.0").then_some(()));
    let me = crate::harness::procs::read(following.pid()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    me.signal(rustix::process::Signal::INT);
    let said = following.finish().expect(15);
    assert!(said.stderr.contains("trundle wait"), "{said}");
    site.run(&["wait"]).expect(0);
}

#[test]
fn an_abort_is_done_and_its_follower_was_rolled_back() {
    let site = slow_site();
    let following = site.start(&[&["deploy", "--set", "version=2.0"][..], &SLOW].concat());
    wait_for("the rollout", 10, || (site.status()["rollout"]["to_version"] == "2.0").then_some(()));
    site.run(&["abort"]).expect(0);
    let said = following.finish().expect(11);
    assert!(said.stdout.contains("aborted"), "{said}");
    let status = site.status();
    assert_eq!(status["rollout"]["state"], "aborted");
    assert_eq!(crate::bad_version::versions(&status), [("1.0".to_owned(), 2)].into());
}

#[test]
fn a_pause_is_10_for_who_follows_and_resume_goes_on() {
    let site = slow_site();
    let following = site.start(&[&["deploy", "--set", "version=2.0"][..], &SLOW].concat());
    wait_for("the rollout", 10, || (site.status()["rollout"]["to_version"] == "2.0").then_some(()));
    site.run(&["pause"]).expect(0);
    let said = following.finish().expect(10);
    assert!(said.stdout.contains("paused by") && said.stdout.contains("trundle resume web"), "{said}");
    site.run(&["resume"]).expect(0);
    assert_eq!(crate::bad_version::versions(&site.status()), [("2.0".to_owned(), 2)].into());
}

#[test]
fn scale_restart_and_rollback() {
    let site = slow_site();
    site.run(&["scale", "web", "3"]).expect(0);
    assert_eq!(crate::bad_version::versions(&site.status()), [("1.0".to_owned(), 3)].into());
    let pids =
        |site: &Site| site.apps().into_iter().map(|p| p.pid).collect::<std::collections::BTreeSet<_>>();
    let before = pids(&site);
    site.run(&["restart", "web"]).expect(0);
    assert!(pids(&site).is_disjoint(&before), "every instance is a new process");
    assert_eq!(site.apps().len(), 3);
    // The file still says 2.
    site.deploy("2.0", &[]).expect(0);
    assert_eq!(crate::bad_version::versions(&site.status()), [("2.0".to_owned(), 2)].into());
    site.run(&["rollback"]).expect(0);
    assert_eq!(crate::bad_version::versions(&site.status()), [("1.0".to_owned(), 2)].into());
}

#[test]
fn plan_tells_whether_there_are_changes() {
    let site = slow_site();
    site.run(&["plan", "--exit-code", "--set", "version=1.0"]).expect(0);
    let said = site.run(&["plan", "--exit-code", "--set", "version=2.0"]).expect(20);
    assert!(said.stdout.contains("2.0"), "{said}");
    site.run(&["plan", "--set", "version=2.0"]).expect(0);
    assert_eq!(site.status()["rollout"]["to_version"], "1.0", "a plan changes nothing");
}

#[test]
fn a_second_daemon_is_refused_and_names_the_first() {
    let site = slow_site();
    let first = site.daemon().unwrap();
    let said = site.run(&["daemon"]).expect(1);
    assert!(said.stderr.contains(&format!("pid {}", first.pid)), "{said}");
    assert!(first.lives(), "the first goes on");
    assert_eq!(site.status()["available"], 2);
}

#[test]
fn what_can_be_read_without_a_daemon_is_read_without_one() {
    let site = slow_site();
    let daemon = site.daemon().unwrap();
    daemon.kill9();
    wait_for("its end", 5, || (!daemon.lives()).then_some(()));
    for command in [&["status"][..], &["status", "--json"], &["history"], &["report"], &["logs", "web"]] {
        let said = site.run(command).expect(0);
        assert!(said.stdout.contains("web") || said.stdout.contains("1.0"), "{command:?}\n{said}");
        if command != ["logs", "web"] {
            assert!(said.stderr.contains("no daemon"), "it says so: {command:?}\n{said}");
        }
        assert!(site.daemon().is_none(), "{command:?} started a daemon");
    }
    assert!(site.get("/").unwrap().contains("1.0 0"), "it serves all the while");
}

#[test]
fn down_leaves_nothing() {
    let site = slow_site();
    site.run(&["down", "web"]).expect(0);
    assert!(site.apps().is_empty() && site.daemon().is_some());
    site.deploy("1.0", &[]).expect(0);
    assert_eq!(site.apps().len(), 2, "it comes back");
    // Also when the daemon is gone.
    site.daemon().unwrap().kill9();
    wait_for("its end", 5, || site.daemon().is_none().then_some(()));
    site.run(&["down"]).expect(0);
    assert!(site.procs().is_empty(), "{:?}", site.procs());
    assert!(std::net::TcpListener::bind(site.listen()).is_ok(), "the address is free");
    let said = site.run(&["down"]).expect(0);
    assert!(said.stdout.contains("nothing to stop"), "{said}");
}

/// The counts of a proxy outlive it: the first rollout after everything was down is counted like any other.
#[test]
fn a_rollout_after_down_is_counted_from_its_own_beginning() {
    let site = slow_site();
    for _ in 0..5 {
        site.get("/").unwrap();
    }
    site.run(&["down"]).expect(0);
    site.start(&["deploy", "--set", "version=2.0"]).finish().expect(0);
    for _ in 0..3 {
        site.get("/").unwrap();
    }
    site.deploy("3.0", &[]).expect(0);
    let history = site.run(&["history", "--json"]).expect(0).json();
    let requests: Vec<_> = history["rollouts"].as_array().unwrap().iter().map(|r| &r["requests"]).collect();
    assert!(requests.iter().all(|of_one| of_one["total"].as_u64().is_some_and(|n| n < 3)), "{history}");
}
