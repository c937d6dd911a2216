//! What the benches share: an app in a folder of its own, tables, and what `/proc` says of processes.

#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

pub const TRUNDLE: &str = env!("CARGO_BIN_EXE_trundle");

/// `-- --quick`: fewer rounds and the smallest sizes, to see that it runs. Its numbers are for nothing else.
pub fn quick() -> bool {
    std::env::args().any(|arg| arg == "--quick")
}

pub fn rounds(full: usize) -> usize {
    if quick() { 1 } else { full }
}

/// A headline, how busy the machine is without us, and the head of the table.
pub fn table(title: &str, columns: &[&str]) {
    println!("\n{title}{}", if quick() { " (quick: one round, not for comparison)" } else { "" });
    println!("{}\n", machine());
    println!("| {} |", columns.join(" | "));
    println!("|{}", " --- |".repeat(columns.len()));
}

/// Others on the machine make every number worse: whoever reads it shall know.
fn machine() -> String {
    let busy = Busy::begin();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, before it began {:.0} % busy", busy.percent())
}

/// How busy all cores are.
pub struct Busy {
    idle: f64,
    all: f64,
}

impl Busy {
    pub fn begin() -> Self {
        let (idle, all) = cpu_ticks();
        Self { idle, all }
    }

    /// Since it began: 100 is every core.
    pub fn percent(&self) -> f64 {
        let (idle, all) = cpu_ticks();
        100.0 * (1.0 - (idle - self.idle) / (all - self.all).max(1.0))
    }
}

/// Idle (waiting for the disk is idle too) and all, since boot.
fn cpu_ticks() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    // user nice system idle iowait irq softirq steal; what comes behind is counted in user already.
    let ticks: Vec<f64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).take(8).map(|n| n.parse().unwrap()).collect();
    (ticks[3] + ticks[4], ticks.iter().sum())
}

/// The middle, the least and the most.
pub struct Sorted(pub Vec<f64>);

impl Sorted {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }
    pub fn least(&self) -> f64 {
        self.0[0]
    }
    pub fn most(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }
    pub fn of_thousand(&self, n: usize) -> f64 {
        self.0[(self.0.len() - 1) * n / 1000]
    }
    /// `1.012 (1.008–1.031)`
    pub fn with_spread(&self) -> String {
        format!("{:.3} ({:.3}–{:.3})", self.median(), self.least(), self.most())
    }
}

/// A folder with an app in it; taken down at the end.
pub struct Site {
    pub dir: PathBuf,
    pub port: u16,
}

/// What differs between the apps of the benches; the rest is the sample app behind one port.
pub struct App<'a> {
    pub replicas: u32,
    /// Lines of `[rollout]`.
    pub rollout: &'a str,
    /// Lines of `[health.ready]`, beside its `http`.
    pub health: &'a str,
    /// Of the sample app: `START_MS = "200"`, comma between two. `$DIR` is the site's folder.
    pub env: &'a str,
}

impl Site {
    pub fn new(name: &str, app: &App) -> Self {
        Self::below(&std::env::temp_dir(), name, app)
    }

    /// With its state in a folder of `parent`.
    pub fn below(parent: &Path, name: &str, app: &App) -> Self {
        let dir = parent.join(format!("trundle-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("times")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let App { replicas, rollout, health, env } = app;
        let env = env.replace("$DIR", &dir.display().to_string());
        let toml = format!(
            "name = \"web\"\nversion = \"1\"\nreplicas = {replicas}\n[run]\ncommand = [\"{TRUNDLE}\", \"sample\"]\n\
             env = {{ {env} }}\n[listen]\nhttp = \"127.0.0.1:{port}\"\n\
             [health.ready]\nhttp = \"/ready\"\n{health}\n[rollout]\n{rollout}\n"
        );
        std::fs::write(dir.join("trundle.toml"), toml).unwrap();
        Self { dir, port }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "trundle {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(args)).unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(TRUNDLE);
        command.args(args).current_dir(&self.dir).env("TRUNDLE_STATE_DIR", self.state_dir());
        command
    }

    /// Rolls to a new version and answers how long that took, as Trundle counts it.
    pub fn roll(&self, version: &str) -> f64 {
        self.run(&["deploy", "-q", "--set", &format!("version={version}")]);
        self.json(&["status", "--json"])["rollout"]["duration_ms"].as_f64().unwrap()
    }

    /// The shortest that physics allows, in milliseconds: waves × (time to ready + time to stop), as `trundle simulate`
    /// tells it for these times.
    pub fn limit_ms(&self, start_ms: u64, stop_ms: u64) -> f64 {
        let (start, stop) = (format!("{start_ms}ms"), format!("{stop_ms}ms"));
        let told = self.json(&["simulate", "--json", "--start-time", &start, "--stop-time", &stop]);
        told["limit_s"].as_f64().unwrap() * 1000.0
    }

    /// The strict client, until its input ends.
    pub fn load(&self, connections: u32, pause_ms: u32) -> Child {
        load(Command::new(TRUNDLE), &format!("127.0.0.1:{}", self.port), connections, pause_ms)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// `program` is Trundle, or what starts Trundle.
pub fn load(mut program: Command, address: &str, connections: u32, pause_ms: u32) -> Child {
    program
        .args(["load", address, &connections.to_string(), "0", "0", "0", "0", "0", &pause_ms.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Its tally.
pub fn finish(mut load: Child) -> Value {
    drop(load.stdin.take());
    serde_json::from_slice(&load.wait_with_output().unwrap().stdout).unwrap()
}

/// One process that is alive.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: u32,
    /// Its command line from the second word on.
    pub args: Vec<String>,
    environment: String,
}

impl Process {
    pub fn is_sample(&self) -> bool {
        self.args.first().is_some_and(|word| word == "sample")
    }

    /// `pair` is `KEY=value`.
    pub fn has(&self, pair: &str) -> bool {
        self.environment.split('\0').any(|has| has == pair)
    }
}

/// Those whose environment has this text; a process without a command line is a zombie.
pub fn processes_with(text: &str) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        // It may end while we look.
        let read = |of: &str| std::fs::read(format!("/proc/{pid}/{of}")).ok();
        let environment = String::from_utf8_lossy(&read("environ")?).into_owned();
        environment.contains(text).then_some(())?;
        let line = String::from_utf8(read("cmdline")?).ok().filter(|line| !line.is_empty())?;
        let args = line.split_terminator('\0').skip(1).map(str::to_owned).collect();
        Some(Process { pid, args, environment })
    })
    .collect()
}

/// Proportional and resident memory in MiB: of a page that n processes share, the first has one n-th and the second all.
pub fn memory_mib(pid: u32) -> (f64, f64) {
    let path = format!("/proc/{pid}/smaps_rollup");
    (field(&path, "Pss:") / 1024.0, field(&path, "Rss:") / 1024.0)
}

pub fn field(path: &str, name: &str) -> f64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
