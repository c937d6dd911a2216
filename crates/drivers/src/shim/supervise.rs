//! The shim's life after the start: output into the log until the process ends, then the end of all that is left.
//!
//! Invariant: `exit.json` is written only after nothing of the instance was found any more, or after patience ended.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, WaitStatus, wait};

use trundle_crashpoint::crash_point;

use super::record::ExitRecord;
use super::{Shim, oom};
use crate::layout::InstanceDir;
use crate::sweep::Marks;
use crate::sys;

/// For killed processes to be gone. One in an uninterruptible wait may outlast it; the daemon looks again.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// For what is still in the pipe when all writers are dead.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
const PIECE_BYTES: usize = 8 * 1024;

impl Shim {
    /// Until the process has ended.
    pub(super) fn supervise(mut self) -> i32 {
        let status = self.pump_until_exit();
        crash_point!("shim.end.before");
        let nothing_left = is_childless();
        if !nothing_left {
            self.kill_all();
        }
        self.drain();
        let signal = status.and_then(WaitStatus::terminating_signal);
        let oom_killed = signal == Some(libc::SIGKILL)
            && oom::was_killed(self.record.child_pid, self.group.as_ref(), self.group_kills);
        if oom_killed {
            self.log.write(b"trundle: the kernel killed this process: out of memory\n");
        }
        if let Some(group) = &self.group {
            group.remove();
        }
        let code = status.and_then(WaitStatus::exit_status);
        let record = ExitRecord { oom_killed, nothing_left, ..ExitRecord::now(code, signal) };
        // Without the record the daemon reports an end that nobody saw, which is then the truth.
        let wrote = self.dir.write(InstanceDir::EXIT, &record);
        crash_point!("shim.end.after");
        i32::from(wrote.is_err())
    }

    fn pump_until_exit(&mut self) -> Option<WaitStatus> {
        let mut output_open = true;
        // What the start and the first output touched is given back once it is quiet.
        let mut shrunk = false;
        loop {
            // Before the first wait too: the process may have ended before the shim looked.
            if let Some(status) = self.reap() {
                return status;
            }
            let mut watched =
                [PollFd::new(&self.children, PollFlags::IN), PollFd::new(&self.output, PollFlags::IN)];
            let watched = if output_open { &mut watched[..] } else { &mut watched[..1] };
            match poll(watched, (!shrunk).then_some(&QUIET)) {
                Ok(0) => {
                    sys::shrink();
                    shrunk = true;
                    continue;
                }
                Ok(_) => {}
                Err(_) => continue,
            }
            let child_ended = !watched[0].revents().is_empty();
            let has_output = watched.get(1).is_some_and(|fd| !fd.revents().is_empty());
            if child_ended {
                self.acknowledge();
            }
            // One piece a turn: a process that writes without end cannot keep us from seeing it end.
            if has_output {
                output_open = self.pump() != Pumped::Closed;
            }
        }
    }

    /// Buries every dead child. `Some(status)` once the main process is among them; `Some(None)`: it is no child any more.
    fn reap(&self) -> Option<Option<WaitStatus>> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status)))
                    if pid.as_raw_nonzero().get().cast_unsigned() == self.record.child_pid =>
                {
                    return Some(Some(status));
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Some(None),
            }
        }
    }

    /// Takes the news off the descriptor; what they are about is asked of `wait`.
    fn acknowledge(&self) {
        let mut news = [0; 1024];
        while rustix::io::read(&self.children, &mut news).is_ok_and(|n| n == news.len()) {}
    }

    fn pump(&mut self) -> Pumped {
        let mut piece = [0; PIECE_BYTES];
        match rustix::io::read(&self.output, &mut piece) {
            Ok(0) => Pumped::Closed,
            Ok(n) => {
                self.log.write(&piece[..n]);
                Pumped::Some
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Pumped::Nothing,
            Err(_) => Pumped::Closed,
        }
    }

    /// Everything below us, in the process's session or with its label, but not ourselves.
    pub(super) fn kill_all(&self) {
        let me = std::process::id();
        let marks = Marks {
            name: self.name.clone(),
            state_dir: self.state_dir.clone(),
            shim: Some(self.record.shim()),
            leader: Some(self.record.child()),
            uid: self.uid,
        };
        let left = marks.kill(Some(me), KILL_PATIENCE);
        self.reap();
        if !left.is_empty() {
            log_line!("trundle shim: {} processes of {} could not be killed", left.len(), self.name);
        }
    }

    fn drain(&mut self) {
        let until = Instant::now() + DRAIN_PATIENCE;
        loop {
            match self.pump() {
                Pumped::Closed => return,
                Pumped::Some if Instant::now() < until => {}
                Pumped::Some => return,
                Pumped::Nothing => {
                    let left = until.saturating_duration_since(Instant::now());
                    let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
                    let mut watched = [PollFd::new(&self.output, PollFlags::IN)];
                    if left.is_zero() || poll(&mut watched, Some(&wait)).is_ok_and(|n| n == 0) {
                        return;
                    }
                }
            }
        }
    }
}

/// Whether the kernel knows of no child. A subreaper gets every orphan below it, so this is the end of all of them, and
/// it spares the walk through `/proc`.
fn is_childless() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return false,
            Err(error) => return error == rustix::io::Errno::CHILD,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Pumped {
    Some,
    Nothing,
    Closed,
}
