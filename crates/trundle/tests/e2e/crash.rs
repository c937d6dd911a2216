//! kill -9 at random instants: of the daemon in the middle of each kind of rollout, and of the proxy under load.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::bad_version::{BAD, FIXED, versions};
use crate::harness::chaos::{Chaos, Dice};
use crate::harness::prober::Prober;
use crate::harness::procs::Proc;
use crate::harness::turns::turn;
use crate::harness::{Output, Site, load, sample, scaled, wait_for};
use crate::{bad_version, eight, ten};

/// The daemon dies again and again while `roll(n)` is done again and again. `budget`: floor and ceiling.
fn with_a_dying_daemon(
    name: &str,
    config: &str,
    budget: (usize, usize),
    between_ms: u64,
    mut roll: impl FnMut(&Site, u32),
) {
    let _turn = turn();
    let site = Arc::new(Site::with(config));
    site.deploy("3.0", &[]).expect(0);
    let prober = Prober::start(&site);
    let load = load::start(&site, 24, 20);
    let long = scaled(Duration::from_secs(2), Duration::from_secs(10));
    let chaos = Chaos::start(&site, Dice::new(name), between_ms, scaled(4, 7), long);
    let mut rounds = 0;
    while rounds == 0 || chaos.kills() < scaled(4, 20) {
        rounds += 1;
        roll(&site, rounds);
    }
    let kills = chaos.finish();
    let tally = load.finish();
    let seen = prober.finish();
    println!(
        "{name}: {kills} kills in {rounds} rounds, {} requests, {} lost, {seen:?}",
        tally.sent(),
        tally.lost()
    );
    tally.expect_none_lost(100);
    eight::expect_each_id_once(&site, tally.sent());
    assert!(seen.lowest_serving >= budget.0 && seen.highest_alive <= budget.1, "{seen:?}");
    assert!(seen.twins.is_empty(), "{seen:?}");
}

/// As a person would: a command that met a dying daemon is given again.
fn deploy(site: &Site, version: &str, more: &[&str]) -> Output {
    for _ in 0..20 {
        let said = site.deploy(version, more);
        if said.code != 1 {
            return said;
        }
        println!("given again: {}", said.stderr.trim());
        assert!(said.stderr.contains("daemon"), "an error that is not about the daemon:\n{said}");
        wait_for("a daemon", 30, || site.daemon());
    }
    panic!("no daemon lived long enough for a command");
}

fn with_id_log(config: &str) -> String {
    config.replace("START_MS", "ID_LOG = \"@DIR@/ids\", START_MS")
}

#[test]
fn a_dying_daemon_and_ten_servers() {
    with_a_dying_daemon("ten servers", &with_id_log(&ten::config()), (8, 10), 1500, |site, n| {
        deploy(site, &format!("3.{n}"), &[]).expect(0);
        let status = site.status();
        assert_eq!(versions(&status).values().sum::<u64>(), 10, "{status}");
        assert_eq!(status["lowest_available"], 8, "{status}");
        assert_eq!(status["highest_total"], 10, "{status}");
    });
}

#[test]
fn a_dying_daemon_and_eight_replicas() {
    with_a_dying_daemon("eight replicas", &eight::config(), (7, 9), 1500, |site, n| {
        let version = format!("3.{n}");
        deploy(site, &version, &[]).expect(0);
        let status = site.status();
        assert_eq!(versions(&status), [(version, 8)].into(), "{status}");
        assert_eq!(
            (&status["lowest_available"], &status["highest_total"]),
            (&7.into(), &9.into()),
            "{status}"
        );
    });
}

#[test]
fn a_dying_daemon_and_a_bad_version() {
    // Only watched time counts towards a deadline: now and then a daemon must live for longer than the 2 s of it.
    with_a_dying_daemon("bad version", &bad_version::config(""), (7, 8), 3000, |site, n| {
        let of = |what: &str| format!("{n}.{what}");
        deploy(site, &of("1"), &[]).expect(0);
        let card = deploy(site, &of("2"), &BAD).expect(10);
        assert!(card.stdout.contains("DB_POOL 10 → 40"), "{card}");
        let status = site.status();
        if n == 1 {
            // The words of the single run, versions apart.
            assert_eq!(versions(&status), [(of("1"), 5), (of("2"), 2)].into(), "{status}");
        }
        assert_eq!(status["rollout"]["state"], "paused", "{status}");
        deploy(site, &of("3"), &FIXED).expect(0);
        assert_eq!(versions(&site.status()), [(of("3"), 8)].into());
    });
}

