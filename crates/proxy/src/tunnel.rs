//! A WebSocket after its handshake: bytes in both directions until one side ends, and a word to the client when its
//! instance has to leave.
//!
//! The word is a Close frame between two frames of the instance. The client's Close in answer goes to the instance, which so
//! learns of the end too. The claim is held until the end, so that a drain waits for it.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::Notify;

use crate::access::Entry;
use crate::classes::AppCell;
use crate::connection::Connection;
use crate::exchange::Exchange;
use crate::leave::{Leave, Word};
use crate::open::What;
use crate::stream::EndpointStream;
use crate::websocket::{self, Frames};

const PIECE_BYTES: usize = 16 * 1024;
/// A connection that says nothing is asked for a sign of life after this.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// For the other side to end once one has.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The endpoint's side, when it has agreed.
pub struct Tunnel {
    pub exchange: Exchange,
    pub endpoint: EndpointStream,
    /// What came after its head.
    pub early: Bytes,
    /// Its line in the access log, which is written at the end.
    pub entry: Option<Box<Entry>>,
}

/// What the two directions and the drain tell each other.
struct Talk<'a> {
    exchange: &'a Exchange,
    bytes_up: Cell<u64>,
    bytes_down: Cell<u64>,
    /// The client is to be told.
    tell: Cell<bool>,
    told: Cell<bool>,
    /// A Close frame went up, or down from the endpoint itself.
    client_closed: Cell<bool>,
    endpoint_closed: Cell<bool>,
    changed: Notify,
}

impl<'a> Talk<'a> {
    fn about(exchange: &'a Exchange) -> Self {
        Self {
            exchange,
            bytes_up: Cell::default(),
            bytes_down: Cell::default(),
            tell: Cell::default(),
            told: Cell::default(),
            client_closed: Cell::default(),
            endpoint_closed: Cell::default(),
            changed: Notify::new(),
        }
    }

    fn went_up(&self, bytes: usize) {
        self.exchange.pass_up(bytes);
        self.bytes_up.set(self.bytes_up.get() + bytes as u64);
    }

    fn went_down(&self, bytes: usize) {
        self.exchange.pass_down(bytes);
        self.bytes_down.set(self.bytes_down.get() + bytes as u64);
    }
}

/// Why a direction has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client has ended its stream, or is gone.
    Client,
    /// The client has answered the word that it was told.
    Answered,
    Endpoint,
    Cut,
}

/// Carries it to its end. `early` came from the client after its head.
pub async fn run<S>(stream: S, early: Bytes, tunnel: Tunnel, client: Rc<Connection>)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    keep_alive(&stream);
    client.counts_as(What::WebSocket);
    let Tunnel { exchange, endpoint, early: from_endpoint, mut entry } = tunnel;
    let talk = Talk::about(&exchange);
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let (mut out_of_endpoint, mut into_endpoint) = tokio::io::split(endpoint);
    let end = {
        let mut up = std::pin::pin!(up(&mut from_client, &mut into_endpoint, early, &talk));
        let mut down = std::pin::pin!(down(&mut out_of_endpoint, &mut to_client, from_endpoint, &talk));
        let end = tokio::select! {
            end = leave(&exchange, &client, &talk) => end,
            end = &mut up => end,
            end = &mut down => end,
        };
        // The other side may have a last word, such as its Close in answer.
        match end {
            End::Client | End::Answered => {
                let _ = tokio::time::timeout(LAST_WORDS, down).await;
            }
            End::Endpoint => {
                let _ = tokio::time::timeout(LAST_WORDS, up).await;
            }
            End::Cut => {}
        }
        end
    };
    let broke = end == End::Endpoint && !talk.endpoint_closed.get() && !talk.client_closed.get();
    let (was_told, client_closed) = (talk.told.get(), talk.client_closed.get());
    if let Some(entry) = &mut entry {
        (entry.bytes_up, entry.bytes_down) = (talk.bytes_up.get(), talk.bytes_down.get());
    }
    let class = match end {
        End::Cut => Some(exchange.broken()),
        _ if was_told => {
            exchange.told();
            Some(AppCell::Told)
        }
        _ if broke => Some(exchange.broken()),
        End::Client if !client_closed => return exchange.abandoned(),
        End::Client | End::Answered | End::Endpoint => {
            exchange.answered(Instant::now());
            None
        }
    };
    if let Some(entry) = &mut entry {
        entry.outcome = Some(class.map_or("answered", AppCell::name));
    }
}

