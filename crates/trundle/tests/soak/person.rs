//! What people do with one app all day: good, bad and slow versions, corrections, and everything that can be asked of a
//! rollout on its way. Each command is judged by how it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::apps::App;
use crate::diary::{Diary, Replicas, now_ms};
use crate::harness::chaos::Dice;
use crate::harness::{Output, Running, Site, wait_for};

/// A daemon that was struck so long ago may still be the reason why a command met none.
const DAEMON_MAY_BE_AWAY_MS: u64 = 20_000;
/// For a good version with nobody who disturbs it. Its check may come late where others use the machine.
const PATIENT: [&str; 4] = ["--timeout", "60s", "--set", "rollout.healthy_deadline=20s"];
/// The codes of the contract that a command on a rollout may end with.
const CODES: [i32; 7] = [0, 10, 11, 12, 13, 14, 15];

pub struct Person<'a> {
    site: &'a Site,
    diary: &'a Diary,
    app: &'a App,
    dice: Dice,
    replicas: u32,
    versions: u32,
    /// Exit codes, how often.
    pub codes: BTreeMap<i32, u32>,
    /// The longest that a good version took after a bad time.
    pub slowest_settling: Duration,
    /// How often it had to be told to go on, because the machine gave it no time.
    pub settled_late: u32,
}

/// A version, by what it does. It must not hide that from its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    SlowStart,
    SlowStop,
    NeverReady,
    DiesAtStart,
    /// In the time in which it has to stay healthy: it is routed by then, and takes requests along.
    DiesAfterReady,
}

impl Kind {
    fn env(self) -> Option<&'static str> {
        match self {
            Self::Good => None,
            Self::SlowStart => Some("run.env.START_MS=1200"),
            Self::SlowStop => Some("run.env.STOP_MS=900"),
            Self::NeverReady => Some("run.env.FAIL=not_found"),
            Self::DiesAtStart => Some("run.env.FAIL=exit:3"),
            Self::DiesAfterReady => Some("run.env.FAIL=exit_after:150:7"),
        }
    }

    fn is_hopeless(self) -> bool {
        matches!(self, Self::NeverReady | Self::DiesAtStart)
    }
}

impl<'a> Person<'a> {
    pub fn new(site: &'a Site, diary: &'a Diary, app: &'a App, dice: Dice) -> Self {
        let (replicas, codes) = (app.replicas, BTreeMap::new());
        Self {
            site,
            diary,
            app,
            dice,
            replicas,
            versions: 0,
            codes,
            slowest_settling: Duration::ZERO,
            settled_late: 0,
        }
    }

    /// Until then. `calm`: nothing that kills a request.
    pub fn run(&mut self, until_ms: u64, calm: bool) {
        while now_ms() < until_ms {
            let paused = self.status().is_some_and(|status| status["rollout"]["state"] == "paused");
            // A pause asks for somebody to act.
            if paused && self.dice.below(3) > 0 {
                self.answer_a_pause(calm)
            } else {
                self.act(calm)
            }
            std::thread::sleep(self.dice.ms(400));
        }
    }

    /// The first version, and at the end of each bad time: a good one succeeds, with as many replicas as at first.
    pub fn settle(&mut self) {
        let (from_ms, old) = (now_ms(), self.replicas);
        self.replicas = self.app.replicas;
        let version = self.next_version(Kind::Good);
        let mut said = self.deploy(&version, Kind::Good, &PATIENT);
        if said.code == 10 && is_starved() {
            self.settled_late += 1;
            println!(
                "{}: a good version was not ready in time on a starved machine; again:\n{said}",
                self.app.name
            );
            said = self.command(&["resume", self.app.name, "--timeout", "60s"]);
        }
        assert_eq!(said.code, 0, "a good version of {} does not succeed:\n{said}", self.app.name);
        let status = self.status().unwrap();
        assert_eq!(status["available"], self.app.replicas, "{status}");
        self.diary.scaled(self.app.name, Replicas { from_ms, to_ms: now_ms(), old, new: self.replicas });
        self.slowest_settling = self.slowest_settling.max(Duration::from_millis(now_ms() - from_ms));
    }

