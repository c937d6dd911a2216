//! Connections to endpoints: one pool per endpoint and worker thread, so that no lock is needed.
//!
//! A connection of HTTP/2 serves many requests at once and stays until its endpoint leaves or closes it. One of HTTP/1.1 serves one at
//! a time. It goes back only when it is provably clean: response read to its end, request sent to its end, endpoint
//! still routed. In every other case it is closed. A waiting connection that has grown old or that the other side has
//! closed is never used: the app may close it at the very moment at which a request is sent.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::body::RequestBody;
use crate::counts::EndpointRow;
use crate::endpoint::{Flag, LiveEndpoint};
use crate::stream::EndpointStream;
use crate::table::Protocol;

/// Common servers close idle connections after 2 s (gunicorn) or more: we are well before them.
const OLDEST_IDLE: Duration = Duration::from_millis(1_500);
/// One that has answered just now is not looked at once more: that costs a system call. Should the app have closed it in that
/// time, the request is provably untouched and goes by another one ([`EndpointStream::is_untouched`]).
const JUST_NOW: Duration = Duration::from_millis(1);
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// What an endpoint may send before its client has taken it: of one stream, and of all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Of an answer of HTTP/2.
const MOST_HEADER_BYTES: u32 = 256 * 1024;

/// The pools of one worker thread, by the row of the endpoint.
pub struct Pools {
    by_row: RefCell<Vec<Option<Pool>>>,
    sweeping: RefCell<Option<AbortHandle>>,
}

struct Pool {
    endpoint: Arc<LiveEndpoint>,
    idle: Vec<(Upstream, Instant)>,
    shared: Vec<Shared>,
    /// All connections to the endpoint, to close them when its deadline is over.
    drivers: HashMap<u64, AbortHandle>,
    next: u64,
}

/// A connection of HTTP/2, and how many requests are on it.
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    /// The endpoint takes so many at once.
    most: Rc<Cell<usize>>,
}

impl Shared {
    /// One more request, if the endpoint takes one more.
    fn stream(&self) -> Option<Upstream> {
        let streams = self.streams.get();
        let may = !self.sender.is_closed() && streams < self.most.get();
        may.then(|| {
            self.streams.set(streams + 1);
            Upstream { sender: Sender::Http2(self.sender.clone()), of: Of::Stream(Rc::clone(&self.streams)) }
        })
    }
}

/// A way to an endpoint for one request.
pub struct Upstream {
    pub sender: Sender,
    of: Of,
}

/// Takes the request.
pub enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

enum Of {
    /// One that the request has for itself. Dropping it closes the connection.
    Connection {
        stream: EndpointStream,
        driver: AbortHandle,
        /// What hyper had read beyond its last answer, once it is done with the connection.
        rest: oneshot::Receiver<Bytes>,
    },
    /// One of many on a connection.
    Stream(Rc<Cell<usize>>),
}

impl Drop for Upstream {
    fn drop(&mut self) {
        match &self.of {
            Of::Connection { driver, .. } => driver.abort(),
            Of::Stream(streams) => streams.set(streams.get() - 1),
        }
    }
}

impl Upstream {
    /// Nothing is owed on it in either direction, and it is for one request at a time. `is_ready` is true only once hyper has
    /// read the whole response and written the whole request, and waits for another.
    fn is_clean(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed() && sender.is_ready(),
            Sender::Http2(_) => false,
        }
    }

    /// It has waited for so long, and can be used for another request.
    fn again(&self, waited: Duration) -> bool {
        let Of::Connection { stream, .. } = &self.of else { return false };
        let is_good = self.is_clean() && (waited < JUST_NOW || stream.is_alive());
        if is_good {
            stream.next_request();
        }
        is_good
    }

    /// The stream without HTTP on it, and what has come on it already. None: it broke.
    pub async fn leave_http(&mut self) -> Option<(EndpointStream, Bytes)> {
        let Of::Connection { stream, rest, .. } = &mut self.of else { return None };
        let rest = rest.await.ok()?;
        Some((stream.clone(), rest))
    }

    /// The request has failed with this, and the endpoint cannot have looked at it: see [`EndpointStream::is_untouched`], and for
    /// a stream RFC 9113 §8.7.
    pub fn is_untouched(&self, error: &hyper::Error) -> bool {
        match &self.of {
            Of::Connection { stream, .. } => stream.is_untouched(),
            Of::Stream(_) => is_refused_stream(error),
        }
    }
}

