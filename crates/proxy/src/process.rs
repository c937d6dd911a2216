//! The proxy process: starts its threads, answers the control socket, and ends in good order.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::Resource;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::ProxyConfig;
use crate::control::{self, LineReader, Reply, Request, SOCKET_NAME};
use crate::counts::Counts;
use crate::director::Director;
use crate::error::ProxyError;
use crate::holding::Sockets;
use crate::routes::Snapshot;
use crate::table::{PROTOCOL, protocol_accepted};
use crate::worker::{self, Shared};
use crate::{listen, lock, tally};

/// What is in flight at the end has this long.
const STOP_BOUND: Duration = Duration::from_secs(30);
/// For the last lines of access logs.
const LOG_BOUND: Duration = Duration::from_secs(2);
/// Between two looks whether a certificate has changed.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// A proxy that was killed just now may need a moment to be gone.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks whether those have come back who were told to.
const SETTLE_EVERY: Duration = Duration::from_millis(20);
const MOST_CONTROL_CONNECTIONS: usize = 64;
/// Replies that a control connection has not read; more than one table can make.
const MOST_UNREAD: usize = 4096;

/// Serves until Stop, SIGTERM or SIGINT.
pub fn run(config: &ProxyConfig) -> Result<(), ProxyError> {
    let state_dir = |source| ProxyError::StateDir { path: config.state_dir.clone(), source };
    let _lock = lock::take(&config.state_dir, crate::PROXY_LOCK, LOCK_PATIENCE)?;
    raise_open_files();
    let (counts, note) = Counts::open(&config.state_dir.join(crate::COUNTS)).map_err(state_dir)?;
    note.iter().for_each(|note| log_line!("trundle proxy: {note}"));
    let shared =
        Arc::new(Shared { snapshot: ArcSwap::from_pointee(Snapshot::default()), counts: Arc::new(counts) });

    let (mut commands, mut threads) = (Vec::new(), Vec::new());
    for number in 0..worker_count(config.workers) {
        let (sender, thread) = worker::start(number, Arc::clone(&shared)).map_err(ProxyError::Runtime)?;
        commands.push(sender);
        threads.push(thread);
    }
    let mut director = Director::new(&config.state_dir, shared, Sockets::from_environment(), commands);
    director.load();

    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(ProxyError::Runtime)?;
    let path = config.state_dir.join(SOCKET_NAME);
    runtime.block_on(async {
        // The lock is ours, so a file that is there belongs to a dead proxy.
        let _ = std::fs::remove_file(&path);
        let listener =
            listen::bind_unix(&path, 0o600).and_then(|socket| UnixListener::from_std(socket.into()));
        let listener = listener.map_err(|source| ProxyError::ControlSocket { path: path.clone(), source })?;
        let served = control_loop(director, listener, threads).await;
        let _ = std::fs::remove_file(&path);
        served.map_err(ProxyError::Runtime)
    })
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

async fn control_loop(
    director: Director,
    listener: UnixListener,
    threads: Vec<thread::JoinHandle<()>>,
) -> io::Result<()> {
    let idle = Arc::clone(&director.idle);
    let stop = Rc::new(Notify::new());
    let director = Rc::new(RefCell::new(director));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let accepting = tokio::task::spawn_local(accept(listener, Rc::clone(&director), Rc::clone(&stop)));
    let mut renewal = tokio::time::interval(RENEW_EVERY);
    let for_good = loop {
        tokio::select! {
            _ = renewal.tick() => director.borrow_mut().renew_certificates(),
            () = idle.notified() => director.borrow_mut().tell_drained(),
            () = settling(&director) => director.borrow_mut().tell_drained(),
            () = stop.notified() => break true,
            _ = terminate.recv() => break false,
            _ = interrupt.recv() => break false,
        }
    };
    director.borrow_mut().stop(STOP_BOUND, for_good);
    // Drains and counts are still told while the last requests end.
    let mut ended =
        tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    loop {
        tokio::select! {
            () = idle.notified() => director.borrow_mut().tell_drained(),
            _ = &mut ended => break,
        }
    }
    accepting.abort();
    director.borrow_mut().finish_logs(LOG_BOUND);
    Ok(())
}

/// Until it is time to look again whether those have come back who were told.
async fn settling(director: &RefCell<Director>) {
    if !director.borrow().is_settling() {
        return std::future::pending().await;
    }
    tokio::time::sleep(SETTLE_EVERY).await;
}

async fn accept(listener: UnixListener, director: Rc<RefCell<Director>>, stop: Rc<Notify>) {
    let places = Arc::new(Semaphore::new(MOST_CONTROL_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (director, stop) = (Rc::clone(&director), Rc::clone(&stop));
        tokio::task::spawn_local(async move {
            let _place = place;
            converse(stream, &director, &stop).await;
        });
    }
}

/// One control connection: a reader of requests, and one writer, so that replies keep their order.
async fn converse(stream: UnixStream, director: &Rc<RefCell<Director>>, stop: &Notify) {
    let (read, mut write) = stream.into_split();
    let (sender, mut replies) = mpsc::channel::<Reply>(MOST_UNREAD);
    let writer = tokio::task::spawn_local(async move {
        while let Some(reply) = replies.recv().await {
            if control::write_line(&mut write, &reply).await.is_err() {
                return;
            }
        }
    });
    let mut lines = LineReader::new(read);
    loop {
        let reply = match lines.next::<Request>().await {
            Ok(Some(request)) => answer(request, director, stop, &sender, &writer.abort_handle()),
            Ok(None) => break,
            Err(error) => {
                let reason = format!("this is not a request: {error}");
                let _ = sender.send(Reply::Refused { reason }).await;
                break;
            }
        };
        for reply in reply {
            if sender.send(reply).await.is_err() {
                break;
            }
        }
        // After the acknowledgement, and in the order of the table.
        director.borrow_mut().tell_drained();
    }
    director.borrow_mut().unsubscribe(&sender);
    drop(sender);
    let _ = writer.await;
}

fn answer(
    request: Request,
    director: &RefCell<Director>,
    stop: &Notify,
    sender: &mpsc::Sender<Reply>,
    writer: &tokio::task::AbortHandle,
) -> Vec<Reply> {
    let mut director = director.borrow_mut();
    match request {
        Request::Hello { protocol } if protocol_accepted(protocol) => {
            vec![Reply::Hello { protocol: PROTOCOL, pid: std::process::id() }]
        }
        Request::Hello { protocol } => {
            let reason = format!(
                "this proxy speaks protocol {PROTOCOL}, not {protocol}; use the same release for both"
            );
            vec![Reply::Refused { reason }]
        }
        Request::SetTable(table) => {
            let (epoch, number) = table.stamp();
            match director.set_table(table) {
                Ok(()) => {
                    director.subscribe(sender, writer.clone());
                    let mut replies = vec![Reply::Acked { epoch, number }];
                    replies.extend(director.waiting());
                    replies
                }
                Err(reason) => vec![Reply::Refused { reason }],
            }
        }
        Request::Stats => {
            vec![Reply::Stats(tally::stats(
                &director.shared.counts,
                &director.table,
                director.endpoints(),
                &director.open,
            ))]
        }
        Request::Stop => {
            stop.notify_one();
            Vec::new()
        }
    }
}
