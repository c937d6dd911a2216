//! Kills the daemon at random instants and starts a new one, by `trundle daemon` or by any other command.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Site, wait_for};

/// Small, and the same everywhere: splitmix64.
pub struct Dice(pub u64);

impl Dice {
    /// From `TRUNDLE_E2E_SEED`, or from the clock; printed, so that a failure can be repeated.
    pub fn new(of: &str) -> Self {
        let given = std::env::var("TRUNDLE_E2E_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            u64::from(
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos(),
            )
        });
        println!("{of}: TRUNDLE_E2E_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    pub fn ms(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }
}

pub struct Chaos {
    stop: Arc<AtomicBool>,
    kills: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Chaos {
    /// Between two kills up to `between_ms`; every `long_every`th time no daemon runs for `long`.
    pub fn start(site: &Arc<Site>, mut dice: Dice, between_ms: u64, long_every: u32, long: Duration) -> Self {
        let (stop, kills) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (site, stopped, counted) = (site.clone(), stop.clone(), kills.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(dice.ms(between_ms));
                let daemon = wait_for("a daemon to kill", 5, || site.daemon());
                daemon.kill9();
                // Before that its successor would be refused.
                wait_for("the end of a killed daemon", 5, || (!daemon.lives()).then_some(()));
                let n = counted.fetch_add(1, Ordering::Relaxed) + 1;
                let gap = if n % long_every == 0 { long } else { dice.ms(400) };
                std::thread::sleep(gap);
                start_daemon(&site, dice.below(2) == 0);
            }
        });
        Self { stop, kills, thread: Some(thread) }
    }

    pub fn kills(&self) -> u32 {
        self.kills.load(Ordering::Relaxed)
    }

    /// A daemon runs afterwards.
    pub fn finish(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.kills.load(Ordering::Relaxed)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// In the foreground of a terminal of its own, or by a command that needs one.
pub fn start_daemon(site: &Site, by_command: bool) {
    if by_command {
        // It only follows, and gives up at once.
        site.run(&["wait", "--timeout", "1ms"]);
    } else {
        let mut command = site.command(&["daemon"]);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = quiet.spawn().unwrap();
        std::thread::spawn(move || child.wait());
    }
    wait_for("a daemon that answers", 20, || {
        let answers = site.state().join("daemon.sock");
        std::os::unix::net::UnixStream::connect(answers).ok()
    });
}
