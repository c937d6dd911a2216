//! One request of a client's connection: how far it has come, what is waited for, and until when. A connection of HTTP/1.1
//! has one at a time, one of HTTP/2 as many as it has streams.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::task::AbortHandle;

use crate::access::Entry;
use crate::body::{BodyFault, earlier};
use crate::classes::{AppCell, VersionCell};
use crate::connection::Connection;
use crate::counts::{EndpointRow, VersionRow};
use crate::endpoint::LiveEndpoint;
use crate::exchange::Exchange;
use crate::table::Limits;
use crate::tunnel::Tunnel;

/// Who gives a request up later than this has waited for the answer.
const EARLY: Duration = Duration::from_secs(1);

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// With an endpoint, or looking for one; its last byte went up then.
    Waiting(Instant),
    /// The answer is on its way.
    Answering,
}

/// What a deadline that has passed means for a request in an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    Response,
    Body,
}

pub struct Turn {
    pub connection: Rc<Connection>,
    begun: Instant,
    phase: Cell<Phase>,
    /// The client owes bytes of its body since then.
    body_waits: Cell<Option<Instant>>,
    /// The end of the request's body was not seen.
    body_open: Cell<bool>,
    body_fault: Cell<Option<BodyFault>>,
    /// Of a stream: a piece of the answer was given to hyper then, and no more was asked for.
    answer_waits: Cell<Option<Instant>>,
    expired: Cell<Option<Expired>>,
    /// How long its body was waited for until now, and what it brought.
    body_waited: Cell<Duration>,
    body_bytes: Cell<u64>,
    patience: Cell<Patience>,
    /// The endpoint, once it was sent, and its version.
    row: Cell<Option<(EndpointRow, VersionRow)>>,
    /// Its line in the access log.
    entry: RefCell<Option<Box<Entry>>>,
    request_id: OnceCell<HeaderValue>,
    /// Who waits for the endpoint's answer.
    waker: RefCell<Option<Waker>>,
    /// Of a stream: what serves it.
    task: RefCell<Option<AbortHandle>>,
}

impl Turn {
    /// A request has come.
    pub fn begin(connection: Rc<Connection>, now: Instant, has_body: bool) -> Rc<Self> {
        let patience = Cell::new(Patience::of(connection.limits()));
        let turn = Rc::new(Self {
            connection,
            patience,
            body_waited: Cell::default(),
            body_bytes: Cell::default(),
            begun: now,
            phase: Cell::new(Phase::Waiting(now)),
            body_waits: Cell::default(),
            body_open: Cell::new(has_body),
            body_fault: Cell::default(),
            answer_waits: Cell::default(),
            expired: Cell::default(),
            row: Cell::default(),
            entry: RefCell::default(),
            request_id: OnceCell::new(),
            waker: RefCell::default(),
            task: RefCell::default(),
        });
        turn.connection.turn_begins(&turn);
        turn
    }

    // --- told by the service --------------------------------------------------------------------------------------

    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// It is known whose it is, and so how long may be waited.
    pub fn belongs_to(&self, limits: &Limits) {
        self.patience.set(Patience::of(limits));
    }

    pub fn logs_as(&self, entry: Entry) {
        *self.entry.borrow_mut() = Some(Box::new(entry));
    }

    pub fn is_known_as(&self, request_id: HeaderValue) {
        self.log(|entry| entry.request_id = request_id.to_str().ok().map(str::to_owned));
        let _ = self.request_id.set(request_id);
    }

    pub fn request_id(&self) -> Option<&HeaderValue> {
        self.request_id.get()
    }

    /// What its line in the access log shall say, if it has one.
    pub fn log(&self, note: impl FnOnce(&mut Entry)) {
        if let Some(entry) = &mut *self.entry.borrow_mut() {
            note(entry);
        }
    }

    /// The line is somebody else's to end.
    pub fn take_entry(&self) -> Option<Box<Entry>> {
        self.entry.take()
    }

    /// It goes there, now.
    pub fn sent_to(&self, endpoint: &Arc<LiveEndpoint>, now: Instant) {
        self.log(|entry| entry.endpoint = Some(Arc::clone(endpoint)));
        self.row.set(Some((endpoint.row, endpoint.version_row)));
        // What was waited for before belongs to nobody's time to answer.
        self.expired.set(None);
        self.still_waits(now);
    }

    fn still_waits(&self, now: Instant) {
        if let Phase::Waiting(_) = self.phase.get() {
            self.phase.set(Phase::Waiting(now));
        }
    }

    pub fn response_started(&self) {
        self.phase.set(Phase::Answering);
    }

    /// An answer that no endpoint stands behind.
    pub fn answer_made(&self) {
        self.phase.set(Phase::Answering);
        self.connection.answer_pending();
    }

    /// The answer of our own that is on its way is the last one: bytes of no HTTP follow it.
    pub fn tunnel_follows(&self, tunnel: Tunnel) {
        self.connection.tunnel_follows(tunnel);
        self.answer_made();
    }

    /// Whether the answer is too late; if not, `cx` is woken when it is.
    pub fn expired(&self, cx: &Context<'_>) -> Option<Expired> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.expired.get()
    }

    pub fn body_fault(&self) -> Option<BodyFault> {
        self.body_fault.get()
    }

    /// No request comes after this one, and an answer that begins now says so. An early answer ends the connection too:
    /// what is left of the body cannot be told from another request without reading it all. So does a head of which whoever stands
    /// before us may have seen another end. Streams know no such thing.
    pub fn is_last(&self) -> bool {
        let connection = &self.connection;
        !connection.has_streams()
            && (connection.is_closing() || self.body_open.get() || connection.wrong_head().is_some())
    }

