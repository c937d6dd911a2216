//! The night that is played again and again, and what is to be seen after it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::Kill;
use super::people::{Client, Keeper, answers, start_daemon};
use crate::harness::procs::Proc;
use crate::harness::{Output, Site, sample, wait_for};
use crate::upgrade::install_another_build;

const MOST_COMMANDS: usize = 12;

/// What a night left behind.
pub struct Night {
    /// How often each place was reached.
    pub hits: BTreeMap<String, u64>,
    /// Who died at the place, if it came to that.
    pub died: Option<u32>,
    /// Requests of a client that asks again and again.
    pub asked: u32,
    pub failed: u32,
    /// What `status` and `history` tell, without what differs from night to night.
    pub told: Value,
    /// Of what runs: how many of each kind.
    pub running: Value,
}

impl Night {
    /// A version, a second one with a pause in it, in which daemon and proxy are upgraded, a bad one, its fix, the way back, and
    /// the end of everything.
    pub fn run(kill: Option<&Kill>) -> Self {
        let env = r#"START_MS = "30", STOP_MS = "3000""#;
        let budget =
            "max_surge = 1\nmax_unavailable = 0\nstop_grace_period = \"600ms\"\ndrain_timeout = \"5s\"";
        let text = sample(3, env, budget).replace("[run]\n", "[run]\nartifact = \"@DIR@/dist\"\n");
        // A file of its own: what is deployed must not change with what deploys it.
        let site = Arc::new(Site::with(&text.replace("@BIN@", "@DIR@/app")));
        fs::hard_link(site.bin(), site.dir().join("app")).unwrap();
        fs::create_dir(site.dir().join("dist")).unwrap();
        fs::write(site.dir().join("dist/file"), "what is copied").unwrap();
        let points = site.state().join("crash-points");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&points).unwrap();
        if let Some(Kill { place, n }) = kill {
            fs::write(points.join("at"), format!("{place} {n}")).unwrap();
        }
        leave_something_to_remove(&site);
        let keeper = Keeper::start(&site);

        insist(&site, &["deploy", "--set", "version=1"], 0);
        let client = Client::start(&site);
        // Only the first version is killed at its end: it does not hear the signal.
        let quick = ["--set", "run.env.STOP_MS=0"];
        insist(&site, &[&["deploy", "--step", "--set", "version=2"], &quick[..]].concat(), 10);
        upgrade(&site);
        insist(&site, &["resume", "web"], 0);
        damage_the_copy(&site);
        let bad = ["--set", "run.env.FAIL=exit:3"];
        insist(&site, &[&["deploy", "--set", "version=3"], &quick[..], &bad[..]].concat(), 10);
        insist(&site, &[&["deploy", "--set", "version=4"], &quick[..]].concat(), 0);
        insist(&site, &["rollback", "web", "2"], 0);

        let status = settled(&site);
        let (asked, failed) = client.finish();
        drop(keeper);
        // It may have died last: then the next look starts one.
        site.run(&["wait", "--timeout", "1ms"]);
        let history = site.run(&["history", "--json"]).expect(0).json();
        let told = without_moments(serde_json::json!({ "status": status, "history": history }));
        let running = expect_true(&site, &status);
        insist(&site, &["down"], 0);
        let left: Vec<_> = site.procs().into_iter().map(|p| (p.pid, p.args)).collect();
        assert!(left.is_empty(), "{kill:?}: left behind by `down`: {left:?}");
        let text = fs::read_to_string(points.join("hits")).unwrap();
        let mut hits = BTreeMap::new();
        let mut died = None;
        for (place, pid) in text.lines().filter_map(|line| line.split_once(' ')) {
            let n = hits.entry(place.to_owned()).or_default();
            *n += 1;
            if kill.is_some_and(|kill| kill.place == place && kill.n == *n) {
                died = pid.parse().ok();
            }
        }
        Self { hits, died, asked, failed, told, running }
    }
}

/// Folders of instances that ended long ago, more than are kept, and a copy of an artifact that no revision names.
fn leave_something_to_remove(site: &Site) {
    let folders = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path).unwrap();
    let ended = r#"{"code":0,"signal":null,"at_unix_ms":0,"oom_killed":false,"nothing_left":true}"#;
    for n in 1..=52 {
        let folder = site.state().join(format!("instances/web/900-{n}"));
        folders(&folder);
        fs::write(folder.join("exit.json"), ended).unwrap();
    }
    let unused = site.state().join("artifacts").join("0".repeat(64));
    folders(&unused);
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
    fs::File::open(&unused).unwrap().set_modified(long_ago).unwrap();
}

