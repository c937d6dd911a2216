//! The app that a search runs over: budget, policy, and how much may happen on one path. Written as one line of words.

use std::fmt;
use std::str::FromStr;

use trundle_core::limits::CountOrPercent;
use trundle_core::settings::{AppSettings, OnFailure};

use crate::common::settings;

/// One line says all of it: `replicas=2 surge=1 unavailable=0 faults=2 commands=1`. What is not said has its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct App {
    pub replicas: u32,
    /// Scaling goes from 1 to here; without it nobody scales.
    pub most: u32,
    pub surge: u32,
    pub unavailable: u32,
    pub batch: Option<u32>,
    pub delay: bool,
    pub bake: bool,
    /// Whether one must stay healthy for a while.
    pub healthy: bool,
    pub on_failure: OnFailure,
    pub max_failures: u32,
    /// Whether there is a routing table. Without one nothing is drained.
    pub listen: bool,
    pub step: bool,
    /// How many versions there are to deploy.
    pub versions: u32,
    /// Whether the first version runs already.
    pub running: bool,
    /// Whether a rollout to the second has begun.
    pub rolling: bool,
    /// Most faults on one path; without it any number.
    pub faults: Option<u8>,
    /// The same for commands.
    pub commands: Option<u8>,
    /// Whether the order in which what is pending will come true tells two states apart, and time may stop just before it.
    pub clocks: bool,
    /// Whether any number of events may come between an event and the decision, as when many arrive at once or the
    /// daemon is killed before it decided.
    pub interleaved: bool,
}

impl Default for App {
    fn default() -> Self {
        Self {
            replicas: 1,
            most: 0,
            surge: 1,
            unavailable: 0,
            batch: None,
            delay: false,
            bake: false,
            healthy: false,
            on_failure: OnFailure::Pause,
            max_failures: 1,
            listen: true,
            step: false,
            versions: 2,
            running: true,
            rolling: false,
            faults: None,
            commands: None,
            clocks: false,
            interleaved: false,
        }
    }
}

impl App {
    /// The settings, with durations of which none is the sum of others.
    pub fn settings(&self) -> AppSettings {
        let mut app = settings(self.replicas, |r| {
            r.max_surge = Some(CountOrPercent::Count(self.surge));
            r.max_unavailable = Some(CountOrPercent::Count(self.unavailable));
            r.batch = self.batch;
            r.delay_ms = if self.delay { 3_000 } else { 0 };
            r.bake_time_ms = if self.bake { 7_000 } else { 0 };
            r.min_healthy_time_ms = if self.healthy { 2_000 } else { 0 };
            r.healthy_deadline_ms = 20_000;
            r.progress_deadline_ms = 50_000;
            r.drain_timeout_ms = 11_000;
            r.on_failure = self.on_failure;
            r.max_failures = CountOrPercent::Count(self.max_failures);
        });
        if !self.listen {
            app.listen = None;
        }
        app
    }
}

impl FromStr for App {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, String> {
        let mut app = Self::default();
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, "1"));
            let number = || value.parse::<u32>().map_err(|e| format!("{word}: {e}"));
            let small = || value.parse::<u8>().map_err(|e| format!("{word}: {e}"));
            match key {
                "replicas" => app.replicas = number()?,
                "most" => app.most = number()?,
                "surge" => app.surge = number()?,
                "unavailable" => app.unavailable = number()?,
                "batch" => app.batch = Some(number()?),
                "delay" => app.delay = true,
                "bake" => app.bake = true,
                "healthy" => app.healthy = true,
                "rollback" => app.on_failure = OnFailure::Rollback,
                "continue" => app.on_failure = OnFailure::Continue,
                "max_failures" => app.max_failures = number()?,
                "worker" => app.listen = false,
                "step" => app.step = true,
                "versions" => app.versions = number()?,
                "empty" => app.running = false,
                "rolling" => app.rolling = true,
                "faults" => app.faults = Some(small()?),
                "commands" => app.commands = Some(small()?),
                "clocks" => app.clocks = true,
                "interleaved" => app.interleaved = true,
                _ => return Err(format!("{word} is no word of an app")),
            }
        }
        Ok(app)
    }
}

impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replicas={} surge={} unavailable={}", self.replicas, self.surge, self.unavailable)?;
        let policy = match self.on_failure {
            OnFailure::Pause => "",
            OnFailure::Rollback => "rollback",
            OnFailure::Continue => "continue",
        };
        let words = [
            (self.most > 0, format!("most={}", self.most)),
            (self.batch.is_some(), format!("batch={}", self.batch.unwrap_or(0))),
            (self.delay, "delay".to_owned()),
            (self.bake, "bake".to_owned()),
            (self.healthy, "healthy".to_owned()),
            (!policy.is_empty(), policy.to_owned()),
            (self.max_failures != 1, format!("max_failures={}", self.max_failures)),
            (!self.listen, "worker".to_owned()),
            (self.step, "step".to_owned()),
            (self.versions != 2, format!("versions={}", self.versions)),
            (!self.running, "empty".to_owned()),
            (self.rolling, "rolling".to_owned()),
            (self.faults.is_some(), format!("faults={}", self.faults.unwrap_or(0))),
            (self.commands.is_some(), format!("commands={}", self.commands.unwrap_or(0))),
            (self.clocks, "clocks".to_owned()),
            (self.interleaved, "interleaved".to_owned()),
        ];
        words.iter().filter(|(said, _)| *said).try_for_each(|(_, word)| write!(f, " {word}"))
    }
}

#[test]
fn an_app_reads_back() {
    for line in [
        "replicas=2 surge=1 unavailable=0",
        "replicas=3 surge=0 unavailable=1 most=3 batch=1 delay bake healthy rollback max_failures=2 worker step versions=3 empty rolling faults=2 commands=1 clocks interleaved",
    ] {
        assert_eq!(line.parse::<App>().unwrap().to_string(), line);
    }
    assert!("replica=2".parse::<App>().is_err());
}
