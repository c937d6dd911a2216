//! Connections to endpoints: one pool per endpoint and worker thread, so that no lock is needed.
//!
//! A connection goes back only when it is provably clean: response read to its end, request sent to its end, endpoint
//! still routed. In every other case it is closed. A waiting connection that has grown old or that the other side has
//! closed is never used: the app may close it at the very moment at which a request is sent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::body::RequestBody;
use crate::counts::EndpointRow;
use crate::endpoint::{Flag, LiveEndpoint};
use crate::stream::EndpointStream;

/// Common servers close idle connections after 2 s (gunicorn) or more: we are well before them.
const OLDEST_IDLE: Duration = Duration::from_millis(1_500);
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// Waiting connections per endpoint and thread.
const MOST_IDLE: usize = 256;

/// The pools of one worker thread, by the row of the endpoint.
pub struct Pools {
    by_row: RefCell<Vec<Option<Pool>>>,
    sweeping: RefCell<Option<AbortHandle>>,
}

struct Pool {
    endpoint: Arc<LiveEndpoint>,
    idle: Vec<(Upstream, Instant)>,
    /// All connections to the endpoint, to close them when its deadline is over.
    drivers: HashMap<u64, AbortHandle>,
    next: u64,
}

/// A connection to an endpoint that one request has for itself. Dropping it closes the connection.
pub struct Upstream {
    pub sender: SendRequest<RequestBody>,
    stream: EndpointStream,
    driver: AbortHandle,
    /// What hyper had read beyond its last answer, once it is done with the connection.
    rest: oneshot::Receiver<Bytes>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Upstream {
    /// Nothing is owed on it in either direction. `is_ready` is true only once hyper has read the whole response and
    /// written the whole request, and waits for another.
    fn is_clean(&self) -> bool {
        !self.sender.is_closed() && self.sender.is_ready()
    }

    /// The stream without HTTP on it, and what has come on it already. None: it broke.
    pub async fn leave_http(&mut self) -> Option<(EndpointStream, Bytes)> {
        let rest = (&mut self.rest).await.ok()?;
        Some((self.stream.clone(), rest))
    }

    /// See [`EndpointStream::is_untouched`].
    pub fn is_untouched(&self) -> bool {
        self.stream.is_untouched()
    }
}

impl Pools {
    #[must_use]
    pub fn new() -> Self {
        let by_row = (0..EndpointRow::COUNT).map(|_| None).collect();
        Self { by_row: RefCell::new(by_row), sweeping: RefCell::default() }
    }

    /// A waiting connection that can be used, newest first.
    pub fn take(&self, endpoint: &Arc<LiveEndpoint>) -> Option<Upstream> {
        let mut pools = self.by_row.borrow_mut();
        let pool =
            pools[endpoint.row.index()].as_mut().filter(|pool| Arc::ptr_eq(&pool.endpoint, endpoint))?;
        while let Some((upstream, since)) = pool.idle.pop() {
            if since.elapsed() >= OLDEST_IDLE {
                pool.idle.clear(); // the others are older still
                return None;
            }
            if upstream.is_clean() && upstream.stream.is_alive() {
                upstream.stream.next_request();
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
        if let Some(pool) = pool
            && pool.idle.len() < MOST_IDLE
        {
            pool.idle.push((upstream, Instant::now()));
            drop(pools);
            self.sweep_while_idle();
        }
    }

    /// Opens a connection. It has no request on it yet, so that a failure here loses nothing.
    pub async fn connect(
        self: &Rc<Self>,
        endpoint: &Arc<LiveEndpoint>,
        timeout: Duration,
    ) -> io::Result<Upstream> {
        let stream = tokio::time::timeout(timeout, TcpStream::connect(endpoint.address)).await??;
        // A port of the ephemeral range can be connected to itself when nobody listens on it.
        if stream.local_addr()? == endpoint.address {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        let stream = EndpointStream::new(stream);
        let (sender, mut connection) =
            http1::Builder::new().handshake(TokioIo::new(stream.clone())).await.map_err(io::Error::other)?;

        let mut pools = self.by_row.borrow_mut();
        let pool = match &mut pools[endpoint.row.index()] {
            Some(pool) if Arc::ptr_eq(&pool.endpoint, endpoint) => pool,
            slot => slot.insert(Pool::new(Arc::clone(endpoint))),
        };
        let number = pool.next;
        pool.next += 1;
        let forget = Forget { pools: Rc::clone(self), endpoint: Arc::clone(endpoint), number };
        let (said, rest) = oneshot::channel();
        let driver = tokio::task::spawn_local(async move {
            let _forget = forget;
            // Its errors reach the request that is on it.
            if (&mut connection).await.is_ok() {
                let _ = said.send(connection.into_parts().read_buf);
            }
        });
        pool.drivers.insert(number, driver.abort_handle());
        Ok(Upstream { sender, stream, driver: driver.abort_handle(), rest })
    }

    /// After a new table: nothing waits for an endpoint that is not routed, and nothing runs on one that is cut.
    pub fn refresh(&self) {
        for slot in self.by_row.borrow_mut().iter_mut() {
            let Some(pool) = slot else { continue };
            match pool.endpoint.flag() {
                Flag::Routed => {}
                Flag::Unready | Flag::Draining | Flag::Removed => pool.idle.clear(),
                Flag::Cut => {
                    pool.idle.clear();
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
        Self { endpoint, idle: Vec::new(), drivers: HashMap::new(), next: 0 }
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
