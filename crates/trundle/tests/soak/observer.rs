//! Looks from outside, all the time: which instances the proxy's table names and answer their check, how many processes
//! live, who died, and what daemon and proxy weigh. It asks no part of Trundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::apps::routed;
use crate::diary::now_ms;
use crate::harness::Site;
use crate::harness::prober::{Eye, Said};
use crate::harness::procs::Proc;

const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// A look that takes longer may miss what lasts shorter.
pub const SLOW_LOOK_MS: u64 = 250;

/// From one look to the next something differed.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Within these two looks.
    pub from_ms: u64,
    pub to_ms: u64,
    pub serving: usize,
    pub alive: usize,
    pub serving_before: usize,
    pub alive_before: usize,
}

#[derive(Debug, Clone)]
pub struct Death {
    pub app: String,
    pub instance: String,
    /// It was told to fail, by its environment.
    pub planted: bool,
    /// Last seen alive, and first seen gone.
    pub from_ms: u64,
    pub to_ms: u64,
}

#[derive(Debug, Default)]
pub struct Seen {
    pub looks: u64,
    pub slow_looks: u64,
    pub changes: BTreeMap<String, Vec<Change>>,
    pub deaths: Vec<Death>,
    pub twins: Vec<String>,
}

impl Seen {
    /// Lowest serving and highest alive.
    pub fn extremes(&self, app: &str) -> (usize, usize) {
        let changes = self.changes.get(app).map(Vec::as_slice).unwrap_or_default();
        let lowest = changes.iter().map(|c| c.serving).min().unwrap_or(0);
        (lowest, changes.iter().map(|c| c.alive).max().unwrap_or(0))
    }
}

pub struct Observer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Observer {
    pub fn start(site: &Site) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, state, mut eye) = (stop.clone(), site.state(), Eye::of(site));
        let thread = std::thread::spawn(move || {
            let (mut seen, mut last) = (Seen::default(), Look::default());
            while !stopped.load(Ordering::Relaxed) {
                let look = Look::at(&mut eye, &routed(&state));
                seen.compare(&last, &look);
                last = look;
                std::thread::sleep(BETWEEN_LOOKS);
            }
            seen.twins = eye.twins();
            seen
        });
        Self { stop, thread }
    }

    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[derive(Default)]
struct Look {
    from_ms: u64,
    to_ms: u64,
    /// By app: who is routed and answers, or cannot be told. One that is halted is not called away.
    serving: BTreeMap<String, BTreeSet<String>>,
    /// By pid: alive at one moment.
    alive: BTreeMap<u32, Proc>,
}

impl Look {
    fn at(eye: &mut Eye, routed: &BTreeMap<String, BTreeSet<String>>) -> Self {
        let from_ms = now_ms();
        let mut serving: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let everybody = eye.each();
        for (app, said) in &everybody {
            let (of, name) = (app.env["TRUNDLE_APP"].as_str(), app.app().unwrap());
            if *said != Said::NotReady && routed.get(of).is_some_and(|names| names.contains(name)) {
                serving.entry(of.to_owned()).or_default().insert(name.to_owned());
            }
        }
        let alive = everybody.into_iter().map(|(app, _)| app).filter(Proc::lives);
        let alive = alive.map(|app| (app.pid, app)).collect();
        Self { from_ms, to_ms: now_ms(), serving, alive }
    }

    fn alive(&self, app: &str) -> usize {
        self.alive.values().filter(|proc| proc.env["TRUNDLE_APP"] == app).count()
    }
}

impl Seen {
    /// Who serves in one of two looks counts: one look takes a moment, in which one may come and another go, and then
    /// the one is in the look after and the other in the look before.
    fn compare(&mut self, last: &Look, look: &Look) {
        self.looks += 1;
        self.slow_looks += u64::from(look.to_ms - look.from_ms > SLOW_LOOK_MS);
        let nobody = BTreeSet::new();
        for app in crate::apps::APPS.map(|app| app.name) {
            let of = |look: &Look| look.serving.get(app).unwrap_or(&nobody).clone();
            let serving = of(last).union(&of(look)).count();
            let changes = self.changes.entry(app.to_owned()).or_default();
            let (serving_before, alive_before) = changes.last().map_or((0, 0), |c| (c.serving, c.alive));
            let alive = look.alive(app);
            if (serving, alive) != (serving_before, alive_before) {
                let (from_ms, to_ms) = (last.from_ms, look.to_ms);
                changes.push(Change { from_ms, to_ms, serving, alive, serving_before, alive_before });
            }
        }
        for (pid, proc) in &last.alive {
            if look.alive.get(pid).is_none_or(|now| now.start != proc.start) {
                self.deaths.push(Death {
                    app: proc.env["TRUNDLE_APP"].clone(),
                    instance: proc.app().unwrap().to_owned(),
                    planted: proc.env.contains_key("FAIL"),
                    from_ms: last.from_ms,
                    to_ms: look.to_ms,
                });
            }
        }
    }
}

/// Resident memory in KiB, and open descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    pub kib: u64,
    pub descriptors: usize,
}

impl Weight {
    pub fn of(proc: &Proc) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{}/status", proc.pid)).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Self { kib, descriptors: fs::read_dir(format!("/proc/{}/fd", proc.pid)).ok()?.count() })
    }
}
