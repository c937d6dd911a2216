//! `trundle shim`: the parent of one instance. It starts the process, pumps its output into the log, waits for its
//! end, makes sure that nothing of it is left, and writes down how it ended.
//!
//! It outlives the daemon, so it must stay small: one thread, no runtime, nothing that polls.
//! Invariant: a second shim in the same folder starts nothing (the folder's lock is the kernel's).

mod oom;
pub(crate) mod record;
pub(crate) mod rotate;
mod supervise;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::fs::Uid;
use rustix::process::{Resource, geteuid, getpid, getrlimit, set_child_subreaper, setsid};
use trundle_core::event::RefusalCode;
use trundle_crashpoint::crash_point;

use crate::groups::Group;
use crate::layout::InstanceDir;
use crate::{cores, procfs, sys};
use record::{Answer, Refusal, ShimRecord, Spec};
use rotate::Log;

/// The most bytes that a specification may have: the kernel takes no greater environment anyway.
const SPEC_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The body of `trundle shim [NAME]`; the arguments are for whoever reads a process list. Call it before anything
/// else is set up: it closes every inherited descriptor but the first three. Answers the code to exit with.
pub fn run_shim(_args: &[OsString]) -> i32 {
    // It reads the secrets of its instance.
    cores::leave_none();
    sys::close_inherited();
    match start() {
        Ok(running) => {
            crash_point!("shim.answer.before");
            answer(&Answer::Started(running.record.clone()));
            crash_point!("shim.answer.after");
            sys::leave_standard_streams();
            sys::shrink();
            running.supervise()
        }
        Err(refusal) => {
            answer(&Answer::Refused(refusal));
            1
        }
    }
}

/// A started instance, seen from its shim.
struct Shim {
    dir: InstanceDir,
    name: String,
    state_dir: String,
    record: ShimRecord,
    log: Log,
    output: OwnedFd,
    children: OwnedFd,
    /// As whom the instance runs, if not as we do.
    uid: Option<u32>,
    /// Of an instance with limits.
    group: Option<Group>,
    group_kills: Option<u64>,
    /// Held until the end: it says that this folder has a shim.
    _lock: File,
}

fn start() -> Result<Shim, Refusal> {
    let system = |what: &'static str| move |error: io::Error| Refusal::system(what, error);
    let spec = read_spec()?;
    // A session of our own: no terminal's hang-up or Ctrl-C reaches us. Being a leader already is as good.
    let _ = setsid();
    let children = sys::block_signals().map_err(system("cannot block signals"))?;
    set_child_subreaper(Some(getpid())).map_err(|e| Refusal::system("cannot become a subreaper", e))?;
    let dir = InstanceDir(spec.dir.clone());
    let lock = dir.lock().map_err(system("cannot lock the instance's folder"))?;
    let twin = || Refusal::new(RefusalCode::System, format!("{} has a shim already", spec.name));
    let lock = lock.ok_or_else(twin)?;
    if dir.shim().is_some() || dir.exit().is_some() {
        return Err(twin());
    }
    crash_point!("shim.locked.after");
    let log = Log::open(dir.log(), spec.log).map_err(system("cannot open the log"))?;
    let group = Group::make(&spec.name, &spec.state_dir, &spec.limits);
    let group = group.map_err(|why| Refusal::new(RefusalCode::System, format!("run.limits: {why}")))?;
    let group_kills = oom::group_kills(group.as_ref());
    crash_point!("shim.child.before");
    let (output, child) = spawn(&spec, group.as_ref()).inspect_err(|_| {
        group.iter().for_each(Group::remove);
    })?;
    crash_point!("shim.child.after");
    let record = ShimRecord {
        shim_pid: std::process::id(),
        shim_start_ticks: start_ticks(std::process::id()),
        child_pid: child.id(),
        child_start_ticks: start_ticks(child.id()),
        boot_id: procfs::boot_id(),
        incarnation: spec.incarnation,
        port: spec.port,
        address: spec.address,
    };
    let shim = Shim {
        dir,
        name: spec.name,
        state_dir: spec.state_dir,
        record,
        log,
        output,
        children,
        uid: spec.run_as.as_ref().map(|run_as| run_as.uid),
        group,
        group_kills,
        _lock: lock,
    };
    if let Err(error) = shim.dir.write(InstanceDir::SHIM, &shim.record) {
        // Without its record nobody could find it again: it must not run.
        shim.kill_all();
        shim.group.iter().for_each(Group::remove);
        return Err(Refusal::system("cannot write shim.json in the state directory", error));
    }
    Ok(shim)
}