    // --- told by the bodies ---------------------------------------------------------------------------------------

    pub fn body_waits(&self) {
        if self.body_waits.get().is_none() {
            self.body_waits.set(Some(Instant::now()));
        }
    }

    pub fn body_moved(&self) {
        if let Some(since) = self.body_waits.take() {
            self.body_waited.set(self.body_waited.get() + since.elapsed());
        }
        self.still_waits(Instant::now());
    }

    /// A piece of the request's body is handed to the endpoint.
    pub fn bytes_went_up(&self, bytes: u64) {
        self.body_bytes.set(self.body_bytes.get() + bytes);
        if let Some((_, version)) = self.row.get() {
            let counts = &self.connection.worker.shared.counts;
            counts.version_cell(version, VersionCell::BytesUp).fetch_add(bytes, Relaxed);
            self.log(|entry| entry.bytes_up += bytes);
        }
    }

    pub fn body_is_open(&self) -> bool {
        self.body_open.get()
    }

    pub fn body_ended(&self) {
        self.body_open.set(false);
    }

    /// Nobody reads it any more.
    pub fn body_left(&self) {
        self.body_waits.set(None);
    }

    pub fn set_body_fault(&self, fault: BodyFault) {
        self.body_fault.set(Some(fault));
    }

    /// A piece of the answer was given to hyper, which asks for the next when the client's window takes it.
    pub fn answer_handed(&self) {
        if self.connection.has_streams() {
            self.answer_waits.set(Some(Instant::now()));
            self.connection.answer_moves();
        }
    }

    pub fn answer_asked_for(&self) {
        self.answer_waits.set(None);
    }

    /// hyper has the whole answer in its buffer; it counts once it is flushed.
    pub fn answer_buffered(&self, exchange: Exchange) {
        self.answer_waits.set(None);
        self.log(|entry| entry.outcome = Some("answered"));
        self.connection.answer_buffered(exchange);
    }

    /// An endpoint's body broke off in the middle of an answer.
    pub fn response_broken(&self, exchange: Exchange) {
        let class = match self.body_fault.get() {
            Some(BodyFault::ClientGone) => return exchange.abandoned(),
            Some(BodyFault::TooLarge | BodyFault::Malformed) => {
                exchange.failed(AppCell::Rejected);
                AppCell::Rejected
            }
            Some(BodyFault::EndpointGone | BodyFault::GivenUp) | None => exchange.broken(),
        };
        self.log(|entry| entry.ends_as(class));
    }

    // --- told by the connection -----------------------------------------------------------------------------------

    pub fn is_with(&self, row: EndpointRow) -> bool {
        self.row.get().is_some_and(|(of, _)| of == row)
    }

    /// From here on nobody hears of the endpoint's end who does not take what there is of the answer.
    pub fn is_answering(&self) -> bool {
        self.phase.get() == Phase::Answering
    }

    /// It has ended before anybody could have waited for it.
    pub fn is_given_up_early(&self) -> bool {
        !self.is_answering() && self.begun.elapsed() < EARLY
    }

    pub fn set_task(&self, task: AbortHandle) {
        *self.task.borrow_mut() = Some(task);
    }

    /// Ends the stream; false if it is none.
    pub fn reset(&self) -> bool {
        let task = self.task.borrow();
        task.iter().for_each(AbortHandle::abort);
        task.is_some()
    }

    pub fn deadline(&self) -> Option<Instant> {
        let patience = self.patience.get();
        let of_phase = match self.phase.get() {
            Phase::Waiting(since) if self.expired.get().is_none() && self.body_waits.get().is_none() => {
                Some(since + patience.answer)
            }
            Phase::Waiting(_) | Phase::Answering => None,
        };
        let stands_still = earlier(self.body_waits.get(), self.answer_waits.get());
        let stands_still = stands_still.map(|since| since + patience.body);
        earlier(earlier(of_phase, stands_still), self.too_slow_at(patience))
    }

    /// When its body will have brought too little for the time that it was waited for. A stream may have a body that lasts as long
    /// as the answer; it holds up nobody but itself.
    fn too_slow_at(&self, patience: Patience) -> Option<Instant> {
        let since = self.body_waits.get().filter(|_| matches!(self.phase.get(), Phase::Waiting(_)))?;
        if self.connection.has_streams() || patience.body_rate == 0 {
            return None;
        }
        let for_bytes = Duration::from_secs_f64(self.body_bytes.get() as f64 / patience.body_rate as f64);
        Some(since + (patience.head + for_bytes).saturating_sub(self.body_waited.get()))
    }

    /// Its deadline is over. True: who waits for the answer is told, and says something; false: there is nothing to be said.
    pub fn expire(&self) -> bool {
        if self.expired.get().is_some() || self.phase.get() == Phase::Answering {
            return false;
        }
        let body_is_late = self.body_waits.take().is_some();
        self.expired.set(Some(if body_is_late { Expired::Body } else { Expired::Response }));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
        true
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.connection.turn_ended(self);
    }
}

/// How long may be waited.
#[derive(Debug, Clone, Copy)]
struct Patience {
    answer: Duration,
    /// For a body that stands still.
    body: Duration,
    /// For a head; and for a body before its speed matters.
    head: Duration,
    /// Bytes a second.
    body_rate: u64,
}

impl Patience {
    fn of(limits: &Limits) -> Self {
        Self {
            answer: Duration::from_millis(limits.response_timeout_ms),
            body: Duration::from_millis(limits.idle_timeout_ms),
            head: Duration::from_millis(limits.header_timeout_ms),
            body_rate: limits.body_rate,
        }
    }
}
