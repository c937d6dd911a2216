//! One client connection: where it stands, its deadlines, and the answers that are not yet with the client's kernel.
//!
//! hyper has one timer, for heads, which also runs while a connection just waits. So the deadlines are kept here: one
//! timer per connection that is set anew only when it fires or must fire earlier, so that a request costs no timer.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::body::earlier;
use crate::counts::EndpointRow;
use crate::exchange::Exchange;
use crate::forward;
use crate::framing::Framing;
use crate::http2::{self, floods::Floods};
use crate::linger::linger;
use crate::open::{One, Open, What};
use crate::table::{Limits, Listen, Protocol};
use crate::tls;
use crate::trust::Peer;
use crate::tunnel::{self, Tunnel};
use crate::turn::Turn;
use crate::watched::Watched;
use crate::worker::{Door, Worker};

/// As much of a first request as is read before hyper reads for itself.
const FIRST_READ: usize = 8 * 1024;
/// A new connection has so long to send its first request though the proxy stops: its client would not try again, as it does on
/// one that it has used.
const FRESH: Duration = Duration::from_secs(1);
pub const NEVER: Duration = Duration::from_secs(86_400);

/// So long a connection that waits may wait for its next request when another proxy has taken over: the answer to that says
/// that it is the last. A client that had just sent it would lose it on a connection that closes.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// A client of HTTP/2 that waits and is told to go has so long to answer.
const GOODBYE: Duration = Duration::from_secs(2);

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between requests, since then.
    Idle(Instant),
    /// Within a head, whose first byte (or whose connection) came then.
    Head(Instant),
    /// Requests are on their way, or their answers.
    Busy,
}

/// What is to be done with a connection now.
pub enum Verdict {
    GoOn,
    /// Tell the service that its deadline is over.
    Ask,
    /// Close, and say 408 first if a part of a head has come.
    CloseHead,
    /// Close, and say 414 first.
    CloseLine,
    Close,
    /// All is said, but the client still sends: it shall get the answer.
    Linger,
    /// HTTP has ended and a WebSocket begins.
    Tunnel,
}

pub struct Connection {
    pub worker: Rc<Worker>,
    /// The address it came to.
    pub door: Rc<Door>,
    pub peer: Peer,
    pub peer_value: Option<HeaderValue>,
    /// It came in with TLS.
    pub is_secure: bool,
    limits: Limits,
    phase: Cell<Phase>,
    /// What its client speaks.
    protocol: Cell<Protocol>,
    /// The client takes no bytes since then.
    write_blocked: Cell<Option<Instant>>,
    turns: RefCell<Vec<Weak<Turn>>>,
    /// A body whose end was not seen is left: what comes next is no request.
    body_left_open: Cell<bool>,
    framing: RefCell<Framing>,
    /// Of HTTP/1.1: those that have become requests.
    heads_taken: Cell<u64>,
    /// Of HTTP/2: work that leads nowhere.
    floods: RefCell<Floods>,
    /// Answers that hyper holds in its buffer.
    buffered: RefCell<Vec<Exchange>>,
    /// An answer was given to hyper and is not flushed.
    answer_pending: Cell<bool>,
    closing: Cell<bool>,
    /// It closes only behind its next answer.
    one_more: Cell<bool>,
    killed: Cell<bool>,
    /// A WebSocket that was agreed to: it begins where HTTP has ended.
    tunnel: RefCell<Option<Tunnel>>,
    waker: RefCell<Option<Waker>>,
    /// Of the app that has the address, what is open.
    open: Arc<Open>,
    /// As what it counts among those that are open.
    counted: RefCell<Option<One>>,
}

impl Connection {
    pub fn new(worker: Rc<Worker>, door: Rc<Door>, peer: Peer, limits: Limits) -> Self {
        let peer_value = match peer {
            Peer::Ip(ip) => HeaderValue::from_str(&ip.to_canonical().to_string()).ok(),
            Peer::Unix => None,
        };
        Self {
            worker,
            peer,
            peer_value,
            is_secure: matches!(door.listen, Listen::Https(_)),
            phase: Cell::new(Phase::Head(Instant::now())),
            protocol: Cell::new(Protocol::Http1),
            write_blocked: Cell::default(),
            turns: RefCell::default(),
            body_left_open: Cell::default(),
            // With as many bytes as a head may have hyper gives up.
            framing: RefCell::new(Framing::new(limits.header_bytes.saturating_sub(1))),
            heads_taken: Cell::default(),
            floods: RefCell::new(Floods::new()),
            buffered: RefCell::default(),
            answer_pending: Cell::default(),
            closing: Cell::default(),
            one_more: Cell::default(),
            killed: Cell::default(),
            tunnel: RefCell::default(),
            waker: RefCell::default(),
            open: Arc::default(),
            counted: RefCell::default(),
            door,
            limits,
        }
    }

