//! A client connection of HTTP/2. hyper and `h2` carry frames, windows and header tables; here are the bounds, the deadlines and
//! the end: a client that has to go elsewhere is told with GOAWAY, and its streams are finished.

pub mod floods;
mod lent;

use std::future::Future;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{Connection, NEVER, Verdict};
use crate::forward;
use crate::linger::linger;
use crate::watched::Watched;
use lent::Lent;

/// What opens such a connection (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests of one client at once.
const MOST_STREAMS: u32 = 1_000;
/// What a client may send before we have read it: of one stream, and of all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Of an answer, in memory until the client's window takes it.
const MOST_UNSENT: usize = 64 * 1024;
/// Streams that were opened and reset before anybody looked at them (CVE-2023-44487), and those that broke a rule. More of
/// either end the connection with ENHANCE_YOUR_CALM.
const MOST_RESETS: usize = 20;
const MOST_ERRORS: usize = 100;

/// Runs what serves a stream, so that it can be ended when its client takes nothing.
#[derive(Clone)]
struct Streams(Rc<Connection>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, serving: F) {
        // hyper gives us the task of a stream right after its request.
        self.0.adopt(tokio::task::spawn_local(serving).abort_handle());
    }
}

/// Serves a connection to its end.
pub async fn serve<S>(stream: Watched<S>, state: Rc<Connection>)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + 'static,
{
    state.speaks_http2();
    let mut builder = http2::Builder::new(Streams(Rc::clone(&state)));
    builder
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MOST_UNSENT)
        .max_header_list_size(u32::try_from(state.limits().header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MOST_RESETS)
        .max_local_error_reset_streams(MOST_ERRORS)
        .auto_date_header(false);
    let service_state = Rc::clone(&state);
    let service = service_fn(move |request| forward::serve(Rc::clone(&service_state), request));
    let stream = Lent::new(stream);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream.share()), service));

    let mut timer = pin!(tokio::time::sleep_until(state.next_deadline().into()));
    let mut told = false;
    let has_said_all = std::future::poll_fn(|cx| {
        state.set_waker(cx.waker());
        loop {
            if state.is_killed() {
                return Poll::Ready(false);
            }
            if state.is_closing() && !told {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result.is_ok());
            }
            if state.is_closing() && !told {
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
                Verdict::Ask => timer.as_mut().reset((Instant::now() + NEVER).into()),
                // One that only waits is told first; what does not answer to that is closed.
                Verdict::Close if state.is_idle() && !told => state.close_when_idle(),
                // It may not have come to our last frames yet.
                Verdict::Close => return Poll::Ready(state.is_idle()),
                Verdict::CloseHead | Verdict::CloseLine | Verdict::Linger | Verdict::Tunnel => {
                    return Poll::Ready(false);
                }
            }
        }
    })
    .await;
    if let Some(stream) = stream.take_back().filter(|_| has_said_all) {
        linger(stream, &state).await;
    }
}
