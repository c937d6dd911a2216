//! The same app, rolled by Trundle and by Docker Swarm on the same machine: replicas, how many at once, time to ready, time to
//! stop, interval of the health check and load are equal.
//!
//! `cargo bench -p trundle --bench swarm` prints the table. It measures; it judges nothing. Swarm needs root and Docker's
//! engine; without them its rows are missing, and it says so. The engine runs in namespaces of its own and is gone afterwards.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/engine.rs"]
mod engine;

use std::process::Child;
use std::time::{Duration, Instant};

use common::{App, Busy, Process, Site, Sorted, finish, processes_with, rounds, table};
use engine::Swarm;

const REPLICAS: u32 = 8;
const START_MS: u64 = 500;
const STOP_MS: u64 = 1500;
const CONNECTIONS: u32 = 8;
const PAUSE_MS: u32 = 20;
/// A rollout that takes longer than this is given up.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() {
    let title = format!(
        "Beside Docker Swarm: {REPLICAS} replicas, the new one first, {START_MS} ms to ready, {STOP_MS} ms to stop, a check each \
         second, {CONNECTIONS} connections that send each {PAUSE_MS} ms"
    );
    let columns = [
        "who",
        "at once",
        "from the command to the last old one gone ÷ limit: median (least–most) of n",
        "n",
        "most alive",
        "requests",
        "lost",
        "p99 ms",
        "cpu busy %",
    ];
    table(&title, &columns);
    let mut limits = Vec::new();
    for (at_once, eager) in [(1, false), (2, false), (1, true), (2, true)] {
        limits.push(trundle(at_once, eager));
    }
    match Swarm::begin(REPLICAS, &[("START_MS", START_MS), ("STOP_MS", STOP_MS)]) {
        Ok(swarm) => {
            for (at_once, limit_ms) in [(1, limits[0]), (2, limits[1])] {
                by_swarm(&swarm, at_once, limit_ms);
            }
            println!(
                "\nThe limit is that of `trundle simulate`, with at most {REPLICAS} + at once alive. {}",
                swarm.about()
            );
        }
        Err(why) => println!("\nSKIPPED: Docker Swarm was NOT measured: {why}"),
    }
}

/// Answers with the limit.
fn trundle(at_once: u32, eager: bool) -> f64 {
    let env = format!("START_MS = \"{START_MS}\", STOP_MS = \"{STOP_MS}\"");
    let rollout = format!("max_surge = {at_once}\nmax_unavailable = 0");
    let health = format!("interval = \"1s\"\ntimeout = \"1s\"\neager = {eager}");
    let app = App { replicas: REPLICAS, rollout: &rollout, health: &health, env: &env };
    let site = Site::new(&format!("beside-{at_once}-{eager}"), &app);
    site.run(&["deploy", "-q"]);
    let limit_ms = site.limit_ms(START_MS, STOP_MS);
    let marker = site.state_dir().display().to_string();
    let runs = (0..rounds(3)).map(|n| {
        let version = format!("2.{n}");
        let load = site.load(CONNECTIONS, PAUSE_MS);
        let run = Run::watch(&marker, &version, || {
            site.command(&["deploy", "-q", "--set", &format!("version={version}")]).spawn().unwrap()
        });
        run.with(load)
    });
    let who = if eager { "Trundle, asking more often while one starts (its default)" } else { "Trundle" };
    tell(who, at_once, limit_ms, runs.collect());
    limit_ms
}

fn by_swarm(swarm: &Swarm, at_once: u32, limit_ms: f64) {
    let runs = (0..rounds(3)).map(|n| {
        let version = format!("{at_once}.{n}");
        let load = swarm.load(CONNECTIONS, PAUSE_MS);
        let run = Run::watch(swarm.marker(), &version, || swarm.update(&version, at_once));
        (run.with(load), swarm.wait_for_the_end())
    });
    let (runs, ends): (Vec<Run>, Vec<_>) = runs.unzip();
    tell("Docker Swarm", at_once, limit_ms, runs);
    for why in ends.into_iter().filter_map(Result::err) {
        eprintln!("Swarm did not call its update completed: {why}");
    }
}

/// What was seen of one rollout from outside, the same way for both.
struct Run {
    took_ms: f64,
    most_alive: usize,
    busy: f64,
    tally: serde_json::Value,
}

impl Run {
    /// From before `begin` until all that runs is new.
    fn watch(marker: &str, version: &str, begin: impl FnOnce() -> Child) -> Self {
        // The load shall have begun.
        std::thread::sleep(Duration::from_millis(500));
        let (new, busy) = (format!("TRUNDLE_VERSION={version}"), Busy::begin());
        let began = Instant::now();
        let mut command = begin();
        let mut most_alive = 0;
        let took = loop {
            let apps = processes_with(marker).into_iter().filter(Process::is_sample);
            let of_new: Vec<bool> = apps.map(|app| app.has(&new)).collect();
            let took = began.elapsed();
            most_alive = most_alive.max(of_new.len());
            if of_new.len() >= REPLICAS as usize && of_new.iter().all(|new| *new) {
                break took;
            }
            assert!(took < PATIENCE, "{version} is not everywhere after {took:?}: {of_new:?}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let busy = busy.percent();
        assert!(command.wait().unwrap().success(), "the command failed");
        Self { took_ms: took.as_secs_f64() * 1000.0, most_alive, busy, tally: serde_json::Value::Null }
    }

    fn with(self, load: Child) -> Self {
        Self { tally: finish(load), ..self }
    }
}

fn tell(who: &str, at_once: u32, limit_ms: f64, runs: Vec<Run>) {
    let ratios = Sorted::of(runs.iter().map(|run| run.took_ms / limit_ms).collect());
    let sum = |key: &str| runs.iter().map(|run| run.tally[key].as_u64().unwrap()).sum::<u64>();
    let busy = Sorted::of(runs.iter().map(|run| run.busy).collect());
    let p99_us = Sorted::of(runs.iter().map(|run| run.tally["p99_us"].as_f64().unwrap()).collect());
    println!(
        "| {who} | {at_once} | {} | {} | {} | {} | {} | {:.1} | {:.0} |",
        ratios.with_spread(),
        runs.len(),
        runs.iter().map(|run| run.most_alive).max().unwrap(),
        sum("sent"),
        sum("lost"),
        p99_us.median() / 1000.0,
        busy.median()
    );
    for loss in runs.iter().flat_map(|run| run.tally["first_losses"].as_array().unwrap()).take(3) {
        eprintln!("lost with {who}: {loss}");
    }
}
