//! Starting a shim and hearing how it went.
//!
//! Invariant: the folder of the instance is there before its shim, and whatever goes wrong leaves a record.

use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::instance::Job;
use super::launch::Launch;
use super::prune;
use crate::layout::InstanceDir;
use crate::seal::random;
use crate::shim::record::{Answer, LogLimits, Refusal, ShimRecord, Spec};
use crate::{cores, durable, groups, procfs};
use trundle_core::revision::hex;
use trundle_crashpoint::crash_point;

/// A shim answers within milliseconds; a machine that is out of breath gets this long.
const ANSWER_S: u64 = 30;
/// The longest answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Blocking. A refusal is on disk when this returns, so that the name is used up also for the next daemon.
pub(super) fn start(job: &Job, dir: &InstanceDir) -> Result<ShimRecord, Refusal> {
    prune::prune(&job.context, &job.app);
    let result = make_folder(dir).and_then(|()| attempt(job, dir));
    // Not through a link that somebody put in the place of the folder.
    if let Err(refusal) = &result
        && dir.exists()
        && let Err(error) = dir.write(InstanceDir::REFUSED, refusal)
    {
        log_line!("trundle: cannot note the refusal of {}: {error}", job.name);
    }
    result
}

fn make_folder(dir: &InstanceDir) -> Result<(), Refusal> {
    crash_point!("driver.folder.before");
    let what = format!("cannot make {} in the state directory", dir.0.display());
    durable::private_folder(&dir.0).map_err(|error| Refusal::system(&what, error))?;
    crash_point!("driver.folder.after");
    if dir.exists() { Ok(()) } else { Err(Refusal::system(&what, "a link is in its place; remove it")) }
}

fn attempt(job: &Job, dir: &InstanceDir) -> Result<ShimRecord, Refusal> {
    let port = job.ports().take(job.revision.template.run.port, &job.name)?;
    let result = Launch::new(job, port).and_then(|launch| run_shim(job, dir, launch, port));
    if result.is_err() {
        job.ports().give_back(port, &job.name);
    }
    result
}

fn run_shim(job: &Job, dir: &InstanceDir, launch: Launch, port: u16) -> Result<ShimRecord, Refusal> {
    let incarnation: [u8; 16] =
        random().map_err(|error| Refusal::system("cannot name the instance", error))?;
    let spec = Spec {
        dir: dir.0.clone(),
        state_dir: job.context.state_dir.clone(),
        name: job.name.clone(),
        incarnation: hex(&incarnation),
        port,
        address: format!("127.0.0.1:{port}"),
        program: launch.program,
        argv: launch.argv,
        cwd: launch.cwd,
        env: launch.env,
        log: LogLimits::default(),
        core_bytes_max: cores::bytes_max(),
        run_as: launch.run_as,
        limits: job.revision.template.run.limits.clone(),
    };
    let text = serde_json::to_vec(&spec)
        .map_err(|_| Refusal::system("cannot write the specification", "not JSON"))?;
    crash_point!("driver.shim.before");
    let mut child = command(job).spawn().map_err(|error| {
        Refusal::system(&format!("cannot start the shim {}", job.context.program.display()), error)
    })?;
    crash_point!("driver.shim.unfed");
    let answer = converse(&mut child, &text);
    crash_point!("driver.shim.after");
    match answer {
        // The task of the instance waits for its end and buries it.
        Ok(Answer::Started(record)) => Ok(record),
        Ok(Answer::Refused(refusal)) => {
            // It ends by itself after this word.
            let _ = child.wait();
            Err(refusal)
        }
        Err(error) => {
            if let Some(shim) = procfs::stat(child.id()) {
                procfs::signal(shim.pid, shim.start_ticks, rustix::process::Signal::KILL);
            }
            let _ = child.wait();
            job.label().kill(None, KILL_PATIENCE);
            groups::remove(&job.name, &job.context.state_dir);
            Err(Refusal::system("the shim gave no answer", error))
        }
    }
}

fn command(job: &Job) -> Command {
    let mut command = Command::new(&job.context.program);
    command.args(&job.context.shim_args).arg(&job.name).current_dir("/").env_clear();
    command.env(procfs::INSTANCE_KEY, &job.name).env(procfs::STATE_DIR_KEY, &job.context.state_dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn converse(child: &mut Child, spec: &[u8]) -> io::Result<Answer> {
    let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
    let mut stdin = child.stdin.take().ok_or_else(broken)?;
    stdin.write_all(spec)?;
    drop(stdin);
    crash_point!("driver.shim.fed");
    let stdout = child.stdout.take().ok_or_else(broken)?;
    let timeout = Timespec { tv_sec: ANSWER_S.cast_signed(), tv_nsec: 0 };
    if poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&timeout))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut text = Vec::new();
    stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
