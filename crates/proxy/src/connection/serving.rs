//! Serves a connection: hyper speaks, and is told when a deadline is over or its end has come.

use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Connection, Verdict};
use crate::forward;
use crate::http2;
use crate::linger::linger;
use crate::tls;
use crate::tunnel;
use crate::watched::Watched;

/// As much of a first request as is read before hyper reads for itself.
const FIRST_READ: usize = 8 * 1024;
/// A new connection has so long to send its first request though the proxy stops: its client would not try again, as it does on
/// one that it has used.
const FRESH: Duration = Duration::from_secs(1);

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
