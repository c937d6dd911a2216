//! One client connection: where it stands, its deadlines, and the answers that are not yet with the client's kernel.
//!
//! hyper has one timer, for heads, which also runs while a connection just waits. So the deadlines are kept here: one
//! timer per connection that is set anew only when it fires or must fire earlier, so that a request costs no timer.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::body::{BodyFault, earlier};
use crate::classes::AppCell;
use crate::counts::{EndpointRow, VersionRow};
use crate::endpoint::LiveEndpoint;
use crate::exchange::Exchange;
use crate::forward;
use crate::framing::Framing;
use crate::linger::linger;
use crate::table::Limits;
use crate::trust::Peer;
use crate::tunnel::{self, Tunnel};
use crate::watched::Watched;
use crate::worker::{Door, Worker};

const NEVER: Duration = Duration::from_secs(86_400);

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between requests, since then.
    Idle(Instant),
    /// Within a head, whose first byte (or whose connection) came then.
    Head(Instant),
    /// A request is with an endpoint; its last byte went up then.
    Waiting(Instant),
    /// The response is on its way.
    Answering,
}

/// What a deadline that has passed means for a request in an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    Response,
    Body,
}

/// What is to be done with a connection now.
enum Verdict {
    GoOn,
    /// Tell the service that its deadline is over.
    Ask,
    /// Close, and say 408 first if a part of a head has come.
    CloseHead,
    Close,
    /// All is said, but the client still sends: it shall get the answer.
    Linger,
    /// HTTP has ended and a WebSocket begins.
    Tunnel,
}

pub struct Connection {
    pub worker: Rc<Worker>,
    pub app: Arc<str>,
    pub app_row: VersionRow,
    pub peer: Peer,
    pub peer_value: Option<HeaderValue>,
    /// For a request of HTTP/1.0 that names no host.
    pub default_host: HeaderValue,
    limits: Limits,
    phase: Cell<Phase>,
    /// The client takes no bytes since then.
    write_blocked: Cell<Option<Instant>>,
    /// The client owes bytes of its body since then.
    body_waits: Cell<Option<Instant>>,
    /// The end of the present request's body was not seen.
    body_open: Cell<bool>,
    body_fault: Cell<Option<BodyFault>>,
    expired: Cell<Option<Expired>>,
    framing: RefCell<Framing>,
    /// Answers that hyper holds in its buffer.
    buffered: RefCell<Vec<Exchange>>,
    /// An answer was given to hyper and is not flushed.
    answer_pending: Cell<bool>,
    /// The endpoint of the present request, once it was sent.
    row: Cell<Option<EndpointRow>>,
    closing: Cell<bool>,
    killed: Cell<bool>,
    /// A WebSocket that was agreed to: it begins where HTTP has ended.
    tunnel: RefCell<Option<Tunnel>>,
    waker: RefCell<Option<Waker>>,
}

impl Connection {
    pub fn new(worker: Rc<Worker>, door: &Door, peer: Peer, limits: Limits) -> Self {
        let peer_value = match peer {
            Peer::Ip(ip) => HeaderValue::from_str(&ip.to_canonical().to_string()).ok(),
            Peer::Unix => None,
        };
        Self {
            worker,
            app: Arc::clone(&door.app),
            app_row: door.app_row,
            peer,
            peer_value,
            default_host: door.default_host.clone(),
            limits,
            phase: Cell::new(Phase::Head(Instant::now())),
            write_blocked: Cell::default(),
            body_waits: Cell::default(),
            body_open: Cell::default(),
            body_fault: Cell::default(),
            expired: Cell::default(),
            framing: RefCell::default(),
            buffered: RefCell::default(),
            answer_pending: Cell::default(),
            row: Cell::default(),
            closing: Cell::default(),
            killed: Cell::default(),
            tunnel: RefCell::default(),
            waker: RefCell::default(),
        }
    }

    // --- told by the service --------------------------------------------------------------------------------------

    /// A request has come.
    pub fn request_started(&self, now: Instant, has_body: bool) {
        self.phase.set(Phase::Waiting(now));
        self.body_open.set(has_body);
        self.answer_pending.set(false);
        self.expired.set(None);
        self.body_fault.set(None);
        self.body_waits.set(None);
    }

    pub fn sent_to(&self, endpoint: &LiveEndpoint) {
        self.row.set(Some(endpoint.row));
        // What was waited for before belongs to nobody's time to answer.
        self.expired.set(None);
        if let Phase::Waiting(_) = self.phase.get() {
            self.phase.set(Phase::Waiting(Instant::now()));
        }
    }

