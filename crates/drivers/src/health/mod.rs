//! Probing one instance: the startup gate first, then readiness and liveness side by side. Reports changes only.
//!
//! Invariant: an instance is never called ready before a probe succeeded *and* the socket that answered was found to
//! be the instance's own (or could not be looked at, which the evidence then says).

mod exec;
mod grpc;
mod http;
mod identity;
mod pace;
mod probe;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use trundle_core::event::{Fact, ProbeEvidence};
use trundle_core::health::RiseFall;
use trundle_core::revision::{Check, Health, Probe};

pub(crate) use http::check_request;
use identity::Identity;
use pace::Pace;

use crate::placeholder::Values;
use crate::user::RunAs;

/// Whom to probe, and with what.
pub(crate) struct Target {
    pub health: Health,
    pub address: SocketAddrV4,
    /// It speaks TLS, and HTTP/2 behind it.
    pub is_tls: bool,
    pub shim_pid: u32,
    pub child_pid: u32,
    pub values: Values,
    /// The folder and the environment of an `exec` probe, or why they cannot be had. Only asked for by one.
    pub surroundings: Box<dyn Fn() -> Result<Surroundings, String> + Send + Sync>,
}

pub(crate) struct Surroundings {
    pub cwd: PathBuf,
    pub env: BTreeMap<String, String>,
    pub run_as: Option<RunAs>,
}

/// Runs a command beside the instance, as a probe would. The error says how it ended, with what it wrote.
pub(crate) async fn run_beside(
    target: &Arc<Target>,
    command: &[String],
    limit: Duration,
) -> Result<(), String> {
    let (succeeded, evidence) = exec::run(target, command, limit).await;
    if succeeded {
        return Ok(());
    }
    let ended = evidence.error.unwrap_or_default();
    let wrote = evidence.body.filter(|body| !body.is_empty()).map(|body| format!(": {body}"));
    Err(format!("{ended}{}", wrote.unwrap_or_default()))
}

/// What the probes said last. Shared with whoever asks for evidence.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    last: Option<ProbeEvidence>,
    last_failed: Option<ProbeEvidence>,
}

impl Seen {
    /// The last failure if there was one since the instance was last ready: that is what a card is about.
    pub fn evidence(&self) -> Option<ProbeEvidence> {
        self.last_failed.clone().or_else(|| self.last.clone())
    }

    fn note(&mut self, succeeded: bool, evidence: ProbeEvidence) {
        if !succeeded {
            self.last_failed = Some(evidence.clone());
        }
        self.last = Some(evidence);
    }
}

/// One instance's probing, for as long as the future lives.
pub(crate) struct Watch {
    pub target: Arc<Target>,
    pub seen: Arc<Mutex<Seen>>,
    /// Whether it was ready before, which somebody may still think: then "it is not" is news too.
    pub was_ready: bool,
}

impl Watch {
    /// Never ends. `say` gets `Ready`, `Unready` and `NotLive`.
    pub async fn run(self, say: impl Fn(Fact)) {
        let health = self.target.health.clone();
        // One that was ready has passed this gate, for good.
        if let Some(check) = health.startup.as_ref().filter(|_| !self.was_ready) {
            self.startup(check).await;
        }
        let (ready, is_ready) = watch::channel(false);
        let live = async {
            let Some(check) = &health.live else { return };
            let mut is_ready = is_ready;
            // One that was found running and hangs is never seen ready here, and is to be replaced all the same.
            if self.was_ready || is_ready.wait_for(|ready| *ready).await.is_ok() {
                self.live(check, &say).await;
            }
        };
        tokio::join!(self.ready(&health.ready, &ready, &say), live);
    }

    async fn startup(&self, check: &Check) {
        let mut side = RiseFall::new(check.rise, check.fall);
        let mut pace = Pace::new(check);
        loop {
            let (succeeded, evidence) = self.probe(check).await;
            self.note(succeeded, evidence);
            if side.observe(succeeded) == Some(true) {
                return;
            }
            pace.rest(false).await;
        }
    }

    async fn ready(&self, check: &Check, ready: &watch::Sender<bool>, say: &impl Fn(Fact)) {
        let mut side = RiseFall::new(check.rise, check.fall);
        let mut pace = Pace::new(check);
        let mut doubt = self.was_ready.then(|| Doubt::new(check));
        loop {
            let (mut succeeded, mut evidence) = self.probe(check).await;
            // Asked on the way up only: who holds the socket costs more than a probe.
            if succeeded && !side.is_up() && !matches!(check.probe, Probe::Exec(_)) {
                let identity = self.identity().await;
                succeeded = identity.counts_as_ours();
                evidence.error = identity.text(self.target.address.port());
            }
            self.note(succeeded, evidence);
            match side.observe(succeeded) {
                Some(true) => {
                    doubt = None;
                    self.seen.lock().unwrap_or_else(PoisonError::into_inner).last_failed = None;
                    say(Fact::Ready);
                    ready.send_replace(true);
                }
                Some(false) => say(Fact::Unready),
                None if !succeeded && doubt.as_ref().is_some_and(Doubt::is_settled) => {
                    doubt = None;
                    say(Fact::Unready);
                }
                None => {}
            }
            if let Some(doubt) = &doubt {
                doubt.count(succeeded);
            }
            let was_up = *ready.borrow();
            pace.rest(was_up).await;
        }
    }

    async fn live(&self, check: &Check, say: &impl Fn(Fact)) {
        // It was found ready before: alive until `fall` failures in a row say otherwise.
        let mut side = RiseFall::new(1, check.fall);
        side.observe(true);
        let mut pace = Pace::new(check);
        loop {
            pace.rest(true).await;
            let (succeeded, evidence) = self.probe(check).await;
            if !succeeded {
                self.note(false, evidence);
            }
            if side.observe(succeeded) == Some(false) {
                say(Fact::NotLive);
            }
        }
    }

    async fn probe(&self, check: &Check) -> (bool, ProbeEvidence) {
        probe::once(&self.target, check).await
    }

    async fn identity(&self) -> Identity {
        let (port, child, shim) = (self.target.address.port(), self.target.child_pid, self.target.shim_pid);
        let looked = tokio::task::spawn_blocking(move || identity::of_listener(port, child, shim)).await;
        looked.unwrap_or(Identity::Unknown)
    }

    fn note(&self, succeeded: bool, evidence: ProbeEvidence) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).note(succeeded, evidence);
    }
}

/// For an instance that was found running: when failures are enough to say that it is not ready.
struct Doubt {
    fall: u32,
    patience: Duration,
    began: Instant,
    failures: Cell<u32>,
}

impl Doubt {
    fn new(check: &Check) -> Self {
        let fall = check.fall.max(1);
        let patience = Duration::from_millis(check.interval_ms) * (fall - 1);
        Self { fall, patience, began: Instant::now(), failures: Cell::new(0) }
    }

    fn count(&self, succeeded: bool) {
        self.failures.set(if succeeded { 0 } else { self.failures.get().saturating_add(1) });
    }

    /// Eager probes come fast: as many failures as usual, over as long as usual.
    fn is_settled(&self) -> bool {
        self.failures.get() + 1 >= self.fall && self.began.elapsed() >= self.patience
    }
}
