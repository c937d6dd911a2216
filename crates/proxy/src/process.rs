//! The proxy process: starts its threads, answers the control socket, and ends in good order, or lets another one take over.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::Resource;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::ProxyConfig;
use crate::compared::Kept;
use crate::control::SOCKET_NAME;
use crate::conversations::{self, Wishes};
use crate::counts::Counts;
use crate::director::Director;
use crate::error::ProxyError;
use crate::holding::Sockets;
use crate::lock::Lock;
use crate::routes::Snapshot;
use crate::slots::{self, Slot};
use crate::spans::Spans;
use crate::window::keys::KeyFile;
use crate::worker::{self, Shared};
use crate::{listen, lock, succession};

/// What is in flight at the end has this long.
const STOP_BOUND: Duration = Duration::from_secs(30);
/// What is in flight when another proxy has taken over. Nobody waits for it.
const FINISH_BOUND: Duration = Duration::from_secs(3600);
/// So long after the last look that found a holder or a proxy that serves, everything is down.
const NOBODY_SERVES: Duration = Duration::from_secs(2);
/// For the last lines of access logs.
const LOG_BOUND: Duration = Duration::from_secs(2);
/// Between two looks whether a certificate has changed.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// A proxy that was killed just now may need a moment to be gone.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks at what nobody tells: whether those have come back who were told to, what a proxy before this one has still
/// in flight, whether the next one is ready, which table it has in force.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Serves until Stop, SIGTERM or SIGINT.
pub fn run(config: &ProxyConfig) -> Result<(), ProxyError> {
    let state_dir = |source| ProxyError::StateDir { path: config.state_dir.clone(), source };
    let mut sockets = Sockets::from_environment();
    let serves = if succession::is_asked_for() {
        succession::wait(&config.state_dir, &mut sockets)?
    } else {
        lock::take(&config.state_dir, crate::PROXY_LOCK, LOCK_PATIENCE)?
    };
    raise_open_files();
    let taken = slots::take(&config.state_dir)?;
    // One look for all: who dies after it is found by the next.
    let others: Vec<Slot> =
        Slot::all().filter(|slot| *slot != taken.slot && slot.is_taken(&config.state_dir)).collect();
    let (counts, note) =
        Counts::open(&config.state_dir.join(crate::COUNTS), taken.slot, |slot| others.contains(&slot))
            .map_err(state_dir)?;
    note.iter().for_each(|note| log_line!("trundle proxy: {note}"));
    let mut key_file = KeyFile::new(&config.state_dir);
    let (keys, note) = key_file.open();
    note.iter().for_each(|note| log_line!("trundle proxy: {note}"));
    let shared = Arc::new(Shared {
        keys: ArcSwap::from_pointee(keys),
        pins: OnceLock::new(),
        uses: OnceLock::new(),
        compared: Kept::default(),
        snapshot: ArcSwap::from_pointee(Snapshot::default()),
        counts: Arc::new(counts),
        spans: Spans::from_environment(),
    });

    let (mut commands, mut threads) = (Vec::new(), Vec::new());
    for number in 0..worker_count(config.workers) {
        let (sender, thread) = worker::start(number, Arc::clone(&shared)).map_err(ProxyError::Runtime)?;
        commands.push(sender);
        threads.push(thread);
    }
    let mut director =
        Director::new(&config.state_dir, others, Arc::clone(&shared), key_file, sockets, commands);
    director.load();

    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(ProxyError::Runtime)?;
    let ended = runtime.block_on(serve(&config.state_dir, director, serves, threads));
    drop(runtime);
    // Nobody else has it any more: the threads are gone, and the director.
    if let Some(spans) = Arc::into_inner(shared).and_then(|shared| shared.spans) {
        spans.finish();
    }
    ended
}

fn worker_count(wanted: usize) -> usize {
    match wanted {
        0 => thread::available_parallelism().map_or(1, usize::from).min(4),
        wanted => wanted.min(64),
    }
}

/// Two descriptors for each connection: the soft limit of 1024 is for programs that use `select`.
fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

