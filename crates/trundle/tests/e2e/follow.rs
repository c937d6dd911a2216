//! Who follows a rollout: what he is told, and with which code he ends.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Site, procs, sample, wait_for};

const SLOW: [&str; 2] = ["--set", "run.env.START_MS=3000"];

fn site() -> Site {
    let site = Site::with(&sample(2, r#"START_MS = "50""#, "max_surge = 1\nmax_unavailable = 0"));
    site.deploy("1.0", &[]).expect(0);
    site
}

fn wait_for_rollout_to(site: &Site, version: &str) {
    wait_for("the rollout", 10, || (site.status()["rollout"]["to_version"] == version).then_some(()));
}

#[test]
fn who_comes_later_is_told_where_it_stands_and_then_only_what_is_new() {
    let site = site();
    site.deploy("2.0", &[&SLOW[..], &["--detach"]].concat()).expect(0);
    wait_for("its first instance", 10, || (site.status()["live"] == 3).then_some(()));
    let said = site.run(&["wait"]).expect(0);
    let lines: Vec<_> = said.stdout.lines().collect();
    assert!(lines[0].contains("rollout 2 to 2.0 is running: 2 × 1.0 available (floor 2), 3 live"), "{said}");
    assert!(!said.stdout.contains("starts web-2-1 "), "that was before:\n{said}");
    assert!(said.stdout.contains("web-2-1 (2.0) is ready"), "{said}");
    let joined = site.deploy("2.0", &SLOW).expect(0);
    assert!(!joined.stdout.contains("starts"), "{joined}");
    // What comes of one's own request is told all the same.
    let said = site.deploy("3.0", &[]).expect(0);
    assert!(!said.stdout.contains("is running:"), "{said}");
    assert!(said.stdout.contains("rollout 3 to 3.0") && said.stdout.contains("starts web-3-1 "), "{said}");
    let said = site.run(&["scale", "web", "3"]).expect(0);
    assert!(said.stdout.contains("3 replicas") && !said.stdout.contains("never below"), "{said}");
}

#[test]
fn the_outcome_of_its_own_rollout_decides_when_another_one_is_there_already() {
    let site = site();
    let following = site.start(&[&["deploy", "--set", "version=2.0"][..], &SLOW].concat());
    wait_for_rollout_to(&site, "2.0");
    let me = procs::read(following.pid()).unwrap();
    // It sleeps, and loses its daemon, while its rollout succeeds and another one begins.
    me.signal(Signal::STOP);
    let daemon = site.daemon().unwrap();
    daemon.kill9();
    wait_for("its end", 5, || (!daemon.lives()).then_some(()));
    site.deploy("2.0", &SLOW).expect(0);
    site.deploy("3.0", &[&SLOW[..], &["--detach"]].concat()).expect(0);
    me.signal(Signal::CONT);
    let said = following.finish().expect(0);
    assert!(said.stdout.contains("rollout 2 is done; after it came rollout 3 to 3.0"), "{said}");
    assert_eq!(said.stderr.matches("waiting for it to come back").count(), 1, "{said}");
    assert_eq!(site.status()["rollout"]["state"], "running");
    site.run(&["wait", "2"]).expect(0);
    site.run(&["abort"]).expect(0);
    site.run(&["wait", "3"]).expect(11);
}

#[test]
fn a_daemon_that_is_away_is_told_once() {
    let site = site();
    let following = site.start(&[&["deploy", "--set", "version=2.0"][..], &SLOW].concat());
    wait_for_rollout_to(&site, "2.0");
    let daemon = site.daemon().unwrap();
    daemon.kill9();
    wait_for("its end", 5, || (!daemon.lives()).then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    site.run(&["wait"]).expect(0);
    let said = following.finish().expect(0);
    assert_eq!(said.stderr.matches("waiting for it to come back").count(), 1, "{said}");
}

#[test]
fn when_the_reader_has_left_only_who_follows_says_that_something_goes_on() {
    let site = site();
    let code = |args: &[&str]| {
        let mut child = site
            .command(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        child.wait().unwrap().code()
    };
    wait_for("something to show", 10, || (!site.run(&["logs"]).stdout.is_empty()).then_some(()));
    for command in [&["history"][..], &["status", "--json"], &["logs"], &["status", "--watch"]] {
        assert_eq!(code(command), Some(141), "{command:?}");
    }
    assert_eq!(code(&["deploy", "--json", "-f", "nowhere.toml"]), Some(1), "nothing was begun");
    assert_eq!(code(&["resume", "--json"]), Some(13));
    assert_eq!(code(&["deploy", "--set", "version=1.0"]), Some(0), "there was nothing to do");
    assert_eq!(code(&[&["deploy", "--set", "version=2.0"][..], &SLOW].concat()), Some(15));
    site.run(&["wait"]).expect(0);
    assert_eq!(site.status()["rollout"]["to_version"], "2.0", "what was accepted goes on");
    site.deploy("3.0", &[&SLOW[..], &["--detach"]].concat()).expect(0);
    assert_eq!(code(&["wait"]), Some(15));
    site.run(&["wait"]).expect(0);
}