    /// A rollout that somebody else watches.
    pub fn begin_the_last(&mut self) -> Running {
        let version = self.next_version(Kind::Good);
        let args = self.deploy_command(&version, Kind::Good, &PATIENT);
        self.site.start(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn last_version(&self) -> String {
        format!("{}.good", self.versions)
    }

    fn act(&mut self, calm: bool) {
        match self.dice.below(100) {
            0..20 => self.deploy_some(Kind::Good),
            20..25 => self.deploy_some(Kind::SlowStart),
            25..29 => self.deploy_some(Kind::SlowStop),
            29..36 => self.deploy_some(Kind::NeverReady),
            36..43 => self.deploy_some(Kind::DiesAtStart),
            43..50 => self.deploy_some(if calm { Kind::NeverReady } else { Kind::DiesAfterReady }),
            50..59 => self.scale(),
            59..66 => self.say(&["pause"]),
            66..71 => self.say(&["abort"]),
            71..76 => self.say(&["rollback"]),
            76..80 => self.say(&["restart"]),
            80..84 => self.two_at_once(),
            84..96 => self.wait(),
            _ => self.of_an_instance(),
        }
    }

    fn answer_a_pause(&mut self, calm: bool) {
        match self.dice.below(10) {
            0..3 => self.deploy_some(Kind::Good),
            3..6 => self.say(&["resume"]),
            6 => self.say(&["abort"]),
            7 => self.say(&["rollback"]),
            8 => self.of_an_instance(),
            _ => self.act(calm),
        }
    }

    fn next_version(&mut self, kind: Kind) -> String {
        self.versions += 1;
        format!("{}.{kind:?}", self.versions).to_lowercase()
    }

    fn deploy_some(&mut self, kind: Kind) {
        let version = self.next_version(kind);
        let mut more =
            vec!["--set", ["rollout.on_failure=pause", "rollout.on_failure=rollback"][self.one_of(2)]];
        more.extend([&["--detach"][..], &["--timeout", "3s"], &["--timeout", "8s"]][self.one_of(3)]);
        if self.dice.below(8) == 0 {
            more.push("--step");
        }
        if self.dice.below(8) == 0 {
            more.push("--if-idle");
        }
        self.deploy(&version, kind, &more);
    }

    /// A file whose `replicas` are what the last `scale` made of them.
    fn deploy_command(&self, version: &str, kind: Kind, more: &[&str]) -> Vec<String> {
        let mut args = vec!["deploy".to_owned(), "-f".to_owned(), self.app.file()];
        let set = [format!("version={version}"), format!("replicas={}", self.replicas)];
        for value in set.into_iter().chain(kind.env().map(str::to_owned)) {
            args.extend(["--set".to_owned(), value]);
        }
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args
    }

    fn deploy(&mut self, version: &str, kind: Kind, more: &[&str]) -> Output {
        let args = self.deploy_command(version, kind, more);
        let said = self.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        if !more.contains(&"--detach") {
            self.expect_the_end_that_was_told(&said, version, kind);
        }
        said
    }

    /// Nobody else touches this app, so that the exit code must be what the rollout came to.
    fn expect_the_end_that_was_told(&self, said: &Output, version: &str, kind: Kind) {
        assert!(said.code != 0 || !kind.is_hopeless(), "{version} cannot succeed:\n{said}");
        let ends: &[&str] = match said.code {
            0 => &["succeeded"],
            10 => &["paused"],
            11 => &["rolled_back", "aborted"],
            12 => &["failed"],
            _ => return,
        };
        let Some(status) = self.status() else { return };
        let rollout = &status["rollout"];
        assert_eq!(rollout["to_version"], version, "{status}\n{said}");
        assert!(ends.iter().any(|end| rollout["state"] == *end), "exit code {}: {status}\n{said}", said.code);
    }

    /// Two people at the same moment: one of them wins, or neither while no daemon lives long enough.
    fn two_at_once(&mut self) {
        let versions = [self.next_version(Kind::Good), self.next_version(Kind::Good)];
        let began = now_ms();
        let start = |version: &String| {
            let args = self.deploy_command(version, Kind::Good, &["--detach"]);
            self.site.start(&args.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let running = versions.each_ref().map(start);
        for (running, version) in running.into_iter().map(Running::finish).zip(&versions) {
            self.judge(&["deploy", version, "(one of two)"], &running, began);
        }
    }

    /// Lets a rollout be.
    fn wait(&mut self) {
        let Some(status) = self.status() else { return };
        if let Some(rollout) = status["rollout"]["id"].as_u64() {
            self.command(&["wait", &rollout.to_string(), "--app", self.app.name, "--timeout", "8s"]);
        }
    }

    fn scale(&mut self) {
        let (least, most) = (self.app.replicas.saturating_sub(2).max(3), self.app.replicas + 2);
        let to = least + u32::try_from(self.dice.below(u64::from(most - least + 1))).unwrap();
        self.scale_to(to);
    }

    fn scale_to(&mut self, to: u32) {
        let (from_ms, old) = (now_ms(), self.replicas);
        self.command(&["scale", self.app.name, &to.to_string(), "--detach"]);
        // It may have been refused, or met a daemon that was just killed.
        let status = wait_for("a status", 60, || self.status());
        self.replicas = u32::try_from(status["replicas"].as_u64().unwrap()).unwrap();
        assert!([old, to].contains(&self.replicas), "after `scale {to}`: {status}");
        self.diary.scaled(self.app.name, Replicas { from_ms, to_ms: now_ms(), old, new: self.replicas });
    }

    fn say(&mut self, args: &[&str]) {
        let mut all = args.to_vec();
        all.push(self.app.name);
        if args != ["pause"] {
            all.extend([["--detach", "--detach"], ["--timeout", "3s"]][self.one_of(2)]);
            all.dedup();
        }
        self.command(&all);
    }

    /// One that failed, or just any.
    fn of_an_instance(&mut self) {
        let Some(status) = self.status() else { return };
        let instances = status["instances"].as_array().unwrap();
        let failed: Vec<&Value> = instances.iter().filter(|i| i["phase"] == "failed").collect();
        let all: Vec<&Value> = instances.iter().collect();
        let among = if failed.is_empty() { all } else { failed };
        let Some(one) = among.get(self.one_of(among.len().max(1))) else { return };
        let name = one["id"].as_str().unwrap().to_owned();
        match self.one_of(2) {
            0 => self.command(&["retry", &name, "--detach"]),
            _ => self.command(&["skip", &name]),
        };
    }

    fn one_of(&mut self, n: usize) -> usize {
        usize::try_from(self.dice.below(n as u64)).unwrap()
    }

    /// None: the command met a daemon that was just killed, or nothing was deployed yet.
    fn status(&self) -> Option<Value> {
        let began = now_ms();
        let said = self.site.run(&["status", self.app.name, "--json"]);
        if said.code == 0 {
            return Some(said.json());
        }
        let struck = self.diary.daemon_was_struck(began.saturating_sub(DAEMON_MAY_BE_AWAY_MS), now_ms());
        assert!(struck || self.versions == 0, "`status` fails:\n{said}");
        None
    }

    fn command(&mut self, args: &[&str]) -> Output {
        let began = now_ms();
        let said = self.site.run(args);
        self.judge(args, &said, began);
        said
    }

    fn judge(&mut self, args: &[&str], said: &Output, began_ms: u64) {
        let first = said.stderr.lines().chain(said.stdout.lines().rev()).find(|l| !l.trim().is_empty());
        self.diary.note(format!(
            "{}: trundle {} → {} after {} ms: {}",
            self.app.name,
            args.join(" "),
            said.code,
            now_ms() - began_ms,
            first.unwrap_or_default().trim()
        ));
        *self.codes.entry(said.code).or_default() += 1;
        assert!(!said.stderr.contains("panicked"), "{said}");
        if CODES.contains(&said.code) {
            return;
        }
        let struck = self.diary.daemon_was_struck(began_ms.saturating_sub(DAEMON_MAY_BE_AWAY_MS), now_ms());
        let met_no_daemon = said.code == 1 && said.stderr.contains("daemon") && struck;
        assert!(met_no_daemon, "`trundle {}` ends with {}\n{said}", args.join(" "), said.code);
    }
}

/// Many more want to run than there are cores: then what is late says nothing.
fn is_starved() -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    load > 4.0 * cores as f64
}
