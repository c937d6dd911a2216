//! A probe that is a command: a session of its own, the instance's folder and environment, killed at its timeout.
//!
//! Invariant: nothing that it started outlives it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use trundle_core::event::ProbeEvidence;

use super::probe::{shown, timed_out};
use super::{Surroundings, Target};
use crate::placeholder::{self, BadPlaceholder};
use crate::program::{DEFAULT_PATH, find_program};
use crate::{cores, logs, procfs, sys};

const OUTPUT_BYTES_MAX: usize = 16 * 1024;

pub(super) async fn run(target: &Arc<Target>, command: &[String], limit: Duration) -> (bool, ProbeEvidence) {
    let mut evidence =
        ProbeEvidence { request: logs::printable(&command.join(" ")), ..ProbeEvidence::default() };
    let result = match command.iter().map(|arg| placeholder::fill(arg, &target.values)).collect() {
        Ok(argv) => attempt(target, argv, limit).await,
        Err(error) => Err(BadPlaceholder::to_string(&error)),
    };
    match result {
        Ok((ended, output)) => {
            evidence.body = shown(&output);
            evidence.error = match ended {
                None => timed_out(limit).error,
                Some(status) if status.success() => None,
                Some(status) => Some(status.to_string()),
            };
        }
        Err(error) => evidence.error = Some(error),
    }
    (evidence.error.is_none(), evidence)
}

/// How it ended (None: it was killed at its timeout), and what it wrote.
async fn attempt(
    target: &Arc<Target>,
    argv: Vec<String>,
    limit: Duration,
) -> Result<(Option<ExitStatus>, Vec<u8>), String> {
    let target = Arc::clone(target);
    let spawned = tokio::task::spawn_blocking(move || spawn(&argv, &(target.surroundings)()?)).await;
    let (mut session, output) = spawned.map_err(|_| "the probe could not be started".to_owned())??;
    let ended = session.handle().map_err(|error| error.to_string())?;
    let mut output = pipe::Receiver::from_owned_fd(output).map_err(|error| error.to_string())?;
    let mut kept = Vec::new();
    let whole = async {
        let mut piece = vec![0; 4096];
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                n = output.read(&mut piece), if open => match n {
                    Ok(n) if n > 0 => kept.extend_from_slice(&piece[..n.min(OUTPUT_BYTES_MAX - kept.len())]),
                    Ok(_) | Err(_) => open = false,
                },
                _ = ended.readable() => return,
            }
        }
    };
    let in_time = timeout(limit, whole).await.is_ok();
    session.kill();
    // It is dead or dying: its end is waited for, so that its status can be taken and no zombie stays.
    if timeout(Duration::from_secs(1), ended.readable()).await.is_err() {
        return Ok((None, kept));
    }
    let status = session.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
    if status.is_some() {
        session.child = None;
    }
    Ok((status.filter(|_| in_time), kept))
}

fn spawn(argv: &[String], around: &Surroundings) -> Result<(Session, OwnedFd), String> {
    let (name, args) = argv.split_first().ok_or("the command of the check is empty")?;
    let path = around.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let program = find_program(name, Path::new(&around.cwd), path).map_err(|why| why.to_string())?;
    let text = |error: io::Error| format!("cannot run {}: {error}", program.display());
    let (reader, out) = io::pipe().map_err(text)?;
    let err = out.try_clone().map_err(text)?;
    let mut command = Command::new(&program);
    command.args(args).current_dir(&around.cwd).env_clear().envs(&around.env);
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    sys::own_session(&mut command, cores::bytes_max());
    if let Some(run_as) = &around.run_as {
        let _ = rustix::fs::fchown(&reader, Some(rustix::fs::Uid::from_raw(run_as.uid)), None);
        sys::become_user(&mut command, run_as);
    }
    let child = command.spawn().map_err(text)?;
    Ok((Session { child: Some(child) }, reader.into()))
}

/// Kills what is left when the probe is over, or was given up.
struct Session {
    /// Not buried before its session is dead: so its number cannot become somebody else's.
    child: Option<Child>,
}

impl Session {
    fn handle(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed()));
        let handle = pidfd_open(pid.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?;
        sys::watch_readable(handle)
    }

    fn kill(&self) {
        let Some(child) = &self.child else { return };
        for stat in procfs::all().iter().filter(|stat| stat.session == child.id() || stat.pid == child.id()) {
            procfs::signal(stat.pid, stat.start_ticks, Signal::KILL);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kill();
        if let (Some(mut child), Ok(runtime)) = (self.child.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || child.wait());
        }
    }
}
