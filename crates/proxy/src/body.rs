//! Bodies on their way through, frame by frame; nothing is ever collected.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;

use crate::classes::AppCell;
use crate::compared::Recorder;
use crate::endless::Endless;
use crate::exchange::Exchange;
use crate::headers;
use crate::replay::Replay;
use crate::turn::Turn;
use crate::upstream::AnswerBody;

/// Why a body ended early. The text goes to nobody: the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyFault {
    #[error("the client's body broke off")]
    ClientGone,
    #[error("the client's body is not framed as HTTP wants it")]
    Malformed,
    #[error("the client's body is longer than allowed")]
    TooLarge,
    #[error("the endpoint's body broke off")]
    EndpointGone,
    #[error("it is sent again to somebody else")]
    GivenUp,
}

/// A client's body on its way to an endpoint.
pub struct RequestBody {
    source: Rc<RefCell<Replay>>,
    limit: u64,
    /// Bytes that may still come.
    left: u64,
    reader: u32,
    /// None: no client sends it.
    client: Option<Rc<Turn>>,
}

impl RequestBody {
    pub fn new(inner: Incoming, limit: Option<u64>, client: Rc<Turn>) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        Self { source: Replay::new(Some(inner)), limit, left: limit, reader: 0, client: Some(client) }
    }

    /// Of a request of ours, which has none.
    pub fn nothing() -> Self {
        Self { source: Replay::new(None), limit: 0, left: 0, reader: 0, client: None }
    }

    /// The same body, for another try.
    pub fn again(&self) -> Self {
        let (source, client) = (Rc::clone(&self.source), self.client.clone());
        Self { source, limit: self.limit, left: self.limit, reader: self.reader, client }
    }

    /// What was sent before is given up, also where somebody still has it.
    pub fn by_the_next_reader(mut self) -> Self {
        self.reader = self.source.borrow_mut().next_reader();
        self
    }

    /// From here on what is read is kept, in case that it has to be sent again.
    pub fn keep(&self) {
        self.source.borrow_mut().keep_from_here();
    }

    /// It can be sent again from its beginning.
    pub fn is_kept(&self) -> bool {
        self.source.borrow().is_kept()
    }

    pub fn keep_no_more(&self) {
        self.source.borrow_mut().keep_no_more();
    }

    /// The same body from its beginning; false when too much of it was read to be kept.
    pub fn begin_anew(&mut self) -> bool {
        self.left = self.limit;
        self.source.borrow_mut().begin_anew()
    }

    /// Whether it is the body that has ended the request.
    pub fn has_fault(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.body_fault().is_some())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if !self.source.borrow().is_read_by(self.reader) {
            return Poll::Ready(Some(Err(BodyFault::GivenUp)));
        }
        let Some(client) = self.client.clone() else { return Poll::Ready(None) };
        let is_again = self.source.borrow().is_replaying();
        let Poll::Ready(mut frame) = self.source.borrow_mut().poll_frame(cx) else {
            client.body_waits();
            return Poll::Pending;
        };
        // A frame of HTTP/2 may have no bytes: it does not put off the deadline.
        let is_empty = |frame: &Frame<Bytes>| frame.data_ref().is_some_and(Bytes::is_empty);
        if !matches!(&frame, Some(Ok(frame)) if is_empty(frame)) {
            client.body_moved();
        }
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            headers::trailers_to_endpoint(trailers);
        }
        let is_last = frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
        if is_last && client.connection.has_wrong_trailers() {
            client.set_body_fault(BodyFault::Malformed);
            return Poll::Ready(Some(Err(BodyFault::Malformed)));
        }
        if is_last || self.is_end_stream() {
            client.body_ended();
        }
        // hyper takes a stream that was reset without an error for one at its end.
        let is_given_up =
            frame.is_none() && client.connection.has_streams() && !self.source.borrow().is_end_stream();
        let fault = match &frame {
            None if is_given_up => Some(BodyFault::ClientGone),
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.left.checked_sub(bytes) {
                    Some(left) => {
                        self.left = left;
                        if !is_again {
                            client.bytes_went_up(bytes);
                        }
                        None
                    }
                    None => Some(BodyFault::TooLarge),
                }
            }
            Some(Err(error)) if is_malformed(error) => Some(BodyFault::Malformed),
            Some(Err(_)) => Some(BodyFault::ClientGone),
            None => None,
        };
        if let Some(fault) = fault {
            client.set_body_fault(fault);
            return Poll::Ready(Some(Err(fault)));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|_| BodyFault::ClientGone)))
    }

    fn is_end_stream(&self) -> bool {
        self.source.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.borrow().size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // The last one who has it.
        if Rc::strong_count(&self.source) == 1
            && let Some(client) = &self.client
        {
            client.body_left();
        }
    }
}