    pub fn counted_in(self, open: Arc<Open>) -> Self {
        let new = Self { open, ..self };
        new.counts_as(What::Http1);
        new
    }

    /// From now on it counts as this.
    pub fn counts_as(&self, what: What) {
        *self.counted.borrow_mut() = Some(self.open.one_more(what));
    }

    /// One of its answers counts as this, beside the connection.
    pub fn has_open(&self, what: What) -> One {
        self.open.one_more(what)
    }

    /// Whether its requests are streams of one connection.
    pub fn has_streams(&self) -> bool {
        self.protocol.get() == Protocol::Http2
    }

    /// From its first bytes.
    pub fn speaks_http2(&self) {
        self.protocol.set(Protocol::Http2);
        self.counts_as(What::Http2);
        self.phase.set(Phase::Idle(Instant::now()));
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    // --- told by its requests -------------------------------------------------------------------------------------

    pub fn turn_begins(&self, turn: &Rc<Turn>) {
        self.phase.set(Phase::Busy);
        if self.has_streams() {
            self.floods.borrow_mut().begun();
        } else {
            self.answer_pending.set(false);
            self.heads_taken.set(self.heads_taken.get() + 1);
        }
        self.turns.borrow_mut().push(Rc::downgrade(turn));
    }

    pub fn turn_ended(&self, turn: &Turn) {
        let mut turns = self.turns.borrow_mut();
        if let Some(at) = turns.iter().position(|known| std::ptr::eq(known.as_ptr(), turn)) {
            turns.swap_remove(at);
        }
        if turn.body_is_open() {
            self.body_left_open.set(true);
        }
        if self.has_streams() && turn.is_given_up_early() && self.floods.borrow_mut().given_up() {
            self.kill();
        }
        // A connection of HTTP/1.1 is busy until the answer is flushed.
        if self.has_streams() && turns.is_empty() {
            self.phase.set(Phase::Idle(Instant::now()));
            self.wake();
        }
    }

    /// The task of the stream whose request has come just now.
    pub fn adopt(&self, task: AbortHandle) {
        if let Some(turn) = self.turns.borrow().last().and_then(Weak::upgrade) {
            turn.set_task(task);
        }
    }

    /// Of a stream: a part of its answer is on its way.
    pub fn answer_moves(&self) {
        self.floods.borrow_mut().progress();
    }

    pub fn answer_pending(&self) {
        self.answer_pending.set(true);
    }

    pub fn answer_buffered(&self, exchange: Exchange) {
        self.buffered.borrow_mut().push(exchange);
        self.answer_pending.set(true);
    }

    pub fn tunnel_follows(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    pub fn drain_spread(&self) -> Duration {
        Duration::from_millis(self.limits.drain_spread_ms)
    }

    /// The rule that the present head breaks, and hyper does not hold.
    pub fn wrong_head(&self) -> Option<&'static str> {
        self.framing.borrow().wrong(self.heads_taken.get().saturating_sub(1))
    }

    /// The same of the lines behind its body.
    pub fn has_wrong_trailers(&self) -> bool {
        self.framing.borrow().has_wrong_trailers(self.heads_taken.get().saturating_sub(1))
    }

    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    // --- told by the worker ---------------------------------------------------------------------------------------

    /// Close once the present request is answered, or at once if there is none.
    pub fn close_when_idle(&self) {
        self.one_more.set(false);
        self.close();
    }

    /// Close once the present request is answered, or, if there is none, the next one.
    pub fn close_after_next(&self) {
        self.one_more.set(true);
        self.close();
    }

    fn close(&self) {
        self.closing.set(true);
        if self.is_idle() {
            // From here on it has a moment to take that in.
            self.phase.set(Phase::Idle(Instant::now()));
        }
        self.wake();
    }

    /// Close now what the client does not take of the answers of this endpoint: a blocked answer would hear of no cut. A
    /// connection with streams goes on: others of them may be with other endpoints.
    pub fn cut_if_blocked(&self, row: EndpointRow) {
        let turns = self.live_turns();
        let mut of_row = turns.iter().filter(|turn| turn.is_with(row));
        if self.has_streams() {
            of_row.filter(|turn| turn.is_answering()).for_each(|turn| {
                turn.reset();
            });
        } else if self.write_blocked.get().is_some() && (of_row.next().is_some() || self.has_buffered_of(row))
        {
            self.kill();
        }
    }

    fn kill(&self) {
        self.killed.set(true);
        self.wake();
    }

    /// The end of an answer lies in our own buffers, while the instance has done its part.
    fn has_buffered_of(&self, row: EndpointRow) -> bool {
        self.buffered.borrow().iter().any(|exchange| exchange.claim().endpoint().row == row)
    }

    fn live_turns(&self) -> Vec<Rc<Turn>> {
        self.turns.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    pub fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// HTTP/1.1: whether its end may be said now. Not within a head, which would be thrown away with it; nor, where the client
    /// shall hear of it, behind an answer that did not say so.
    fn may_be_ended(&self) -> bool {
        match self.phase.get() {
            Phase::Idle(_) => !self.one_more.get(),
            Phase::Head(_) => false,
            Phase::Busy if self.one_more.get() => {
                !self.answer_pending.get() && !self.live_turns().iter().any(|turn| turn.is_answering())
            }
            Phase::Busy => true,
        }
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.phase.get(), Phase::Idle(_))
    }

    pub fn set_waker(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if known.is_none() {
            *known = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    // --- told by the stream ---------------------------------------------------------------------------------------

    pub fn bytes_came(&self, bytes: &[u8]) {
        if self.has_streams() {
            if self.floods.borrow_mut().feed(bytes) {
                self.kill();
            }
            return;
        }
        if self.is_idle() {
            self.phase.set(Phase::Head(Instant::now()));
        }
        self.framing.borrow_mut().feed(bytes);
    }

    /// The next request has a line for which hyper would say 431, and only when its buffer is full.
    pub fn has_long_line(&self) -> bool {
        matches!(self.phase.get(), Phase::Head(_))
            && self.framing.borrow().is_line_long(self.heads_taken.get())
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
        if self.has_streams() {
            return;
        }
        let now = Instant::now();
        let is_mid_head = self.framing.borrow().is_mid_head();
        self.phase.set(if is_mid_head { Phase::Head(now) } else { Phase::Idle(now) });
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
            Phase::Idle(since) if self.has_streams() && self.closing.get() => Some(since + GOODBYE),
            Phase::Idle(since) if self.one_more.get() => Some(since + idle.min(LAST_WAIT)),
            Phase::Idle(since) => Some(since + idle),
            Phase::Head(since) => Some(since + Duration::from_millis(self.limits.header_timeout_ms)),
            Phase::Busy => None,
        };
        let blocked = self.write_blocked.get().map(|since| since + idle);
        let turns = self.turns.borrow();
        let of_turns = turns.iter().filter_map(|turn| turn.upgrade()?.deadline()).min();
        earlier(earlier(of_phase, blocked), of_turns)
    }

    /// A far one, if there is none.
    pub fn next_deadline(&self) -> Instant {
        self.deadline().unwrap_or_else(|| Instant::now() + NEVER)
    }

    pub fn verdict(&self, now: Instant) -> Verdict {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Verdict::GoOn;
        }
        if self.write_blocked.get().is_some_and(|since| since + self.idle_timeout() <= now) {
            return Verdict::Close;
        }
        match self.phase.get() {
            Phase::Head(_) if self.framing.borrow().is_mid_head() => return Verdict::CloseHead,
            Phase::Idle(_) | Phase::Head(_) => return Verdict::Close,
            Phase::Busy => {}
        }
        let is_due = |turn: &Rc<Turn>| turn.deadline().is_some_and(|deadline| deadline <= now);
        for turn in self.live_turns().iter().filter(|turn| is_due(turn)) {
            if !turn.expire() && !turn.reset() {
                return Verdict::Close;
            }
        }
        Verdict::Ask
    }

    /// A request was answered whose body the client still sends.
    fn body_is_open(&self) -> bool {
        self.body_left_open.get() || self.live_turns().iter().any(|turn| turn.body_is_open())
    }

    /// hyper is done with the connection.
    fn last_verdict(&self, result: &hyper::Result<()>) -> Verdict {
        match result {
            _ if self.has_long_line() => Verdict::CloseLine,
            Ok(()) if self.tunnel.borrow().is_some() => Verdict::Tunnel,
            // Where it may ask once more, it may have asked twice.
            Ok(()) if self.body_is_open() || self.one_more.get() => Verdict::Linger,
            // It has said 400 or 431, and more of the head may be on its way.
            Err(error) if error.is_parse() => Verdict::Linger,
            Ok(()) | Err(_) => Verdict::Close,
        }
    }
}

/// Serves a connection to its end, in whichever of the two its client begins to speak.
pub async fn serve<S>(mut stream: S, state: Rc<Connection>)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + 'static,
{
    let Some(early) = first_bytes(&mut stream, &state).await else { return };
    let is_http2 = early.starts_with(http2::PREFACE);
    let stream = Watched::new(stream, early, Rc::clone(&state));
    if is_http2 { http2::serve(stream, state).await } else { serve_http1(stream, state).await }
}

/// The same behind a handshake, for which there is as much time as for a head.
pub async fn serve_tls(stream: TcpStream, state: Rc<Connection>) {
    let config = |hello: &tls::Hello<'_>| {
        let routes = state.worker.shared.snapshot.load();
        let route = routes.sites.get(&state.door.listen)?.secured(hello.name)?;
        if hello.asks_for_proof {
            return tls::proof(route.challenges.as_deref()?, hello.name?);
        }
        route.secure.tls.clone()
    };
    let until = Instant::now() + Duration::from_millis(state.limits.header_timeout_ms);
    if let Ok(Ok(Some(stream))) = tokio::time::timeout_at(until.into(), tls::accept(config, stream)).await {
        serve(stream, state).await;
    }
}

