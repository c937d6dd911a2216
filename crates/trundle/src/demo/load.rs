//! A strict client: every request has an id, is sent once, and is answered exactly once or counted as lost. It never
//! retries, and never closes a connection that works.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::clock;

/// `trundle load ADDRESS CONNECTIONS POST_PERCENT POST_BYTES SLOW_PERCENT SLOW_FROM_MS SLOW_TO_MS PAUSE_MS`: sends until its
/// standard input ends, then prints its tally as JSON. For tests and benches; exit 1 when anything was lost.
pub fn run(args: &[OsString]) -> i32 {
    let number = |n: usize| args.get(n).and_then(|a| a.to_str()).and_then(|a| a.parse::<u64>().ok());
    let address = args.first().and_then(|a| a.to_str()).and_then(|a| a.parse::<SocketAddr>().ok());
    let numbers: Option<Vec<u64>> = (1..=7).map(number).collect();
    let (Some(address), Some([connections, post_percent, post_bytes, slow_percent, from, to, pause])) =
        (address, numbers.as_deref().and_then(|n| <[u64; 7]>::try_from(n).ok()))
    else {
        eprintln!(
            "usage: trundle load ADDRESS CONNECTIONS POST% POST_BYTES SLOW% SLOW_FROM_MS SLOW_TO_MS PAUSE_MS"
        );
        return 2;
    };
    let mix = Mix {
        connections: u32::try_from(connections).unwrap_or(1),
        post_percent,
        post_bytes: usize::try_from(post_bytes).unwrap_or(0),
        slow_percent,
        slow_ms: (from, to),
        pause: Duration::from_millis(pause),
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 1 };
    let tally = runtime.block_on(async {
        let load = Load::start(address, mix);
        let until_told =
            tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        let _ = until_told.await;
        load.finish().await
    });
    println!("{}", serde_json::to_string(&tally).unwrap_or_default());
    i32::from(tally.lost > 0)
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub connections: u32,
    /// Of 100: POST with `post_bytes`.
    pub post_percent: u64,
    pub post_bytes: usize,
    /// Of 100: answered after `slow_ms.0` to `slow_ms.1` milliseconds.
    pub slow_percent: u64,
    pub slow_ms: (u64, u64),
    /// Between an answer and the next request of a connection.
    pub pause: Duration,
}

/// What came of it. `sent` = `answered` + `lost`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub sent: u64,
    pub answered: u64,
    pub lost: u64,
    /// Refused, reset, timed out, or a status of the proxy: the first few, in words.
    pub first_losses: Vec<String>,
    /// All of them with their times, up to [`MOST_LOSSES`] a connection.
    pub losses: Vec<Loss>,
    /// Microseconds, of those that were not slow on purpose.
    pub p50_us: u64,
    pub p99_us: u64,
}

/// One request that was not answered, for whoever knows what was killed when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    pub id: String,
    pub kind: LossKind,
    /// On a connection that had served another request before.
    pub kept: bool,
    /// Milliseconds of the machine's monotonic clock: as it was begun, and as it was given up.
    pub began_ms: u64,
    pub ended_ms: u64,
    pub text: String,
}

/// How the client saw that a request was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// No connection could be opened.
    Refused,
    /// A kept connection turned out to be closed before a byte of the request was written.
    Unsent,
    /// The connection ended before the head of an answer came.
    Broken,
    /// It ended inside the answer.
    Body,
    /// An answer that is none: the proxy's own, or the app's error.
    Status,
    /// The answer of another request.
    Foreign,
    TimedOut,
}

/// A loss in words.
struct Failed(LossKind, String);

/// More than these are only counted.
const MOST_LOSSES: usize = 10_000;
/// No answer within this is a loss.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A run that goes on until it is told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    workers: Vec<tokio::task::JoinHandle<Worker>>,
}

#[derive(Default)]
struct Worker {
    tally: Tally,
    took_us: Vec<u64>,
}

