//! An address that carries bytes and not HTTP: a connection goes to one instance and stays there until one of both sides ends it,
//! or the drain's deadline is over. Nobody can be told to come again: TCP has no word for that.
//!
//! The claim is held until the end, so that a drain waits for it. Another instance is tried as long as none has taken the
//! connection; from then on bytes are never sent twice.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::classes::{AppCell, Lost};
use crate::connection::Connection;
use crate::endpoint::{Claim, Flag};
use crate::exchange::Exchange;
use crate::forward::{LOOK_BEHIND, MOST_BEHIND};
use crate::leave::{Leave, Word};
use crate::open::What;
use crate::pool;
use crate::routes::{Route, Tried};
use crate::tunnel;

const PIECE_BYTES: usize = 16 * 1024;
/// For the client to take in that its instance has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two tries to reach somebody who is in the table.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Carries one connection to its end.
pub async fn serve(mut client: TcpStream, state: Rc<Connection>) {
    state.counts_as(What::Tcp);
    let started = Instant::now();
    tunnel::keep_alive(&client);
    let Some((claim, mut instance)) = reach(&mut client, &state).await else { return };
    tunnel::keep_alive(&instance);
    let exchange = Exchange::of_bytes(claim, Rc::clone(&state.worker), started);
    let end = carry(&mut client, &mut instance, &exchange, &state).await;
    match end {
        End::Cut | End::Broken => drop(exchange.broken()),
        // The instance may be gone before this thread has heard of the cut.
        End::Instance if exchange.claim().endpoint().was_cut() => drop(exchange.broken()),
        End::Client | End::Instance => exchange.answered(Instant::now()),
        End::ClientGone => exchange.abandoned(),
    }
}

/// An instance that has taken the connection. `None`: there is none, which is counted, or the client did not wait for it.
async fn reach(client: &mut TcpStream, state: &Connection) -> Option<(Claim, TcpStream)> {
    let worker = &state.worker;
    let route = || {
        let snapshot = worker.shared.snapshot.load();
        snapshot.sites.get(&state.door.listen).map(|site| Arc::clone(site.owner()))
    };
    let mut tried = Tried::default();
    let mut unreachable = false;
    let mut held = None;
    let mut behind = 0;
    loop {
        // Before the look, so that no table falls between.
        let changed = worker.changed.notified();
        let Some(now) = route() else {
            worker
                .shared
                .counts
                .app_cell(state.door.app_row, AppCell::Lost(Lost::NoEndpoint))
                .fetch_add(1, Relaxed);
            return None;
        };
        if now.closed.is_some() {
            worker.shared.counts.app_cell(now.app_row, AppCell::Rejected).fetch_add(1, Relaxed);
            return None;
        }
        let count = |cell| worker.shared.counts.app_cell(now.app_row, cell).fetch_add(1, Relaxed);
        let claim = if tried.is_full() { None } else { now.choose(&mut worker.random.borrow_mut(), &tried) };
        let Some(claim) = claim else {
            if worker.finishes() && behind < MOST_BEHIND {
                behind += 1;
                let _ = tokio::time::timeout(LOOK_BEHIND, changed).await;
                tried = Tried::default();
                continue;
            }
            let begins = || {
                count(AppCell::Held);
            };
            if let Some(until) = wait_until(&now, &mut held, begins) {
                let again = if now.has_nobody() { until } else { until.min(Instant::now() + LOOK_AGAIN) };
                tokio::select! {
                    _ = tokio::time::timeout_at(again.into(), changed) => {}
                    () = gone(client) => return None,
                }
                tried = Tried::default();
                continue;
            }
            count(AppCell::Lost(if unreachable { Lost::ConnectFailed } else { Lost::NoEndpoint }));
            return None;
        };
        if tried.len() > 0 {
            count(AppCell::Retried);
        }
        let timeout = Duration::from_millis(now.limits.connect_timeout_ms);
        match pool::reach(claim.endpoint().address, timeout).await {
            // Connecting took time; nothing is sent yet, so that one that is leaving need not get it.
            Ok(stream) if claim.endpoint().flag() == Flag::Routed => return Some((claim, stream)),
            Ok(_) => tried.add(claim.endpoint()),
            Err(_) => {
                unreachable = true;
                tried.add(claim.endpoint());
            }
        }
    }
}