/// Chunks or trailers that are none; other errors are of the connection.
fn is_malformed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let kind = source.map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
}

/// What a client gets: an endpoint's body, or a few words of ours.
pub enum ResponseBody {
    Passed {
        inner: AnswerBody,
        exchange: Option<Exchange>,
        client: Rc<Turn>,
        /// It has no end of its own.
        endless: Option<Endless>,
        /// It is compared with what another version answers.
        recorder: Option<Box<Recorder>>,
    },
    Made(Full<Bytes>),
}

impl ResponseBody {
    /// Takes over an endpoint's body and the stay in the endpoint that goes with it.
    pub fn passed(inner: AnswerBody, exchange: Exchange, client: Rc<Turn>, endless: Option<Endless>) -> Self {
        let mut body = Self::Passed { inner, exchange: Some(exchange), client, endless, recorder: None };
        if body.is_end_stream() {
            body.complete(); // nothing to poll for
        }
        body
    }

    /// What is still to come of it is noted.
    pub fn record(&mut self, mut noted: Recorder) {
        if let Self::Passed { exchange, recorder, .. } = self {
            if exchange.is_none() {
                noted.whole();
            } else {
                *recorder = Some(Box::new(noted));
            }
        }
    }

    fn complete(&mut self) {
        if let Self::Passed { exchange, client, recorder, .. } = self
            && let Some(mut exchange) = exchange.take()
        {
            if let Some(mut recorder) = recorder.take() {
                recorder.whole();
            }
            exchange.response_read();
            client.answer_buffered(exchange);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = match &mut *self {
            Self::Made(body) => {
                return Pin::new(body).poll_frame(cx).map_err(|never| match never {});
            }
            Self::Passed { inner, exchange, endless, client, recorder } => {
                if endless.as_mut().is_some_and(|endless| endless.is_to_end(cx)) {
                    let last_words = endless.take().and_then(|endless| endless.last_words());
                    // The endpoint's connection, or its stream, is not at its end: it is closed with this.
                    if let Some(exchange) = exchange.take() {
                        exchange.told();
                        client.log(|entry| entry.ends_as(AppCell::Told));
                        // The connection is at rest again as soon as this is flushed.
                        client.connection.answer_pending();
                        return Poll::Ready(last_words.map(Ok));
                    }
                }
                if exchange.is_none() {
                    return Poll::Ready(None); // all was said
                }
                client.answer_asked_for();
                let upstream = exchange.as_mut().and_then(Exchange::upstream);
                let frame = ready!(inner.poll_frame(upstream, cx));
                if let (Some(exchange), Some(Ok(frame))) = (exchange.as_ref(), &frame) {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    exchange.pass_down(bytes);
                    if let (Some(recorder), Some(data)) = (recorder.as_mut(), frame.data_ref()) {
                        recorder.bytes(data);
                    }
                    client.log(|entry| entry.bytes_down += bytes as u64);
                }
                if let (Some(endless), Some(Ok(frame))) = (endless, &frame)
                    && let Some(bytes) = frame.data_ref()
                {
                    endless.pass(bytes);
                }
                frame
            }
        };
        match frame {
            Some(Ok(frame)) => {
                if frame.is_trailers() || self.is_end_stream() {
                    self.complete();
                } else if let Self::Passed { client, .. } = &*self {
                    client.answer_handed();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.complete();
                Poll::Ready(None)
            }
            Some(Err(_)) => {
                if let Self::Passed { exchange, client, .. } = &mut *self
                    && let Some(exchange) = exchange.take()
                {
                    client.response_broken(exchange);
                }
                Poll::Ready(Some(Err(BodyFault::EndpointGone)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passed { inner, exchange, .. } => {
                inner.is_end_stream(exchange.as_ref().and_then(Exchange::upstream_ref))
            }
            Self::Made(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Passed { inner, exchange, .. } => {
                inner.size_hint(exchange.as_ref().and_then(Exchange::upstream_ref))
            }
            Self::Made(body) => body.size_hint(),
        }
    }
}

/// The earlier of two instants, of which one may be missing.
pub fn earlier(first: Option<Instant>, second: Option<Instant>) -> Option<Instant> {
    first.into_iter().chain(second).min()
}
