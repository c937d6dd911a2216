//! Making sure that nothing of an instance is left: whom it consists of, and the end of all of them.
//!
//! Invariant: only processes that carry the label, descend from the shim, or sit in a session that was seen to be
//! the instance's are ever signalled, and each by pid and start time.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::procfs::{self, Stat};

/// How an instance's processes are told from all others.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    /// `web-2-3`
    pub name: String,
    pub state_dir: String,
    /// The shim, if it was seen alive: everything below it belongs to the instance.
    pub shim: Option<Process>,
    /// The main process, if it was seen alive: everything in its session belongs to the instance, also when it is
    /// gone itself. A number from an old record is not enough: it may have been given to somebody else.
    pub leader: Option<Process>,
    /// Of whom the instance is, if not of the daemon: a label in the environment of anybody else is a lie.
    pub uid: Option<u32>,
}

/// A process that is not mistaken for a later one with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub pid: u32,
    pub start_ticks: u64,
}

impl Process {
    /// Its number is its own still, or nobody's.
    fn was_not_replaced(self) -> bool {
        procfs::stat(self.pid).is_none_or(|stat| stat.start_ticks == self.start_ticks)
    }

    fn is_there(self) -> bool {
        procfs::stat(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks)
    }
}

impl Marks {
    /// Every living process of the instance, the shim included.
    pub fn members(&self) -> Vec<Stat> {
        let all = procfs::all();
        let shim = self.shim.filter(|shim| shim.is_there());
        let below = shim.map(|shim| procfs::descendants(shim.pid, &all)).unwrap_or_default();
        let session = self.leader.filter(|leader| leader.was_not_replaced()).map(|leader| leader.pid);
        let me = std::process::id();
        all.iter()
            .filter(|stat| stat.pid != me)
            .filter(|stat| {
                below.contains(&stat.pid) || session == Some(stat.session) || self.is_labelled(stat.pid)
            })
            .copied()
            .collect()
    }

    fn is_labelled(&self, pid: u32) -> bool {
        procfs::label(pid).is_some_and(|(name, state_dir)| name == self.name && state_dir == self.state_dir)
            && self.may_be_of(pid)
    }

    fn may_be_of(&self, pid: u32) -> bool {
        let of = procfs::uid(pid);
        of.is_some_and(|of| of == rustix::process::geteuid().as_raw() || Some(of) == self.uid)
    }

    /// Kills all but `spare` until none is found, for `patience` at most. Answers who is left.
    pub fn kill(&self, spare: Option<u32>, patience: Duration) -> Vec<Stat> {
        let until = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        loop {
            let mut left = self.members();
            left.retain(|stat| Some(stat.pid) != spare);
            if left.is_empty() {
                return left;
            }
            for stat in &left {
                procfs::signal(stat.pid, stat.start_ticks, Signal::KILL);
            }
            if Instant::now() >= until {
                return left;
            }
            // A killed process needs a moment to be gone, and one that forked in between is found by the next look.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}
