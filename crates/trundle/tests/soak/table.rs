//! The last rollout, of which `status` must tell what its clients saw, and the table that is printed at the end.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::apps::{App, Counted};
use crate::diary::{Diary, What};
use crate::harness::load::Tally;
use crate::harness::{Running, Site, wait_for};
use crate::judge::Causes;
use crate::night::Night;
use crate::observer::{Seen, Weight};
use crate::person::Person;

/// What `status` told of a rollout in which the proxy and an instance were killed.
pub struct Told {
    requests: Value,
    before: Counted,
}

/// A rollout of web of its own, after all the others.
pub fn last_rollout(site: &Site, diary: &Diary, web: &mut Person, night: &mut Night) -> Told {
    let before = wait_for("the proxy's counts", 10, || Counted::of(site, "web"));
    diary.note("the last rollout".to_owned());
    let running: Running = web.begin_the_last();
    let new = || {
        let status = site.run(&["status", "web", "--json"]).expect(0).json();
        let to = status["rollout"]["to_version"] == web.last_version();
        let new = status["revisions"].as_array()?.last()?["available"].as_u64()?;
        (to && new >= 2).then_some(())
    };
    wait_for("two new ones", 60, new);
    night.kill_the_proxy();
    night.kill_an_old_one("web", &web.last_version());
    let said = running.finish();
    assert_eq!(said.code, 0, "{said}");
    let status = site.run(&["status", "web", "--json"]).expect(0).json();
    Told { requests: status["requests"].clone(), before }
}

/// `status` tells of its last rollout all that was lost in it, and that is some.
pub fn told_is_counted(told: &Told, counted: &Counted) {
    let all =
        format!("`status` tells {}, counted before {:?}, after {counted:?}", told.requests, told.before);
    let (lost, crashed) = (counted.lost - told.before.lost, counted.crashed - told.before.crashed);
    assert_eq!(
        (told.requests["lost"].as_u64(), told.requests["crashed"].as_u64()),
        (Some(lost), Some(crashed)),
        "{all}"
    );
    assert!(lost > 0, "nothing was in flight in a proxy as it was killed: {all}");
}

pub struct Row<'a> {
    pub app: &'a App,
    pub person: &'a Person<'a>,
    pub tally: &'a Tally,
    pub counted: Counted,
    pub causes: Causes,
    pub unread: u64,
    pub rollouts: BTreeMap<String, u32>,
}

pub struct Whole<'a> {
    pub seconds: u64,
    pub parts: u32,
    pub diary: &'a Diary,
    pub seen: &'a Seen,
    pub rows: Vec<Row<'a>>,
    pub night: &'a Night<'a>,
    pub light: BTreeMap<&'static str, Weight>,
    pub heavy: BTreeMap<&'static str, Weight>,
    pub logs: BTreeMap<&'static str, u32>,
}

pub fn print(whole: &Whole) {
    let mut deeds: BTreeMap<What, u32> = BTreeMap::new();
    for deed in whole.diary.deeds() {
        *deeds.entry(deed.what).or_default() += 1;
    }
    println!("{} s in {} parts, {}", whole.seconds, whole.parts, listed(&deeds));
    for row in &whole.rows {
        let (lowest, highest) = whole.seen.extremes(row.app.name);
        println!("{}", row.app.name);
        println!("  rollouts   {}", listed(&row.rollouts));
        println!("  commands   {}, by exit code", listed(&row.person.codes));
        println!("  requests   {} sent, {} retried by the proxy", row.tally.sent(), row.counted.retried);
        println!(
            "  client     lost {}: {}, not read by a killed proxy {}",
            row.tally.lost(),
            listed(&row.causes),
            row.unread
        );
        println!("  counted    lost {}, crashed {}, cut 0, told 0", row.counted.lost, row.counted.crashed);
        println!(
            "  serving    at least {lowest}, alive at most {highest}; settled within {:.1} s",
            row.person.slowest_settling.as_secs_f64()
        );
    }
    let late: u32 = whole.rows.iter().map(|row| row.person.settled_late).sum();
    if late > 0 {
        println!(
            "NOT JUDGED {late} times: a good version was late on a starved machine, and was told to go on"
        );
    }
    println!(
        "a killed proxy was followed by one that answers within {:.2} s",
        whole.night.slowest_proxy.as_secs_f64()
    );
    for (name, then) in &whole.light {
        let now = whole.heavy[name];
        println!(
            "{name}: resident {:.1} → {:.1} MiB, descriptors {} → {}",
            then.kib as f64 / 1024.0,
            now.kib as f64 / 1024.0,
            then.descriptors,
            now.descriptors
        );
    }
    println!(
        "looks {}, of which {} took over {} ms",
        whole.seen.looks,
        whole.seen.slow_looks,
        crate::observer::SLOW_LOOK_MS
    );
    for (line, n) in &whole.logs {
        println!("{n} × in the logs: {line}…");
    }
}

fn listed<K: std::fmt::Debug>(of: &BTreeMap<K, impl std::fmt::Display>) -> String {
    let each: Vec<String> = of.iter().map(|(key, n)| format!("{key:?} {n}")).collect();
    if each.is_empty() { "nothing".to_owned() } else { each.join(", ") }
}
