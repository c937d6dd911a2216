//! A revision: the full, immutable description of what runs, with digests of the bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Millis;
use crate::ids::{EnvKey, RevisionNumber, VersionLabel};
use crate::settings::LONGEST_MS;

/// A template that was given a number when it was first deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    pub number: RevisionNumber,
    pub template: Template,
}

/// What an instance runs. Two equal templates are the same revision: equality of content, never of a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    pub version: VersionLabel,
    pub run: Run,
    pub health: Health,
    /// Beside which older versions it can run, a range; None: beside all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatible_with: Option<String>,
    /// Raised by `restart`, so that the same description can roll again. A deploy of the same description does not
    /// count it as a change.
    #[serde(default)]
    pub restarts: u32,
}

/// Hex SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub String);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex(&Sha256::digest(bytes)))
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Template {
    /// A command and no more: no environment, no secrets, ready when its port accepts. What is simulated and what is
    /// tested begins here.
    pub fn plain(version: VersionLabel, command: Vec<String>) -> Self {
        let run = Run {
            command,
            cwd: "/".into(),
            env: BTreeMap::new(),
            sealed: None,
            artifact: None,
            bytes: BTreeMap::new(),
            stop_signal: StopSignal::Term,
            port: Port::Auto,
            protocol: Protocol::Http1,
            quiet: None,
            user: None,
            limits: RunLimits::default(),
        };
        let health = Health { startup: None, ready: Check::new(Probe::Tcp), live: None, ready_assumed: true };
        Self { version, run, health, compatible_with: None, restarts: 0 }
    }

    /// The same, but for the count of restarts.
    pub fn same_as(&self, other: &Self) -> bool {
        self.version == other.version
            && self.run == other.run
            && self.health == other.health
            && self.compatible_with == other.compatible_with
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The program and its arguments, before `{port}` and the like are filled in. No shell.
    pub command: Vec<String>,
    /// Absolute. For an artifact that is a folder: the folder as it was deployed is run from, whatever stands here.
    pub cwd: String,
    pub env: BTreeMap<EnvKey, String>,
    /// Values that are not written here: they are sealed on disk, and only a keyed fingerprint of each is kept.
    pub sealed: Option<Sealed>,
    pub artifact: Option<Artifact>,
    /// Absolute path → digest: the executable and every argument that names an existing file, when run in place.
    pub bytes: BTreeMap<String, Digest>,
    pub stop_signal: StopSignal,
    pub port: Port,
    #[serde(default)]
    pub protocol: Protocol,
    /// Before the signal to stop.
    #[serde(default)]
    pub quiet: Option<Quiet>,
    /// As whom it runs: a user of the machine by name or number, with `:group` in another than its own. Without it, as the daemon.
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub limits: RunLimits,
}

/// The most that one instance may have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    /// With one byte more the kernel ends it.
    pub memory_bytes: Option<u64>,
    /// Thousandths of one core's time.
    pub cpu_millis: Option<u32>,
    pub open_files: Option<u64>,
}

impl RunLimits {
    pub const MEMORY_BYTES_MIN: u64 = 1 << 20;
    pub const CPU_MILLIS: std::ops::RangeInclusive<u32> = 10..=1_024_000;
    pub const OPEN_FILES_MIN: u32 = 16;
    pub const OPEN_FILES_MAX: u32 = 1 << 20;

    /// What is wrong with them, where no file was read that would have said so.
    pub fn problem(&self) -> Option<String> {
        let beyond =
            |key: &str, what: String| Some(format!("run.limits.{key} is {what}, which is not possible"));
        match self {
            Self { memory_bytes: Some(bytes), .. } if *bytes < Self::MEMORY_BYTES_MIN => {
                beyond("memory", format!("{bytes} bytes"))
            }
            Self { cpu_millis: Some(millis), .. } if !Self::CPU_MILLIS.contains(millis) => {
                beyond("cpu", format!("{millis} thousandths of a core"))
            }
            Self { open_files: Some(files), .. }
                if !(Self::OPEN_FILES_MIN.into()..=Self::OPEN_FILES_MAX.into()).contains(files) =>
            {
                beyond("open_files", files.to_string())
            }
            _ => None,
        }
    }
}

/// How an app that takes work by itself is told to take no more, and when it has finished what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    pub by: QuietBy,
    /// A command that succeeds when nothing is at hand any more. Without it: until the app ends by itself, or the time is over.
    pub finished: Option<Vec<String>>,
    pub timeout_ms: Millis,
}