    pub fn response_started(&self) {
        self.phase.set(Phase::Answering);
    }

    /// An answer that no endpoint stands behind.
    pub fn answer_made(&self) {
        self.phase.set(Phase::Answering);
        self.answer_pending.set(true);
    }

    /// The answer of our own that is on its way is the last one: bytes of no HTTP follow it.
    pub fn tunnel_follows(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
        self.answer_made();
    }

    pub fn drain_spread(&self) -> Duration {
        Duration::from_millis(self.limits.drain_spread_ms)
    }

    pub fn expired(&self) -> Option<Expired> {
        self.expired.get()
    }

    pub fn body_fault(&self) -> Option<BodyFault> {
        self.body_fault.get()
    }

    /// The head broke a rule that hyper does not hold.
    pub fn framing_is_wrong(&self, has_encoding: bool) -> bool {
        let framing = self.framing.borrow();
        framing.has_bare_lf() || (has_encoding && framing.has_both())
    }

    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// No request comes after this one, and an answer that begins now says so. An early answer ends the connection too:
    /// what is left of the body cannot be told from another request without reading it all.
    pub fn is_last(&self) -> bool {
        self.closing.get() || self.body_open.get()
    }

    // --- told by the bodies ---------------------------------------------------------------------------------------

    pub fn body_waits(&self) {
        if self.body_waits.get().is_none() {
            self.body_waits.set(Some(Instant::now()));
        }
    }

    pub fn body_moved(&self) {
        self.body_waits.set(None);
        if let Phase::Waiting(_) = self.phase.get() {
            self.phase.set(Phase::Waiting(Instant::now()));
        }
    }

    pub fn body_ended(&self) {
        self.body_open.set(false);
    }

    pub fn body_moved_on(&self) {
        self.body_waits.set(None);
    }

    pub fn set_body_fault(&self, fault: BodyFault) {
        self.body_fault.set(Some(fault));
    }

    /// hyper has the whole answer in its buffer; it counts once it is flushed.
    pub fn answer_buffered(&self, exchange: Exchange) {
        self.buffered.borrow_mut().push(exchange);
        self.answer_pending.set(true);
    }

    /// An endpoint's body broke off in the middle of an answer.
    pub fn response_broken(&self, exchange: Exchange) {
        match self.body_fault.get() {
            Some(BodyFault::TooLarge) => exchange.failed(AppCell::Rejected),
            Some(BodyFault::ClientGone) => exchange.abandoned(),
            Some(BodyFault::EndpointGone) | None => drop(exchange.broken()),
        }
    }

    // --- told by the worker ---------------------------------------------------------------------------------------

    /// Close once the present request is answered, or at once if there is none.
    pub fn close_when_idle(&self) {
        self.closing.set(true);
        self.wake();
    }

    /// Close now if the client does not take the answer of this endpoint: a blocked answer would hear of no cut.
    pub fn cut_if_blocked(&self, row: EndpointRow) {
        if self.row.get() == Some(row) && self.write_blocked.get().is_some() {
            self.killed.set(true);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    // --- told by the stream ---------------------------------------------------------------------------------------

    pub fn bytes_came(&self, bytes: &[u8]) {
        match self.phase.get() {
            Phase::Idle(_) => {
                self.phase.set(Phase::Head(Instant::now()));
                self.framing.borrow_mut().feed(bytes);
            }
            Phase::Head(_) => self.framing.borrow_mut().feed(bytes),
            Phase::Waiting(_) | Phase::Answering => {}
        }
    }

    /// Everything that was written is with the kernel.
    pub fn flushed(&self) {
        self.write_blocked.set(None);
        if !self.answer_pending.take() {
            return;
        }
        for exchange in self.buffered.borrow_mut().drain(..) {
            exchange.answered();
        }
        self.row.set(None);
        let mut framing = self.framing.borrow_mut();
        framing.rearm();
        let now = Instant::now();
        self.phase.set(if framing.is_mid_head() { Phase::Head(now) } else { Phase::Idle(now) });
    }

    pub fn blocked(&self) {
        if self.write_blocked.get().is_none() {
            self.write_blocked.set(Some(Instant::now()));
        }
    }

    pub fn unblocked(&self) {
        self.write_blocked.set(None);
    }

    // --- deadlines ------------------------------------------------------------------------------------------------

    pub fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.idle_timeout_ms)
    }

