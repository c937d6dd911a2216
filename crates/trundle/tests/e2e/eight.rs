//! Eight replicas at 1/1 under load, several rollouts in a row: floor 7, ceiling 9, nothing lost, nothing done twice.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::harness::prober::Prober;
use crate::harness::turns::turn;
use crate::harness::{Running, Site, load, procs, sample, scaled};

pub fn config() -> String {
    let env = format!(r#"START_MS = "{}", ID_LOG = "@DIR@/ids""#, scaled(200, 1500));
    sample(8, &env, "max_surge = 1\nmax_unavailable = 1")
}

#[test]
fn eight_replicas_lose_nothing_over_several_rollouts() {
    let _turn = turn();
    let site = Site::with(&config());
    site.deploy("3.0", &[]).expect(0);
    let prober = Prober::start(&site);
    let load = load::start(&site, scaled(48, 400), scaled(10, 20));
    let rollouts = scaled(2, 5);
    for n in 1..=rollouts {
        site.deploy(&format!("3.{n}"), &[]).expect(0);
        let status = site.status();
        assert_eq!((status["floor"].clone(), status["ceiling"].clone()), (7.into(), 9.into()));
        assert_eq!(status["lowest_available"], 7, "{status}");
        assert_eq!(status["highest_total"], 9, "{status}");
        assert_eq!(status["requests"]["lost"], 0, "{status}");
        assert_eq!(status["requests"]["cut"], 0, "{status}");
    }
    let tally = load.finish();
    let seen = prober.finish();
    tally.expect_none_lost(scaled(500, 100_000));
    assert_eq!((seen.lowest_serving, seen.highest_alive), (7, 9), "{seen:?}");
    assert!(seen.twins.is_empty(), "{seen:?}");
    expect_each_id_once(&site, tally.sent());

    let history = site.run(&["history", "--json"]).expect(0).json();
    let inside: u64 = history["rollouts"].as_array().unwrap()[1..]
        .iter()
        .map(|row| row["requests"]["total"].as_u64().unwrap())
        .sum();
    assert!(2 * inside >= tally.sent(), "{inside} of {} inside rollouts", tally.sent());
    println!(
        "{rollouts} rollouts, {} requests, {inside} inside, p99 {} ms, {seen:?}",
        tally.sent(),
        tally.p99_ms()
    );
}

/// The apps wrote down every id that they answered: as many as were sent, and none twice.
pub fn expect_each_id_once(site: &Site, sent: u64) {
    let (mut all, mut ids) = (0, BTreeSet::new());
    for entry in fs::read_dir(site.dir().join("ids")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        all += text.lines().count() as u64;
        ids.extend(text.lines().map(str::to_owned));
    }
    assert_eq!((all, ids.len() as u64), (sent, sent), "processed, distinct ids, against what was sent");
}

/// A client that nobody here wrote, where it is installed.
#[test]
fn wrk_sees_no_error() {
    if Command::new("wrk").arg("-v").output().is_err() {
        println!("wrk is not installed: skipped");
        return;
    }
    let _turn = turn();
    let site = Site::with(&sample(8, r#"START_MS = "200""#, "max_surge = 1\nmax_unavailable = 1"));
    site.deploy("3.0", &[]).expect(0);
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c32", "-d300s", "--timeout", "10s", &format!("http://{}/", site.listen())]);
    let wrk = Running::of(wrk);
    for n in 1..=scaled(2, 5) {
        site.deploy(&format!("3.{n}"), &[]).expect(0);
        let status = site.status();
        assert_eq!(
            (&status["lowest_available"], &status["highest_total"]),
            (&7.into(), &9.into()),
            "{status}"
        );
        assert_eq!(status["requests"]["lost"], 0, "{status}");
    }
    // It tells what it saw when it is interrupted.
    procs::read(wrk.pid()).unwrap().signal(rustix::process::Signal::INT);
    let said = wrk.finish().stdout;
    println!("{said}");
    let requests = said.lines().find_map(|l| l.trim().split_once(" requests in ")?.0.parse::<u64>().ok());
    assert!(requests > Some(1000), "{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
}
