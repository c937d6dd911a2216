//! A thread that serves: its own event loop, its own accepts, its own pools. Threads share the snapshot and the counts
//! and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::compared::Kept;
use crate::connection::{self, Connection};
use crate::counts::{Counts, EndpointRow, VersionRow};
use crate::pool::Pools;
use crate::routes::{Random, Snapshot};
use crate::spans::Spans;
use crate::table::{Limits, Listen};
use crate::tcp;
use crate::trust::Peer;
use crate::window::callers::Callers;
use crate::window::keys::Keys;
use crate::window::mirror::OnTheirWay;
use crate::window::pins::Pins;
use crate::window::uses::Uses;

/// What all threads see.
pub struct Shared {
    pub snapshot: ArcSwap<Snapshot>,
    pub counts: Arc<Counts>,
    pub keys: ArcSwap<Keys>,
    /// There once an app keeps somebody for the pages of its clients.
    pub pins: OnceLock<Pins>,
    /// There once an app names the formats that its clients speak.
    pub uses: OnceLock<Uses>,
    /// What two versions have answered to the same request.
    pub compared: Kept,
    pub spans: Option<Spans>,
}

/// A listening address, as every worker knows it. Whose requests come in there, the present table says.
#[derive(Clone)]
pub struct Door {
    pub listen: Listen,
    /// In whose name is counted what belongs to none: of the app that it was opened for.
    pub app_row: VersionRow,
    pub default_host: HeaderValue,
    pub gate: Arc<Gate>,
}

/// Counts the connections of one address over all threads.
#[derive(Default)]
pub struct Gate {
    open: AtomicUsize,
    freed: Notify,
}

/// Room for one connection, taken before it is accepted: threads that wait at the same time cannot exceed the cap.
struct Place(Arc<Gate>);

impl Place {
    fn take(gate: &Arc<Gate>, most: usize) -> Option<Self> {
        let more = |open| (open < most).then_some(open + 1);
        gate.open.try_update(SeqCst, SeqCst, more).ok().map(|_| Self(Arc::clone(gate)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
        self.0.freed.notify_one();
    }
}

/// What the control thread tells a worker.
pub enum Command {
    Accept(Door, OwnedFd),
    /// Stop accepting there, and let its connections end with their present request.
    Leave(Listen),
    /// A new table is in force; these endpoints are cut.
    Refresh(Vec<EndpointRow>),
    /// Accept no more, finish within the bound, end. Once more: with another bound.
    Stop(Duration),
    /// The same, while another proxy serves: a connection that waits may ask once more.
    Finish(Duration),
}

/// A worker's own things. One thread, so no locks.
pub struct Worker {
    pub shared: Arc<Shared>,
    pub pools: Rc<Pools>,
    pub random: RefCell<Random>,
    /// Requests on their way to a second version.
    pub mirrors: OnTheirWay,
    /// Where callers of formats are counted.
    pub callers: RefCell<Callers>,
    connections: RefCell<HashMap<u64, (Listen, Rc<Connection>)>>,
    next_connection: Cell<u64>,
    /// A table came into force, an address or this thread is on its way out.
    pub changed: Notify,
    /// Woken when a connection ends.
    ended: Notify,
    over: Cell<bool>,
    /// What is in flight then ends with this thread.
    ends_by: Cell<Option<Instant>>,
    /// Another proxy serves.
    finishes: Cell<bool>,
}

/// Starts a worker thread; it lives until it is told to stop.
pub fn start(
    number: usize,
    shared: Arc<Shared>,
) -> io::Result<(mpsc::UnboundedSender<Command>, thread::JoinHandle<()>)> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (started, is_started) = std::sync::mpsc::channel();
    let thread = thread::Builder::new().name(format!("proxy-{number}")).spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        let _ = started.send(Ok(()));
        let worker = Rc::new(Worker {
            shared,
            pools: Rc::new(Pools::new()),
            random: RefCell::new(Random::new()),
            mirrors: OnTheirWay::default(),
            callers: RefCell::default(),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            changed: Notify::new(),
            ended: Notify::new(),
            over: Cell::new(false),
            ends_by: Cell::default(),
            finishes: Cell::new(false),
        });
        let _abort = AbortOnPanic;
        runtime.block_on(Rc::clone(&worker).run(receiver));
        // What is left is dropped here, and counted as lost.
        worker.over.set(true);
        drop(runtime);
    })?;
    is_started.recv().map_err(io::Error::other)??;
    Ok((sender, thread))
}

impl Worker {
    /// The thread ends, and takes what is in flight with it.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Another proxy serves, and its table may be newer than ours.
    pub fn finishes(&self) -> bool {
        self.finishes.get()
    }

