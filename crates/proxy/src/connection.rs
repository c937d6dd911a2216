//! One client connection: where it stands, its deadlines, and the answers that are not yet with the client's kernel.
//!
//! hyper has one timer, for heads, which also runs while a connection just waits. So the deadlines are kept here: one
//! timer per connection that is set anew only when it fires or must fire earlier, so that a request costs no timer.

mod deadlines;
mod serving;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::task::AbortHandle;

use crate::counts::EndpointRow;
use crate::exchange::Exchange;
use crate::framing::Framing;
use crate::http2::floods::Floods;
use crate::open::{One, Open, What};
use crate::table::{Limits, Listen, Protocol};
use crate::trust::Peer;
use crate::tunnel::Tunnel;
use crate::turn::Turn;
use crate::window::Token;
use crate::worker::{Door, Worker};

pub use deadlines::{NEVER, Verdict};
pub use serving::{serve, serve_tls};

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

/// What a client keeps for an app, as it was read and found to be ours.
struct Known {
    app: Arc<str>,
    text: Box<[u8]>,
    token: Token,
}

/// Of so many apps and cookies.
const MOST_KNOWN: usize = 4;

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
    /// What its client keeps for us, as it was read last: most come with the same again.
    known: RefCell<Vec<Known>>,
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
            known: RefCell::default(),
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

    /// What this text of its client says, which is read with this if it is another one than before.
    pub fn knows(&self, app: &Arc<str>, text: &[u8], read: impl FnOnce() -> Option<Token>) -> Option<Token> {
        let mut all = self.known.borrow_mut();
        if let Some(known) = all.iter().find(|known| Arc::ptr_eq(&known.app, app) && *known.text == *text) {
            return Some(known.token);
        }
        let token = read()?;
        if all.len() == MOST_KNOWN {
            all.remove(0);
        }
        all.push(Known { app: Arc::clone(app), text: text.into(), token });
        Some(token)
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
        let now = Instant::now();
        for exchange in self.buffered.borrow_mut().drain(..) {
            exchange.answered(now);
        }
        if self.has_streams() {
            return;
        }
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
}
