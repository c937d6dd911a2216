//! A connection of HTTP/1.1 to an endpoint, which a request has for itself.
//!
//! It is run by whoever waits for the answer, so that a request crosses no queue and wakes no other task. Only what is left of a
//! request's body when its answer has begun goes up in a task of its own: the client may take none of the answer before all of
//! its body is gone.
//!
//! It goes back to its pool only when it is provably clean: answer read to its end, request sent to its end.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::chunks::{Chunks, Part};
use super::head::{self, Ends};
use super::upload::{Stopped, Upload};
use super::{AnswerBody, BrokenOff, Ending, Unanswered};
use crate::body::RequestBody;
use crate::stream::EndpointStream;

/// One that has answered just now is not looked at once more: that costs a system call. Should the app have closed it in that
/// time, the request is provably untouched and goes by another one ([`EndpointStream::is_untouched`]).
const JUST_NOW: Duration = Duration::from_millis(1);
/// Read at once, without a buffer that waits for it.
const PIECE_BYTES: usize = 16 * 1024;
/// Read at once of an answer that comes faster than that.
const LARGE_PIECE_BYTES: usize = 64 * 1024;
/// Of an answer.
const MOST_HEAD_BYTES: usize = 256 * 1024;
/// A buffer for heads that has grown larger is not kept.
const LARGE_HEAD_BYTES: usize = 4 * 1024;

pub struct Http1 {
    stream: EndpointStream,
    /// What came and is not used yet.
    rest: Bytes,
    /// The last read has filled what there was to be filled.
    is_fast: bool,
    answer: Body,
    /// As far as was seen until now, it can be used again.
    stays: bool,
    /// For the heads of requests.
    buffer: Vec<u8>,
    /// What is left of a request whose answer has begun.
    upload: Option<Ending>,
}

/// Of the answer: what is still to be read.
enum Body {
    Nothing,
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    /// It breaks off here.
    Broken,
}

impl Http1 {
    pub fn new(stream: EndpointStream) -> Self {
        Self {
            stream,
            rest: Bytes::new(),
            is_fast: false,
            answer: Body::Nothing,
            stays: true,
            buffer: Vec::new(),
            upload: None,
        }
    }

    pub fn is_clean(&self) -> bool {
        self.stays && self.is_read() && self.rest.is_empty()
    }

    /// It has waited for so long, and can be used for another request.
    pub fn again(&mut self, waited: Duration) -> bool {
        let is_quiet = waited < JUST_NOW && !self.stream.has_news();
        let is_good = self.is_clean() && (is_quiet || self.stream.is_alive());
        if is_good {
            self.stream.next_request();
        }
        is_good
    }

    /// The stream without HTTP on it, and what has come on it already.
    pub fn leave_http(self) -> (EndpointStream, Bytes) {
        (self.stream.without_http(), self.rest)
    }