/// A client that vanished without a word is noticed, so that no drain waits for it.
pub fn keep_alive(stream: &impl AsFd) {
    // A Unix socket knows no such thing, and needs none.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEP_ALIVE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE / 4);
    let _ = sockopt::set_tcp_keepcnt(stream, 4);
}

/// Until it has to end at once. Sees to it that the client is told before.
async fn leave(exchange: &Exchange, client: &Connection, talk: &Talk<'_>) -> End {
    let mut leave = Leave::default();
    while leave.next(exchange.claim().endpoint(), client).await == Word::Tell {
        talk.tell.set(true);
        talk.changed.notify_one();
    }
    End::Cut
}

async fn up<C>(
    client: &mut ReadHalf<C>,
    endpoint: &mut WriteHalf<EndpointStream>,
    early: Bytes,
    talk: &Talk<'_>,
) -> End
where
    C: AsyncRead + AsyncWrite,
{
    let mut frames = Frames::default();
    let mut next = early;
    loop {
        if !next.is_empty() {
            frames.pass(&next);
            if endpoint.write_all(&next).await.is_err() {
                // The other direction tells what became of it.
                return std::future::pending().await;
            }
            talk.went_up(next.len());
            if frames.has_closed() {
                talk.client_closed.set(true);
                if talk.told.get() {
                    return End::Answered;
                }
            }
        }
        next = read(client).await;
        if next.is_empty() {
            let _ = endpoint.shutdown().await;
            return End::Client;
        }
    }
}

async fn down<C>(
    endpoint: &mut ReadHalf<EndpointStream>,
    client: &mut WriteHalf<C>,
    early: Bytes,
    talk: &Talk<'_>,
) -> End
where
    C: AsyncRead + AsyncWrite,
{
    let mut frames = Frames::default();
    let mut next = early;
    loop {
        if hand_on(&next, client, &mut frames, talk).await.is_err() {
            return End::Client;
        }
        talk.went_down(next.len());
        next = tokio::select! {
            bytes = read(endpoint) => bytes,
            () = talk.changed.notified() => {
                next = Bytes::new();
                continue;
            }
        };
        if next.is_empty() {
            if frames.is_between() && !frames.has_closed() && !talk.told.get() && !talk.client_closed.get() {
                let _ = client.write_all(&websocket::BROKEN).await;
            }
            let _ = client.shutdown().await;
            return End::Endpoint;
        }
    }
}

/// What is there, as soon as something is; nothing at the end, be it orderly or not. There may be thousands that say
/// nothing for hours: while it waits it has no buffer.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> Bytes {
    std::future::poll_fn(|cx| {
        let mut space = [0; PIECE_BYTES];
        let mut piece = ReadBuf::new(&mut space);
        let read = ready!(Pin::new(&mut *from).poll_read(cx, &mut piece));
        Poll::Ready(read.map(|()| Bytes::copy_from_slice(piece.filled())).unwrap_or_default())
    })
    .await
}

/// Writes what came from the endpoint, and the word between two frames once it is to be said. After it nothing follows.
async fn hand_on<C>(
    mut bytes: &[u8],
    client: &mut WriteHalf<C>,
    frames: &mut Frames,
    talk: &Talk<'_>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
{
    loop {
        if talk.told.get() {
            return Ok(());
        }
        if talk.tell.get() && frames.is_between() && !frames.has_closed() {
            client.write_all(&websocket::RESTART).await?;
            talk.told.set(true);
            return Ok(());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        // Frame by frame only when there is something to be said between them.
        let passed = if talk.tell.get() { frames.pass_frame(bytes) } else { pass(frames, bytes) };
        client.write_all(&bytes[..passed]).await?;
        bytes = &bytes[passed..];
        talk.endpoint_closed.set(frames.has_closed());
    }
}

fn pass(frames: &mut Frames, bytes: &[u8]) -> usize {
    frames.pass(bytes);
    bytes.len()
}
