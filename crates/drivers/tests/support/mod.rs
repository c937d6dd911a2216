//! A driver in a state directory of its own, what it reported, and ways to wait for more.

// Each test file uses another part of it.
#![allow(dead_code)]

pub mod group;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use trundle_core::event::{Evidence, Exit, Fact, RefusalCode};
use trundle_core::ids::{AppName, InstanceKey, RevisionNumber};
use trundle_core::revision::{
    Check, Health, HttpProbe, Port, Probe, Protocol, Revision, RunLimits, StopSignal,
};
use trundle_drivers::{Draft, ProcessConfig, ProcessDriver, prepare, still_running};
use trundle_engine::ports::{Driver as _, Ensure, Fence, Kept, Report};

pub const SAMPLE: &str = env!("CARGO_BIN_EXE_drivers-sample");
/// Far longer than anything takes: reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

type Log = Arc<(Mutex<Vec<(InstanceKey, Fact)>>, Condvar)>;

pub struct World {
    pub dir: tempfile::TempDir,
    pub state: PathBuf,
    pub driver: Option<ProcessDriver>,
    pub app: AppName,
    pub ports: std::ops::RangeInclusive<u16>,
    /// What the shim is started with; it becomes the shim.
    pub shim: Vec<String>,
    facts: Log,
    /// Told ready, to this daemon or one before.
    ready: Arc<Mutex<BTreeSet<InstanceKey>>>,
    runtime: tokio::runtime::Runtime,
    n: u64,
}

pub fn key(text: &str) -> InstanceKey {
    text.parse().unwrap()
}

pub fn http(path: &str) -> Check {
    let probe = HttpProbe { path: path.into(), status: None, body: None, headers: BTreeMap::new() };
    Check { interval_ms: 100, timeout_ms: 500, ..Check::new(Probe::Http(probe)) }
}

pub fn exit(code: Option<i32>, signal: Option<i32>) -> Fact {
    Fact::Exited(Exit { code, signal })
}

/// A draft of the sample app with this environment.
pub fn sample(cwd: &Path, env: &[(&str, &str)]) -> Draft {
    Draft {
        version: "3.2".parse().unwrap(),
        command: vec![SAMPLE.into()],
        cwd: cwd.to_owned(),
        env: env.iter().map(|(k, v)| (k.parse().unwrap(), (*v).to_owned())).collect(),
        env_file: None,
        secrets: BTreeMap::new(),
        artifact: None,
        stop_signal: StopSignal::Term,
        quiet: None,
        user: None,
        limits: RunLimits::default(),
        protocol: Protocol::Http1,
        port: Port::Auto,
        health: Health { startup: None, ready: http("/ready"), live: None, ready_assumed: false },
        compatible_with: None,
    }
}

/// A draft of a shell script.
pub fn shell(cwd: &Path, script: &str) -> Draft {
    Draft {
        command: vec!["sh".into(), "-c".into(), script.replace('{', "{{").replace('}', "}}")],
        ..sample(cwd, &[])
    }
}

