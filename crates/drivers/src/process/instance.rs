//! The life of one instance, as one task: settle what is, watch and probe it, end it when told to.
//!
//! Invariant: `Exited` and `Gone` are said only when nothing of the instance is found any more, and nothing is said of
//! its health after that.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;
use trundle_core::event::{Exit, Fact};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::revision::{Protocol, Quiet, QuietBy, QuietSignal, Revision, StopSignal};
use trundle_crashpoint::crash_point;
use trundle_engine::ports::Report;

use super::ports::Ports;
use super::settle::{Settled, settle};
use super::{Context, launch};
use crate::health::{Seen, Target, Watch, run_beside};
use crate::placeholder::Values;
use crate::shim::record::{Refusal, ShimRecord};
use crate::sweep::Marks;
use crate::user::{self, RunAs, UserError};
use crate::{groups, procfs, sys};

const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// For the shim to note the end of what was killed, before it is killed itself.
const SHIM_PATIENCE: Duration = Duration::from_secs(8);
/// Between looks at something that does not even die of SIGKILL.
const STUBBORN_PAUSE: Duration = Duration::from_secs(1);

/// For a command that tells an instance to finish, or asks whether it has, and between two such questions.
const ASK_PATIENCE: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub probe: bool,
    /// See [`trundle_engine::ports::Kept`].
    pub was_ready: bool,
    /// Shall end, with this much grace.
    pub stop: Option<Duration>,
}

pub(super) struct Job {
    pub context: Arc<Context>,
    pub app: AppName,
    pub key: InstanceKey,
    /// `web-2-3`
    pub name: String,
    pub revision: Arc<Revision>,
    pub seen: Arc<Mutex<Seen>>,
    pub last_word: Arc<Mutex<Option<(Fact, Instant)>>>,
    run_as: OnceLock<RunAs>,
}

/// Until nothing more can happen to the instance.
pub(super) async fn run(job: Arc<Job>, mut wish: watch::Receiver<Wish>) {
    match job.settle(&wish).await {
        Settled::Running(record) => {
            if wish.borrow().stop.is_none() {
                job.say(Fact::Started {
                    pid: record.child_pid,
                    address: Some(record.address.as_str().into()),
                    incarnation: record.incarnation.as_str().into(),
                });
            }
            job.live(&record, &mut wish).await;
            job.bury(&record).await;
            if wish.borrow().stop.is_none() {
                job.say_at_last(Fact::Exited(job.exit()));
            }
        }
        // Of one that shall end, only its end is news.
        Settled::Ended(_) | Settled::Refused(_) if wish.borrow().stop.is_some() => {}
        Settled::Ended(exit) => job.say_at_last(Fact::Exited(exit)),
        Settled::Refused(refusal) => {
            job.say_at_last(Fact::StartRefused { code: refusal.code, text: refusal.text });
        }
        Settled::Absent => {}
    }
    // An error: the driver is gone, and so is whoever would ask.
    if wish.wait_for(|wish| wish.stop.is_some()).await.is_ok() {
        job.sweep(job.label()).await;
        job.say_at_last(Fact::Gone);
    }
}

impl Job {
    pub fn new(context: Arc<Context>, app: AppName, key: InstanceKey, revision: Arc<Revision>) -> Self {
        let name = key.name(&app);
        Self {
            context,
            app,
            key,
            name,
            revision,
            seen: Arc::default(),
            last_word: Arc::default(),
            run_as: OnceLock::new(),
        }
    }

    /// Who belongs to the instance, by label alone.
    pub fn label(&self) -> Marks {
        let uid = self.run_as().ok().flatten().map(|run_as| run_as.uid);
        Marks {
            name: self.name.clone(),
            state_dir: self.context.state_dir.clone(),
            shim: None,
            leader: None,
            uid,
        }
    }

    /// As whom it runs. Found out once: whoever knows the users of the machine may be away later.
    pub fn run_as(&self) -> Result<Option<RunAs>, UserError> {
        let Some(user) = &self.revision.template.run.user else { return Ok(None) };
        if let Some(known) = self.run_as.get() {
            return Ok(Some(known.clone()));
        }
        user::resolve(user).map(|found| Some(self.run_as.get_or_init(|| found).clone()))
    }

