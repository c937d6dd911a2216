//! A bad night: kills and halts, at random moments. In calm times only the daemon is struck, and nothing may be lost.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::apps::{APPS, routed};
use crate::diary::{Diary, What, now_ms};
use crate::harness::chaos::{Dice, start_daemon};
use crate::harness::procs::Proc;
use crate::harness::{Site, wait_for};

const LONGEST_HALT_MS: u64 = 3_000;
/// After a blow to an app so many others of it still serve: a person with sense would stop there too.
const LEFT_SERVING: usize = 2;
/// An instance that was struck so short ago may still be in the table.
const STRUCK_LATELY_MS: u64 = 3_000;

pub struct Night<'a> {
    site: &'a Site,
    diary: &'a Diary,
    dice: Dice,
    halted: Vec<Halted>,
    /// The longest until a proxy answered after its kill.
    pub slowest_proxy: Duration,
}

struct Halted {
    until_ms: u64,
    proc: Proc,
}

impl<'a> Night<'a> {
    pub fn new(site: &'a Site, diary: &'a Diary, dice: Dice) -> Self {
        Self { site, diary, dice, halted: Vec::new(), slowest_proxy: Duration::ZERO }
    }

    pub fn run(&mut self, until_ms: u64, calm: bool) {
        while now_ms() < until_ms {
            let next = now_ms() + 150 + self.dice.below(1_000);
            while now_ms() < next {
                std::thread::sleep(Duration::from_millis(10));
                self.wake(now_ms());
            }
            match self.dice.below(if calm { 10 } else { 30 }) {
                0..7 => self.kill_the_daemon(),
                7..10 => self.halt_the_daemon(),
                10..15 => self.kill_the_proxy(),
                15..20 => self.strike_an_instance(What::InstanceKilled),
                20..24 => self.strike_an_instance(What::ShimKilled),
                _ => self.halt_an_instance(),
            }
        }
        self.wake(u64::MAX);
    }

    fn kill_the_daemon(&mut self) {
        let Some(daemon) = self.site.daemon() else { return self.start_a_daemon() };
        self.diary.strike(What::DaemonKilled, None, || {
            daemon.kill9();
            // Before that its successor would be refused.
            wait_for("the end of a killed daemon", 10, || (!daemon.lives()).then_some(()));
        });
        std::thread::sleep(if self.dice.below(5) == 0 { Duration::from_secs(2) } else { self.dice.ms(400) });
        // Else the next command of somebody starts one, or we do later.
        if self.dice.below(3) > 0 {
            self.start_a_daemon();
        }
    }

    fn start_a_daemon(&mut self) {
        if self.dice.below(2) == 0 {
            // It only follows, and gives up at once.
            self.site.run(&["wait", "--app", APPS[0].name, "--timeout", "1ms"]);
        } else {
            start_daemon(self.site, false);
        }
    }

    fn halt_the_daemon(&mut self) {
        let Some(daemon) = self.site.daemon() else { return self.start_a_daemon() };
        let time = self.dice.ms(LONGEST_HALT_MS);
        self.diary.strike(What::DaemonHalted, None, || {
            daemon.signal(Signal::STOP);
            std::thread::sleep(time);
            daemon.signal(Signal::CONT);
        });
    }

    pub fn kill_the_proxy(&mut self) {
        let find = || self.site.procs().into_iter().find(Proc::is_proxy);
        let proxy = wait_for("a proxy to kill", 10, find);
        self.diary.strike(What::ProxyKilled, None, || {
            proxy.kill9();
            wait_for("the end of a killed proxy", 10, || (!proxy.lives()).then_some(()));
        });
        let began = now_ms();
        wait_for("the next proxy", 10, || crate::apps::Counted::of(self.site, APPS[0].name));
        self.slowest_proxy = self.slowest_proxy.max(Duration::from_millis(now_ms() - began));
    }

    fn strike_an_instance(&mut self, what: What) {
        let app = APPS[usize::try_from(self.dice.below(APPS.len() as u64)).unwrap()].name;
        if let Some((name, victim)) = self.victim(app, "") {
            self.strike_at(app, &name, victim, what);
        }
    }

    /// One of the versions before the last.
    pub fn kill_an_old_one(&mut self, app: &str, last_version: &str) {
        let (name, victim) = self.victim(app, last_version).unwrap();
        self.strike_at(app, &name, victim, What::InstanceKilled);
    }

    fn strike_at(&self, app: &str, name: &str, victim: Proc, what: What) {
        let victim = match what {
            What::ShimKilled => {
                let is_its = |proc: &Proc| {
                    proc.args.get(1).is_some_and(|arg| arg == "shim")
                        && proc.env.get("TRUNDLE_INSTANCE").is_some_and(|of| of == name)
                };
                self.site.procs().into_iter().find(is_its)
            }
            _ => Some(victim),
        };
        let Some(victim) = victim else { return };
        self.diary.strike(what, Some((app, name)), || {
            victim.kill9();
            wait_for("the end of what was killed", 10, || (!victim.lives()).then_some(()));
        });
    }

    fn halt_an_instance(&mut self) {
        let app = APPS[usize::try_from(self.dice.below(APPS.len() as u64)).unwrap()].name;
        let Some((name, victim)) = self.victim(app, "") else { return };
        let ms = self.dice.below(LONGEST_HALT_MS);
        // Noted for its whole time beforehand: the night goes on meanwhile.
        self.diary.strike(What::InstanceHalted, Some((app, &name)), || victim.signal(Signal::STOP));
        self.halted.push(Halted { until_ms: now_ms() + ms, proc: victim });
    }

    fn wake(&mut self, now_ms: u64) {
        self.halted.retain(|halted| {
            let due = halted.until_ms <= now_ms;
            if due {
                halted.proc.signal(Signal::CONT);
            }
            !due
        });
    }

    /// One that takes requests and was told to live, of an app that can spare it; not of the version that is `spared`.
    fn victim(&mut self, app: &str, spared: &str) -> Option<(String, Proc)> {
        let table = routed(&self.site.state());
        let routed = table.get(app)?;
        let lately = now_ms().saturating_sub(STRUCK_LATELY_MS);
        let deeds = self.diary.deeds();
        let struck: BTreeSet<&str> = deeds
            .iter()
            .filter(|deed| deed.to_ms >= lately)
            .filter_map(|deed| deed.whom.as_ref().map(|(_, name)| name.as_str()))
            .collect();
        let sound = |proc: &Proc| {
            let name = proc.app().unwrap();
            let halted = self.halted.iter().any(|halted| halted.proc.pid == proc.pid);
            routed.contains(name) && !struck.contains(name) && !halted && !proc.env.contains_key("FAIL")
        };
        let mut serving: Vec<Proc> = self.site.apps().into_iter().filter(sound).collect();
        if serving.len() <= LEFT_SERVING {
            return None;
        }
        serving.retain(|proc| proc.env["TRUNDLE_VERSION"] != spared);
        if serving.is_empty() {
            return None;
        }
        let victim = serving.swap_remove(usize::try_from(self.dice.below(serving.len() as u64)).unwrap());
        Some((victim.app().unwrap().to_owned(), victim))
    }
}
