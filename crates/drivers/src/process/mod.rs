//! Instances as local processes, each below its own shim.
//!
//! One task per instance does what the last command said; what it needs to know after a crash lies in the instance's
//! folder and in `/proc`. Invariant: dropping the driver stops no process.

mod instance;
mod launch;
mod ports;
mod prune;
mod settle;
mod spawn;

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use trundle_core::event::{Evidence, Fact};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::revision::Revision;
use trundle_core::state::GateState;
use trundle_crashpoint::crash_point;
use trundle_engine::ports::{Capabilities, Driver, Ensure, Fence, Report};

use crate::digests::Digests;
use crate::health::Seen;
use crate::layout::Layout;
use crate::{durable, logs, procfs};
use instance::{Job, Wish};
use ports::Ports;

/// So many log lines stand on a failure card.
const EVIDENCE_LINES: usize = 30;
/// A fact that ends an instance is said again to one who asks again, but not more often than this.
const SAY_AGAIN: Duration = Duration::from_secs(1);
/// So many instances are started at the same time; the others wait.
const STARTS_AT_ONCE: usize = 8;
/// Instances that are over and were not mentioned again are forgotten when there are more than this.
const REMEMBERED_MAX: usize = 1000;

pub struct ProcessConfig {
    /// It must be there and be ours.
    pub state_dir: PathBuf,
    /// For `port = "auto"`.
    pub ports: RangeInclusive<u16>,
    /// Absolute: the program that has [`crate::run_shim`] behind `shim_args`.
    pub program: PathBuf,
    pub shim_args: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("the state directory {} cannot be used: {source}; create it, or name another one with --state-dir", path.display())]
    StateDir { path: PathBuf, source: io::Error },
    #[error("the path of the state directory {} is not UTF-8: name another one with --state-dir", .0.display())]
    NotUtf8(PathBuf),
    #[error("the range of ports is empty: write the smaller number first, as in ports = \"20000-29999\"")]
    NoPorts,
}

/// What all tasks share.
struct Context {
    layout: Layout,
    /// The same as text, as it stands in the label of a process.
    state_dir: String,
    program: PathBuf,
    shim_args: Vec<String>,
    ports: Mutex<Ports>,
    digests: Digests,
    starts: Semaphore,
    boot_id: String,
    report: Arc<dyn Fn(Report) + Send + Sync>,
}

pub struct ProcessDriver {
    context: Arc<Context>,
    runtime: Handle,
    instances: BTreeMap<(AppName, InstanceKey), Tracked>,
    greatest: BTreeMap<AppName, Fence>,
}

/// One instance that was named in a command of this daemon.
struct Tracked {
    wish: watch::Sender<Wish>,
    seen: Arc<Mutex<Seen>>,
    last_word: Arc<Mutex<Option<(Fact, Instant)>>>,
    task: AbortHandle,
}

impl ProcessDriver {
    /// `report` is called from any thread and must not block. `runtime` runs the probes and the waits.
    pub fn new(
        config: ProcessConfig,
        runtime: Handle,
        report: Arc<dyn Fn(Report) + Send + Sync>,
    ) -> Result<Self, DriverError> {
        if config.ports.is_empty() {
            return Err(DriverError::NoPorts);
        }
        let unusable = |source| DriverError::StateDir { path: config.state_dir.clone(), source };
        let path = config.state_dir.canonicalize().map_err(unusable)?;
        let layout = Layout::new(&path);
        durable::private_folder(&layout.instances()).map_err(unusable)?;
        crate::user::close_where_others_pass(&layout);
        let state_dir = path.to_str().ok_or_else(|| DriverError::NotUtf8(path.clone()))?.to_owned();
        let boot_id = procfs::boot_id();
        let ports = Ports::recovered(config.ports, &layout, &boot_id);
        let context = Context {
            layout,
            state_dir,
            program: config.program,
            shim_args: config.shim_args,
            ports: Mutex::new(ports),
            digests: Digests::default(),
            starts: Semaphore::new(STARTS_AT_ONCE),
            boot_id,
            report,
        };
        Ok(Self {
            context: Arc::new(context),
            runtime,
            instances: BTreeMap::new(),
            greatest: BTreeMap::new(),
        })
    }

    /// See [`logs::last_lines`].
    pub fn last_lines(state_dir: &Path, app: &AppName, instance: InstanceKey, n: usize) -> Vec<String> {
        logs::last_lines(state_dir, app, instance, n)
    }

