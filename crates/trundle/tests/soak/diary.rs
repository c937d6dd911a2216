//! What the test itself did, with times: every loss that a client saw is judged by it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

/// Shown when it fails.
const LAST_LINES: usize = 40;
/// Shown with what is wrong.
const AROUND_MS: u64 = 4_000;

/// Milliseconds of the machine's monotonic clock, as in the losses of `trundle load`.
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1000 + u64::try_from(now.tv_nsec).unwrap() / 1_000_000
}

/// The end of a blow that is being struck: later than anything, and far from the end of numbers.
const STILL_STRIKING_MS: u64 = u64::MAX / 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    DaemonKilled,
    DaemonHalted,
    ProxyKilled,
    InstanceKilled,
    InstanceHalted,
    ShimKilled,
}

/// One blow, from before it was struck to when it was seen to have struck.
#[derive(Debug, Clone)]
pub struct Deed {
    pub what: What,
    /// App and instance, where it was one of these.
    pub whom: Option<(String, String)>,
    pub from_ms: u64,
    pub to_ms: u64,
}

/// How many replicas an app had, as far as its commands tell: in between both may be true.
#[derive(Debug, Clone, Copy)]
pub struct Replicas {
    pub from_ms: u64,
    pub to_ms: u64,
    pub old: u32,
    pub new: u32,
}

pub struct Diary {
    seed: u64,
    began_ms: u64,
    lines: Mutex<Vec<(u64, String)>>,
    deeds: Mutex<Vec<Deed>>,
    replicas: Mutex<Vec<(String, Replicas)>>,
    /// In which nothing may be lost at all.
    calm: Mutex<Vec<(u64, u64)>>,
}

impl Diary {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            began_ms: now_ms(),
            lines: Mutex::default(),
            deeds: Mutex::default(),
            replicas: Mutex::default(),
            calm: Mutex::default(),
        }
    }

    pub fn note(&self, line: String) {
        lock(&self.lines).push((now_ms(), line));
    }

    /// Strikes, and writes down when. That it is being done stands there before: who looks for the cause of what he saw may be
    /// faster than the one who struck.
    pub fn strike(&self, what: What, whom: Option<(&str, &str)>, blow: impl FnOnce()) {
        let whom = whom.map(|(app, name)| (app.to_owned(), name.to_owned()));
        let name = whom.as_ref().map_or_else(String::new, |(_, name)| name.clone());
        let number = {
            let mut deeds = lock(&self.deeds);
            deeds.push(Deed { what, whom, from_ms: now_ms(), to_ms: STILL_STRIKING_MS });
            deeds.len() - 1
        };
        blow();
        self.note(format!("{what:?} {name}"));
        lock(&self.deeds)[number].to_ms = now_ms();
    }

    pub fn scaled(&self, app: &str, replicas: Replicas) {
        lock(&self.replicas).push((app.to_owned(), replicas));
    }

    pub fn calm(&self, from_ms: u64, to_ms: u64) {
        lock(&self.calm).push((from_ms, to_ms));
    }

    pub fn deeds(&self) -> Vec<Deed> {
        lock(&self.deeds).clone()
    }

    pub fn calms(&self) -> Vec<(u64, u64)> {
        lock(&self.calm).clone()
    }

    /// The fewest and the most replicas that were asked for in that time.
    pub fn replicas(&self, app: &str, from_ms: u64, to_ms: u64) -> (u32, u32) {
        let all = lock(&self.replicas);
        let of_app: Vec<_> = all.iter().filter(|(name, _)| name == app).map(|(_, r)| *r).collect();
        let mut asked = BTreeSet::new();
        for (n, change) in of_app.iter().enumerate() {
            // A change holds until the next one is done with.
            let until = of_app.get(n + 1).map_or(u64::MAX, |next| next.to_ms);
            if change.from_ms <= to_ms && from_ms <= change.to_ms {
                asked.insert(change.old);
            }
            if change.from_ms <= to_ms && from_ms <= until {
                asked.insert(change.new);
            }
        }
        (asked.first().copied().unwrap_or(0), asked.last().copied().unwrap_or(u32::MAX))
    }

    /// Whether the test struck the daemon in that time.
    pub fn daemon_was_struck(&self, from_ms: u64, to_ms: u64) -> bool {
        let of_daemon = |deed: &Deed| matches!(deed.what, What::DaemonKilled | What::DaemonHalted);
        lock(&self.deeds).iter().any(|d| of_daemon(d) && d.from_ms <= to_ms && d.to_ms >= from_ms)
    }

    pub fn seconds(&self, at_ms: u64) -> f64 {
        at_ms.saturating_sub(self.began_ms) as f64 / 1000.0
    }
}

impl Diary {
    /// What was done then and shortly before and after.
    pub fn around(&self, from_ms: u64, to_ms: u64) -> String {
        let near = |(at_ms, _): &&(u64, String)| at_ms + AROUND_MS >= from_ms && *at_ms <= to_ms + AROUND_MS;
        let lines = lock(&self.lines);
        let lines = lines.iter().filter(near).map(|(at_ms, line)| self.line(*at_ms, line));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn line(&self, at_ms: u64, line: &str) -> String {
        format!("  {:9.3} s  {line}", self.seconds(at_ms))
    }
}

/// With a failure comes what led to it.
impl Drop for Diary {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let lines = lock(&self.lines);
        eprintln!("TRUNDLE_SOAK_SEED={}; what was done last:", self.seed);
        for (at_ms, line) in lines.iter().skip(lines.len().saturating_sub(LAST_LINES)) {
            eprintln!("{}", self.line(*at_ms, line));
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