/// Enough of them to tell; `None` if there is nobody to serve.
async fn first_bytes<S: AsyncRead + Unpin>(stream: &mut S, state: &Connection) -> Option<Bytes> {
    let mut early = BytesMut::with_capacity(FIRST_READ);
    let mut timer = pin!(tokio::time::sleep_until(state.next_deadline().into()));
    let fresh_until = tokio::time::Instant::now() + FRESH;
    std::future::poll_fn(|cx| {
        state.set_waker(cx.waker());
        loop {
            // A part of the other preface, and not yet all of it.
            let is_open = http2::PREFACE.starts_with(&early) && early.len() < http2::PREFACE.len();
            if !is_open {
                return Poll::Ready(Some(()));
            }
            match pin!(stream.read_buf(&mut early)).poll(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(_)) => continue,
                Poll::Pending => {}
            }
            // Where another proxy has taken over there is as much time as ever.
            if state.is_closing() && !state.one_more.get() && timer.deadline() > fresh_until {
                timer.as_mut().reset(fresh_until);
            }
            let is_over = timer.as_mut().poll(cx).is_ready();
            // A part of a preface is no request yet: hyper refuses it.
            if is_over || (state.is_closing() && !early.is_empty()) {
                return Poll::Ready((!early.is_empty()).then_some(()));
            }
            return Poll::Pending;
        }
    })
    .await?;
    Some(early.freeze())
}

