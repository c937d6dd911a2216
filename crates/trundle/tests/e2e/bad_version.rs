//! A version that is right for two instances and wrong for the third: it stops by itself, tells why, and goes on from there.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::harness::prober::{Prober, Seen};
use crate::harness::turns::turn;
use crate::harness::{Site, load, sample};

/// The third instance of a revision with `DB_POOL = 40` is refused by a database that allows 100.
pub fn config(rollout: &str) -> String {
    let env = r#"START_MS = "100", DB_POOL = "10", DB_LIMIT = "100", DB_DIR = "@DIR@/database", ID_LOG = "@DIR@/ids""#;
    let budget = "max_surge = 0\nmax_unavailable = 1\nhealthy_deadline = \"2s\"\nprogress_deadline = \"60s\"";
    sample(8, env, &format!("{budget}\n{rollout}"))
}

pub const BAD: [&str; 2] = ["--set", "run.env.DB_POOL=40"];
pub const FIXED: [&str; 2] = ["--set", "run.env.DB_POOL=12"];

#[test]
fn it_pauses_and_a_corrected_version_goes_on_from_there() {
    let _turn = turn();
    let site = Site::with(&config(""));
    site.deploy("3.1", &[]).expect(0);
    let (prober, load) = (Prober::start(&site), load::start(&site, 16, 20));

    let said = site.deploy("3.2", &BAD).expect(10);

    let first_screen = said.card().into_iter().take(24).collect::<Vec<_>>().join("\n");
    for needle in ["web 3.2 paused", "web-2-3", "DB_POOL 10 → 40", "trundle deploy", "trundle resume web"] {
        assert!(first_screen.contains(needle), "{needle} is not in\n{first_screen}");
    }
    let log_line = "FATAL: too many connections: DB_POOL=40 makes 120, the database allows 100";
    assert!(first_screen.contains(log_line), "{first_screen}");
    let paused = site.status();
    expect_paused_at_five_and_two(&paused);
    assert_eq!(site.run(&["wait"]).expect(10).card()[0], said.card()[0], "`wait` shows the card too");

    let said = site.deploy("3.3", &[&FIXED[..], &["--json"]].concat()).expect(0);

    let status = site.status();
    let seen = end_of(prober, &site, load, 200);
    assert_eq!(versions(&status), BTreeMap::from([("3.3".to_owned(), 8)]), "{status}");
    assert_eq!(status["lowest_available"], 7, "{status}");
    assert!(seen.lowest_serving >= 7 && seen.highest_alive <= 8, "{seen:?}");
    let stopped = |line: &Value| matches!(line["type"].as_str(), Some("stop" | "drain"));
    let lines = said.json_lines();
    let first = lines.iter().find(|line| stopped(line)).unwrap();
    assert_eq!(first["instance"], "web-2-3", "the failed one goes first: {first}");
}

#[test]
fn it_goes_on_with_the_same_revision_after_a_fix_outside() {
    let _turn = turn();
    let site = Site::with(&config(""));
    site.deploy("3.1", &[]).expect(0);
    let (prober, load) = (Prober::start(&site), load::start(&site, 16, 20));
    site.deploy("3.2", &BAD).expect(10);
    let pids = |status: &Value| -> BTreeMap<String, u64> {
        let of_new = status["instances"].as_array().unwrap().iter().filter(|i| i["revision"] == 2);
        of_new
            .filter(|i| i["phase"] == "ready")
            .map(|i| (i["id"].as_str().unwrap().to_owned(), i["pid"].as_u64().unwrap()))
            .collect()
    };
    let before = pids(&site.status());
    assert_eq!(before.len(), 2, "{before:?}");

    fs::write(site.dir().join("database/.limit"), "1000").unwrap();
    site.run(&["resume"]).expect(0);

    let status = site.status();
    let seen = end_of(prober, &site, load, 200);
    assert_eq!(status["rollout"]["to"], 2, "the same revision: {status}");
    assert_eq!(versions(&status), BTreeMap::from([("3.2".to_owned(), 8)]), "{status}");
    let after = pids(&status);
    assert!(before.iter().all(|(id, pid)| after.get(id) == Some(pid)), "{before:?} are not all in {after:?}");
    assert!(seen.lowest_serving >= 7 && seen.highest_alive <= 8, "{seen:?}");
}

#[test]
fn it_goes_back_by_itself_if_told_so_and_never_goes_back_twice() {
    let _turn = turn();
    let site = Site::with(&config("on_failure = \"rollback\""));
    site.deploy("3.1", &[]).expect(0);
    let (prober, load) = (Prober::start(&site), load::start(&site, 16, 20));

    let said = site.deploy("3.2", &BAD).expect(11);

    assert!(said.card()[0].contains("rolled back"), "{said}");
    let status = site.status();
    assert_eq!(versions(&status), BTreeMap::from([("3.1".to_owned(), 8)]), "{status}");
    assert_eq!(status["rollout"]["state"], "rolled_back", "{status}");
    let refused = site.run(&["rollback"]).expect(13);
    assert!(refused.stderr.contains("refused"), "{refused}");
    assert_eq!(versions(&site.status()), BTreeMap::from([("3.1".to_owned(), 8)]));
    let seen = end_of(prober, &site, load, 100);
    assert!(seen.lowest_serving >= 7 && seen.highest_alive <= 8, "{seen:?}");
}

/// The load ends first, then the observer.
#[track_caller]
fn end_of(prober: Prober, site: &Site, load: load::Load, at_least: u64) -> Seen {
    let tally = load.finish();
    tally.expect_none_lost(at_least);
    crate::eight::expect_each_id_once(site, tally.sent());
    let seen = prober.finish();
    assert!(seen.twins.is_empty(), "{seen:?}");
    seen
}

pub fn expect_paused_at_five_and_two(status: &Value) {
    let serving = BTreeMap::from([("3.1".to_owned(), 5), ("3.2".to_owned(), 2)]);
    assert_eq!(versions(status), serving, "{status}");
    let rollout = &status["rollout"];
    assert_eq!(rollout["state"], "paused", "{status}");
    assert_eq!(rollout["failure"]["instance"], "web-2-3", "{status}");
    assert_eq!(rollout["failure"]["changed"]["env"]["DB_POOL"], serde_json::json!(["10", "40"]), "{status}");
    assert_eq!(rollout["failure"]["probe"]["status"], 503, "{status}");
    assert_eq!(
        (status["floor"].clone(), status["lowest_available"].clone()),
        (7.into(), 7.into()),
        "{status}"
    );
}

/// How many of each version are available.
pub fn versions(status: &Value) -> BTreeMap<String, u64> {
    let rows = status["revisions"].as_array().unwrap().iter();
    rows.map(|r| (r["version"].as_str().unwrap().to_owned(), r["available"].as_u64().unwrap()))
        .filter(|(_, available)| *available > 0)
        .collect()
}