/// Until when may be waited for somebody, if the app holds and there is room.
fn wait_until(
    route: &Route,
    held: &mut Option<(crate::hold::Held, Instant)>,
    begins: impl FnOnce(),
) -> Option<Instant> {
    if route.limits.hold_ms == 0 {
        return None;
    }
    if held.is_none() {
        *held = Some((route.hold.enter(&route.limits)?, route.hold.until(&route.limits)));
        begins();
    }
    held.as_ref().map(|(_, until)| *until).filter(|until| *until > Instant::now())
}

/// The client does not wait any more. What it has sent stays unread.
async fn gone(client: &TcpStream) {
    match client.peek(&mut [0]).await {
        Ok(0) | Err(_) => {}
        // It has spoken first, and so we shall not hear of its end before its bytes were read.
        Ok(_) => std::future::pending().await,
    }
}

/// Why a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client has said all and has all.
    Client,
    /// The client broke off.
    ClientGone,
    Instance,
    /// The instance broke off.
    Broken,
    Cut,
}

async fn carry(
    client: &mut TcpStream,
    instance: &mut TcpStream,
    exchange: &Exchange,
    state: &Connection,
) -> End {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_instance, mut to_instance) = instance.split();
    let mut up = pin!(pass(&mut from_client, &mut to_instance, |bytes| exchange.pass_up(bytes)));
    let mut down = pin!(pass(&mut from_instance, &mut to_client, |bytes| exchange.pass_down(bytes)));
    let mut cut = pin!(async {
        let mut leave = Leave::default();
        while leave.next(exchange.claim().endpoint(), state).await != Word::Cut {}
    });
    let said = tokio::select! {
        () = &mut cut => return End::Cut,
        said = &mut up => said,
        end = &mut down => {
            // The client may be about to say a last word; the instance is not there to hear much of it.
            if !exchange.claim().endpoint().was_cut() {
                tokio::select! {
                    () = &mut cut => {}
                    _ = tokio::time::timeout(LAST_WORDS, up) => {}
                }
            }
            return match end {
                Passed::All => End::Instance,
                Passed::SourceBroke => End::Broken,
                Passed::SinkBroke => End::ClientGone,
            };
        }
    };
    if said == Passed::SourceBroke {
        return End::ClientGone;
    }
    // The client has said all, or the instance takes no more: what the instance has to say still goes down.
    tokio::select! {
        () = &mut cut => End::Cut,
        end = &mut down => match end {
            Passed::All => End::Client,
            Passed::SourceBroke => End::Broken,
            Passed::SinkBroke => End::ClientGone,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// To its end, which was passed on.
    All,
    SourceBroke,
    SinkBroke,
}

async fn pass(source: &mut ReadHalf<'_>, sink: &mut WriteHalf<'_>, note: impl Fn(usize)) -> Passed {
    loop {
        let piece = match read(source).await {
            Ok(piece) if piece.is_empty() => {
                let _ = sink.shutdown().await;
                return Passed::All;
            }
            Ok(piece) => piece,
            Err(_) => return Passed::SourceBroke,
        };
        if sink.write_all(&piece).await.is_err() {
            return Passed::SinkBroke;
        }
        note(piece.len());
    }
}

/// What is there, as soon as something is. There may be thousands that say nothing for hours: while it waits it has no buffer.
async fn read(source: &mut ReadHalf<'_>) -> io::Result<Bytes> {
    loop {
        source.readable().await?;
        let mut space = [0; PIECE_BYTES];
        match source.try_read(&mut space) {
            Ok(read) => return Ok(Bytes::copy_from_slice(&space[..read])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
