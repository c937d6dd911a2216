//! The socket of a connection to an endpoint, shared by who reads the answer, who sends the rest of a request, and the pool that
//! cuts it.
//!
//! An app may answer before it has read the whole request, and close: our kernel then has the answer, and refuses the
//! rest of our body. Here a refused write just never ends, so that what is there is read; Linux keeps what was received before a reset readable. Never is a first write hidden that failed:
//! nothing of that request can have been answered.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::sys::unacknowledged;

/// One thread, never borrowed across an await.
#[derive(Clone)]
pub struct EndpointStream(Rc<RefCell<Inner>>);

struct Inner {
    socket: TcpStream,
    /// Bytes of the present request that our kernel has taken.
    written: u64,
    /// A byte came since.
    heard: bool,
    /// The other side has ended its stream.
    ended: bool,
    /// Why the other side takes no more. Such a connection is good for reading what is there, and then over.
    deaf: Option<ErrorKind>,
    /// Nothing goes over it any more.
    cut: bool,
}

/// Cuts a stream, as long as it is one.
pub struct Cutter(Weak<RefCell<Inner>>);

impl Cutter {
    pub fn is_of_any(&self) -> bool {
        self.0.strong_count() > 0
    }

    pub fn cut(&self) {
        if let Some(stream) = self.0.upgrade() {
            EndpointStream(stream).cut();
        }
    }
}

impl EndpointStream {
    pub fn new(socket: TcpStream) -> Self {
        let inner = Inner { socket, written: 0, heard: false, ended: false, deaf: None, cut: false };
        Self(Rc::new(RefCell::new(inner)))
    }

    pub fn cutter(&self) -> Cutter {
        Cutter(Rc::downgrade(&self.0))
    }

    /// Ends it for all who use it, now.
    pub fn cut(&self) {
        let mut inner = self.0.borrow_mut();
        inner.cut = true;
        // Who waits is woken by this. Where the other side has gone before there is nobody to be told.
        let _ = rustix::net::shutdown(&inner.socket, Shutdown::Both);
    }

    /// The same socket, out of the reach of its cutter: who uses it from here on looks for itself whether it has to end.
    pub fn without_http(self) -> Self {
        match Rc::try_unwrap(self.0) {
            Ok(inner) => Self(Rc::new(inner)),
            Err(shared) => Self(shared),
        }
    }

    /// The next byte that is written belongs to a new request.
    pub fn next_request(&self) {
        let mut inner = self.0.borrow_mut();
        inner.written = 0;
        inner.heard = false;
    }

    /// Asked when the present request has failed here: the app cannot have seen a byte of it. What proves it may still be on its way
    /// when the app's end is here already.
    pub async fn is_untouched(&self) -> bool {
        let until = Instant::now() + LONGEST_PROOF;
        loop {
            match self.0.borrow().proof() {
                Proof::Untouched => return true,
                Proof::Perhaps if Instant::now() < until => {}
                Proof::Perhaps | Proof::None => return false,
            }
            tokio::time::sleep(PROOF_PAUSE).await;
        }
    }