impl World {
    pub fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Test programs run at the same time only in different processes: those are told apart by their number.
        let block = NEXT.fetch_add(1, Ordering::Relaxed) + 16 * (std::process::id() % 40) as u16;
        let first = 20_000 + 16 * (block % 600);
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut world = Self {
            dir,
            state,
            driver: None,
            app: "web".parse().unwrap(),
            ports: first..=first + 15,
            shim: [SAMPLE, "shim"].map(str::to_owned).into(),
            facts: Arc::default(),
            ready: Arc::default(),
            runtime,
            n: 0,
        };
        world.begin();
        world
    }

    /// A daemon begins. What the one before heard is forgotten.
    pub fn begin(&mut self) {
        self.facts = Arc::default();
        let (facts, ready) = (Arc::clone(&self.facts), Arc::clone(&self.ready));
        let report = move |report: Report| {
            if let Report::Seen { instance, fact, .. } = report {
                if fact == Fact::Ready {
                    ready.lock().unwrap().insert(instance);
                }
                facts.0.lock().unwrap().push((instance, fact));
                facts.1.notify_all();
            }
        };
        let config = ProcessConfig {
            state_dir: self.state.clone(),
            ports: self.ports.clone(),
            program: self.shim[0].clone().into(),
            shim_args: self.shim[1..].iter().map(Into::into).collect(),
        };
        self.driver =
            Some(ProcessDriver::new(config, self.runtime.handle().clone(), Arc::new(report)).unwrap());
    }

    /// The daemon ends; what runs goes on.
    pub fn end(&mut self) {
        self.driver = None;
    }

    pub fn cwd(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    pub fn revision(&self, number: u32, draft: Draft) -> Revision {
        Revision { number: RevisionNumber(number), template: prepare(&self.state, draft).unwrap() }
    }

    pub fn ensure(&mut self, revision: &Revision, keep: &[&str], victims: &[&str]) {
        self.ensure_with(revision, keep, victims, 300, true);
    }

    pub fn ensure_with(
        &mut self,
        revision: &Revision,
        keep: &[&str],
        victims: &[&str],
        grace_ms: u64,
        probe: bool,
    ) {
        self.n += 1;
        let keep: Vec<Kept> = keep.iter().map(|k| self.kept(k, probe)).collect();
        let victims: Vec<_> = victims.iter().map(|k| key(k)).collect();
        let command = Ensure {
            fence: Fence { epoch: 1, n: self.n },
            app: &self.app,
            revision,
            want: u32::try_from(keep.len()).unwrap(),
            keep: &keep,
            victims: &victims,
            stop_grace_period_ms: grace_ms,
        };
        self.driver.as_mut().unwrap().ensure(&command);
    }

    /// As the engine would say it: what was told once is known.
    fn kept(&self, instance: &str, probe: bool) -> Kept {
        let instance = key(instance);
        Kept { instance, probe, was_ready: self.ready.lock().unwrap().contains(&instance) }
    }

    pub fn facts(&self, instance: &str) -> Vec<Fact> {
        let facts = self.facts.0.lock().unwrap();
        facts.iter().filter(|(k, _)| *k == key(instance)).map(|(_, fact)| fact.clone()).collect()
    }

    /// Waits for the first fact that this accepts.
    pub fn wait<T>(&self, instance: &str, what: &str, mut accept: impl FnMut(&Fact) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        let mut facts = self.facts.0.lock().unwrap();
        loop {
            let found = facts.iter().filter(|(k, _)| *k == key(instance)).find_map(|(_, fact)| accept(fact));
            if let Some(found) = found {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what}: {facts:?}, log {:?}", self.log(instance));
            facts = self.facts.1.wait_timeout(facts, left).unwrap().0;
        }
    }

    pub fn wait_for(&self, instance: &str, fact: &Fact) {
        self.wait(instance, &format!("{fact:?}"), |f| (f == fact).then_some(()));
    }

    /// Why it was not started.
    pub fn refused(&self, instance: &str) -> (RefusalCode, String) {
        self.wait(instance, "refusal", |fact| match fact {
            Fact::StartRefused { code, text } => Some((*code, text.clone())),
            _ => None,
        })
    }

    /// Pid, port, incarnation.
    pub fn started(&self, instance: &str) -> (u32, u16, String) {
        self.wait(instance, "start", |fact| match fact {
            Fact::Started { pid, address: Some(address), incarnation } => {
                let port = address.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
                Some((*pid, port, incarnation.to_string()))
            }
            _ => None,
        })
    }

    pub fn evidence(&mut self, instance: &str) -> Evidence {
        self.driver.as_mut().unwrap().evidence(&self.app, key(instance))
    }

    pub fn log(&self, instance: &str) -> Vec<String> {
        ProcessDriver::last_lines(&self.state, &self.app, key(instance), 100)
    }

    pub fn instance_dir(&self, instance: &str) -> PathBuf {
        self.state.join("instances/web").join(instance)
    }

    pub fn record(&self, instance: &str, file: &str) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.instance_dir(instance).join(file)).unwrap()).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end();
        // Only what carries the label of this state directory. The shims end when what they watch has ended.
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let left = still_running(&self.state);
            if left.is_empty() {
                return;
            }
            for running in left.iter().filter(|r| name_of(r.pid) != "drivers-sample" || !is_shim(r.pid)) {
                kill(running.pid, "KILL");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_shim(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|b| *b == 0).nth(1) == Some(b"shim"))
}

fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().chars().take(14).collect()
}

pub fn kill(pid: u32, signal: &str) {
    std::process::Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Neither running nor a zombie that nobody buried.
pub fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// Not running: gone, or waiting to be buried.
pub fn is_dead(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