/// Why a proxy serves no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was told to stop for good.
    ForGood,
    /// By a signal: the holder may start another one.
    Signal,
    /// Another one takes over.
    Yielded,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// `serves`: the lock of the one that serves, let go when another one takes over.
async fn serve(
    state_dir: &Path,
    director: Director,
    serves: Lock,
    threads: Vec<thread::JoinHandle<()>>,
) -> Result<(), ProxyError> {
    let path = state_dir.join(SOCKET_NAME);
    // The lock is ours, so a file that is there belongs to a dead proxy.
    let _ = std::fs::remove_file(&path);
    let listener = listen::bind_unix(&path, 0o600).and_then(|socket| UnixListener::from_std(socket.into()));
    let listener = listener.map_err(|source| ProxyError::ControlSocket { path: path.clone(), source })?;
    let signals = || -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    };
    let mut signals = signals().map_err(ProxyError::Runtime)?;
    let director = Rc::new(RefCell::new(director));
    let wishes = Wishes::default();
    let accepting =
        tokio::task::spawn_local(conversations::accept(listener, Rc::clone(&director), wishes.clone()));
    let end = until_the_end(&director, &wishes, &mut signals).await;
    if end == End::Yielded {
        // Whoever asked connects again, and finds the next one.
        accepting.abort();
        let _ = accepting.await;
        let _ = std::fs::remove_file(&path);
        director.borrow_mut().yield_to_successor(FINISH_BOUND);
        drop(serves);
        finish(state_dir, &director, &mut signals, threads).await;
    } else {
        director.borrow_mut().stop(STOP_BOUND, end == End::ForGood);
        // Drains and counts are still told while the last requests end.
        let idle = Arc::clone(&director.borrow().idle);
        let mut ended = joined(threads);
        loop {
            tokio::select! {
                () = idle.notified() => director.borrow_mut().tell_drained(),
                () = looking(&director) => director.borrow_mut().look_again(),
                _ = &mut ended => break,
            }
        }
        accepting.abort();
        let _ = std::fs::remove_file(&path);
    }
    director.borrow_mut().finish_logs(LOG_BOUND);
    Ok(())
}

async fn until_the_end(director: &RefCell<Director>, wishes: &Wishes, signals: &mut Signals) -> End {
    let idle = Arc::clone(&director.borrow().idle);
    let mut renewal = tokio::time::interval(RENEW_EVERY);
    loop {
        tokio::select! {
            _ = renewal.tick() => {
                let mut director = director.borrow_mut();
                director.renew_certificates();
                director.renew_keys();
                director.release_kept();
            }
            () = idle.notified() => director.borrow_mut().tell_drained(),
            () = looking(director) => director.borrow_mut().look_again(),
            // To look again from now on.
            () = wishes.upgrade.notified() => {}
            () = wishes.stop.notified() => return End::ForGood,
            () = signals.next() => return End::Signal,
        }
        if director.borrow_mut().is_successor_ready() {
            return End::Yielded;
        }
    }
}

/// After another one has taken over: what it does is done here too, until the last request has ended.
async fn finish(
    state_dir: &Path,
    director: &RefCell<Director>,
    signals: &mut Signals,
    threads: Vec<thread::JoinHandle<()>>,
) {
    let mut ended = joined(threads);
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut last_served = tokio::time::Instant::now();
    let mut is_told = false;
    loop {
        tokio::select! {
            now = look.tick() => {
                director.borrow_mut().follow();
                // When all is down nobody may be left who would tell it.
                if crate::serves(state_dir) {
                    last_served = now;
                } else if !is_told && now - last_served > NOBODY_SERVES {
                    is_told = true;
                    director.borrow_mut().stop(STOP_BOUND, false);
                }
            }
            () = signals.next() => director.borrow_mut().stop(STOP_BOUND, false),
            _ = &mut ended => return,
        }
    }
}

fn joined(threads: Vec<thread::JoinHandle<()>>) -> JoinHandle<()> {
    tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())))
}

/// Until it is time to look again at what nobody tells; for ever, if there is nothing.
async fn looking(director: &RefCell<Director>) {
    if !director.borrow().has_to_look() {
        return std::future::pending().await;
    }
    tokio::time::sleep(LOOK_EVERY).await;
}
