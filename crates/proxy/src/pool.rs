//! Connections to endpoints: one pool per endpoint and worker thread, so that no lock is needed.
//!
//! A connection of HTTP/2 serves many requests at once and stays until its endpoint leaves or closes it. One of HTTP/1.1 serves one at
//! a time. It goes back only when it is provably clean: response read to its end, request sent to its end, endpoint
//! still routed. In every other case it is closed. A waiting connection that has grown old or that the other side has
//! closed is never used: the app may close it at the very moment at which a request is sent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::counts::EndpointRow;
use crate::endpoint::{Flag, LiveEndpoint};
use crate::stream::{Cutter, EndpointStream};
use crate::table::Protocol;
use crate::upstream::{Http1, Shared, Upstream};

/// Common servers close idle connections after 2 s (gunicorn) or more: we are well before them.
const OLDEST_IDLE: Duration = Duration::from_millis(1_500);
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// The pools of one worker thread, by the row of the endpoint.
pub struct Pools {
    by_row: RefCell<Vec<Option<Pool>>>,
    sweeping: RefCell<Option<AbortHandle>>,
}

struct Pool {
    endpoint: Arc<LiveEndpoint>,
    idle: Vec<(Upstream, Instant)>,
    shared: Vec<Shared>,
    /// All connections to the endpoint, to close them when its deadline is over: those of HTTP/1.1, and what runs shared ones.
    cutters: Vec<Cutter>,
    drivers: HashMap<u64, AbortHandle>,
    next: u64,
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
    pub fn take(&self, endpoint: &Arc<LiveEndpoint>, protocol: Protocol, now: Instant) -> Option<Upstream> {
        let mut pools = self.by_row.borrow_mut();
        let pool =
            pools[endpoint.row.index()].as_mut().filter(|pool| Arc::ptr_eq(&pool.endpoint, endpoint))?;
        if protocol.has_streams() {
            pool.shared.retain(|shared| !shared.is_closed());
            return pool.shared.iter().find_map(Shared::stream);
        }
        while let Some((mut upstream, since)) = pool.idle.pop() {
            let waited = now.saturating_duration_since(since);
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
            Protocol::Http1 => Ok(self.speak_http1(endpoint, stream)),
            Protocol::Http2 => self.speak_http2(endpoint, stream).await,
            Protocol::Http2Tls => {
                let stream = tokio::time::timeout(timeout, trundle_tls::connect_h2(stream)).await??;
                self.speak_http2(endpoint, stream).await
            }
        }
    }

    fn speak_http1(&self, endpoint: &Arc<LiveEndpoint>, stream: TcpStream) -> Upstream {
        let stream = EndpointStream::new(stream);
        self.with(endpoint, |pool| pool.knows(stream.cutter()));
        Upstream::Http1(Box::new(Http1::new(stream)))
    }

    async fn speak_http2(
        self: &Rc<Self>,
        endpoint: &Arc<LiveEndpoint>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    ) -> io::Result<Upstream> {
        let (shared, run) = Shared::begin(stream).await?;
        self.drive(endpoint, run);
        let upstream = shared.stream().ok_or(io::ErrorKind::ConnectionReset)?;
        self.with(endpoint, |pool| pool.shared.push(shared));
        Ok(upstream)
    }

    /// The pool of an endpoint, which begins with its first connection.
    fn with<T>(&self, endpoint: &Arc<LiveEndpoint>, act: impl FnOnce(&mut Pool) -> T) -> T {
        let mut pools = self.by_row.borrow_mut();
        let pool = match &mut pools[endpoint.row.index()] {
            Some(pool) if Arc::ptr_eq(&pool.endpoint, endpoint) => pool,
            slot => slot.insert(Pool::new(Arc::clone(endpoint))),
        };
        act(pool)
    }

    /// Runs a shared connection, and knows of it until it ends.
    fn drive(self: &Rc<Self>, endpoint: &Arc<LiveEndpoint>, connection: impl Future<Output = ()> + 'static) {
        self.with(endpoint, |pool| {
            let number = pool.next;
            pool.next += 1;
            let forget = Forget { pools: Rc::clone(self), endpoint: Arc::clone(endpoint), number };
            let driver = tokio::task::spawn_local(async move {
                let _forget = forget;
                connection.await;
            });
            pool.drivers.insert(number, driver.abort_handle());
        });
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
                    pool.cutters.iter().for_each(Cutter::cut);
                    pool.drivers.values().for_each(AbortHandle::abort);
                }
            }
            if pool.endpoint.flag() == Flag::Removed && !pool.has_connections() {
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
        Self {
            endpoint,
            idle: Vec::new(),
            shared: Vec::new(),
            cutters: Vec::new(),
            drivers: HashMap::new(),
            next: 0,
        }
    }

    /// One more connection. Those that are over are forgotten whenever the list would have to grow.
    fn knows(&mut self, cutter: Cutter) {
        if self.cutters.len() == self.cutters.capacity() {
            self.cutters.retain(Cutter::is_of_any);
        }
        self.cutters.push(cutter);
    }

    fn has_connections(&self) -> bool {
        !self.drivers.is_empty() || self.cutters.iter().any(Cutter::is_of_any)
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