/// Another file takes the place of the one that runs, and the daemon is started anew. The proxy follows, unless it was its
/// successor that died: the next try would come in half a minute.
fn upgrade(site: &Site) {
    install_another_build(site, 1);
    let proxies =
        || site.procs().iter().filter(|proc| proc.is_proxy()).map(|proc| proc.pid).collect::<Vec<_>>();
    let before = proxies();
    if let Some(daemon) = site.daemon() {
        daemon.signal(Signal::TERM);
        wait_for("the end of the old daemon", 10, || (!daemon.lives()).then_some(()));
    }
    while !answers(site) {
        start_daemon(site);
    }
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until && proxies().iter().all(|pid| before.contains(pid)) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Somebody writes into the copy of the artifact: the next command line that prepares it puts another in its place.
fn damage_the_copy(site: &Site) {
    let copies = fs::read_dir(site.state().join("artifacts")).unwrap().flatten();
    // One that a killed command line was at is none.
    let whole = copies.filter(|copy| !copy.file_name().to_string_lossy().starts_with('.'));
    let files: Vec<_> = whole.map(|copy| copy.path().join("tree/file")).filter(|f| f.is_file()).collect();
    assert_eq!(files.len(), 1, "the copies: {files:?}");
    fs::set_permissions(&files[0], fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&files[0], "what is not the same").unwrap();
}

/// As a person would who wants to get there: a command that met a dying daemon is given again, and a rollout that stopped
/// because an instance lost its shim goes on.
fn insist(site: &Site, args: &[&str], code: i32) {
    let mut said: Vec<Output> = Vec::new();
    while said.len() < MOST_COMMANDS {
        let again = said.last().is_some_and(|last| last.code == 10 && code == 0);
        let output = if again { site.run(&["resume", "web"]) } else { site.run(args) };
        let state = || site.status()["rollout"]["state"].as_str().map(str::to_owned);
        let is_there = match output.code {
            c if c == code => true,
            // What was asked for came about, and the answer was lost.
            1 if args[0] == "resume" || again => state().as_deref() == Some("succeeded"),
            _ => false,
        };
        said.push(output);
        if is_there {
            return;
        }
    }
    let said: Vec<_> = said.iter().map(|o| format!("{}: {o}", o.code)).collect();
    panic!("{args:?} never ended with {code}:\n{}", said.join("\n"));
}

/// `status` once nothing moves any more.
fn settled(site: &Site) -> Value {
    wait_for("three of version 2", 30, || {
        let status = site.run(&["status", "--json"]);
        let status = (status.code == 0).then(|| status.json())?;
        let instances = status["instances"].as_array()?;
        let good = instances.len() == 3
            && instances
                .iter()
                .all(|i| i["revision"] == 2 && i["phase"] == "ready" && i["available"] == true);
        (good && status["rollout"]["state"] == "succeeded").then_some(status)
    })
}

/// What is told is what is: processes, ports and the proxy's table are those of the instances, and each answers.
fn expect_true(site: &Site, status: &Value) -> Value {
    let named: BTreeMap<String, String> = status["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| (i["id"].as_str().unwrap().to_owned(), i["address"].as_str().unwrap().to_owned()))
        .collect();
    let procs = wait_for("the end of what is over", 15, || {
        let procs = site.procs();
        (procs.iter().filter(|p| p.app().is_some()).count() == named.len()).then_some(procs)
    });
    let apps = procs.iter().filter_map(|p| Some((p.app()?.to_owned(), format!("127.0.0.1:{}", p.port()?))));
    assert_eq!(apps.collect::<BTreeMap<_, _>>(), named, "processes and status");
    let table: Value =
        serde_json::from_str(&fs::read_to_string(site.state().join("proxy-table.json")).unwrap()).unwrap();
    let endpoints = table["apps"][0]["endpoints"].as_array().unwrap();
    let routed = endpoints.iter().filter(|e| e["state"] == "routed");
    let routed =
        routed.map(|e| (e["id"].as_str().unwrap().to_owned(), e["address"].as_str().unwrap().to_owned()));
    assert_eq!(routed.collect::<BTreeMap<_, _>>(), named, "routing table and status: {table}");
    assert_eq!(endpoints.len(), named.len(), "routing table: {table}");
    for _ in 0..6 {
        let answer = site.get("/").unwrap();
        assert!(answer.contains("x-app-version: 2"), "{answer}");
    }
    let mut running: BTreeMap<&str, usize> = BTreeMap::new();
    for proc in &procs {
        *running.entry(kind(proc)).or_default() += 1;
    }
    serde_json::to_value(running).unwrap()
}

fn kind(proc: &Proc) -> &'static str {
    let arg = |n: usize| proc.args.get(n).map_or("", String::as_str);
    match (arg(1), arg(2)) {
        ("daemon", _) => "daemon",
        ("proxy", _) => "proxy",
        ("shim", "proxy") => "holder",
        ("shim", _) => "shim",
        _ if proc.app().is_some() => "app",
        _ => "other",
    }
}

/// Names, states and counts stay; moments, durations, numbers of processes and of requests go.
fn without_moments(value: Value) -> Value {
    const PASSING: [&str; 18] = [
        "at",
        "as_of",
        "since",
        "started_at",
        "ended_at",
        "pid",
        "address",
        "incarnation",
        "requests",
        "latency",
        "traffic",
        "limit_s",
        "listen",
        "in_flight",
        "deployed_at",
        "failure",
        "reasons",
        "by",
    ];
    match value {
        Value::Object(fields) => {
            let passes = |key: &String| {
                PASSING.contains(&key.as_str()) || key.ends_with("_ms") || key.ends_with("_at")
            };
            let kept = fields.into_iter().filter(|(key, _)| !passes(key));
            Value::Object(kept.map(|(key, value)| (key, without_moments(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_moments).collect()),
        other => other,
    }
}