    fn track(&mut self, app: &AppName, key: InstanceKey, revision: &Arc<Revision>, wish: Wish) {
        let (sender, receiver) = watch::channel(wish);
        let job = Job::new(Arc::clone(&self.context), app.clone(), key, Arc::clone(revision));
        let (seen, last_word) = (Arc::clone(&job.seen), Arc::clone(&job.last_word));
        let task = self.runtime.spawn(instance::run(Arc::new(job), receiver)).abort_handle();
        self.instances.insert((app.clone(), key), Tracked { wish: sender, seen, last_word, task });
    }

    fn forget_some(&mut self) {
        if self.instances.len() > REMEMBERED_MAX {
            self.instances.retain(|_, tracked| !tracked.task.is_finished());
        }
    }
}

impl Tracked {
    /// Somebody who asks again after the end may have missed the answer.
    fn last_word_again(&self) -> Option<Fact> {
        let mut last = self.last_word.lock().unwrap_or_else(PoisonError::into_inner);
        let (fact, said) = last.as_mut()?;
        if said.elapsed() < SAY_AGAIN {
            return None;
        }
        *said = Instant::now();
        Some(fact.clone())
    }
}

impl Driver for ProcessDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities { names: true, picks_victims: true, probes: true }
    }

    fn gates(&mut self, app: &AppName, gates: &[GateState]) -> Result<(), String> {
        let path = self.context.layout.gates(app);
        let open: BTreeMap<&str, bool> = gates.iter().map(|gate| (gate.name.as_str(), gate.open)).collect();
        // Who has come through to the folder may read it: an app with a user of its own. Which gates are open is no secret.
        let written = path
            .parent()
            .map_or(Ok(()), crate::user::passable_folder)
            .and_then(|()| durable::write(&path, &serde_json::to_vec(&open)?, 0o644));
        written.map_err(|error| {
            format!("{} cannot be written, and the gates of {app} stay: {error}", path.display())
        })
    }

    fn ensure(&mut self, command: &Ensure<'_>) {
        let greatest = self.greatest.entry(command.app.clone()).or_insert(command.fence);
        if command.fence < *greatest {
            log_line!(
                "trundle: a command with an old fence is ignored: {:?} after {greatest:?}",
                command.fence
            );
            return;
        }
        *greatest = command.fence;
        crash_point!("driver.ensure.before");
        self.forget_some();
        let mut shared: Option<Arc<Revision>> = None;
        let stop = Some(Duration::from_millis(command.stop_grace_period_ms));
        let kept = command
            .keep
            .iter()
            .map(|kept| (kept.instance, Wish { probe: kept.probe, was_ready: kept.was_ready, stop: None }));
        // Victims last: one that stands in both lists ends.
        let wishes = kept
            .chain(command.victims.iter().map(|key| (*key, Wish { probe: false, was_ready: false, stop })));
        for (key, wish) in wishes {
            if let Some(tracked) = self.instances.get(&(command.app.clone(), key)) {
                // The end is never taken back, and the time of its grace runs from the first word.
                let changed = tracked.wish.send_if_modified(|now| {
                    let changes = now.stop.is_none() && *now != wish;
                    if changes {
                        *now = wish;
                    }
                    changes
                });
                if !changed && let Some(fact) = tracked.last_word_again() {
                    (self.context.report)(Report::Seen { app: command.app.clone(), instance: key, fact });
                }
            } else {
                let revision = Arc::clone(shared.get_or_insert_with(|| Arc::new(command.revision.clone())));
                self.track(command.app, key, &revision, wish);
            }
        }
        crash_point!("driver.ensure.after");
    }

    fn evidence(&mut self, app: &AppName, instance: InstanceKey) -> Evidence {
        let tracked = self.instances.get(&(app.clone(), instance));
        let probe = tracked.and_then(|t| t.seen.lock().unwrap_or_else(PoisonError::into_inner).evidence());
        let logs = logs::last_lines(&self.context.layout.state_dir, app, instance, EVIDENCE_LINES);
        Evidence { probe, logs, base_shows_it_too: None }
    }
}

impl Drop for ProcessDriver {
    fn drop(&mut self) {
        for tracked in self.instances.values() {
            tracked.task.abort();
        }
    }
}

/// Something that carries the label of an instance of this state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// `web-2-3`
    pub instance: String,
    pub pid: u32,
}

/// Every process of every instance of a state directory, shims included: empty after a complete `down`.
pub fn still_running(state_dir: &Path) -> Vec<Running> {
    let Ok(path) = state_dir.canonicalize() else { return Vec::new() };
    let of_ours = |pid: u32| {
        let (instance, state_dir) = procfs::label(pid)?;
        (Path::new(&state_dir) == path).then_some(Running { instance, pid })
    };
    procfs::all().iter().filter_map(|stat| of_ours(stat.pid)).collect()
}
