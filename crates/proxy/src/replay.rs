//! A request that can be sent again from its start, for the case that its connection proves to have taken none of it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http::request::Parts;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::body::RequestBody;

/// Of a body: what goes out in the first writes. More than that is not kept, and such a request is not sent again.
const MOST_KEPT: u64 = 64 * 1024;
/// So many pieces: each costs more than its bytes.
const MOST_PIECES: usize = 256;

/// A client's body, of which the first bytes are kept when that is wished.
pub struct Replay {
    /// None: there is no body, and nobody who could send one.
    inner: Option<Incoming>,
    /// Whether what is read is kept.
    keeps: bool,
    /// What was read since then.
    kept: Vec<Bytes>,
    kept_bytes: u64,
    /// The next of these to be read. As many as there are when nothing is replayed.
    next: usize,
    /// Who may read: rises with each try, so that one that was given up takes nothing from the next.
    reader: u32,
}

impl Replay {
    pub fn new(inner: Option<Incoming>) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            inner,
            keeps: false,
            kept: Vec::new(),
            kept_bytes: 0,
            next: 0,
            reader: 0,
        }))
    }

    pub fn is_read_by(&self, reader: u32) -> bool {
        self.reader == reader
    }

    /// From now on it alone may read.
    pub fn next_reader(&mut self) -> u32 {
        self.reader += 1;
        self.reader
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        if let Some(bytes) = self.kept.get(self.next).cloned() {
            self.next += 1;
            self.let_go();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && self.keeps
        {
            self.keep(frame);
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let room = MOST_KEPT - self.kept_bytes;
        match frame.data_ref() {
            Some(bytes) if bytes.len() as u64 <= room && self.kept.len() < MOST_PIECES => {
                self.kept_bytes += bytes.len() as u64;
                self.kept.push(bytes.clone());
                self.next += 1;
            }
            Some(_) | None => self.keep_no_more(),
        }
    }

    /// From here on, and what another try has read before is kept already.
    pub fn keep_from_here(&mut self) {
        self.keeps = true;
    }

    pub fn keep_no_more(&mut self) {
        self.keeps = false;
        self.let_go();
    }

    /// Of what is kept no longer, when it has been read again.
    fn let_go(&mut self) {
        if !self.keeps && self.next == self.kept.len() {
            (self.kept, self.kept_bytes, self.next) = (Vec::new(), 0, 0);
        }
    }

    /// False when it was not kept, or too much was read to be kept.
    pub fn begin_anew(&mut self) -> bool {
        self.next = 0;
        self.keeps
    }

    pub fn is_kept(&self) -> bool {
        self.keeps
    }

    /// What comes next was read before.
    pub fn is_replaying(&self) -> bool {
        self.next < self.kept.len()
    }

    fn to_replay(&self) -> &[Bytes] {
        self.kept.get(self.next..).unwrap_or_default()
    }

    pub fn is_end_stream(&self) -> bool {
        self.to_replay().is_empty() && self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    pub fn size_hint(&self) -> SizeHint {
        let nothing = SizeHint::with_exact(0);
        let inner = self.inner.as_ref().map_or(nothing, Incoming::size_hint);
        let replayed = length(self.to_replay());
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + replayed);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + replayed);
        }
        hint
    }
}

fn length(frames: &[Bytes]) -> u64 {
    frames.iter().map(|bytes| bytes.len() as u64).sum()
}

/// What is needed to send a request again that hyper has for itself.
pub struct Again {
    head: Parts,
    body: RequestBody,
}

impl Again {
    /// Of a request that was not sent yet. From here on its body is kept.
    pub fn of(request: &Request<RequestBody>) -> Self {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.version = request.version();
        head.headers = request.headers().clone();
        let body = request.body().again();
        body.keep();
        Self { head, body }
    }

    /// The same request; `None` when too much of its body was read, or that is what has failed.
    pub fn request(self) -> Option<Request<RequestBody>> {
        let mut body = self.body.by_the_next_reader();
        (!body.has_fault() && body.begin_anew()).then(|| Request::from_parts(self.head, body))
    }

    /// Nothing of it is kept any longer.
    pub fn forget(self) {
        self.body.keep_no_more();
    }
}