    /// Sends the request and waits for the head of the answer. One that `was_kept` was there before: an app may have closed it.
    pub async fn send(
        &mut self,
        mut request: Request<RequestBody>,
        was_kept: bool,
    ) -> Result<Response<AnswerBody>, Box<Unanswered>> {
        self.stays = false; // until all is sent, and the answer has said it
        request.body().keep();
        let mut upload = Upload::of(&request, std::mem::take(&mut self.buffer));
        let answer = poll_fn(|cx| {
            let answer = self.poll_answer(&mut upload, &mut request, cx);
            // On a new connection nothing comes back of which a byte was written.
            if !was_kept && !self.stream.is_unwritten() {
                request.body().keep_no_more();
            }
            answer
        })
        .await;
        match answer {
            // It has agreed to something that it has not heard to its end.
            Ok(answer) if answer.head.status == StatusCode::SWITCHING_PROTOCOLS && !upload.is_done() => {
                Err(Box::new(Unanswered { back: None, not_http: true }))
            }
            Ok(answer) => {
                request.body().keep_no_more();
                self.stays = answer.stays && upload.is_done();
                self.answer = match answer.ends {
                    Ends::After(0) => Body::Nothing,
                    Ends::After(length) => Body::Length(length),
                    Ends::Chunked => Body::Chunked(Chunks::default()),
                    Ends::AtClose => Body::UntilClose,
                };
                if upload.is_done() {
                    self.buffer = upload.into_buffer();
                    if self.buffer.capacity() > LARGE_HEAD_BYTES {
                        self.buffer = Vec::new();
                    }
                } else {
                    self.finish(upload, request.into_body());
                }
                Ok(Response::from_parts(answer.head, AnswerBody::Connection))
            }
            Err(failed) => {
                let is_untouched = match failed {
                    Failed::Body | Failed::NotHttp => false,
                    Failed::Connection if !request.body().is_kept() => false,
                    Failed::Connection if was_kept => self.stream.is_untouched().await,
                    Failed::Connection => self.stream.is_unwritten(),
                };
                let back = if is_untouched { begin_anew(request) } else { None };
                Err(Box::new(Unanswered { back, not_http: matches!(failed, Failed::NotHttp) }))
            }
        }
    }