async fn serve_http1<S>(stream: Watched<S>, state: Rc<Connection>)
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
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);

    let mut timer = pin!(tokio::time::sleep_until(state.next_deadline().into()));
    let mut told_to_close = false;
    let verdict = std::future::poll_fn(|cx| {
        state.set_waker(cx.waker());
        loop {
            if state.killed.get() {
                return Poll::Ready(Verdict::Close);
            }
            // First, so that a request that is here already is answered and not closed away.
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(state.last_verdict(&result));
            }
            if state.closing.get() && state.may_be_ended() && !told_to_close {
                told_to_close = true;
                Pin::new(&mut connection).graceful_shutdown();
                continue;
            }
            let deadline = state.next_deadline();
            if deadline < timer.deadline().into_std() {
                timer.as_mut().reset(deadline.into());
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match state.verdict(Instant::now()) {
                Verdict::GoOn => timer.as_mut().reset(deadline.into()),
                Verdict::Ask => {}
                verdict @ (Verdict::CloseHead
                | Verdict::CloseLine
                | Verdict::Close
                | Verdict::Linger
                | Verdict::Tunnel) => {
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
            say_last(&mut stream, "408 Request Timeout").await;
        }
        Verdict::CloseLine => {
            let mut stream = connection.into_parts().io.into_inner().stream;
            say_last(&mut stream, "414 URI Too Long").await;
            linger(stream, &state).await;
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

/// Where hyper says nothing.
async fn say_last<S: AsyncWrite + Unpin>(stream: &mut S, status: &str) {
    let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let _ = tokio::time::timeout(Duration::from_millis(100), stream.write_all(answer.as_bytes())).await;
}
