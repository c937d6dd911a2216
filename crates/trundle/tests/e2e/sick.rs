//! Instances that get sick in the middle of things: killed as they become ready, late, flapping, halted, deaf, out of memory.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::Value;
use trundle_core::event::{Event, Fact};
use trundle_engine::journal::{Entry, SqliteJournal, Store};

use crate::bad_version::versions;
use crate::harness::prober::{self, Prober};
use crate::harness::procs::{self, Proc};
use crate::harness::turns::turn;
use crate::harness::{Site, load, sample, scaled, wait_for};

// What a test of the shim needs too.
#[path = "../../../drivers/tests/support/group.rs"]
mod group;

fn answers(app: &Proc) -> bool {
    let answer = app.port().and_then(|port| prober::get(port, "/ready").ok());
    answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The app that this record of a shim names.
fn running(record: &Path) -> Option<Proc> {
    let record: Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
    procs::read(u32::try_from(record["child_pid"].as_u64()?).ok()?)
}

fn journal(site: &Site) -> Vec<Entry> {
    SqliteJournal::open_to_read(&site.state()).unwrap().load().unwrap()
}

/// When this was seen of the instance, in milliseconds of the journal and of the wall clock.
fn seen(site: &Site, name: &str, fact: &Fact) -> Vec<(u64, u64)> {
    let is_it = |entry: &Entry| match &entry.event {
        Event::Observed { instance, fact: seen } => {
            instance.name(&entry.app) == name && std::mem::discriminant(seen) == std::mem::discriminant(fact)
        }
        _ => false,
    };
    journal(site).iter().filter(|entry| is_it(entry)).map(|entry| (entry.at_ms, entry.wall_ms)).collect()
}

fn instance<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["instances"].as_array().unwrap().iter().find(|row| row["id"] == name)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// Row 14. The first, the second, the third new one is killed just after it has answered its check, before it has stood its
/// `min_healthy_time`, after which an old one would have left for it.
#[test]
fn one_that_is_killed_as_it_becomes_ready_takes_no_old_one_with_it() {
    const MIN_HEALTHY: Duration = Duration::from_millis(800);
    let rollout = "max_surge = 1\nmax_unavailable = 0\nmin_healthy_time = \"800ms\"";
    let site = Site::with(&sample(3, r#"START_MS = "50""#, rollout));
    site.deploy("1.0", &[]).expect(0);
    let mut in_time = 0;
    for slot in 1..=3 {
        let version = format!("2.{slot}");
        let prober = Prober::start(&site);
        let deploy = site.start(&["deploy", "--set", &format!("version={version}")]);
        let mut not_yet = Instant::now();
        // Looking through all of /proc would take too long.
        let record = site.state().join(format!("instances/web/{}-{slot}/shim.json", slot + 1));
        let victim = wait_for("the new one's first answer", 20, || {
            let before = Instant::now();
            let found = running(&record).filter(answers);
            if found.is_none() {
                not_yet = before;
            }
            found
        });
        victim.kill9();
        // On a machine that is out of breath the kill may come late: then it was no kill in the gap.
        let is_in_time = not_yet.elapsed() < MIN_HEALTHY / 2;
        let said = deploy.finish();
        let (status, seen) = (site.status(), prober.finish());
        assert!(seen.highest_alive <= 4 && seen.twins.is_empty(), "{seen:?}");
        if is_in_time {
            in_time += 1;
            let said = said.expect(10);
            let card = said.card().join("\n");
            assert!(card.contains("SIGKILL") && card.contains(victim.app().unwrap()), "{said}");
            assert!(versions(&status).values().sum::<u64>() >= 3, "{status}");
            assert!(seen.lowest_serving >= 3, "an old one left for one that was dead: {seen:?}\n{status}");
            site.run(&["resume"]).expect(0);
        } else if said.code == 10 {
            site.run(&["resume"]).expect(0);
        }
        assert_eq!(versions(&site.status()), [(version, 3)].into());
    }
    println!("{in_time} of 3 kills came in the gap");
    assert!(in_time > 0, "no kill came in the gap: this machine is too slow for the test");
}

/// Row 20: two deadlines of six seconds, and an app that needs four.
#[test]
fn one_that_is_ready_just_before_the_deadlines_is_not_judged_bad() {
    let rollout = "max_surge = 1\nmax_unavailable = 0\nhealthy_deadline = \"6s\"\nprogress_deadline = \"6s\"";
    let site = Site::with(&sample(1, r#"START_MS = "50""#, rollout));
    site.deploy("1.0", &[]).expect(0);
    site.deploy("2.0", &["--set", "run.env.START_MS=4000"]).expect(0);
    assert_eq!(versions(&site.status()), [("2.0".to_owned(), 1)].into());
}

/// Row 20, past the same deadline.
#[test]
fn one_that_is_ready_just_after_the_deadline_is_judged_bad() {
    let rollout = "max_surge = 1\nmax_unavailable = 0\nhealthy_deadline = \"3s\"";
    let site = Site::with(&sample(1, r#"START_MS = "50""#, rollout));
    site.deploy("1.0", &[]).expect(0);
    let said = site.deploy("2.0", &["--set", "run.env.START_MS=4500"]).expect(10);
    assert!(said.card()[0].contains("not ready after 3 s"), "{said}");
    assert_eq!(versions(&site.status()), [("1.0".to_owned(), 1)].into());
}

/// Row 22. One of three flaps: slower than its check, so that it leaves the table and comes back, and then far faster.
#[test]
fn one_that_flaps_leaves_the_table_no_faster_than_its_check_allows_and_alone() {
    const INTERVAL_MS: u64 = 50;
    const FALL: u64 = 6;
    let _turn = turn();
    let rollout = "max_surge = 1\nmax_unavailable = 0";
    let check = format!("[health.ready]\ninterval = \"{INTERVAL_MS}ms\"\nrise = 2\nfall = {FALL}\n");
    let env = r#"START_MS = "50", FAIL = "flap:600:web-1-2""#;
    let site = Site::with(&sample(3, env, rollout).replace("[health.ready]\n", &check));
    site.deploy("1.0", &[]).expect(0);
    let load = load::start_quick(&site, 8, 5);
    wait_for("its second return", 20, || (seen(&site, "web-1-2", &Fact::Ready).len() >= 3).then_some(()));

    // Below the pace of its check; its instances have other names.
    site.deploy("2.0", &["--set", "run.env.FAIL=flap:60:web-2-2"]).expect(0);
    let began = Instant::now();
    let watch = Duration::from_secs(scaled(2, 20));
    wait_for("time to flap", 30, || (began.elapsed() > watch).then_some(()));

    load.finish().expect_none_lost(100);
    let entries = journal(&site);
    let mut out = BTreeSet::new();
    for entry in &entries {
        if let Event::Observed { instance, fact } = &entry.event {
            match fact {
                Fact::Unready => out.insert(*instance),
                Fact::Ready | Fact::Exited(_) | Fact::Gone => out.remove(instance),
                _ => false,
            };
            assert!(out.len() <= 1, "two are out by the flaps of one: {out:?}");
        }
    }
    for (name, at_least) in [("web-1-2", 2), ("web-2-2", 0)] {
        let (ready, unready) = (seen(&site, name, &Fact::Ready), seen(&site, name, &Fact::Unready));
        println!("{name}: ready {} times, unready {} times", ready.len(), unready.len());
        assert!(unready.len() >= at_least, "{unready:?}");
        // After each return at least `fall` failures in a row, and the first comes an interval after the last success.
        for ((out, _), (back, _)) in unready.iter().zip(&ready) {
            let gap = out - back;
            assert!(gap >= (FALL - 1) * INTERVAL_MS, "{name} was out {gap} ms after it came in");
        }
        assert!(unready.len() <= ready.len(), "{ready:?} {unready:?}");
    }
    for name in ["web-1-1", "web-1-3", "web-2-1", "web-2-3"] {
        assert!(seen(&site, name, &Fact::Unready).is_empty(), "{name} does not flap");
    }
}

/// Row 23. What it holds waits, all else is answered; killed, it loses what it holds and no more.
#[test]
fn one_that_is_halted_keeps_only_what_it_holds_and_comes_back() {
    const FALL: u64 = 3;
    const EACH_MS: u64 = 100 + 200;
    let _turn = turn();
    let check = format!("[health.ready]\ninterval = \"100ms\"\ntimeout = \"200ms\"\nfall = {FALL}\n");
    let text = sample(4, r#"START_MS = "50""#, "max_surge = 1\nmax_unavailable = 0");
    let site = Site::with(&text.replace("[health.ready]\n", &check));
    site.deploy("1.0", &[]).expect(0);
    let hung = site.apps().remove(0);
    let name = hung.app().unwrap().to_owned();
    let total = |status: &Value| status["latency"]["1.0"]["count"].as_u64().unwrap();
    let held = |status: &Value| instance(status, &name).unwrap()["in_flight"].as_u64().unwrap();
    let is_out = || {
        let status = site.status();
        (instance(&status, &name).unwrap()["phase"] == "unready").then_some(status)
    };
    let others_go_on = |from: &Value| {
        let until = total(from) + 300;
        wait_for("300 answers of the others", 20, || {
            Some(site.status()).filter(|status| total(status) >= until)
        })
    };
    let connections = 16;

    let load = load::start_quick(&site, connections, 2);
    others_go_on(&site.status());
    let halted_at = now_ms();
    hung.signal(Signal::STOP);
    let out = wait_for("it to leave the table", 20, is_out);
    let (_, left_at) = *seen(&site, &name, &Fact::Unready).last().unwrap();
    let took = left_at.saturating_sub(halted_at);
    // What a loaded machine adds is not ours.
    assert!(took <= FALL * EACH_MS + 1500, "out of the table after {took} ms");
    // The proxy hears of it a moment later.
    let soon = others_go_on(&out);
    let table = std::fs::read_to_string(site.state().join("proxy-table.json")).unwrap();
    assert_eq!(table.matches("\"unready\"").count(), 1, "the proxy knows: {table}");
    let holds = held(&soon);
    let later = others_go_on(&soon);
    assert_eq!(held(&later), holds, "it gets no more: {later}");
    // A quarter is its share, and what it has makes it the last to be chosen; the others may be busy at that moment.
    let most = u64::from(connections) * 3 / 4;
    assert!((1..=most).contains(&holds), "{holds} of {connections} connections wait for it");
    hung.signal(Signal::CONT);
    wait_for("its return", 20, || {
        (instance(&site.status(), &name).unwrap()["phase"] == "ready").then_some(())
    });
    wait_for("what it held", 20, || (held(&site.status()) < holds).then_some(()));
    let tally = load.finish();
    tally.expect_none_lost(300);

    let load = load::start_quick(&site, connections, 2);
    others_go_on(&site.status());
    hung.signal(Signal::STOP);
    let holds = held(&others_go_on(&wait_for("it to leave the table again", 20, is_out)));
    hung.kill9();
    wait_for("another in its place", 20, || {
        let apps = site.apps();
        (apps.len() == 4 && apps.iter().all(|app| app.pid != hung.pid && answers(app))).then_some(())
    });
    let tally = load.finish();
    println!("out of the table after {took} ms; killed it held {holds}: {tally:?}");
    assert!(tally.lost() == holds && holds <= most, "{holds} in its hands: {tally:?}");
}

/// Rows 24 and 29. Each old one is deaf for as long as its grace lasts, and has a child in another session and without a
/// label; while it is on its way out it counts.
#[test]
fn what_ignores_the_signal_counts_until_nothing_of_it_is_left() {
    let _turn = turn();
    let rollout = "max_surge = 1\nmax_unavailable = 0\nstop_grace_period = \"700ms\"";
    let env = r#"START_MS = "50", STOP_MS = "600000", ORPHAN = "1""#;
    let child = "setsid env -u TRUNDLE_INSTANCE sleep 1000 & echo orphan $!";
    let script = format!("trap '' TERM; [ -z $ORPHAN ] || {{ {child}; }}; exec @BIN@ sample");
    let script = script.replace('{', "{{").replace('}', "}}");
    let deaf = format!(r#"["sh", "-c", "{script}"]"#);
    let site = Site::with(&sample(3, env, rollout).replace(r#"["@BIN@", "sample"]"#, &deaf));
    site.deploy("1.0", &[]).expect(0);
    let apps = site.apps();
    let logs = site.run(&["logs", "web"]).expect(0).stdout;
    let orphans: Vec<Proc> = logs
        .lines()
        .filter_map(|line| line.split_once("orphan ")?.1.parse().ok())
        .map(|pid| procs::read(pid).unwrap())
        .collect();
    assert_eq!((apps.len(), orphans.len()), (3, 3), "{logs}");

    let prober = Prober::start(&site);
    site.deploy("2.0", &["--set", "run.env.ORPHAN="]).expect(0);
    let left: Vec<_> = apps.iter().chain(&orphans).filter(|proc| proc.lives()).collect();
    let seen = prober.finish();
    assert!(left.is_empty(), "left of the old ones: {left:?}");
    assert_eq!((seen.lowest_serving, seen.highest_alive), (3, 4), "three and one more: {seen:?}");
    assert!(seen.twins.is_empty() && seen.looks > 20, "{seen:?}");
    let status = site.status();
    assert_eq!((&status["highest_total"], &status["ceiling"]), (&4.into(), &4.into()), "{status}");
    for port in apps.iter().filter_map(Proc::port) {
        drop(TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|e| panic!("port {port}: {e}")));
    }
}

/// Row 26.
#[test]
fn one_that_ran_out_of_memory_is_told_so_on_its_card() {
    let Some(group) = group::Group::new("card") else { return };
    let enter = r#"["sh", "-c", "test -z \"$GROUP\" || echo $$ > $GROUP; exec @BIN@ sample"]"#;
    let text = sample(2, r#"START_MS = "50""#, "max_surge = 1\nmax_unavailable = 0");
    let site = Site::with(&text.replace(r#"["@BIN@", "sample"]"#, enter));
    site.deploy("1.0", &[]).expect(0);
    let procs = format!("run.env.GROUP={}", group.procs().display());
    let said = site.deploy("2.0", &["--set", "run.env.FAIL=eat", "--set", &procs]).expect(10);
    let first = said.card().into_iter().take(2).collect::<Vec<_>>().join("\n");
    assert!(first.contains("SIGKILL") && first.contains("out of memory"), "{said}");
    assert_eq!(versions(&site.status()), [("1.0".to_owned(), 2)].into());
    drop(site);
    drop(group);
}
