//! Trundle's proxy: its own process, one per state directory. It accepts connections, chooses an endpoint for each
//! request, forwards it, and counts what became of it.
//!
//! It knows addresses, weights and labels, told as numbered whole tables over a Unix socket, and serves on from the last
//! one without whoever told it. What is absent here: any idea of why an endpoint comes or goes.
//!
//! Code map: [`table`], [`control`], [`stats`] are what others see. `director` puts tables in force, `conversations` answers the
//! control socket, `succession` and `slots` let one proxy take over from another; `worker` threads accept; `connection`, `watched`, `forward`, `headers`, `pool`, `upstream`, `stream`, `body` carry
//! requests, `tcp` carries bytes that are no HTTP, `sites` says whose a request is, `window` which version it gets while several serve, `choice` which endpoint, `challenge` and `maintenance` answer in an app's place, `request_id` names a request, `linger` lets early answers arrive, `hold` lets requests wait for an instance; `endpoint` holds the proof of a drain, `settle` lets those come back who were told; `counts` survives the process,
//! `classes` names what it counts, `open` what is open now, `access` writes a line for each request; `holder` keeps the listening sockets.

#![warn(clippy::print_stderr, clippy::print_stdout)]

/// A line for whoever reads our log. A log that cannot be written, as on a full disk, is no reason to stop.
macro_rules! log_line {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub mod control;
#[doc(hidden)]
pub mod fuzzing;
pub mod stats;
pub mod table;

mod access;
mod answer;
mod ask;
mod binary;
mod body;
mod calls;
mod challenge;
mod choice;
mod classes;
pub mod compared;
mod connection;
mod conversations;
mod counts;
mod director;
mod endless;
mod endpoint;
mod error;
mod events;
mod exchange;
mod forward;
mod framing;
mod headers;
mod hold;
mod holder;
mod holding;
mod http2;
mod leave;
mod linger;
mod listen;
mod lock;
mod maintenance;
mod open;
mod pool;
mod process;
mod refusal;
mod replay;
mod request_id;
mod routes;
mod settle;
mod sites;
mod slots;
mod spans;
mod store;
mod stream;
mod succession;
mod sys;
mod tally;
mod tcp;
mod tls;
mod trust;
mod tunnel;
mod turn;
mod upgrade;
mod upstream;
mod watched;
mod websocket;
mod window;
mod worker;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use binary::{identity, our_identity};
pub use compared::{Comparison, Side};
pub use control::{Client, ClientError, ClientReceiver, ClientSender, Reply, Request, SOCKET_NAME};
pub use error::ProxyError;
pub use sites::{check_host, check_path};
use slots::Slot;
pub use stats::{AppStats, Caller, EndpointStats, FormatUses, Histogram, Stats};
pub use table::formats::{check_format_name, check_link};
pub use table::traffic::{check_cookie, check_header, check_pattern};
pub use table::{
    AccessFormat, AccessLog, App, Endpoint, EndpointState, Field, Format, Limits, Listen, Maintenance,
    Mirror, PROTOCOL, Protocol, Rule, Sticky, Table, TlsFiles, Traffic, Wanted, WhenGone,
};

const HOLDER_LOCK: &str = "proxy-holder.lock";
const PROXY_LOCK: &str = "proxy.lock";
/// The addresses whose sockets a service manager gave to the holder, a line each.
const GIVEN: &str = "proxy-given";
const COUNTS: &str = "proxy-counts";

/// What the proxy process needs to know; everything else comes with the tables.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    pub state_dir: PathBuf,
    /// Threads that serve; 0 is one per core, at most 4.
    pub workers: usize,
}

/// What the holder of the listening sockets needs to know.
#[derive(Debug, Clone)]
pub struct HolderConfig {
    pub state_dir: PathBuf,
    /// The program to run as the proxy, and its arguments. It gets the holder's socket as descriptor 0.
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

/// Whether a proxy of the state directory runs, one that still finishes among them, or the holder, who would start one.
#[must_use]
pub fn runs(state_dir: &Path) -> bool {
    serves(state_dir) || Slot::all().any(|slot| slot.is_taken(state_dir))
}

/// Whether a proxy serves or a holder is there who starts one, apart from those that finish.
fn serves(state_dir: &Path) -> bool {
    [HOLDER_LOCK, PROXY_LOCK].iter().any(|name| lock::is_held(state_dir, name))
}

/// Whether a holder runs, which starts a proxy whenever there is none.
#[must_use]
pub fn is_held(state_dir: &Path) -> bool {
    lock::is_held(state_dir, HOLDER_LOCK)
}

/// Whether the holder that runs has the socket of this address from a service manager: then nobody else can bind it.
#[must_use]
pub fn was_given(state_dir: &Path, address: &str) -> bool {
    let given = std::fs::read_to_string(state_dir.join(GIVEN)).unwrap_or_default();
    given.lines().any(|line| line == address) && lock::is_held(state_dir, HOLDER_LOCK)
}

/// A listening Unix socket whose file is its owner's alone from its first moment.
pub fn bind_private(path: &Path) -> io::Result<OwnedFd> {
    listen::bind_unix(path, 0o600)
}

/// What was counted until the last proxy ended. `None` while one runs, which is asked itself, or when the file cannot be read.
#[must_use]
pub fn stats_at_rest(state_dir: &Path) -> Option<Stats> {
    let path = state_dir.join(COUNTS);
    if !path.exists() {
        return Some(Stats::default());
    }
    // What is in the file is settled as it is opened: that is for one process at a time.
    let _lock = lock::take(state_dir, PROXY_LOCK, Duration::ZERO).ok()?;
    let taken = slots::take(state_dir).ok()?;
    let (counts, _) = counts::Counts::open(&path, taken.slot, |slot| slot.is_taken(state_dir)).ok()?;
    Some(tally::stats(&counts, &Table::default(), std::iter::empty(), &BTreeMap::new()))
}

/// The body of `trundle proxy`: serves until Stop or SIGTERM, then finishes what is in flight within a bound.
pub fn run_proxy(config: ProxyConfig) -> Result<(), ProxyError> {
    process::run(&config)
}

/// The body of `trundle shim proxy`: holds the listening sockets and keeps a proxy running. Blocks.
pub fn run_holder(config: HolderConfig) -> Result<(), ProxyError> {
    holder::run(config)
}