fn read_spec() -> Result<Spec, Refusal> {
    let mut text = Vec::new();
    let read = io::stdin().lock().take(SPEC_BYTES_MAX).read_to_end(&mut text);
    read.map_err(|error| Refusal::system("cannot read the specification", error))?;
    // A specification that is cut off is one whose daemon died: then nothing is started. The text of the error is
    // not shown: it could hold a piece of a secret.
    serde_json::from_slice(&text)
        .map_err(|_| Refusal::new(RefusalCode::System, "the specification on standard input is not whole"))
}

fn spawn(spec: &Spec, group: Option<&Group>) -> Result<(OwnedFd, Child), Refusal> {
    let (program_name, args) = match spec.argv.split_first() {
        Some(split) => split,
        None => return Err(Refusal::new(RefusalCode::System, "the command is empty")),
    };
    let pipe = io::pipe().and_then(|(reader, writer)| Ok((reader, writer.try_clone()?, writer)));
    let (reader, err, out) = pipe.map_err(|error| Refusal::system("cannot make a pipe", error))?;
    let mut command = Command::new(&spec.program);
    command.arg0(program_name).args(args).current_dir(&spec.cwd);
    command.env_clear().envs(&spec.env).stdin(Stdio::null()).stdout(out).stderr(err);
    sys::own_session(&mut command, spec.core_bytes_max);
    if let Some(group) = group {
        let doors = group.doors().map_err(|error| Refusal::system("cannot open the control group", error))?;
        sys::enter_groups(&mut command, doors);
    }
    if let Some(most) = spec.limits.open_files {
        check_open_files(most)?;
        sys::limit_open_files(&mut command, most);
    }
    if let Some(run_as) = &spec.run_as {
        // So that it may open /dev/stdout again, as some programs do.
        let _ = rustix::fs::fchown(&reader, Some(Uid::from_raw(run_as.uid)), None);
        // Last: it gives up the right to do the others.
        sys::become_user(&mut command, run_as);
    }
    let child = command.spawn().map_err(|error| refused_exec(spec, &error))?;
    let reader = OwnedFd::from(reader);
    rustix::io::ioctl_fionbio(&reader, true)
        .map_err(|error| Refusal::system("cannot prepare the pipe", error))?;
    Ok((reader, child))
}

fn check_open_files(most: u64) -> Result<(), Refusal> {
    let allowed = getrlimit(Resource::Nofile).maximum;
    if geteuid().is_root() || allowed.is_none_or(|allowed| most <= allowed) {
        return Ok(());
    }
    let text = format!(
        "run.limits.open_files is {most}, and this user may have {} at most",
        allowed.unwrap_or_default()
    );
    Err(Refusal::new(RefusalCode::System, text))
}

fn refused_exec(spec: &Spec, error: &io::Error) -> Refusal {
    let program = spec.program.display();
    let (code, text) = match error.raw_os_error() {
        Some(libc::ENOENT) if !spec.cwd.is_dir() => {
            (RefusalCode::NotFound, format!("the folder {} (run.cwd) is not there", spec.cwd.display()))
        }
        Some(libc::ENOENT) if spec.program.exists() => {
            let text =
                format!("{program} is there, but the interpreter in its first line, or its loader, is not");
            (RefusalCode::NotFound, text)
        }
        Some(libc::ENOENT | libc::EACCES | libc::ENOTDIR) => {
            (RefusalCode::NotFound, format!("cannot run {program}: {error}"))
        }
        Some(libc::ENOEXEC) => {
            let text =
                format!("{program} is not a program this machine can run: {error}; a script needs a #! line");
            (RefusalCode::System, text)
        }
        _ => (RefusalCode::System, format!("cannot run {program}: {error}")),
    };
    Refusal::new(code, text)
}

/// 0 for one that is gone already: then it is not found alive, which is the truth.
fn start_ticks(pid: u32) -> u64 {
    procfs::stat(pid).map_or(0, |stat| stat.start_ticks)
}

fn answer(answer: &Answer) {
    if let Ok(mut line) = serde_json::to_vec(answer) {
        line.push(b'\n');
        // Nobody may be there any more to read it: the record on disk is what counts.
        let _ = io::stdout().lock().write_all(&line).and_then(|()| io::stdout().flush());
    }
}
