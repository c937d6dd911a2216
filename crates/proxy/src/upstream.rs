//! A way to an endpoint for one request: a connection of HTTP/1.1 that it has for itself, or a stream of a shared one.

pub mod chunks;
pub mod head;
mod http1;
mod http2;
mod upload;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;

use crate::body::RequestBody;
use crate::stream::EndpointStream;

pub use http1::Http1;
pub use http2::{Shared, Stream};

/// Dropping it closes the connection, or ends the stream.
pub enum Upstream {
    Http1(Box<Http1>),
    Http2(Stream),
}

impl Upstream {
    /// Nothing is owed on it in either direction, and it is for one request at a time.
    pub fn is_clean(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_clean(),
            Self::Http2(_) => false,
        }
    }

    /// It has waited for so long, and can be used for another request.
    pub fn again(&mut self, waited: Duration) -> bool {
        match self {
            Self::Http1(connection) => connection.again(waited),
            Self::Http2(_) => false,
        }
    }

    /// The stream without HTTP on it, and what has come on it already.
    pub fn leave_http(self) -> Option<(EndpointStream, Bytes)> {
        match self {
            Self::Http1(connection) => Some(connection.leave_http()),
            Self::Http2(_) => None,
        }
    }
}

/// Why a request has no answer.
pub struct Unanswered {
    /// The request, whole, when the endpoint provably has not looked at it.
    pub back: Option<Request<RequestBody>>,
    /// What came is not HTTP.
    pub not_http: bool,
}

/// The body of an answer breaks off, or is not what its head has said.
#[derive(Debug, Error)]
#[error("the endpoint's body broke off")]
pub struct BrokenOff;

/// The body of an answer.
pub enum AnswerBody {
    /// Read from the request's own connection.
    Connection,
    Stream(Incoming),
}

impl AnswerBody {
    /// `upstream` is where the answer comes from, until it was read to its end.
    pub fn poll_frame(
        &mut self,
        upstream: Option<&mut Upstream>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match (self, upstream) {
            (Self::Stream(body), _) => {
                match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    Some(frame) => Poll::Ready(Some(frame.map_err(|_| BrokenOff))),
                    // hyper takes a stream that was reset without an error for one at its end.
                    None if !body.is_end_stream() => Poll::Ready(Some(Err(BrokenOff))),
                    None => Poll::Ready(None),
                }
            }
            (Self::Connection, Some(Upstream::Http1(connection))) => connection.poll_frame(cx),
            (Self::Connection, _) => Poll::Ready(Some(Err(BrokenOff))), // nobody asks behind its end
        }
    }

    pub fn is_end_stream(&self, upstream: Option<&Upstream>) -> bool {
        match (self, upstream) {
            (Self::Stream(body), _) => body.is_end_stream(),
            (Self::Connection, Some(Upstream::Http1(connection))) => connection.is_read(),
            (Self::Connection, _) => true,
        }
    }

    pub fn size_hint(&self, upstream: Option<&Upstream>) -> SizeHint {
        match (self, upstream) {
            (Self::Stream(body), _) => body.size_hint(),
            (Self::Connection, Some(Upstream::Http1(connection))) => connection.size_hint(),
            (Self::Connection, _) => SizeHint::with_exact(0),
        }
    }
}

/// Ends a task with itself.
struct Ending(tokio::task::AbortHandle);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}