    fn poll_answer(
        &mut self,
        upload: &mut Upload,
        request: &mut Request<RequestBody>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<head::Answer, Failed>> {
        if !upload.is_done() {
            match upload.poll(request.body_mut(), &mut self.stream, cx) {
                Poll::Ready(Err(Stopped::Body)) => return Poll::Ready(Err(Failed::Body)),
                Poll::Ready(Err(Stopped::Connection)) => return Poll::Ready(Err(Failed::Connection)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        let method = request.method().clone();
        self.poll_head(&method, request.headers_mut(), cx)
    }

    /// `used` are the fields of the request, which does not come back once there is a head.
    fn poll_head(
        &mut self,
        method: &Method,
        used: &mut HeaderMap,
        cx: &mut Context<'_>,
    ) -> Poll<Result<head::Answer, Failed>> {
        loop {
            let before = self.rest.len();
            if before >= MOST_HEAD_BYTES {
                return Poll::Ready(Err(Failed::NotHttp));
            }
            if !ready!(self.poll_more(cx, usize::MAX)).is_ok_and(|more| more) {
                return Poll::Ready(Err(Failed::Connection));
            }
            // What was there before has been looked at: again only with the end of a head, so that one that comes byte by byte
            // is not read anew with each.
            if before > 0 && !has_empty_line(&self.rest[before.saturating_sub(3)..]) {
                continue;
            }
            while !self.rest.is_empty() {
                match head::parse(&self.rest, method, used) {
                    Err(head::NoHead) => return Poll::Ready(Err(Failed::NotHttp)),
                    Ok(None) => break,
                    Ok(Some(answer)) => {
                        let _ = self.rest.split_to(answer.bytes);
                        // Others of the kind are followed by the answer (RFC 9110 §15.2).
                        let status = answer.head.status;
                        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                            return Poll::Ready(Ok(answer));
                        }
                    }
                }
            }
        }
    }

    /// Sends what is left of a request that is being answered.
    fn finish(&mut self, mut upload: Upload, mut body: RequestBody) {
        let mut stream = self.stream.clone();
        let task = tokio::task::spawn_local(async move {
            if poll_fn(|cx| upload.poll(&mut body, &mut stream, cx)).await.is_err() {
                // The endpoint has a part of a request, and its answer to that is none.
                stream.cut();
            }
        });
        self.upload = Some(Ending(task.abort_handle()));
    }

    /// The answer was read to its end.
    pub fn is_read(&self) -> bool {
        matches!(self.answer, Body::Nothing)
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.answer {
            Body::Nothing => SizeHint::with_exact(0),
            Body::Length(left) => SizeHint::with_exact(left),
            Body::Chunked(_) | Body::UntilClose | Body::Broken => SizeHint::default(),
        }
    }

    /// The next part of the answer's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            let most = match &mut self.answer {
                Body::Nothing => return Poll::Ready(None),
                Body::Broken => return Poll::Ready(Some(Err(BrokenOff))),
                Body::Length(left) if !self.rest.is_empty() => {
                    let bytes = self.rest.split_to(at_most(*left).min(self.rest.len()));
                    *left -= bytes.len() as u64;
                    if *left == 0 {
                        self.answer = Body::Nothing;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Body::Length(left) => at_most(*left),
                Body::Chunked(chunks) => {
                    let frame = match chunks.next(&mut self.rest) {
                        Err(_) => return self.breaks_off(cx),
                        Ok(Part::Data(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                        Ok(Part::Trailers(trailers)) => Some(Some(Ok(Frame::trailers(trailers)))),
                        Ok(Part::End) => Some(None),
                        Ok(Part::More) => None,
                    };
                    if let Some(end) = frame {
                        self.answer = Body::Nothing;
                        return Poll::Ready(end);
                    }
                    usize::MAX
                }
                Body::UntilClose if !self.rest.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))));
                }
                Body::UntilClose => usize::MAX,
            };
            let ends_here = matches!(self.answer, Body::UntilClose);
            match ready!(self.poll_more(cx, most)) {
                Ok(true) => {}
                Ok(false) if ends_here => {
                    self.answer = Body::Nothing;
                    return Poll::Ready(None);
                }
                Ok(false) | Err(_) => return self.breaks_off(cx),
            }
        }
    }

    /// Told with the next look: hyper sends what came before when there is no more for the moment, so that the client sees an answer
    /// that broke off, and no connection that closed without a word.
    fn breaks_off(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.stays = false;
        self.answer = Body::Broken;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads more behind what there is; false at the end of the stream.
    fn poll_more(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<bool>> {
        let piece = if self.is_fast && most >= LARGE_PIECE_BYTES {
            ready!(self.stream.poll_read_ready(cx))?;
            let mut space = BytesMut::with_capacity(LARGE_PIECE_BYTES);
            let read = ready!(pin!(self.stream.read_buf(&mut space)).poll(cx))?;
            // A client that takes nothing holds what came; let that be no more than came.
            self.is_fast = read > LARGE_PIECE_BYTES / 2;
            if self.is_fast { space.freeze() } else { Bytes::copy_from_slice(&space) }
        } else {
            let mut space = [const { MaybeUninit::uninit() }; PIECE_BYTES];
            let mut space = ReadBuf::uninit(&mut space[..PIECE_BYTES.min(most)]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
            self.is_fast = most > PIECE_BYTES && space.remaining() == 0;
            Bytes::copy_from_slice(space.filled())
        };
        let is_more = !piece.is_empty();
        if self.rest.is_empty() {
            self.rest = piece;
        } else if is_more {
            let mut both = BytesMut::from(std::mem::take(&mut self.rest)); // the same bytes, where nobody else has them
            both.extend_from_slice(&piece);
            self.rest = both.freeze();
        }
        Poll::Ready(Ok(is_more))
    }
}

/// Why there is no answer.
enum Failed {
    /// The client's body, which knows why.
    Body,
    Connection,
    NotHttp,
}

/// `None` when too much of its body was read.
fn begin_anew(mut request: Request<RequestBody>) -> Option<Request<RequestBody>> {
    request.body_mut().begin_anew().then_some(request)
}

fn at_most(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Of two lines, of which the second is empty.
fn has_empty_line(bytes: &[u8]) -> bool {
    let mut after_lf = bytes.split(|byte| *byte == b'\n').skip(1).peekable();
    std::iter::from_fn(|| {
        let line = after_lf.next()?;
        // The last has no end yet.
        after_lf.peek().map(|_| line)
    })
    .any(|line| matches!(line, b"" | b"\r"))
}
