//! How it must look when all is quiet, and when all is down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use crate::apps::{APPS, App, routed};
use crate::harness::procs::Proc;
use crate::harness::{Site, wait_for};

/// What a process of the site is.
fn role(proc: &Proc) -> String {
    match proc.args.get(1).map(String::as_str) {
        Some("shim") if proc.args.get(2).is_some_and(|arg| arg == "proxy") => "holder".to_owned(),
        Some("shim") => format!("shim of {}", proc.env["TRUNDLE_INSTANCE"]),
        Some("sample") => format!("app of {}", proc.env["TRUNDLE_INSTANCE"]),
        Some(word) => word.to_owned(),
        None => "nobody".to_owned(),
    }
}

/// Processes, ports, the proxy's table and what `status` says are the same, and everything is ready.
pub fn nothing_too_many(site: &Site) {
    // What ends may take a moment.
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Some(disagreement) = disagreement(site) {
        assert!(Instant::now() < deadline, "{disagreement}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn disagreement(site: &Site) -> Option<String> {
    let mut roles: Vec<String> = ["daemon", "proxy", "holder"].map(str::to_owned).to_vec();
    let mut ports = BTreeSet::new();
    let table = routed(&site.state());
    for app in &APPS {
        let status = site.run(&["status", app.name, "--json"]).expect(0).json();
        let instances = status["instances"].as_array().unwrap();
        let names: BTreeSet<String> =
            instances.iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect();
        if instances.iter().any(|i| i["phase"] != "ready") || names.len() != app.replicas as usize {
            return Some(format!("not all are ready: {status}"));
        }
        if table.get(app.name) != Some(&names) {
            return Some(format!("the proxy sends to {table:?}, ready are {names:?}"));
        }
        let port_of = |address: &str| address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
        ports.extend(instances.iter().map(|i| port_of(i["address"].as_str().unwrap())));
        ports.insert(port_of(&app.address(site)));
        roles.extend(names.iter().flat_map(|name| [format!("shim of {name}"), format!("app of {name}")]));
    }
    let mut found: Vec<String> = site.procs().iter().map(role).collect();
    found.sort();
    roles.sort();
    if found != roles {
        return Some(format!("processes that live: {found:#?}, expected: {roles:#?}"));
    }
    let listening = listening(site);
    (listening != ports).then(|| format!("ports with a listener: {listening:?}, expected: {ports:?}"))
}

/// Of the ports of this site those that somebody listens on.
fn listening(site: &Site) -> BTreeSet<u16> {
    let first: u16 = site.listen().rsplit_once(':').unwrap().1.parse().unwrap();
    let text = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        (*fields.get(3)? == "0A" && port >= first && port - first < crate::harness::PORTS_EACH)
            .then_some(port)
    };
    text.lines().skip(1).filter_map(port).collect()
}

/// `down` leaves nothing behind, and the journal holds every invariant.
pub fn down(site: &Site) {
    let said = site.run(&["down"]);
    assert_eq!(said.code, 0, "{said}");
    let left: Vec<String> = site.procs().iter().map(role).collect();
    assert!(left.is_empty(), "left behind by `down`: {left:?}\n{said}");
    let listening = listening(site);
    assert!(listening.is_empty(), "ports with a listener after `down`: {listening:?}");
    site.audit();
}

/// What daemon and proxy may write while they are killed: the next one is refused as long as the last one ends, and the
/// holder tells of each proxy.
const MAY_STAND_THERE: [&str; 3] = [
    "error: another daemon (pid ",
    "error: another proxy serves the state directory ",
    "trundle shim proxy: the proxy (pid ",
];

/// The lines in the logs of daemon and proxy that were expected, by their beginnings. Panics on any other.
pub fn logs(site: &Site) -> BTreeMap<&'static str, u32> {
    let mut expected = BTreeMap::new();
    for log in ["daemon.log", "proxy.log"] {
        for line in site.said(log).lines() {
            let known = MAY_STAND_THERE.iter().find(|beginning| line.starts_with(**beginning));
            let known = known.unwrap_or_else(|| panic!("{log} has: {line}"));
            *expected.entry(*known).or_default() += 1;
        }
    }
    expected
}

/// How the rollouts of an app ended.
pub fn rollouts(site: &Site, app: &App) -> BTreeMap<String, u32> {
    let history = site.run(&["history", app.name, "--json"]).expect(0).json();
    let mut ends = BTreeMap::new();
    for row in history["rollouts"].as_array().unwrap() {
        *ends.entry(row["state"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    ends
}

/// A process that is the only one of its kind.
pub fn only(site: &Site, is_it: fn(&Proc) -> bool) -> Proc {
    wait_for("daemon and proxy", 20, || site.procs().into_iter().find(is_it))
}
