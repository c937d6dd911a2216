//! Bounds for what one client may take.

use serde::{Deserialize, Serialize};

/// Bounds for one app. Every field has a default, so that an empty object is a full set of limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of request line and headers together; more is answered with 431.
    pub header_bytes: usize,
    /// Number of headers; more is answered with 431.
    pub headers: usize,
    /// Bytes of a request body; more is answered with 413. `None` is unlimited.
    pub body_bytes: Option<u64>,
    /// From the first byte of a request to the end of its headers.
    pub header_timeout_ms: u64,
    /// A connection without a request, or a body that makes no progress.
    pub idle_timeout_ms: u64,
    /// Bytes a second that a body of HTTP/1.1 has to bring on average while it is waited for, once `header_timeout_ms` of that is
    /// over; 0: any.
    pub body_rate: u64,
    /// From the last byte that went up to the head of the response.
    pub response_timeout_ms: u64,
    /// For one attempt to connect to an endpoint. One whose queue is full drops the first packet, and Linux sends it again after
    /// 1 s and 3 s: a limit of 1 s would give up just before.
    pub connect_timeout_ms: u64,
    /// Streams that must move to another endpoint are told at moments spread over this time.
    pub drain_spread_ms: u64,
    /// Requests wait so long for an instance while there is none, counted from when the last one left. 0: they do not.
    pub hold_ms: u64,
    /// So many of them at once; more are refused.
    pub hold_requests: usize,
    /// Client connections at once; above it, new ones wait in the kernel's queue.
    pub max_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            headers: 100,
            body_bytes: None,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            body_rate: 240,
            response_timeout_ms: 60_000,
            connect_timeout_ms: 5_000,
            drain_spread_ms: 2_000,
            hold_ms: 0,
            hold_requests: 1_000,
            max_connections: 10_000,
        }
    }
}

impl Limits {
    /// Of each bound the widest: for connections of which nobody knows yet whose they are.
    pub fn widest<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let wider = |a: Self, b: &Self| Self {
            header_bytes: a.header_bytes.max(b.header_bytes),
            headers: a.headers.max(b.headers),
            body_bytes: a.body_bytes.zip(b.body_bytes).map(|(a, b)| a.max(b)),
            header_timeout_ms: a.header_timeout_ms.max(b.header_timeout_ms),
            idle_timeout_ms: a.idle_timeout_ms.max(b.idle_timeout_ms),
            body_rate: a.body_rate.min(b.body_rate),
            response_timeout_ms: a.response_timeout_ms.max(b.response_timeout_ms),
            connect_timeout_ms: a.connect_timeout_ms.max(b.connect_timeout_ms),
            drain_spread_ms: a.drain_spread_ms.max(b.drain_spread_ms),
            hold_ms: a.hold_ms.max(b.hold_ms),
            hold_requests: a.hold_requests.max(b.hold_requests),
            max_connections: a.max_connections.max(b.max_connections),
        };
        all.fold(None, |widest: Option<Self>, one| {
            Some(widest.map_or_else(|| one.clone(), |w| wider(w, one)))
        })
        .unwrap_or_default()
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("header_timeout_ms", self.header_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("response_timeout_ms", self.response_timeout_ms),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("max_connections", self.max_connections as u64),
        ];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{name}` is 0, it must be at least 1"));
        }
        if !(256..=1024 * 1024).contains(&self.header_bytes) {
            return Err(format!("`header_bytes` is {}, it must be 256 to 1048576", self.header_bytes));
        }
        if !(1..=1000).contains(&self.headers) {
            return Err(format!("`headers` is {}, it must be 1 to 1000", self.headers));
        }
        Ok(())
    }
}