/// While a rollout is paused in the middle, so that every request of the test belongs to it.
#[test]
fn a_killed_proxy_refuses_nobody() {
    let _turn = turn();
    let site = Site::with(&sample(3, r#"START_MS = "300""#, "max_surge = 1"));
    site.deploy("3.1", &[]).expect(0);
    site.deploy("3.2", &["--detach"]).expect(0);
    site.run(&["pause"]).expect(0);
    let knocking = knock(&site);
    let load = load::start(&site, 24, 2);
    let mut dice = Dice::new("proxy");
    let kills: u64 = scaled(5, 20);
    for n in 1..=kills {
        std::thread::sleep(Duration::from_millis(400) + dice.ms(500));
        let proxy = wait_for("a proxy", 5, || site.procs().into_iter().find(Proc::is_proxy));
        if n == kills {
            // The last time there is no daemon to help.
            site.daemon().unwrap().kill9();
        }
        proxy.kill9();
        // A new connection is never refused: it is answered by the next proxy.
        let answer = site.get("/").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    std::thread::sleep(Duration::from_millis(500));
    let tally = load.finish();
    let (knocks, refused) = knocking();
    assert!(knocks > 500 && refused == 0, "{refused} of {knocks} connections were refused");
    site.run(&["resume"]).expect(0);
    let status = site.status();
    println!("proxy: {kills} kills, {tally:?}, inside {}", status["requests"]);
    assert_eq!(versions(&status), [("3.2".to_owned(), 3)].into(), "{status}");
    assert!(!tally.losses().contains("connect"), "{}", tally.losses());
    // In flight at the instant of a kill: at most one of each connection.
    assert!(tally.lost() > 0 && tally.lost() <= 24 * kills, "{tally:?}");
    // What the client saw as lost is told as lost: here, no loss is unknown to the operator.
    let lost = status["requests"]["lost"].as_u64().unwrap();
    assert!((tally.lost()..=tally.lost() + kills).contains(&lost), "{tally:?}, but status tells {lost}");
    let total = status["requests"]["total"].as_u64().unwrap();
    assert!(total >= tally.sent(), "{tally:?}, but status knows of {total}");
}

/// Opens connection after connection; told to end, it says how many it tried and how many were refused.
fn knock(site: &Site) -> impl FnOnce() -> (u32, u32) {
    let (address, stop) = (site.listen(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let (mut knocks, mut refused) = (0, 0);
        while !stopped.load(Ordering::Relaxed) {
            knocks += 1;
            refused += u32::from(TcpStream::connect(&address).is_err());
            std::thread::sleep(Duration::from_millis(3));
        }
        (knocks, refused)
    });
    move || {
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap()
    }
}

/// The holder has the address, and its proxy is not there yet: that is no stranger's.
#[test]
fn a_deploy_between_two_proxies_with_no_daemon_is_taken() {
    let site = Site::with(&sample(1, r#"START_MS = "0""#, ""));
    site.deploy("1", &[]).expect(0);
    let proxy = site.procs().into_iter().find(Proc::is_proxy).unwrap();
    let holder = site.procs().into_iter().find(Proc::is_holder).unwrap();
    holder.signal(Signal::STOP);
    site.daemon().unwrap().kill9();
    proxy.kill9();
    wait_for("the end of the proxy", 10, || (!proxy.lives()).then_some(()));
    let rolling = site.start(&["deploy", "--set", "version=2"]);
    wait_for("a daemon", 10, || site.daemon());
    holder.signal(Signal::CONT);
    rolling.finish().expect(0);
    assert!(site.get("/").unwrap().contains("x-app-version: 2"));
}