    /// Not a byte of the present request was taken by our kernel.
    pub fn is_unwritten(&self) -> bool {
        self.0.borrow().written == 0
    }

    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow().socket.poll_read_ready(cx)
    }

    /// The event loop knows of something that was not read: at rest that is its end, or what nobody has asked for. A task that has used
    /// up its turn is told nothing.
    pub fn has_news(&self) -> bool {
        self.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Asks the kernel: the event loop learns of a FIN only when the event loop has turned, which may be too late.
    pub fn is_alive(&self) -> bool {
        let inner = self.0.borrow();
        let peeked = rustix::net::recv(&inner.socket, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        inner.deaf.is_none() && matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }
}

/// A reset comes back within a round trip. Sooner than the kernel would acknowledge what an app that has ended only its own side
/// still reads (40 ms).
const LONGEST_PROOF: Duration = Duration::from_millis(20);
const PROOF_PAUSE: Duration = Duration::from_millis(1);

/// Whether the app can have seen a byte of the present request.
enum Proof {
    /// It cannot.
    Untouched,
    /// It has ended before, as far as is known; that it took none of it has yet to be said.
    Perhaps,
    None,
}

impl Inner {
    /// The app has seen nothing when nothing was written; or when it had closed before the first byte came there.
    ///
    /// Its FIN acknowledges all that had come to its socket until then. So when we have its FIN, and not one byte of the
    /// present request is acknowledged, none had come; and what comes to a closed socket is answered with a reset, which
    /// we have too, a moment later. An end that begins with a reset proves nothing: it may stand for bytes that were read.
    fn proof(&self) -> Proof {
        if self.heard {
            return Proof::None;
        }
        if self.written == 0 {
            return Proof::Untouched;
        }
        let by_fin = self.ended && self.deaf != Some(ErrorKind::ConnectionReset) && !self.cut;
        // In this order: what is acknowledged before the reset came was seen.
        let is_reset = self.is_reset();
        let is_unseen = unacknowledged(&self.socket).is_ok_and(|bytes| bytes >= self.written);
        match (by_fin && is_unseen, is_reset) {
            (true, true) => Proof::Untouched,
            (true, false) => Proof::Perhaps,
            (false, _) => Proof::None,
        }
    }

    /// Closed in both directions, of which we have closed none.
    fn is_reset(&self) -> bool {
        let mut socket = [PollFd::new(&self.socket, PollFlags::empty())];
        rustix::event::poll(&mut socket, Some(&Timespec::default())).is_ok()
            && socket[0].revents().contains(PollFlags::HUP)
    }

    fn write(
        &mut self,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.cut {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        if self.deaf.is_some() {
            return Poll::Pending;
        }
        match ready!(write(Pin::new(&mut self.socket))) {
            Ok(written) => {
                self.written += written as u64;
                Poll::Ready(Ok(written))
            }
            // No waker is needed: the reset that refused this write is an event for the reader too.
            Err(error) if self.written > 0 && is_refusal(error.kind()) => {
                self.deaf = Some(error.kind());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// Of so many bytes a copy costs less than that the kernel is handed pieces.
const FEW_BYTES: usize = 1024;

/// Writes pieces of a message to a socket of our own kind: as one where they are small.
pub fn write_pieces<S: AsyncWrite>(
    socket: Pin<&mut S>,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if bufs.iter().map(|piece| piece.len()).sum::<usize>() > FEW_BYTES {
        return socket.poll_write_vectored(cx, bufs);
    }
    let (mut whole, mut length) = ([0; FEW_BYTES], 0);
    for piece in bufs {
        whole[length..length + piece.len()].copy_from_slice(piece);
        length += piece.len();
    }
    socket.poll_write(cx, &whole[..length])
}

fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

impl AsyncRead for EndpointStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.cut {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut inner.socket).poll_read(cx, buf))?;
        let nothing = buf.filled().len() == before;
        inner.heard |= !nothing;
        inner.ended |= nothing;
        match inner.deaf {
            // The kernel tells a reset once, and our write was told. To the reader it looks like an orderly end, which
            // would make an answer that ends with its connection look whole.
            Some(kind) if nothing => Poll::Ready(Err(kind.into())),
            Some(_) | None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for EndpointStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(|socket| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(|socket| write_pieces(socket, cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // a socket has nothing to flush
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    /// A stream that has sent a request, and the app's end of it after the first bytes were read.
    async fn begun() -> (EndpointStream, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut app, _) = listener.accept().unwrap();
        let mut stream = EndpointStream::new(socket);
        stream.write_all(b"the head and a part of the body").await.unwrap();
        app.read_exact(&mut [0; 8]).unwrap();
        (stream, app)
    }

    /// Closes with bytes unread, which is a reset, and waits until it is here.
    fn reset(stream: &EndpointStream, app: std::net::TcpStream) {
        drop(app);
        let inner = stream.0.borrow();
        let hung_up = &mut [PollFd::new(&inner.socket, PollFlags::empty())];
        assert_eq!(rustix::event::poll(hung_up, None).unwrap(), 1);
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(Duration::from_secs(20), test).await.unwrap() });
    }

    #[test]
    fn an_answer_outlives_the_refusal_of_the_body_and_its_end_is_not_taken_for_orderly() {
        run(async {
            let (mut stream, mut app) = begun().await;
            app.write_all(b"answer").unwrap();
            reset(&stream, app);
            let rest = stream.write_all(b"the rest of the body");
            assert!(timeout(Duration::ZERO, rest).await.is_err(), "the write never ends");
            assert!(!stream.is_alive());
            let mut answer = [0; 6];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"answer");
            assert!(is_refusal(stream.read(&mut answer).await.unwrap_err().kind()));
        });
    }

    #[test]
    fn a_first_write_that_fails_says_so() {
        run(async {
            let (mut stream, app) = begun().await;
            reset(&stream, app);
            stream.next_request();
            assert!(is_refusal(stream.write_all(b"another request").await.unwrap_err().kind()));
        });
    }

    /// What a request of two writes proves when the app's side does this before, between and after them.
    async fn untouched_after(
        before: fn(&mut std::net::TcpStream),
        after: fn(&mut std::net::TcpStream),
    ) -> bool {
        let (mut stream, mut app) = begun().await;
        app.read_exact(&mut [0; 23]).unwrap();
        stream.next_request();
        before(&mut app);
        let sent = async {
            stream.write_all(b"another").await.is_ok() && stream.write_all(b"request").await.is_ok()
        };
        let _ = timeout(Duration::from_millis(20), sent).await;
        after(&mut app);
        let read = timeout(Duration::from_millis(200), stream.read(&mut [0; 8])).await;
        assert!(read.is_ok_and(|read| read.map_or(true, |n| n == 0 || n == 6)));
        stream.is_untouched().await
    }

    #[test]
    fn only_an_app_that_had_closed_before_has_seen_nothing() {
        run(async {
            let close = |app: &mut std::net::TcpStream| app.shutdown(Shutdown::Both).unwrap();
            let half_close = |app: &mut std::net::TcpStream| app.shutdown(Shutdown::Write).unwrap();
            let read = |app: &mut std::net::TcpStream| app.read_exact(&mut [0; 14]).unwrap();
            assert!(untouched_after(close, |_| {}).await);
            assert!(!untouched_after(|_| {}, close).await, "it may have been read");
            assert!(!untouched_after(half_close, |_| {}).await, "it can still be read");
            assert!(!untouched_after(half_close, read).await, "it was read");
            assert!(!untouched_after(|_| {}, |app| app.write_all(b"answer").unwrap()).await);
            // A reset, without a FIN before it, of what was half read.
            let (mut stream, app) = begun().await;
            reset(&stream, app);
            assert!(stream.read(&mut [0; 8]).await.is_err() && !stream.is_untouched().await);
            // The same, told to a write: then the reader is shown an end like that of a FIN.
            let (mut stream, app) = begun().await;
            reset(&stream, app);
            assert!(timeout(Duration::ZERO, stream.write_all(b"rest")).await.is_err());
            assert!(stream.read(&mut [0; 8]).await.is_err() && !stream.is_untouched().await);
        });
    }
}
