//! One request's stay in an endpoint, from the first byte sent until its answer is with the client's kernel.
//!
//! It holds the claim, so that a drain waits for it, and it ends in exactly one class: answered, crashed, cut, lost,
//! or the client went away, which is no class.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use crate::classes::{AppCell, Kind, Lost, VersionCell};
use crate::endpoint::Claim;
use crate::stream::EndpointStream;
use crate::upstream::Upstream;
use crate::worker::Worker;

pub struct Exchange {
    claim: Claim,
    upstream: Option<Upstream>,
    worker: Rc<Worker>,
    started: Instant,
    /// Of its answer; 0 as long as there is none.
    status: u16,
    kind: Kind,
    /// Until a WebSocket was open: how long that lasts is no latency.
    opened_after: Option<Duration>,
    counted: bool,
}

impl Exchange {
    /// From here on the request may be in the endpoint's hands.
    pub fn new(claim: Claim, upstream: Upstream, worker: Rc<Worker>, started: Instant) -> Self {
        let counts = &claim.endpoint().counts;
        counts.requests(claim.endpoint().row).fetch_add(1, Relaxed);
        Self {
            claim,
            upstream: Some(upstream),
            worker,
            started,
            status: 0,
            kind: Kind::Request,
            opened_after: None,
            counted: false,
        }
    }

    /// A connection that carries bytes and no HTTP, which the endpoint has taken.
    pub fn of_bytes(claim: Claim, worker: Rc<Worker>, started: Instant) -> Self {
        let counts = &claim.endpoint().counts;
        counts.requests(claim.endpoint().row).fetch_add(1, Relaxed);
        let opened_after = Some(started.elapsed());
        Self {
            claim,
            upstream: None,
            worker,
            started,
            status: 0,
            kind: Kind::Tcp,
            opened_after,
            counted: false,
        }
    }

    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    pub fn upstream(&mut self) -> Option<&mut Upstream> {
        self.upstream.as_mut()
    }

    pub fn upstream_ref(&self) -> Option<&Upstream> {
        self.upstream.as_ref()
    }

    /// It has turned out to be a stream without an end.
    pub fn set_kind(&mut self, kind: Kind) {
        self.kind = kind;
    }

    pub fn set_status(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// Bytes of the answer's body go to the client.
    pub fn pass_down(&self, bytes: usize) {
        let endpoint = self.claim.endpoint();
        endpoint
            .counts
            .version_cell(endpoint.version_row, VersionCell::BytesDown)
            .fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes of a WebSocket, which has no body, go to the endpoint.
    pub fn pass_up(&self, bytes: usize) {
        let endpoint = self.claim.endpoint();
        endpoint
            .counts
            .version_cell(endpoint.version_row, VersionCell::BytesUp)
            .fetch_add(bytes as u64, Relaxed);
    }

    /// The request came back untouched: it was never here. Gives the claim and the connection up.
    pub fn undo(mut self) {
        let counts = &self.claim.endpoint().counts;
        counts.requests(self.claim.endpoint().row).fetch_sub(1, Relaxed);
        self.counted = true;
    }

    /// The response was read to its end: the connection may serve others while the client still takes its bytes.
    pub fn response_read(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            self.worker.pools.put(self.claim.endpoint(), upstream);
        }
    }

    /// The client has its answer, now.
    pub fn answered(mut self, now: Instant) {
        let endpoint = self.claim.endpoint();
        let took = self.opened_after.unwrap_or_else(|| now.saturating_duration_since(self.started));
        endpoint.counts.answered(endpoint.version_row, took, self.status);
        if self.status >= 500 {
            endpoint.counts.app_cell(endpoint.app_row, AppCell::AppErrors).fetch_add(1, Relaxed);
        }
        self.counted = true;
    }

    /// The endpoint has agreed to a WebSocket; answers its connection, free of HTTP.
    pub fn open(&mut self) -> Option<(EndpointStream, Bytes)> {
        self.opened_after = Some(self.started.elapsed());
        self.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        self.kind = Kind::WebSocket;
        self.upstream.take()?.leave_http()
    }

    /// The client was asked to come again.
    pub fn told(mut self) {
        self.claim.endpoint().note_told();
        self.count(AppCell::Told);
    }

    /// The endpoint's connection broke: cut if that was our doing, crashed otherwise.
    pub fn broken(mut self) -> AppCell {
        let class = if self.claim.endpoint().was_cut() { AppCell::Cut } else { AppCell::Crashed };
        self.count(class);
        class
    }

    /// The proxy answers in the endpoint's place, or the request is refused late.
    pub fn failed(mut self, class: AppCell) {
        self.count(class);
    }

    /// The client has gone away by itself, or stopped taking part: no class.
    pub fn abandoned(mut self) {
        self.counted = true;
    }

    fn count(&mut self, class: AppCell) {
        if self.counted {
            return;
        }
        self.counted = true;
        let endpoint = self.claim.endpoint();
        let one_more = |cell| endpoint.counts.app_cell(endpoint.app_row, cell).fetch_add(1, Relaxed);
        one_more(class);
        match class {
            AppCell::Cut => {
                one_more(AppCell::CutOf(self.kind));
                endpoint.counts.endpoint_cut(endpoint.row).fetch_add(1, Relaxed);
            }
            AppCell::Told => drop(one_more(AppCell::ToldOf(self.kind))),
            _ => {}
        }
    }
}

impl Drop for Exchange {
    /// Dropped without a verdict: we closed the client's connection (cut, or the proxy stops), or the client did.
    fn drop(&mut self) {
        if self.counted {
            return;
        }
        if self.claim.endpoint().was_cut() {
            self.count(AppCell::Cut);
        } else if self.worker.is_over() {
            self.count(AppCell::Lost(Lost::ProxyStopped));
        }
    }
}
