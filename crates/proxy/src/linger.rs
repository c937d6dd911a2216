//! The end of a connection whose client still sends: because it was answered before its request was whole, or because it tells,
//! as clients of HTTP/2 do, what it has taken of the answer.
//!
//! Closing a socket with unread bytes makes the kernel send a reset, and a client that has not read yet loses the answer
//! by it. So only our side is closed, and what comes is thrown away until the client closes too, within bounds. No
//! endpoint is held meanwhile: its request is over. The place under `max_connections` is.

use std::future::Future;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::connection::Connection;
use crate::sys;

/// A client that sends nothing for so long has nothing more to send, or is gone.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(30);
/// What a client on this machine can send within a second or so.
const MOST_BYTES: u64 = 1 << 30;
/// A proxy that ends, or an app that has left the table, waits no longer than this.
const WHEN_CLOSING: Duration = Duration::from_secs(1);
/// But for a client of HTTP/2, which still takes what was written for it: megabytes may be in the kernel's buffers.
const LONGEST_WITH_STREAMS: Duration = Duration::from_secs(120);

/// Closes our side, and reads until the client closes its own.
pub async fn linger<S: AsyncRead + AsyncWrite + AsFd + Unpin>(mut stream: S, state: &Connection) {
    let pause = LONGEST_PAUSE.min(state.idle_timeout());
    // Behind TLS the end must be written, which a client that reads nothing never takes.
    if !matches!(tokio::time::timeout(pause, stream.shutdown()).await, Ok(Ok(()))) {
        return;
    }
    let mut end = Instant::now() + if state.has_streams() { LONGEST_WITH_STREAMS } else { LONGEST };
    let mut left = MOST_BYTES;
    let mut untaken = sys::unacknowledged(&stream).unwrap_or(0).saturating_add(1);
    let mut bytes = vec![0; 64 * 1024];
    let mut timer = pin!(tokio::time::sleep(pause));
    std::future::poll_fn(|cx| {
        if state.is_closing() && !state.has_streams() {
            end = end.min(Instant::now() + WHEN_CLOSING);
            let deadline = timer.deadline().min(end.into());
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            // It says nothing, and takes what there is.
            let still_untaken = sys::unacknowledged(&stream).unwrap_or(0);
            if still_untaken == 0 || still_untaken >= untaken || Instant::now() >= end {
                return Poll::Ready(());
            }
            untaken = still_untaken;
            timer.as_mut().reset((Instant::now() + pause).min(end).into());
        }
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            let came = buffer.filled().len() as u64;
            left = left.saturating_sub(came);
            if came == 0 || left == 0 {
                return Poll::Ready(());
            }
            timer.as_mut().reset((Instant::now() + pause).min(end).into());
        }
    })
    .await;
}
