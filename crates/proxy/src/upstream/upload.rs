//! A request on its way up a connection of HTTP/1.1: its head, and its body as it comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, Request};
use hyper::body::Body;
use tokio::io::AsyncWrite;

use super::head::{self, Ends};
use crate::body::{BodyFault, RequestBody};
use crate::headers::announced_trailers;
use crate::stream::EndpointStream;

/// Why it has come no further.
#[derive(Debug)]
pub enum Stopped {
    /// The body did; the body says why.
    Body,
    Connection,
}

/// What is still to be written.
pub struct Upload {
    /// Written up to there.
    out: Vec<u8>,
    at: usize,
    /// Behind it a piece of the body, and what ends that.
    piece: Bytes,
    after: &'static [u8],
    body: Left,
    /// What may come behind it.
    trailers: Vec<HeaderName>,
}

/// What is still to be asked of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Bytes(u64),
    Chunks,
    Nothing,
}

impl Upload {
    /// `out` is a buffer to be used.
    pub fn of(request: &Request<RequestBody>, mut out: Vec<u8>) -> Self {
        let ends = (!request.body().is_end_stream()).then(|| head::request_ends(request.headers()));
        out.clear();
        head::write(request, ends, &mut out);
        let (body, trailers) = match ends {
            Some(Ends::After(0)) => (Left::Nothing, Vec::new()),
            Some(Ends::After(length)) => (Left::Bytes(length), Vec::new()),
            Some(_) => (Left::Chunks, announced_trailers(request.headers())),
            None => (Left::Nothing, Vec::new()),
        };
        Self { out, at: 0, piece: Bytes::new(), after: b"", body, trailers }
    }

    /// The buffer, for the next.
    pub fn into_buffer(self) -> Vec<u8> {
        self.out
    }

    pub fn is_done(&self) -> bool {
        self.body == Left::Nothing && self.is_written()
    }

    fn is_written(&self) -> bool {
        self.at == self.out.len() && self.piece.is_empty() && self.after.is_empty()
    }

    /// Writes as much as there is and the endpoint takes.
    pub fn poll(
        &mut self,
        body: &mut RequestBody,
        stream: &mut EndpointStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        loop {
            // The first piece goes out with the head, if it is there already.
            let is_next = self.piece.is_empty() && self.after.is_empty() && self.body != Left::Nothing;
            let comes_later = is_next && self.poll_piece(Pin::new(&mut *body), cx)?.is_pending();
            while !self.is_written() {
                ready!(self.poll_write(stream, cx)).map_err(|_| Stopped::Connection)?;
            }
            if self.body == Left::Nothing {
                return Poll::Ready(Ok(()));
            }
            if comes_later {
                return Poll::Pending;
            }
        }
    }

    /// Takes the next piece from the body.
    fn poll_piece(&mut self, body: Pin<&mut RequestBody>, cx: &mut Context<'_>) -> Result<Poll<()>, Stopped> {
        let is_chunked = self.body == Left::Chunks;
        let frame = match body.poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame.transpose().map_err(|_: BodyFault| Stopped::Body)?,
        };
        if self.at == self.out.len() {
            self.at = 0;
            self.out.clear();
        }
        match frame.map(hyper::body::Frame::into_data) {
            Some(Ok(bytes)) if bytes.is_empty() => {}
            Some(Ok(bytes)) if is_chunked => {
                self.out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
                (self.piece, self.after) = (bytes, b"\r\n");
            }
            Some(Ok(bytes)) => {
                let Left::Bytes(left) = self.body else { return Err(Stopped::Body) };
                let left = left.checked_sub(bytes.len() as u64).ok_or(Stopped::Body)?;
                self.body = if left == 0 { Left::Nothing } else { Left::Bytes(left) };
                self.piece = bytes;
            }
            // Of a body with a length they are nobody's; they end it all the same.
            trailers => {
                let trailers = trailers.and_then(|frame| frame.err()?.into_trailers().ok());
                match self.body {
                    Left::Chunks => self.end_chunks(trailers.as_ref()),
                    Left::Bytes(0) | Left::Nothing => {}
                    Left::Bytes(_) => return Err(Stopped::Body),
                }
                self.body = Left::Nothing;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn end_chunks(&mut self, trailers: Option<&HeaderMap>) {
        self.out.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| self.trailers.contains(name)) {
            head::write_field(name, value, &mut self.out);
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn poll_write(&mut self, stream: &mut EndpointStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let first = &self.out[self.at..];
        let stream = Pin::new(stream);
        let written = if self.piece.is_empty() && self.after.is_empty() {
            ready!(stream.poll_write(cx, first))?
        } else {
            let pieces = [IoSlice::new(first), IoSlice::new(&self.piece), IoSlice::new(self.after)];
            ready!(stream.poll_write_vectored(cx, &pieces))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_first = written.min(first.len());
        let of_piece = (written - of_first).min(self.piece.len());
        self.at += of_first;
        self.piece.advance(of_piece);
        self.after = &self.after[written - of_first - of_piece..];
        Poll::Ready(Ok(()))
    }
}
