//! A client's stream on its way to hyper, with news of it to the connection's state.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::Connection;
use crate::stream::write_pieces;

pub struct Watched<S> {
    pub stream: S,
    /// What was read of it before, and is read first.
    early: Bytes,
    state: Rc<Connection>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, early: Bytes, state: Rc<Connection>) -> Self {
        Self { stream, early, state }
    }
}

impl<S: AsFd> AsFd for Watched<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = if self.early.is_empty() {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        } else {
            let length = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(length));
            if self.early.is_empty() {
                self.early = Bytes::new(); // gives the room back
            }
            Poll::Ready(Ok(()))
        };
        if result.is_ready() {
            self.state.bytes_came(&buf.filled()[before..]);
            if self.state.has_long_line() {
                return Poll::Ready(Err(io::Error::other("the request line is too long")));
            }
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    fn note(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.state.blocked(),
            Poll::Ready(_) => self.state.unblocked(),
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = write_pieces(Pin::new(&mut self.stream), cx, bufs);
        self.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        match result {
            // Behind TLS writes are always taken: that the client takes nothing is seen here.
            Poll::Pending => self.state.blocked(),
            Poll::Ready(Ok(())) => self.state.flushed(),
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.has_long_line() {
            return Poll::Ready(Ok(())); // hyper knows of no answer to that, and there is one
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
