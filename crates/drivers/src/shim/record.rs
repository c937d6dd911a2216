//! What the shim is told, what it answers, and the records it leaves. A daemon reads those of the release before.
//!
//! Invariant: the specification, which holds secrets, travels through a pipe and is never written anywhere.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use trundle_core::event::{Exit, RefusalCode};
use trundle_core::revision::RunLimits;

use crate::program::NotRunnable;
use crate::sweep::Process;
use crate::user::RunAs;

/// Everything a shim needs to know, on its standard input.
#[derive(Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The instance's folder. It is there already.
    pub dir: PathBuf,
    pub state_dir: String,
    /// `web-2-3`
    pub name: String,
    /// Names this process among all that ever ran: 128 random bits.
    pub incarnation: String,
    pub port: u16,
    pub address: String,
    pub program: PathBuf,
    /// The first is the name under which the program runs.
    pub argv: Vec<String>,
    pub cwd: PathBuf,
    /// The whole environment: nothing is inherited.
    pub env: BTreeMap<String, String>,
    pub log: LogLimits,
    /// Of a core dump of the app; None: unlimited.
    pub core_bytes_max: Option<u64>,
    /// None: as the daemon.
    #[serde(default)]
    pub run_as: Option<RunAs>,
    #[serde(default)]
    pub limits: RunLimits,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LogLimits {
    pub file_bytes_max: u64,
    /// How many files there may be: the newest is `log`, then `log.1`, and so on.
    pub files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { file_bytes_max: 10 * 1024 * 1024, files: 3 }
    }
}

/// `shim.json`: the process runs, and this is how the next daemon recognises it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimRecord {
    pub shim_pid: u32,
    pub shim_start_ticks: u64,
    pub child_pid: u32,
    pub child_start_ticks: u64,
    pub boot_id: String,
    pub incarnation: String,
    pub port: u16,
    pub address: String,
}

impl ShimRecord {
    pub fn shim(&self) -> Process {
        Process { pid: self.shim_pid, start_ticks: self.shim_start_ticks }
    }

    pub fn child(&self) -> Process {
        Process { pid: self.child_pid, start_ticks: self.child_start_ticks }
    }
}

/// `exit.json`: the process ended, and nothing of it was left when this was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Wall clock, for people.
    pub at_unix_ms: u64,
    /// The kernel said that it killed the process for want of memory.
    pub oom_killed: bool,
    /// The kernel said that the shim had no child left, and all that ever came from the process becomes its child:
    /// nobody needs to look again.
    #[serde(default)]
    pub nothing_left: bool,
}

impl ExitRecord {
    pub fn now(code: Option<i32>, signal: Option<i32>) -> Self {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            code,
            signal,
            at_unix_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            oom_killed: false,
            nothing_left: false,
        }
    }

    pub fn exit(&self) -> Exit {
        Exit { code: self.code, signal: self.signal }
    }
}

/// `refused.json`: it could not be started, and its name is used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub code: RefusalCode,
    pub text: String,
}

impl Refusal {
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub fn system(what: &str, error: impl std::fmt::Display) -> Self {
        Self::new(RefusalCode::System, format!("{what}: {error}"))
    }
}

impl From<NotRunnable> for Refusal {
    fn from(why: NotRunnable) -> Self {
        Self::new(RefusalCode::NotFound, why.to_string())
    }
}

/// The one line that a shim writes to its standard output before it closes it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Started(ShimRecord),
    Refused(Refusal),
}
