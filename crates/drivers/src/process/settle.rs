//! What is the case with an instance, asked once when a task begins: it runs, it ended, it was refused, or it is to be
//! started. Everything here blocks.
//!
//! Invariant: nothing is started before it is known that nothing under this name runs.

use std::time::{Duration, Instant};

use trundle_core::event::{Exit, RefusalCode};

use super::instance::Job;
use super::spawn;
use crate::layout::InstanceDir;
use crate::shim::record::{ExitRecord, Refusal, ShimRecord};
use crate::sweep::Marks;
use crate::{groups, procfs, user};

const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// For a shim to write that its process runs.
const SHIM_PATIENCE: Duration = Duration::from_secs(10);
/// For a process with the label to turn out to be a shim.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

pub(super) enum Settled {
    Running(ShimRecord),
    Ended(Exit),
    Refused(Refusal),
    /// There never was one, and there shall be none.
    Absent,
}

pub(super) fn settle(job: &Job, may_start: bool) -> Settled {
    let dir = job.context.layout.instance(&job.app, job.key);
    if let Some(record) = dir.shim() {
        return known(job, record);
    }
    if let Some(refusal) = dir.refusal() {
        return Settled::Refused(refusal);
    }
    if dir.exists() {
        // A daemon died between making the folder and hearing of the shim, which may still be at work.
        wait_for_start(job, &dir);
        if let Some(record) = dir.shim() {
            return known(job, record);
        }
        if !job.label().kill(None, KILL_PATIENCE).is_empty() {
            let text = format!("processes of an earlier start of {} could not be killed", job.name);
            return Settled::Refused(Refusal::new(RefusalCode::System, text));
        }
        if let Some(record) = dir.shim() {
            return known(job, record);
        }
        groups::remove(&job.name, &job.context.state_dir);
    }
    if !may_start {
        return Settled::Absent;
    }
    match spawn::start(job, &dir) {
        Ok(record) => Settled::Running(record),
        Err(refusal) => Settled::Refused(refusal),
    }
}

/// Until the shim of a former daemon has come to an end of its start, whatever that is, or nothing of it is there.
fn wait_for_start(job: &Job, dir: &InstanceDir) {
    let began = Instant::now();
    while dir.shim().is_none() && !job.label().members().is_empty() {
        // It is a shim at work if it has the lock; until then it may be one that has not come that far.
        let is_shim = matches!(dir.lock(), Ok(None));
        if began.elapsed() > if is_shim { SHIM_PATIENCE } else { LOCK_PATIENCE } {
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn known(job: &Job, record: ShimRecord) -> Settled {
    let this_boot = record.boot_id == job.context.boot_id;
    if this_boot && procfs::lives(record.shim_pid, record.shim_start_ticks) {
        job.ports().adopt(record.port, &job.name);
        // A service manager may have closed the state directory since it was started.
        if let Some(artifact) = &job.revision.template.run.artifact
            && job.revision.template.run.user.is_some()
            && let Err(error) = user::open_way_to(&job.context.layout, artifact)
        {
            log_line!("trundle: {} cannot come to its artifact any more: {error}", job.name);
        }
        if job.revision.template.run.user.is_some()
            && job.context.layout.gates(&job.app).exists()
            && let Err(error) = user::open_way_to_gates(&job.context.layout)
        {
            log_line!("trundle: {} cannot come to its gates any more: {error}", job.name);
        }
        return Settled::Running(record);
    }
    // Without its shim a process has no log, and nobody would see it end: what is left is ended here.
    let main_lives = this_boot && procfs::lives(record.child_pid, record.child_start_ticks);
    let marks = Marks { leader: main_lives.then(|| record.child()), ..job.label() };
    let left = marks.kill(None, KILL_PATIENCE);
    if !left.is_empty() {
        log_line!("trundle: {} processes of {} could not be killed", left.len(), job.name);
    }
    groups::remove(&job.name, &job.context.state_dir);
    job.ports().give_back(record.port, &job.name);
    let dir = job.context.layout.instance(&job.app, job.key);
    let exit = dir.exit().unwrap_or_else(|| unseen(job, &dir));
    Settled::Ended(exit.exit())
}

/// Nobody saw it end, as when the machine was started anew. Noted, so that the folder counts as one that is over.
fn unseen(job: &Job, dir: &InstanceDir) -> ExitRecord {
    let record = ExitRecord::now(None, None);
    if let Err(error) = dir.write(InstanceDir::EXIT, &record) {
        log_line!("trundle: cannot note the end of {}: {error}", job.name);
    }
    record
}
