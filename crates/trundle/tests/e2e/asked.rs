//! What a person may ask for in the middle of a rollout: one place once more, one left out, step by step, another number.

use serde_json::Value;

use crate::harness::{Output, Site, load, sample};

const ONE_AT_A_TIME: &str =
    "max_surge = 0\nmax_unavailable = 1\nhealthy_deadline = \"2s\"\nprogress_deadline = \"60s\"";

/// The third new one cannot get its connections until somebody raises the limit.
fn paused(site: &Site) -> String {
    site.deploy("1", &[]).expect(0);
    let failed = site.deploy("2", &["--set", "run.env.FAIL=needs:LICENSE"]).expect(10);
    assert!(failed.stdout.contains("LICENSE") || failed.stderr.contains("LICENSE"), "{failed}");
    let status = site.status();
    status["rollout"]["failure"]["instance"].as_str().unwrap().to_owned()
}

fn serving(status: &Value) -> Vec<(String, u64)> {
    let revisions = status["revisions"].as_array().unwrap().iter();
    let count = |r: &Value| (r["version"].as_str().unwrap().to_owned(), r["available"].as_u64().unwrap());
    revisions.map(count).filter(|(_, n)| *n > 0).collect()
}

#[test]
fn retry_leaves_the_pause_and_skip_gives_the_place_back() {
    let _turn = crate::harness::turns::turn();
    let site = Site::with(&sample(4, "", ONE_AT_A_TIME));
    let instance = paused(&site);
    let load = load::start(&site, 4, 1);
    let again = site.run(&["retry", &instance]).expect(10);
    assert!(again.stdout.contains("is tried again"), "{again}");
    let status = site.status();
    assert_eq!(status["rollout"]["state"], "paused");
    let second = status["rollout"]["failure"]["instance"].as_str().unwrap().to_owned();
    assert_eq!(second, format!("{instance}.2"), "the same place, another attempt");

    let skipped = site.run(&["skip", &second]).expect(0);
    assert!(skipped.stdout.contains("is left out") && skipped.stdout.contains("end as failed"), "{skipped}");
    crate::harness::wait_for("the old version in its place", 10, || {
        (serving(&site.status()) == [("1".to_owned(), 4)]).then_some(())
    });
    assert!(site.run(&["skip", &second]).expect(13).stderr.contains("left out already"));
    assert!(site.run(&["retry", "web-7-7"]).expect(13).stderr.contains("no instance web-7-7"));
    assert!(site.run(&["skip", "nonsense"]).expect(2).stderr.contains("such as web-2-3"));
    load.finish().expect_none_lost(20);
}

#[test]
fn a_skipped_place_ends_the_rollout_as_failed() {
    let site = Site::with(&sample(4, "", ONE_AT_A_TIME));
    site.deploy("1", &[]).expect(0);
    let first = site.deploy("2", &["--step"]).expect(10);
    assert!(card_text(&first).contains("step by step"), "{first}");
    let mine = |i: &Value| i["id"].as_str().filter(|id| id.starts_with("web-2-")).map(str::to_owned);
    let new = site.status()["instances"].as_array().unwrap().iter().find_map(mine).unwrap();
    site.run(&["skip", &new]).expect(0);
    let mut ended = site.run(&["resume"]);
    while ended.code == 10 {
        ended = site.run(&["resume"]);
    }
    let ended = ended.expect(12);
    assert!(ended.stdout.contains("1 place left out"), "{ended}");
    assert_eq!(serving(&site.status()), [("1".to_owned(), 1), ("2".to_owned(), 3)]);
    // Asked for once more, it runs everywhere.
    site.deploy("2", &[]).expect(0);
    assert_eq!(serving(&site.status()), [("2".to_owned(), 4)]);
}

#[test]
fn scaling_in_a_pause_shares_and_loses_nothing() {
    let _turn = crate::harness::turns::turn();
    let site = Site::with(&sample(4, "", "batch = 2\nmax_surge = 0\nmax_unavailable = 2"));
    site.deploy("1", &[]).expect(0);
    site.deploy("2", &["--step"]).expect(10);
    let load = load::start(&site, 4, 1);
    site.run(&["scale", "web", "8"]).expect(10);
    assert_eq!(serving(&site.status()), [("1".to_owned(), 4), ("2".to_owned(), 4)]);
    site.run(&["scale", "web", "4"]).expect(10);
    assert_eq!(serving(&site.status()), [("1".to_owned(), 2), ("2".to_owned(), 2)]);
    site.run(&["resume"]).expect(0);
    assert_eq!(serving(&site.status()), [("2".to_owned(), 4)]);
    load.finish().expect_none_lost(20);
}

#[test]
fn going_on_in_spite_of_failures_fails_at_the_deadline() {
    let rollout = "max_surge = 1\nmax_unavailable = 0\non_failure = \"continue\"\nhealthy_deadline = \"2s\"\nprogress_deadline = \"4s\"";
    let site = Site::with(&sample(2, "", rollout));
    site.deploy("1", &[]).expect(0);
    let failed = site.deploy("2", &["--set", "run.env.FAIL=exit:3"]).expect(12);
    assert!(failed.stdout.contains("no progress"), "{failed}");
    assert_eq!(serving(&site.status()), [("1".to_owned(), 2)]);
}

fn card_text(output: &Output) -> String {
    output.card().join("\n")
}
