//! A connection of HTTP/2 to an endpoint, which many requests share. hyper speaks.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use http::{Request, Response};
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{AnswerBody, Ending, Unanswered, Upstream};
use crate::body::RequestBody;
use crate::replay::Again;

/// What an endpoint may send before its client has taken it: of one stream, and of all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Of an answer.
const MOST_HEADER_BYTES: u32 = 256 * 1024;

/// The connection, and how many requests are on it.
pub struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    /// The endpoint takes so many at once.
    most: Rc<Cell<usize>>,
}

/// One of many on a connection.
pub struct Stream {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
}

impl Shared {
    /// Begins to speak, and says what is to be run for that until it ends.
    pub async fn begin(
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    ) -> io::Result<(Self, impl Future<Output = ()>)> {
        let beside = Beside::default();
        let handshake = http2::Builder::new(beside.clone())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MOST_HEADER_BYTES)
            .handshake(TokioIo::new(stream));
        let (sender, mut connection) = handshake.await.map_err(io::Error::other)?;
        let most = Rc::new(Cell::new(connection.current_max_send_streams()));
        let shared = Self { sender, streams: Rc::default(), most: Rc::clone(&most) };
        let run = std::future::poll_fn(move |cx| {
            // With this it ends, whatever is still on it.
            let _ = &beside;
            let polled = Pin::new(&mut connection).poll(cx);
            most.set(connection.current_max_send_streams());
            polled.map(drop)
        });
        Ok((shared, run))
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// One more request, if the endpoint takes one more.
    pub fn stream(&self) -> Option<Upstream> {
        let streams = self.streams.get();
        let may = !self.is_closed() && streams < self.most.get();
        may.then(|| {
            self.streams.set(streams + 1);
            Upstream::Http2(Stream { sender: self.sender.clone(), streams: Rc::clone(&self.streams) })
        })
    }
}

impl Stream {
    /// Sends the request and waits for the head of the answer.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<AnswerBody>, Box<Unanswered>> {
        // An endpoint may say of any of its streams that it did not look at it.
        let again = Again::of(&request);
        match self.sender.try_send_request(request).await {
            // `h2` takes no coding, and no other length than there are bytes: it is clear where this ends.
            Ok(response) => {
                again.forget();
                Ok(response.map(AnswerBody::Stream))
            }
            Err(mut error) => {
                let untouched = is_refused(error.error());
                let back = error.take_message().or_else(|| again.request().filter(|_| untouched));
                Err(Box::new(Unanswered { back, not_http: error.error().is_parse() }))
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.set(self.streams.get() - 1);
    }
}

/// The endpoint says that it did not look at it: it refused the stream, or it said before that it takes no more (RFC 9113 §8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return h2.is_remote() && (h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = cause.source();
    }
    false
}

/// Runs what hyper wants to run beside a connection: first the connection itself, then what carries bodies.
#[derive(Clone, Default)]
struct Beside(Rc<OnceCell<Ending>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Beside {
    fn execute(&self, task: F) {
        let task = tokio::task::spawn_local(task);
        self.0.get_or_init(|| Ending(task.abort_handle()));
    }
}