impl Load {
    pub fn start(address: SocketAddr, mix: Mix) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let body = Bytes::from(vec![b'x'; mix.post_bytes]);
        let worker = |n| {
            let shared = (stop.clone(), sent.clone(), body.clone());
            tokio::spawn(async move { Worker::default().run(address, mix, n, shared).await })
        };
        let workers = (0..mix.connections).map(worker).collect();
        Self { stop, sent, workers }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits for what is on its way, and adds up.
    pub async fn finish(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let (mut all, mut took) = (Tally::default(), Vec::new());
        for worker in self.workers {
            // Nobody cancels them. One that panicked takes the tally with it: a count that lacks a client's requests is none.
            let worker = worker.await.unwrap_or_else(|gone| std::panic::resume_unwind(gone.into_panic()));
            all.sent += worker.tally.sent;
            all.answered += worker.tally.answered;
            all.lost += worker.tally.lost;
            all.losses.extend(worker.tally.losses);
            took.extend(worker.took_us);
        }
        all.losses.sort_by_key(|loss| loss.ended_ms);
        all.first_losses =
            all.losses.iter().take(10).map(|loss| format!("{}: {}", loss.id, loss.text)).collect();
        took.sort_unstable();
        let quantile = |of_hundred: usize| took.get(took.len() * of_hundred / 100).copied().unwrap_or(0);
        (all.p50_us, all.p99_us) = (quantile(50), quantile(99));
        all
    }
}

impl Worker {
    async fn run(
        mut self,
        address: SocketAddr,
        mix: Mix,
        n: u32,
        shared: (Arc<AtomicBool>, Arc<AtomicU64>, Bytes),
    ) -> Self {
        let (stop, sent, body) = shared;
        let mut connection = None;
        let mut k: u64 = u64::from(n) * 37;
        while !stop.load(Ordering::Relaxed) {
            k += 1;
            let id = format!("{n}-{k}");
            // A fixed walk through the hundred kinds: the mix is exact, and the same on every run.
            let kind = k * 61 % 100;
            let slow = kind >= 100 - mix.slow_percent;
            let post = kind < mix.post_percent;
            let kept = connection.is_some();
            let (began, began_ms) = (Instant::now(), clock::monotonic_ms());
            sent.fetch_add(1, Ordering::Relaxed);
            self.tally.sent += 1;
            let uri = if slow {
                format!("/?ms={}", mix.slow_ms.0 + k * 7919 % (mix.slow_ms.1 - mix.slow_ms.0).max(1))
            } else {
                "/".to_owned()
            };
            let request = Request::builder()
                .method(if post { Method::POST } else { Method::GET })
                .uri(uri)
                .header("host", "demo")
                .header("x-id", &id)
                .body(Full::new(if post { body.clone() } else { Bytes::new() }));
            let answer = match request {
                Ok(request) => {
                    tokio::time::timeout(TIMEOUT, once(address, &mut connection, request, &id)).await
                }
                Err(error) => Ok(Err(Failed(LossKind::Unsent, error.to_string()))),
            };
            match answer.unwrap_or_else(|_| Err(Failed(LossKind::TimedOut, "timed out".to_owned()))) {
                Ok(()) => {
                    self.tally.answered += 1;
                    if !slow {
                        self.took_us.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
                    }
                }
                Err(Failed(kind, text)) => {
                    self.tally.lost += 1;
                    connection = None;
                    if self.tally.losses.len() < MOST_LOSSES {
                        let ended_ms = clock::monotonic_ms();
                        self.tally.losses.push(Loss { id, kind, kept, began_ms, ended_ms, text });
                    }
                }
            }
            tokio::time::sleep(mix.pause).await;
        }
        self
    }
}

type Sender = SendRequest<Full<Bytes>>;

async fn once(
    address: SocketAddr,
    kept: &mut Option<Sender>,
    request: Request<Full<Bytes>>,
    id: &str,
) -> Result<(), Failed> {
    let mut sender = match kept.take() {
        Some(sender) => sender,
        None => connect(address).await.map_err(|e| Failed(LossKind::Refused, e))?,
    };
    let response = sender.try_send_request(request).await.map_err(|mut e| {
        let kind = if e.take_message().is_some() { LossKind::Unsent } else { LossKind::Broken };
        Failed(kind, format!("{:?}", e.into_error()))
    })?;
    let status = response.status();
    let echoed = response.headers().get("x-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let closes =
        response.headers().get("connection").is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
    let body = response.into_body().collect().await;
    let body = body.map_err(|e| Failed(LossKind::Body, format!("in the body: {e:?}")))?.to_bytes();
    if !status.is_success() {
        let text = format!("{status}: {}", String::from_utf8_lossy(&body).trim());
        return Err(Failed(LossKind::Status, text));
    }
    if echoed.as_deref() != Some(id) {
        return Err(Failed(LossKind::Foreign, format!("the answer of another request: {echoed:?}")));
    }
    // The server may say that it closes; then it is not used again.
    if !closes && sender.ready().await.is_ok() {
        *kept = Some(sender);
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> Result<Sender, String> {
    let stream = TcpStream::connect(address).await.map_err(|e| format!("connect: {e}"))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("{e:?}"))?;
    tokio::spawn(connection);
    Ok(sender)
}