impl Quiet {
    pub const TIMEOUT_MS: Millis = 300_000;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuietBy {
    Signal(QuietSignal),
    /// A program with its arguments, as in a check.
    Exec(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuietSignal {
    #[serde(rename = "SIGTSTP")]
    Tstp,
    #[serde(rename = "SIGTTIN")]
    Ttin,
    #[serde(rename = "SIGUSR1")]
    Usr1,
    #[serde(rename = "SIGUSR2")]
    Usr2,
    #[serde(rename = "SIGHUP")]
    Hup,
    #[serde(rename = "SIGINT")]
    Int,
    #[serde(rename = "SIGQUIT")]
    Quit,
    #[serde(rename = "SIGTERM")]
    Term,
    #[serde(rename = "SIGWINCH")]
    Winch,
}

/// What an instance speaks with the proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 without TLS, from the first byte.
    H2c,
    /// HTTP/2 behind TLS, with whatever certificate.
    H2,
}

/// A copy of a file or folder, kept in the state directory under its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// As written in the file: for people.
    pub path: String,
    pub digest: Digest,
    pub is_folder: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Names the sealed file; derived from the fingerprints.
    pub id: String,
    pub keys: BTreeMap<EnvKey, SealedKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedKey {
    pub origin: SealedOrigin,
    /// Keyed, so that a guess cannot be tried against the journal.
    pub fingerprint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealedOrigin {
    EnvFile,
    Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    #[serde(rename = "SIGTERM")]
    Term,
    #[serde(rename = "SIGINT")]
    Int,
    #[serde(rename = "SIGQUIT")]
    Quit,
    #[serde(rename = "SIGHUP")]
    Hup,
    #[serde(rename = "SIGUSR1")]
    Usr1,
    #[serde(rename = "SIGUSR2")]
    Usr2,
    #[serde(rename = "SIGKILL")]
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    /// From the daemon's range, another one for each instance.
    Auto,
    /// This one: then there can be one instance only, and the old one stops first.
    Fixed(u16),
}

/// The checks. `ready` is always there: where none was written, it is a TCP connection, and `ready_assumed` says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub startup: Option<Check>,
    pub ready: Check,
    pub live: Option<Check>,
    pub ready_assumed: bool,
}

impl Health {
    /// What no check can hold to, in a sentence; None where all is well.
    pub fn problem(&self) -> Option<String> {
        let checks =
            [("startup", self.startup.as_ref()), ("ready", Some(&self.ready)), ("live", self.live.as_ref())];
        checks.into_iter().filter_map(|(name, check)| Some((name, check?))).find_map(|(name, check)| {
            let interval = (Check::SHORTEST_INTERVAL_MS..=LONGEST_MS).contains(&check.interval_ms);
            let timeout = (1..=LONGEST_MS).contains(&check.timeout_ms);
            let text = format!(
                "health.{name} cannot probe every {} ms with a timeout of {} ms; use {} ms to a year, and 1 ms to a year",
                check.interval_ms,
                check.timeout_ms,
                Check::SHORTEST_INTERVAL_MS
            );
            (!interval || !timeout).then_some(text)
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub probe: Probe,
    pub interval_ms: Millis,
    pub timeout_ms: Millis,
    /// Successes in a row until it counts as up.
    pub rise: u32,
    /// Failures in a row until it counts as down.
    pub fall: u32,
    /// While starting, probe from 10 ms apart, backing off to the interval.
    pub eager: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    Http(HttpProbe),
    Tcp,
    /// The health service of gRPC, asked for this service; the empty name is the server as a whole.
    Grpc(String),
    /// Exit 0 is a success. No shell; `{port}` and the like are filled in.
    Exec(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// Begins with `/`.
    pub path: String,
    /// The expected status; without it any of 200–299.
    pub status: Option<u16>,
    /// A text that the body must contain.
    pub body: Option<String>,
    /// Sent with the request.
    pub headers: BTreeMap<String, String>,
}

impl Check {
    pub const DEFAULT_INTERVAL_MS: Millis = 1_000;
    pub const DEFAULT_TIMEOUT_MS: Millis = 1_000;
    /// A shorter one would be a load of its own.
    pub const SHORTEST_INTERVAL_MS: Millis = 10;

    /// With the defaults of the configuration.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval_ms: Self::DEFAULT_INTERVAL_MS,
            timeout_ms: Self::DEFAULT_TIMEOUT_MS,
            rise: 1,
            fall: 3,
            eager: true,
        }
    }
}