    fn deadline(&self) -> Option<Instant> {
        let idle = self.idle_timeout();
        let of_phase = match self.phase.get() {
            Phase::Idle(since) => Some(since + idle),
            Phase::Head(since) => Some(since + Duration::from_millis(self.limits.header_timeout_ms)),
            Phase::Waiting(since) if self.expired.get().is_none() && self.body_waits.get().is_none() => {
                Some(since + Duration::from_millis(self.limits.response_timeout_ms))
            }
            Phase::Waiting(_) | Phase::Answering => None,
        };
        let blocked = earlier(self.write_blocked.get(), self.body_waits.get()).map(|since| since + idle);
        earlier(of_phase, blocked)
    }

    fn verdict(&self, now: Instant) -> Verdict {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Verdict::GoOn;
        }
        let body_is_late = self.body_waits.get().is_some() && self.write_blocked.get().is_none();
        match self.phase.get() {
            Phase::Waiting(_) if self.expired.get().is_none() => {
                self.expired.set(Some(if body_is_late { Expired::Body } else { Expired::Response }));
                self.body_waits.set(None);
                Verdict::Ask
            }
            Phase::Head(_) if self.framing.borrow().is_mid_head() => Verdict::CloseHead,
            Phase::Idle(_) | Phase::Head(_) | Phase::Waiting(_) | Phase::Answering => Verdict::Close,
        }
    }

    /// hyper is done with the connection.
    fn last_verdict(&self, result: &hyper::Result<()>) -> Verdict {
        match result {
            Ok(()) if self.tunnel.borrow().is_some() => Verdict::Tunnel,
            Ok(()) if self.body_open.get() => Verdict::Linger,
            // It has said 400 or 431, and more of the head may be on its way.
            Err(error) if error.is_parse() => Verdict::Linger,
            Ok(()) | Err(_) => Verdict::Close,
        }
    }
}

/// Serves a connection to its end.
pub async fn serve<S>(stream: S, state: Rc<Connection>)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None) // the deadline is ours: see above
        .max_header_size(state.limits.header_bytes)
        .max_buf_size(state.limits.header_bytes.max(64 * 1024));
    if state.limits.headers != 100 {
        builder.max_headers(state.limits.headers); // 100 is hyper's own, without an allocation
    }
    let service_state = Rc::clone(&state);
    let service = service_fn(move |request| forward::serve(Rc::clone(&service_state), request));
    let io = TokioIo::new(Watched { stream, state: Rc::clone(&state) });
    let mut connection = builder.serve_connection(io, service);

    let first = state.deadline().unwrap_or_else(|| Instant::now() + NEVER);
    let mut timer = pin!(tokio::time::sleep_until(first.into()));
    let mut told_to_close = false;
    let verdict = std::future::poll_fn(|cx| {
        if state.waker.borrow().is_none() {
            *state.waker.borrow_mut() = Some(cx.waker().clone());
        }
        loop {
            if state.killed.get() {
                return Poll::Ready(Verdict::Close);
            }
            if state.closing.get() && !told_to_close {
                told_to_close = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(state.last_verdict(&result));
            }
            if state.closing.get() && !told_to_close {
                continue;
            }
            let deadline = state.deadline().unwrap_or_else(|| Instant::now() + NEVER);
            if deadline < timer.deadline().into_std() {
                timer.as_mut().reset(deadline.into());
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match state.verdict(Instant::now()) {
                Verdict::GoOn => timer.as_mut().reset(deadline.into()),
                Verdict::Ask => {}
                verdict @ (Verdict::CloseHead | Verdict::Close | Verdict::Linger | Verdict::Tunnel) => {
                    return Poll::Ready(verdict);
                }
            }
        }
    })
    .await;
    match verdict {
        Verdict::GoOn | Verdict::Ask | Verdict::Close => {}
        Verdict::CloseHead => {
            let mut stream = connection.into_parts().io.into_inner().stream;
            let answer = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::time::timeout(Duration::from_millis(100), stream.write_all(answer)).await;
        }
        Verdict::Tunnel => {
            let parts = connection.into_parts();
            let tunnel = state.tunnel.borrow_mut().take();
            if let Some(tunnel) = tunnel {
                tunnel::run(parts.io.into_inner().stream, parts.read_buf, tunnel, state).await;
            }
        }
        Verdict::Linger => linger(connection.into_parts().io.into_inner().stream, &state).await,
    }
}
