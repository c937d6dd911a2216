//! `demo`: a complete rollout on this machine, under load, by the public command line, with the proof at the end.

pub mod load;
pub mod sample;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Serialize;
use tokio::process::{Child, Command};
use trundle_core::ids::{AppName, BadName, RolloutId};
use trundle_engine::view::{History, Status};

use crate::api::client::Client;
use crate::exit::Exit;
use crate::report::Book;
use crate::term::{bold, dim, green, red};
use load::{Load, Mix, Tally};

const REPLICAS: u32 = 8;

/// What `--json` ends with.
#[derive(Debug, Serialize)]
struct Proof {
    requests: u64,
    lost: u64,
    rollouts: Vec<RolloutProof>,
    lowest_available: u32,
    highest_total: u32,
    floor: u32,
    ceiling: u32,
    peak_mix: BTreeMap<String, u32>,
    p50_us: u64,
    p99_us: u64,
    first_losses: Vec<String>,
    report: PathBuf,
}

#[derive(Debug, Serialize)]
struct RolloutProof {
    to: String,
    outcome: String,
    lowest_available: u32,
    highest_total: u32,
    peak_mix: BTreeMap<String, u32>,
    duration_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    #[error("`trundle {args}` ended with {status}, expected {expected}")]
    Unexpected { args: String, status: ExitStatus, expected: i32 },
    #[error("the demo's daemon: {0}")]
    Daemon(String),
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> DemoError {
    move |source| DemoError::System { what, source }
}

/// Exit 0 only if nothing was lost and the floor held.
pub async fn run(json: bool, plant: Option<&str>) -> i32 {
    let mut demo = match Demo::begin(json, plant).await {
        Ok(demo) => demo,
        Err(error) => return fail(&error, json),
    };
    let outcome = tokio::select! {
        outcome = demo.play() => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted; everything is taken down");
            demo.end().await;
            return 130;
        }
    };
    demo.end().await;
    match outcome {
        Ok(proof) => demo.tell(&proof),
        Err(error) => fail(&error, json),
    }
}

fn fail(error: &DemoError, json: bool) -> i32 {
    if json {
        out(&crate::cli::error_object(&error.to_string(), Exit::Error).to_string());
        return Exit::Error.code();
    }
    crate::exit::fail(&error.to_string())
}

/// When nobody reads any more there is still everything to take down.
fn out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

struct Demo {
    /// Everything is in it; removed at the end.
    dir: PathBuf,
    report: PathBuf,
    address: SocketAddr,
    client: Client,
    daemon: Child,
    load: Option<Load>,
    json: bool,
}

impl Demo {
    async fn begin(json: bool, plant: Option<&str>) -> Result<Self, DemoError> {
        let dir = std::env::temp_dir().join(format!("trundle-demo-{}", std::process::id()));
        let state_dir = dir.join("state");
        fs::create_dir_all(dir.join("database")).map_err(system("cannot make the demo's folder"))?;
        let address = free_address().map_err(system("no free port on 127.0.0.1"))?;
        fs::write(
            dir.join("trundle.toml"),
            config(&dir, address).map_err(system("cannot find the program itself"))?,
        )
        .map_err(system("cannot write the demo's trundle.toml"))?;
        crate::state_dir::prepare(&state_dir).map_err(|e| DemoError::Daemon(e.to_string()))?;
        let log =
            crate::daemon::start::log_file(&state_dir, "daemon.log").map_err(system("cannot open a log"))?;
        let mut command =
            Command::new(std::env::current_exe().map_err(system("cannot find the program itself"))?);
        command
            .args(["daemon", "--state-dir"])
            .arg(&state_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // An interrupt at the terminal is ours to handle: the daemon is needed to take everything down.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(plant) = plant {
            command.env(crate::daemon::PLANT, plant);
        }
        let daemon = command.spawn().map_err(system("cannot start the demo's daemon"))?;
        let client = Client::new(crate::state_dir::socket_path(&state_dir));
        if !client.answers_soon().await {
            let said = fs::read_to_string(state_dir.join("daemon.log")).unwrap_or_default();
            return Err(DemoError::Daemon(said));
        }
        let report = std::env::temp_dir().join(format!("trundle-demo-report-{}.html", std::process::id()));
        Ok(Self { dir, report, address, client, daemon, load: None, json })
    }