    /// Any time below this one, each as likely.
    pub fn draw_below(&self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.random.borrow_mut().below(most.max(1)))
    }

    /// Until what is in flight ends with this thread, where it has been told to.
    pub fn time_left(&self) -> Option<Duration> {
        self.ends_by.get().map(|end| end.saturating_duration_since(Instant::now()))
    }

    async fn run(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut doors: HashMap<Listen, AbortHandle> = HashMap::new();
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                () = self.until_all_ended(self.ends_by.get()) => return,
            };
            let Some(command) = command else { return };
            match command {
                Command::Accept(door, socket) => {
                    let listen = door.listen.clone();
                    let task = tokio::task::spawn_local(Rc::clone(&self).accept_on(door, socket));
                    if let Some(former) = doors.insert(listen, task.abort_handle()) {
                        former.abort();
                    }
                }
                Command::Leave(listen) => {
                    if let Some(task) = doors.remove(&listen) {
                        task.abort();
                    }
                    let connections = self.connections.borrow();
                    let left = connections.values().filter(|(of, _)| *of == listen);
                    left.for_each(|(_, connection)| connection.close_when_idle());
                    self.changed.notify_waiters();
                }
                Command::Refresh(cut) => {
                    self.pools.refresh();
                    self.changed.notify_waiters();
                    for (_, connection) in self.connections.borrow().values() {
                        cut.iter().for_each(|row| connection.cut_if_blocked(*row));
                    }
                }
                Command::Stop(bound) => {
                    doors.drain().for_each(|(_, door)| door.abort());
                    self.ends_by.set(Some(Instant::now() + bound));
                    self.each_connection(Connection::close_when_idle);
                }
                Command::Finish(bound) => {
                    doors.drain().for_each(|(_, door)| door.abort());
                    self.finishes.set(true);
                    self.ends_by.set(Some(Instant::now() + bound));
                    self.each_connection(Connection::close_after_next);
                }
            }
        }
    }

    fn each_connection(&self, tell: impl Fn(&Connection)) {
        self.connections.borrow().values().for_each(|(_, connection)| tell(connection));
        self.changed.notify_waiters();
    }

    /// Or until this moment; for ever without one.
    async fn until_all_ended(&self, end_by: Option<Instant>) {
        let Some(end_by) = end_by else { return std::future::pending().await };
        let all_ended = async {
            while !self.connections.borrow().is_empty() {
                self.ended.notified().await;
            }
        };
        let _ = tokio::time::timeout_at(end_by, all_ended).await;
    }

    async fn accept_on(self: Rc<Self>, door: Door, socket: OwnedFd) {
        let door = Rc::new(door);
        match door.listen {
            Listen::Http(_) | Listen::Https(_) | Listen::Tcp(_) => {
                let listener = TcpListener::from_std(socket.into());
                let Ok(listener) = listener else { return self.report(&door) };
                loop {
                    let place = self.await_room(&door).await;
                    let Ok((stream, peer)) = listener.accept().await else {
                        backoff().await;
                        continue;
                    };
                    let _ = stream.set_nodelay(true);
                    let peer = Peer::Ip(peer.ip());
                    match door.listen {
                        Listen::Https(_) => {
                            self.spawn(&door, peer, place, |state| connection::serve_tls(stream, state));
                        }
                        Listen::Tcp(_) => self.spawn(&door, peer, place, |state| tcp::serve(stream, state)),
                        Listen::Http(_) | Listen::Unix(_) => {
                            self.spawn(&door, peer, place, |state| connection::serve(stream, state));
                        }
                    }
                }
            }
            Listen::Unix(_) => {
                let listener = UnixListener::from_std(socket.into());
                let Ok(listener) = listener else { return self.report(&door) };
                loop {
                    let place = self.await_room(&door).await;
                    let Ok((stream, _)) = listener.accept().await else {
                        backoff().await;
                        continue;
                    };
                    self.spawn(&door, Peer::Unix, place, |state| connection::serve(stream, state));
                }
            }
        }
    }

    fn report(&self, door: &Door) {
        log_line!("trundle proxy: cannot accept on {}; is the limit of open files too low?", door.listen);
    }

    fn limits(&self, door: &Door) -> Limits {
        self.shared
            .snapshot
            .load()
            .sites
            .get(&door.listen)
            .map(|site| site.limits.clone())
            .unwrap_or_default()
    }

    /// Above the cap, clients wait in the kernel's queue: nobody is refused.
    async fn await_room(&self, door: &Door) -> Place {
        loop {
            if let Some(place) = Place::take(&door.gate, self.limits(door).max_connections) {
                return place;
            }
            // Another thread may take the place that was freed: look again from time to time.
            let _ = tokio::time::timeout(Duration::from_millis(50), door.gate.freed.notified()).await;
        }
    }

    fn spawn<F>(
        self: &Rc<Self>,
        door: &Rc<Door>,
        peer: Peer,
        place: Place,
        serve: impl FnOnce(Rc<Connection>) -> F,
    ) where
        F: Future<Output = ()> + 'static,
    {
        let number = self.next_connection.get();
        self.next_connection.set(number + 1);
        let open =
            self.shared.snapshot.load().sites.get(&door.listen).map(|site| Arc::clone(&site.owner().open));
        let state = Connection::new(Rc::clone(self), Rc::clone(door), peer, self.limits(door));
        let state = Rc::new(state.counted_in(open.unwrap_or_default()));
        self.connections.borrow_mut().insert(number, (door.listen.clone(), Rc::clone(&state)));
        let leave = Ended { worker: Rc::clone(self), _place: place, number };
        let serving = serve(state);
        tokio::task::spawn_local(async move {
            let _leave = leave;
            serving.await;
        });
    }
}

/// Too many open files, or a client that gave up in the queue: neither is a reason to stop accepting.
async fn backoff() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// A proxy that has lost one of its threads is worse than one that starts anew in a moment.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

struct Ended {
    worker: Rc<Worker>,
    _place: Place,
    number: u64,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.number);
        self.worker.ended.notify_one();
    }
}
