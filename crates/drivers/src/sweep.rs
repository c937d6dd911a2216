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
    pub shim: Option<u32>,
    /// The session of the main process, if that was seen alive. A number from an old record is not enough: it may
    /// have been given to somebody else.
    pub session: Option<u32>,
}

impl Marks {
    /// Every living process of the instance, the shim included.
    pub fn members(&self) -> Vec<Stat> {
        let all = procfs::all();
        let below = self.shim.map(|shim| procfs::descendants(shim, &all)).unwrap_or_default();
        let me = std::process::id();
        all.iter()
            .filter(|stat| stat.pid != me)
            .filter(|stat| {
                below.contains(&stat.pid) || self.session == Some(stat.session) || self.is_labelled(stat.pid)
            })
            .copied()
            .collect()
    }

    fn is_labelled(&self, pid: u32) -> bool {
        procfs::label(pid).is_some_and(|(name, state_dir)| name == self.name && state_dir == self.state_dir)
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