    async fn play(&mut self) -> Result<Proof, DemoError> {
        self.say("1", "3.1 is deployed: 8 real processes behind the proxy");
        self.deploy(&["--set", "version=3.1"], 0).await?;
        let mix = Mix {
            connections: 24,
            post_percent: 30,
            post_bytes: 64 * 1024,
            slow_percent: 10,
            slow_ms: (300, 900),
            pause: Duration::from_millis(15),
        };
        self.load = Some(Load::start(self.address, mix));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut rollouts = Vec::new();
        self.say("2", "3.2 rolls out while a strict client sends requests and never retries");
        self.deploy(&["--set", "version=3.2"], 0).await?;
        rollouts.push(self.proof().await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.say(
            "3",
            "3.3 comes with DB_POOL=40: right for two instances, too much for the database with three",
        );
        self.deploy(&["--set", "version=3.3", "--set", "run.env.DB_POOL=40"], 10).await?;
        rollouts.push(self.proof().await?);
        self.say("", "it stopped by itself. The old version serves on; nothing is lost, nobody was woken");
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.say("4", "DB_POOL is corrected, and the rollout goes on from there");
        self.deploy(&["--set", "version=3.3", "--set", "run.env.DB_POOL=12"], 0).await?;
        rollouts.push(self.proof().await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let sent = self.load.as_ref().map_or(0, Load::sent);
        self.say("5", &format!("the load ends after {sent} requests"));
        let tally = match self.load.take() {
            Some(load) => load.finish().await,
            None => Tally::default(),
        };
        let status = self.status().await?;
        self.write_report().await?;
        Ok(proof(rollouts, tally, &status, self.report.clone()))
    }

    /// By the public command line, as a user would.
    async fn deploy(&self, sets: &[&str], expected: i32) -> Result<(), DemoError> {
        let mut args = vec!["deploy"];
        args.extend(sets);
        if !self.json {
            out(&format!("{} trundle {}", dim("$"), bold(&args.join(" "))));
        }
        let mut command = self.command()?;
        command.args(&args).stdin(Stdio::null());
        if self.json {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let status = command.status().await.map_err(system("cannot run the command"))?;
        if status.code() == Some(expected) {
            return Ok(());
        }
        Err(DemoError::Unexpected { args: args.join(" "), status, expected })
    }

    fn command(&self) -> Result<Command, DemoError> {
        let mut command =
            Command::new(std::env::current_exe().map_err(system("cannot find the program itself"))?);
        command.current_dir(&self.dir).env("TRUNDLE_STATE_DIR", self.dir.join("state"));
        Ok(command)
    }

    async fn status(&self) -> Result<Status, DemoError> {
        self.client.status("web").await.map_err(|e| DemoError::Daemon(e.to_string()))
    }

    async fn proof(&self) -> Result<RolloutProof, DemoError> {
        let status = self.status().await?;
        let rollout = status.rollout.ok_or_else(|| DemoError::Daemon("it knows no rollout".to_owned()))?;
        Ok(RolloutProof {
            to: rollout.to_version,
            outcome: rollout.state,
            lowest_available: status.lowest_available.unwrap_or(0),
            highest_total: status.highest_total.unwrap_or(0),
            peak_mix: status.peak_mix,
            duration_ms: rollout.duration_ms,
        })
    }

    /// Every rollout with its pictures and decisions, for whoever wants to look. The load is over, so nothing is disturbed.
    async fn write_report(&self) -> Result<(), DemoError> {
        let history: History =
            self.client.history("web").await.map_err(|e| DemoError::Daemon(e.to_string()))?;
        let state_dir = self.dir.join("state");
        let book = Book::read(&state_dir).map_err(|e| DemoError::Daemon(e.to_string()))?;
        let app: AppName = history.app.parse().map_err(|e: BadName| DemoError::Daemon(e.to_string()))?;
        let rows = history.rollouts.into_iter();
        let rollouts: Vec<_> = rows
            .filter_map(|row| book.evidence(&state_dir, &app, RolloutId(row.rollout), Some(row)))
            .collect();
        crate::report::write(&self.report, &crate::report::page(&rollouts))
            .map_err(system("cannot write the report"))
    }

    fn say(&self, step: &str, text: &str) {
        if !self.json {
            let step = if step.is_empty() { String::new() } else { format!("{step}. ") };
            out(&format!("\n{}", bold(&format!("{step}{text}"))));
        }
    }

    fn tell(&self, proof: &Proof) -> i32 {
        let held = proof.lowest_available >= proof.floor && proof.highest_total <= proof.ceiling;
        let good = proof.lost == 0 && held;
        if self.json {
            out(&serde_json::to_string(proof).unwrap_or_default());
            return i32::from(!good);
        }
        let mix: Vec<_> = proof.peak_mix.iter().map(|(version, n)| format!("{n} × {version}")).collect();
        out(&format!("\n{}", bold("What the client saw")));
        let lost = if proof.lost == 0 { green("0 lost") } else { red(&format!("{} lost", proof.lost)) };
        out(&format!("  {} requests sent once, never retried: {lost}", proof.requests));
        for loss in &proof.first_losses {
            out(&format!("    {loss}"));
        }
        out(&format!(
            "  lowest available {} (floor {}), most alive {} (ceiling {}), peak mix {}",
            proof.lowest_available,
            proof.floor,
            proof.highest_total,
            proof.ceiling,
            mix.join(" + ")
        ));
        out(&format!(
            "  latency p50 {:.1} ms, p99 {:.1} ms",
            proof.p50_us as f64 / 1e3,
            proof.p99_us as f64 / 1e3
        ));
        out(&format!("  pictures, and every decision with its reason: {}", proof.report.display()));
        i32::from(!good)
    }

    async fn end(&mut self) {
        if let Some(load) = self.load.take() {
            load.finish().await;
        }
        if let Ok(mut command) = self.command() {
            let _ = command.arg("down").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(5), self.daemon.wait()).await;
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn proof(rollouts: Vec<RolloutProof>, tally: Tally, status: &Status, report: PathBuf) -> Proof {
    Proof {
        requests: tally.sent,
        lost: tally.lost,
        lowest_available: rollouts.iter().map(|r| r.lowest_available).min().unwrap_or(0),
        highest_total: rollouts.iter().map(|r| r.highest_total).max().unwrap_or(0),
        peak_mix: rollouts.first().map(|r| r.peak_mix.clone()).unwrap_or_default(),
        rollouts,
        floor: status.floor,
        ceiling: status.ceiling,
        p50_us: tally.p50_us,
        p99_us: tally.p99_us,
        first_losses: tally.first_losses,
        report,
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

fn config(dir: &Path, address: SocketAddr) -> std::io::Result<String> {
    let program = std::env::current_exe()?;
    let (program, database) = (toml::Value::from(program.display().to_string()), dir.join("database"));
    let database = toml::Value::from(database.display().to_string());
    Ok(format!(
        r#"name = "web"
version = "3.1"
replicas = {REPLICAS}

[run]
command = [{program}, "sample"]
env = {{ START_MS = "400", DB_POOL = "10", DB_LIMIT = "100", DB_DIR = {database} }}

[listen]
http = "{address}"

[health.ready]
http = "/ready"

[rollout]
max_surge = 1
max_unavailable = 1
min_healthy_time = "300ms"
healthy_deadline = "3s"
progress_deadline = "60s"
"#
    ))
}
