//! The crash matrix: daemon, shim, proxy and holder are killed at every named place of the code, and what comes of the
//! same night is compared with a night on which nobody died.
//!
//! The places are read from the source (`crash_point!`); one that no run reaches fails the test. A usual run kills at one
//! hit of each place, by the seed; `TRUNDLE_MATRIX=full` at every hit; `TRUNDLE_MATRIX="driver.shim.after 3"` at one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::harness::chaos::Dice;
use crate::harness::procs::Proc;
use crate::harness::{Output, Site, alone, sample, wait_for};

/// Runs wait more than they compute.
const SIDE_BY_SIDE: usize = 6;
const MOST_COMMANDS: usize = 12;

#[test]
fn killed_at_every_place_it_ends_as_if_nobody_had_died() {
    if !cfg!(debug_assertions) {
        panic!("crash points are not built without debug assertions: run this in the dev profile");
    }
    let _alone = alone();
    let places = places_in_the_code();
    let calm = Night::run(None);
    let hits = calm.hits.clone();
    let unreached: Vec<_> = places.iter().filter(|place| !hits.contains_key(*place)).collect();
    assert!(unreached.is_empty(), "the night does not come by {unreached:?}");
    assert_eq!(calm.failed, 0, "requests failed with nobody killed");

    let all = hits.iter().flat_map(|(place, n)| (1..=*n).map(move |n| Kill { place: place.clone(), n }));
    let kills: Vec<Kill> = match std::env::var("TRUNDLE_MATRIX") {
        Ok(which) if which == "full" => all.collect(),
        Ok(one) => {
            let (place, n) = one.split_once(' ').expect("TRUNDLE_MATRIX is `full`, or a place and a number");
            vec![Kill { place: place.to_owned(), n: n.parse().unwrap() }]
        }
        Err(_) => {
            let mut dice = Dice::new("matrix");
            hits.iter().map(|(p, n)| Kill { place: p.clone(), n: 1 + dice.below(*n) }).collect()
        }
    };
    let tried = kills.len();
    let left = Mutex::new(kills);
    let done: Mutex<Vec<(Kill, Night)>> = Mutex::default();
    let complaints: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let Some(kill) = left.lock().unwrap().pop() else { return };
                    match try_it(kill.clone(), &calm) {
                        Ok(night) => done.lock().unwrap().push(night),
                        Err(wrong) => {
                            let wrong = format!("{} {}: {wrong}", kill.place, kill.n);
                            println!("{wrong}");
                            complaints.lock().unwrap().push(wrong);
                        }
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    print_table(&hits, &done);
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{} of {tried} nights:\n{}", complaints.len(), complaints.join("\n"));
}

fn try_it(kill: Kill, calm: &Night) -> Result<(Kill, Night), String> {
    let run = |kill: &Kill| {
        std::panic::catch_unwind(|| Night::run(Some(kill))).map_err(|why| {
            let text = why.downcast_ref::<String>().cloned();
            text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
        })
    };
    let night = run(&kill)?;
    // What comes late in a night may not come at all on a slower one.
    let (kill, night) = match night.died {
        Some(_) => (kill, night),
        None => {
            let first = Kill { n: 1, ..kill };
            let night = run(&first)?;
            (first, night)
        }
    };
    let wrong = judge(&kill, &night, calm);
    if wrong.is_empty() { Ok((kill, night)) } else { Err(wrong.join("; ")) }
}

/// One hit of one place.
#[derive(Debug, Clone)]
struct Kill {
    place: String,
    n: u64,
}

/// What a night left behind.
struct Night {
    /// How often each place was reached.
    hits: BTreeMap<String, u64>,
    /// Who died at the place, if it came to that.
    died: Option<u32>,
    /// Requests of a client that asks again and again.
    asked: u32,
    failed: u32,
    /// What `status` and `history` tell, without what differs from night to night.
    told: Value,
    /// Of what runs: how many of each kind.
    running: Value,
}

impl Night {
    /// A version, a second one with a pause in it, a bad one, its fix, the way back, and the end of everything.
    fn run(kill: Option<&Kill>) -> Self {
        let env = r#"START_MS = "30", STOP_MS = "3000""#;
        let budget =
            "max_surge = 1\nmax_unavailable = 0\nstop_grace_period = \"600ms\"\ndrain_timeout = \"5s\"";
        let text = sample(3, env, budget).replace("[run]\n", "[run]\nartifact = \"@DIR@/dist\"\n");
        let site = Arc::new(Site::with(&text));
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

/// What is wrong with a night, compared with the calm one.
fn judge(kill: &Kill, night: &Night, calm: &Night) -> Vec<String> {
    let mut wrong = Vec::new();
    if night.died.is_none() {
        wrong.push("was not reached on its night, nor was its first hit".to_owned());
    }
    if night.asked < 50 {
        wrong.push(format!("only {} requests were sent", night.asked));
    }
    // One client, and so at most one request in the hands of who dies.
    let most = u32::from(matches!(role(&kill.place), Role::Proxy | Role::Shim));
    if night.failed > most {
        wrong.push(format!("{} of {} requests failed", night.failed, night.asked));
    }
    match role(&kill.place) {
        // An instance died with its shim, which is told: its place has another one, and a rollout may have paused for it.
        Role::Shim => differences("running", &night.running, &calm.running, &mut wrong),
        // The proxy has its sockets and goes on without a holder.
        Role::Holder => differences("", &night.told, &calm.told, &mut wrong),
        Role::Daemon | Role::Proxy => {
            differences("running", &night.running, &calm.running, &mut wrong);
            differences("", &night.told, &calm.told, &mut wrong);
        }
    }
    wrong
}

/// Where two of them differ, and how.
fn differences(at: &str, found: &Value, calm: &Value, into: &mut Vec<String>) {
    match (found, calm) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differences(&format!("{at}.{key}"), &of(a), &of(b), into);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{at}[{n}]"), a, b, into);
            }
        }
        _ if found == calm => {}
        _ => into.push(format!("{at} is {found}, on a calm night {calm}")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Daemon,
    Shim,
    Proxy,
    Holder,
}

/// Whose code the place is. Records are written by shims, but for the few that a daemon writes.
fn role(place: &str) -> Role {
    match place.split('.').next().unwrap() {
        "shim" | "record" => Role::Shim,
        "proxy" => Role::Proxy,
        "holder" => Role::Holder,
        _ => Role::Daemon,
    }
}

/// Every `crash_point!("…")` of the sources.
fn places_in_the_code() -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("tests") && !path.ends_with("crashpoint") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(path).unwrap();
                for piece in text.split("crash_point!(\"").skip(1) {
                    let place = piece.split('"').next().unwrap().to_owned();
                    assert!(places.insert(place.clone()), "{place} stands in two places");
                }
            }
        }
    }
    assert!(places.len() > 30, "{places:?}");
    places
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

