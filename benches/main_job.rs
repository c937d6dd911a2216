//! How near a rollout is to what physics allows, how soon a ready instance gets requests, what the daemon costs at rest.
//!
//! `cargo bench -p trundle --bench main_job` prints the table. It measures; it judges nothing.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TRUNDLE: &str = env!("CARGO_BIN_EXE_trundle");
const ROUNDS: usize = 5;
const STARTS: usize = 500;

fn main() {
    println!("| what | measured | bar |");
    println!("| --- | --- | --- |");
    for stop_ms in [0, 1500] {
        rollout_against_physics(stop_ms);
    }
    first_request();
    at_rest();
}

/// A folder with an app in it; taken down at the end.
struct Site {
    dir: PathBuf,
    port: u16,
}

impl Site {
    fn new(name: &str, replicas: u32, rollout: &str, env: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("trundle-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("times")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let times = dir.join("times");
        let toml = format!(
            "name = \"web\"\nversion = \"1\"\nreplicas = {replicas}\n[run]\ncommand = [\"{TRUNDLE}\", \"sample\"]\n\
             env = {{ TIMES = \"{}\", {env} }}\n[listen]\nhttp = \"127.0.0.1:{port}\"\n\
             [health.ready]\nhttp = \"/ready\"\n[rollout]\n{rollout}\n",
            times.display()
        );
        std::fs::write(dir.join("trundle.toml"), toml).unwrap();
        Self { dir, port }
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "trundle {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(TRUNDLE);
        command.args(args).current_dir(&self.dir).env("TRUNDLE_STATE_DIR", self.dir.join("state"));
        command
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.run(&["status", "--json"])).unwrap()
    }

    /// The strict client, until its input ends.
    fn load(&self, connections: u32, pause_ms: u32) -> Child {
        let address = format!("127.0.0.1:{}", self.port);
        self.command(&[
            "load",
            &address,
            &connections.to_string(),
            "0",
            "0",
            "0",
            "0",
            "0",
            &pause_ms.to_string(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn finish(mut load: Child) -> serde_json::Value {
    drop(load.stdin.take());
    serde_json::from_slice(&load.wait_with_output().unwrap().stdout).unwrap()
}

/// 8 replicas at 1/1 are four waves; each takes the app's own start and stop.
fn rollout_against_physics(stop_ms: u64) {
    let env = format!("START_MS = \"200\", STOP_MS = \"{stop_ms}\"");
    let site = Site::new(&format!("roll-{stop_ms}"), 8, "max_surge = 1\nmax_unavailable = 1", &env);
    site.run(&["deploy", "-q"]);
    let limit_ms = 4.0 * (200.0 + stop_ms as f64);
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|n| {
            site.run(&["deploy", "-q", "--set", &format!("version=2.{n}")]);
            site.status()["rollout"]["duration_ms"].as_f64().unwrap() / limit_ms
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "| rollout, 8 replicas at 1/1, 200 ms to ready, {stop_ms} ms to stop: time / limit, median of {ROUNDS} ({:.2}–{:.2}) | {:.3} | ≤ 1.15 |",
        ratios[0],
        ratios[ROUNDS - 1],
        ratios[ROUNDS / 2]
    );
}

/// From the app's own moment of being able to answer to its first request through the proxy.
fn first_request() {
    let site = Site::new("first", 10, "max_surge = 2\nmax_unavailable = 0", "START_MS = \"100\"");
    site.run(&["deploy", "-q"]);
    let load = site.load(8, 1);
    let times = site.dir.join("times");
    while count(&times) < STARTS + 10 {
        site.run(&["restart", "web", "-q"]);
    }
    let tally = finish(load);
    // Revision 1 was there before the load.
    let entries = std::fs::read_dir(&times).unwrap().map(|entry| entry.unwrap());
    let mut took_us: Vec<u64> = entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with("web-1-"))
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let (listening, first) = text.split_once(' ').unwrap();
            first.parse::<u64>().unwrap() - listening.parse::<u64>().unwrap()
        })
        .collect();
    took_us.sort_unstable();
    let ms = |of_thousand: usize| took_us[(took_us.len() - 1) * of_thousand / 1000] as f64 / 1000.0;
    println!(
        "| able to answer → first routed request, {} starts: p50 / p99 / max | {:.1} / {:.1} / {:.1} ms | p99 ≤ 20 ms |",
        took_us.len(),
        ms(500),
        ms(990),
        ms(1000)
    );
    println!("| lost meanwhile, of {} requests | {} | 0 |", tally["sent"], tally["lost"]);
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Resident memory and CPU of the daemon while 8 instances run and nothing rolls.
fn at_rest() {
    let site = Site::new("rest", 8, "", "START_MS = \"0\"");
    site.run(&["deploy", "-q"]);
    site.run(&["deploy", "-q", "--set", "version=2"]);
    let pid = std::fs::read_to_string(site.dir.join("state/daemon.lock")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let (before, began) = (cpu_ms(&pid), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let share = (cpu_ms(&pid) - before) / began.elapsed().as_secs_f64() / 10.0;
    let rss = field(&format!("/proc/{pid}/status"), "VmRSS:") / 1024.0;
    println!("| daemon at rest, 8 instances probed each second: resident | {rss:.1} MiB | ≤ 20 MiB |");
    println!("| daemon at rest: share of one core over 10 s | {share:.2} % | no busy polling |");
    std::io::stdout().flush().unwrap();
}

fn cpu_ms(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime, in ticks of 10 ms.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10.0
}

fn field(path: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