/// The endpoint says that it did not look at it: it refused the stream, or it said before that it takes no more.
fn is_refused_stream(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return h2.is_remote() && (h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = cause.source();
    }
    false
}

/// Runs what hyper wants to run beside a connection of HTTP/2: first the connection itself, then what carries bodies.
#[derive(Clone, Default)]
struct Beside(Rc<OnceCell<Ending>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Beside {
    fn execute(&self, task: F) {
        let task = tokio::task::spawn_local(task);
        self.0.get_or_init(|| Ending(task.abort_handle()));
    }
}

/// Ends a task with itself.
struct Ending(AbortHandle);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A new connection.
pub async fn reach(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(address)).await??;
    // A port of the ephemeral range can be connected to itself when nobody listens on it.
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Pools {
    #[must_use]
    pub fn new() -> Self {
        let by_row = (0..EndpointRow::COUNT).map(|_| None).collect();
        Self { by_row: RefCell::new(by_row), sweeping: RefCell::default() }
    }

    /// A way that is there already: of connections that wait the newest, of those that are shared one with room.
    pub fn take(&self, endpoint: &Arc<LiveEndpoint>, protocol: Protocol) -> Option<Upstream> {
        let mut pools = self.by_row.borrow_mut();
        let pool =
            pools[endpoint.row.index()].as_mut().filter(|pool| Arc::ptr_eq(&pool.endpoint, endpoint))?;
        if protocol.has_streams() {
            pool.shared.retain(|shared| !shared.sender.is_closed());
            return pool.shared.iter().find_map(Shared::stream);
        }
        while let Some((upstream, since)) = pool.idle.pop() {
            let waited = since.elapsed();
            if waited >= OLDEST_IDLE {
                pool.idle.clear(); // the others are older still
                return None;
            }
            if upstream.again(waited) {
                return Some(upstream);
            }
        }
        None
    }

    /// Gives a connection back, or closes it if it is not clean.
    pub fn put(self: &Rc<Self>, endpoint: &Arc<LiveEndpoint>, upstream: Upstream) {
        if !upstream.is_clean() || endpoint.flag() != Flag::Routed {
            return;
        }
        let mut pools = self.by_row.borrow_mut();
        let pool = pools[endpoint.row.index()].as_mut().filter(|pool| Arc::ptr_eq(&pool.endpoint, endpoint));
        // No more wait than were in use at once a moment ago: closing some of them would only have them opened again.
        if let Some(pool) = pool {
            pool.idle.push((upstream, Instant::now()));
            drop(pools);
            self.sweep_while_idle();
        }
    }

    /// Opens a connection. It has no request on it yet, so that a failure here loses nothing.
    pub async fn connect(
        self: &Rc<Self>,
        endpoint: &Arc<LiveEndpoint>,
        protocol: Protocol,
        timeout: Duration,
    ) -> io::Result<Upstream> {
        let stream = reach(endpoint.address, timeout).await?;
        match protocol {
            Protocol::Http1 => self.speak_http1(endpoint, stream).await,
            Protocol::Http2 => self.speak_http2(endpoint, stream).await,
            Protocol::Http2Tls => {
                let stream = tokio::time::timeout(timeout, trundle_tls::connect_h2(stream)).await??;
                self.speak_http2(endpoint, stream).await
            }
        }
    }

    async fn speak_http1(
        self: &Rc<Self>,
        endpoint: &Arc<LiveEndpoint>,
        stream: TcpStream,
    ) -> io::Result<Upstream> {
        let stream = EndpointStream::new(stream);
        let (sender, mut connection) =
            http1::Builder::new().handshake(TokioIo::new(stream.clone())).await.map_err(io::Error::other)?;
        let (said, rest) = oneshot::channel();
        let driver = self.drive(endpoint, async move {
            // Its errors reach the request that is on it.
            if (&mut connection).await.is_ok() {
                let _ = said.send(connection.into_parts().read_buf);
            }
        });
        Ok(Upstream { sender: Sender::Http1(sender), of: Of::Connection { stream, driver, rest } })
    }

    async fn speak_http2(
        self: &Rc<Self>,
        endpoint: &Arc<LiveEndpoint>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    ) -> io::Result<Upstream> {
        let beside = Beside::default();
        let handshake = http2::Builder::new(beside.clone())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MOST_HEADER_BYTES)
            .handshake(TokioIo::new(stream));
        let (sender, mut connection) = handshake.await.map_err(io::Error::other)?;
        let most = Rc::new(Cell::new(connection.current_max_send_streams()));
        let shared = Shared { sender, streams: Rc::default(), most: Rc::clone(&most) };
        self.drive(
            endpoint,
            std::future::poll_fn(move |cx| {
                // With this it ends, whatever is still on it.
                let _ = &beside;
                let polled = Pin::new(&mut connection).poll(cx);
                most.set(connection.current_max_send_streams());
                polled.map(drop)
            }),
        );
        let upstream = shared.stream().ok_or(io::ErrorKind::ConnectionReset)?;
        if let Some(pool) = self.by_row.borrow_mut()[endpoint.row.index()].as_mut() {
            pool.shared.push(shared);
        }
        Ok(upstream)
    }

    /// Runs a connection, and knows of it until it ends.
    fn drive(
        self: &Rc<Self>,
        endpoint: &Arc<LiveEndpoint>,
        connection: impl Future<Output = ()> + 'static,
    ) -> AbortHandle {
        let mut pools = self.by_row.borrow_mut();
        let pool = match &mut pools[endpoint.row.index()] {
            Some(pool) if Arc::ptr_eq(&pool.endpoint, endpoint) => pool,
            slot => slot.insert(Pool::new(Arc::clone(endpoint))),
        };
        let number = pool.next;
        pool.next += 1;
        let forget = Forget { pools: Rc::clone(self), endpoint: Arc::clone(endpoint), number };
        let driver = tokio::task::spawn_local(async move {
            let _forget = forget;
            connection.await;
        });
        pool.drivers.insert(number, driver.abort_handle());
        driver.abort_handle()
    }

    /// After a new table: nothing waits for an endpoint that is not routed, and nothing runs on one that is cut.
    pub fn refresh(&self) {
        for slot in self.by_row.borrow_mut().iter_mut() {
            let Some(pool) = slot else { continue };
            match pool.endpoint.flag() {
                Flag::Routed => {}
                Flag::Unready | Flag::Draining | Flag::Removed => pool.close_waiting(),
                Flag::Cut => {
                    pool.close_waiting();
                    pool.drivers.values().for_each(AbortHandle::abort);
                }
            }
            if pool.endpoint.flag() == Flag::Removed && pool.drivers.is_empty() {
                *slot = None;
            }
        }
    }

    /// Closes old connections, as long as there are any that wait.
    fn sweep_while_idle(self: &Rc<Self>) {
        let mut sweeping = self.sweeping.borrow_mut();
        if sweeping.is_some() {
            return;
        }
        let pools = Rc::clone(self);
        let task = tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                if !pools.close_old() {
                    *pools.sweeping.borrow_mut() = None;
                    return;
                }
            }
        });
        *sweeping = Some(task.abort_handle());
    }

    /// True if any connection still waits.
    fn close_old(&self) -> bool {
        let mut waiting = false;
        for pool in self.by_row.borrow_mut().iter_mut().flatten() {
            pool.idle.retain(|(_, since)| since.elapsed() < OLDEST_IDLE);
            waiting |= !pool.idle.is_empty();
        }
        waiting
    }
}

impl Pool {
    fn new(endpoint: Arc<LiveEndpoint>) -> Self {
        Self { endpoint, idle: Vec::new(), shared: Vec::new(), drivers: HashMap::new(), next: 0 }
    }

    /// No new request goes on any of these. What is on a shared one is finished.
    fn close_waiting(&mut self) {
        self.idle.clear();
        self.shared.clear();
    }
}

/// Takes a connection off the list of its pool when its driver ends.
struct Forget {
    pools: Rc<Pools>,
    endpoint: Arc<LiveEndpoint>,
    number: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        // Aborting inside `refresh` only marks a task: it is dropped later, when nobody borrows the pools.
        if let Ok(mut pools) = self.pools.by_row.try_borrow_mut()
            && let Some(pool) = pools[self.endpoint.row.index()].as_mut()
            && Arc::ptr_eq(&pool.endpoint, &self.endpoint)
        {
            pool.drivers.remove(&self.number);
        }
    }
}