/// Starts a daemon when none answers, as a service manager would.
struct Keeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(site: &Arc<Site>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (site, stopped) = (site.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let answers = || UnixStream::connect(site.state().join("daemon.sock")).is_ok();
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(30));
                // The first one is started by a command.
                if !site.state().join("daemon.sock").exists() || answers() {
                    continue;
                }
                let mut command = site.command(&["daemon"]);
                let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let mut child = quiet.spawn().unwrap();
                while !answers() && child.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                std::thread::spawn(move || child.wait());
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

/// Also when a test ends in the middle: the site can be taken down only after it.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One request after the other, each on a connection of its own.
struct Client {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u32, u32)>>,
}

impl Client {
    fn start(site: &Arc<Site>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (site, stopped) = (site.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let (mut asked, mut failed) = (0, 0);
            while !stopped.load(Ordering::Relaxed) {
                asked += 1;
                match site.get("/") {
                    Ok(answer) if answer.starts_with("HTTP/1.1 200") => {}
                    answer => {
                        failed += 1;
                        println!("request {asked} failed: {answer:?}");
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            (asked, failed)
        });
        Self { stop, thread: Some(thread) }
    }

    /// How many were sent, and how many of them failed.
    fn finish(mut self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn print_table(hits: &BTreeMap<String, u64>, done: &[(Kill, Night)]) {
    println!("| place | hits of a calm night | killed at | requests | failed |");
    println!("| --- | --- | --- | --- | --- |");
    for (place, n) in hits {
        let of: Vec<_> = done.iter().filter(|(kill, _)| kill.place == *place).collect();
        let (asked, failed) =
            of.iter().fold((0, 0), |(a, f), (_, night)| (a + night.asked, f + night.failed));
        println!("| {place} | {n} | {} | {asked} | {failed} |", of.len());
    }
    let asked: u32 = done.iter().map(|(_, night)| night.asked).sum();
    println!("{} places, {} kills, {asked} requests", hits.len(), done.len());
}