    pub fn ports(&self) -> MutexGuard<'_, Ports> {
        self.context.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, fact: Fact) {
        (self.context.report)(Report::Seen { app: self.app.clone(), instance: self.key, fact });
    }

    fn say_at_last(&self, fact: Fact) {
        *self.last_word.lock().unwrap_or_else(PoisonError::into_inner) = Some((fact.clone(), Instant::now()));
        self.say(fact);
    }

    fn exit(&self) -> Exit {
        let record = self.context.layout.instance(&self.app, self.key).exit();
        record.map_or(Exit { code: None, signal: None }, |record| record.exit())
    }

    async fn settle(self: &Arc<Self>, wish: &watch::Receiver<Wish>) -> Settled {
        // It is never closed; and without its permit one start more at the same time does no harm.
        let _permit = self.context.starts.acquire().await;
        let may_start = wish.borrow().stop.is_none();
        let job = Arc::clone(self);
        let settled = tokio::task::spawn_blocking(move || settle(&job, may_start)).await;
        settled.unwrap_or_else(|error| Settled::Refused(Refusal::system("the start was broken off", error)))
    }

    /// Until the shim has ended.
    async fn live(self: &Arc<Self>, record: &ShimRecord, wish: &mut watch::Receiver<Wish>) {
        let Some(shim) = self.handle(record).await else { return };
        let mut probes: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        loop {
            let now = *wish.borrow_and_update();
            if let Some(grace) = now.stop {
                drop(probes.take());
                return self.stop(record, &shim, grace).await;
            }
            if !now.probe {
                probes = None;
            } else if probes.is_none() {
                probes = Some(Box::pin(self.watch(record, now.was_ready)));
            }
            let probing = async {
                match &mut probes {
                    Some(probes) => probes.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shim.ended() => return,
                changed = wish.changed() => if changed.is_err() { return std::future::pending().await },
                () = probing => {}
            }
        }
    }

    /// None: it has ended. Having no descriptor left is not the end of an instance: that is waited out.
    async fn handle(&self, record: &ShimRecord) -> Option<Handle> {
        loop {
            match Handle::open(record) {
                Ok(handle) => return Some(handle),
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        || error.raw_os_error() == Some(libc::ESRCH) =>
                {
                    return None;
                }
                Err(error) => {
                    log_line!("trundle: cannot watch {}: {error}; trying again", self.name);
                    tokio::time::sleep(STUBBORN_PAUSE).await;
                }
            }
        }
    }

    fn watch(
        self: &Arc<Self>,
        record: &ShimRecord,
        was_ready: bool,
    ) -> impl Future<Output = ()> + Send + use<> {
        let target = self.target(record);
        let watch = Watch { target: Arc::new(target), seen: Arc::clone(&self.seen), was_ready };
        let job = Arc::clone(self);
        watch.run(move |fact| job.say(fact))
    }

    /// What commands beside the instance need to know of it.
    fn target(self: &Arc<Self>, record: &ShimRecord) -> Target {
        let (job, port) = (Arc::clone(self), record.port);
        let around = move || launch::surroundings(&job, port);
        Target {
            health: self.revision.template.health.clone(),
            address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            is_tls: self.revision.template.run.protocol == Protocol::H2,
            shim_pid: record.shim_pid,
            child_pid: record.child_pid,
            values: Values::new(&self.app, self.key, &self.revision.template.version, port),
            surroundings: Box::new(around),
        }
    }

    /// The signal to the main process, so that it can tell its own; grace; then all of them.
    async fn stop(self: &Arc<Self>, record: &ShimRecord, shim: &Handle, grace: Duration) {
        if let Some(quiet) = &self.revision.template.run.quiet
            && self.finish(quiet, record, shim).await
        {
            return;
        }
        let signal = stop_signal(self.revision.template.run.stop_signal);
        let send = |signal| procfs::signal(record.child_pid, record.child_start_ticks, signal);
        // One that was halted could not hear it.
        crash_point!("driver.signal.before");
        let heard = signal != Signal::KILL && send(signal) && send(Signal::CONT);
        crash_point!("driver.signal.after");
        if heard && timeout(grace, shim.ended()).await.is_ok() {
            return;
        }
        let marks = Marks { shim: Some(record.shim()), leader: Some(record.child()), ..self.label() };
        loop {
            let (marks, spare) = (marks.clone(), Some(record.shim_pid));
            crash_point!("driver.kill.before");
            let killed = tokio::task::spawn_blocking(move || marks.kill(spare, KILL_PATIENCE)).await;
            crash_point!("driver.kill.after");
            if timeout(SHIM_PATIENCE, shim.ended()).await.is_ok() {
                return;
            }
            // The shim last: as long as it lives, everything that belongs to it can be found below it.
            if killed.is_ok_and(|left| left.is_empty()) {
                procfs::signal(record.shim_pid, record.shim_start_ticks, Signal::KILL);
            }
        }
    }

    /// Tells it to take no more work, and waits until it has finished what it has. True: it has ended by itself.
    async fn finish(self: &Arc<Self>, quiet: &Quiet, record: &ShimRecord, shim: &Handle) -> bool {
        let target = Arc::new(self.target(record));
        let waiting = async {
            match &quiet.by {
                QuietBy::Signal(signal) => {
                    procfs::signal(record.child_pid, record.child_start_ticks, quiet_signal(*signal));
                }
                QuietBy::Exec(command) => {
                    if let Err(why) = run_beside(&target, command, ASK_PATIENCE).await {
                        log_line!("trundle: {} was not told to take no more work: {why}", self.name);
                    }
                }
            }
            let Some(finished) = &quiet.finished else { return std::future::pending().await };
            while run_beside(&target, finished, ASK_PATIENCE).await.is_err() {
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        tokio::select! {
            () = shim.ended() => true,
            waited = timeout(Duration::from_millis(quiet.timeout_ms), waiting) => {
                if waited.is_err() && quiet.finished.is_some() {
                    log_line!("trundle: {} had not finished its work in time; it is stopped", self.name);
                }
                false
            }
        }
    }

    /// After the shim: nothing of the instance may be left, and its port is free again.
    async fn bury(&self, record: &ShimRecord) {
        let dir = self.context.layout.instance(&self.app, self.key);
        if !dir.exit().is_some_and(|exit| exit.nothing_left) {
            self.sweep(Marks { leader: Some(record.child()), ..self.label() }).await;
        }
        groups::remove(&self.name, &self.context.state_dir);
        self.ports().give_back(record.port, &self.name);
        crash_point!("driver.buried.after");
    }

    async fn sweep(&self, marks: Marks) {
        loop {
            let marks = marks.clone();
            match tokio::task::spawn_blocking(move || marks.kill(None, KILL_PATIENCE)).await {
                Ok(left) if !left.is_empty() => {
                    log_line!("trundle: {} processes of {} do not die; waiting", left.len(), self.name);
                    tokio::time::sleep(STUBBORN_PAUSE).await;
                }
                Ok(_) | Err(_) => return,
            }
        }
    }
}

fn quiet_signal(signal: QuietSignal) -> Signal {
    match signal {
        QuietSignal::Tstp => Signal::TSTP,
        QuietSignal::Ttin => Signal::TTIN,
        QuietSignal::Usr1 => Signal::USR1,
        QuietSignal::Usr2 => Signal::USR2,
        QuietSignal::Hup => Signal::HUP,
        QuietSignal::Int => Signal::INT,
        QuietSignal::Quit => Signal::QUIT,
        QuietSignal::Term => Signal::TERM,
        QuietSignal::Winch => Signal::WINCH,
    }
}

fn stop_signal(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
        StopSignal::Kill => Signal::KILL,
    }
}

/// A shim to wait for, whether it is our child or was a former daemon's.
struct Handle(AsyncFd<OwnedFd>);

impl Handle {
    /// Fails if it has ended.
    fn open(record: &ShimRecord) -> io::Result<Self> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let pid = Pid::from_raw(record.shim_pid.cast_signed()).ok_or_else(gone)?;
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        // A dead child of ours still has its number; a number that was given to another has another start.
        let is_it =
            procfs::stat(record.shim_pid).is_some_and(|stat| stat.start_ticks == record.shim_start_ticks);
        if is_it { Ok(Self(sys::watch_readable(handle)?)) } else { Err(gone()) }
    }

    async fn ended(&self) {
        // It cannot fail on a descriptor that is registered, and then it ended for us as well.
        let _ = self.0.readable().await;
        // Buried if it is our child; otherwise there is nothing to do.
        let _ = waitid(
            WaitId::PidFd(std::os::fd::AsFd::as_fd(self.0.get_ref())),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
}
