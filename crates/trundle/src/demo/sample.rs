//! The sample app: a small HTTP server that starts, fails and stops as its environment says. The demo, the tests and the
//! benches run it under shims like any other app.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `HOST` | the address it listens on, 127.0.0.1 unless it is told: other engines reach it from outside of its container |
//! | `START_MS` | milliseconds until it listens |
//! | `STOP_MS` | milliseconds from SIGTERM to its end |
//! | `DB_POOL`, `DB_DIR`, `DB_LIMIT` | connections it takes from a pretended database that allows each revision `DB_LIMIT` of them |
//! | `ID_LOG` | a folder: every `X-Id` that it answers is appended to a file there |
//! | `TIMES` | a folder: a file there gets the moment it could answer and the moment of its first request, in microseconds of the monotonic clock |
//! | `FAIL` | `exit:CODE`, `exit_after:MS:CODE`, `traceback:CODE`, `segv`, `hang`, `not_found`, `needs:KEY`, `dependency:ADDRESS`, `unready_after:MS`, `flap:MS:INSTANCE` (that one is unready every other MS), `eat` (memory, until the kernel kills it) |
//! | `FAIL_MS` | milliseconds until it tries its dependency |

use std::convert::Infallible;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Runs until SIGTERM; answers with the exit code.
pub fn run() -> i32 {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(serve()),
        Err(error) => {
            eprintln!("FATAL: {error}");
            1
        }
    }
}

fn env(key: &str) -> Option<String> {
    std::env::var(key).ok().filter(|v| !v.is_empty())
}

fn env_ms(key: &str) -> Duration {
    Duration::from_millis(env(key).and_then(|v| v.parse().ok()).unwrap_or(0))
}

struct Sample {
    version: String,
    instance: String,
    began: Instant,
    database: Option<Database>,
    id_log: Option<std::fs::File>,
    fail: Option<String>,
    /// When it could answer; taken with the first request.
    listening_us: AtomicU64,
    /// The second in which it last wrote about its database.
    told_at: AtomicU64,
}

async fn serve() -> i32 {
    let fail = env("FAIL");
    if let Some(code) = fail_at_once(fail.as_deref()).await {
        return code;
    }
    tokio::time::sleep(env_ms("START_MS")).await;
    let Some(port) = env("PORT").and_then(|p| p.parse::<u16>().ok()) else {
        eprintln!("FATAL: PORT is not set");
        return 2;
    };
    let host = env("HOST").and_then(|host| host.parse().ok()).unwrap_or(Ipv4Addr::LOCALHOST);
    let instance = env("TRUNDLE_INSTANCE").unwrap_or_else(|| "sample".to_owned());
    let id_log = env("ID_LOG").and_then(|dir| {
        let path = PathBuf::from(dir).join(&instance);
        std::fs::OpenOptions::new().create(true).append(true).open(path).ok()
    });
    let version = env("TRUNDLE_VERSION").unwrap_or_else(|| "0".to_owned());
    let database = Database::of_environment(&instance);
    let sample = Arc::new(Sample {
        version,
        instance,
        began: Instant::now(),
        database,
        id_log,
        fail,
        listening_us: AtomicU64::new(0),
        told_at: AtomicU64::new(0),
    });
    let listener = match TcpListener::bind((host, port)).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("FATAL: cannot listen on {host}:{port}: {error}");
            return 98;
        }
    };
    sample.listening_us.store(monotonic_us(), Ordering::Relaxed);
    println!("listening on {host}:{port}");
    let Ok(mut term) = signal(SignalKind::terminate()) else { return 1 };
    let mut exit_after = std::pin::pin!(exit_after(sample.fail.clone()));
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(connection(sample.clone(), stream));
                }
            }
            _ = term.recv() => break,
            code = &mut exit_after => return code,
        }
    }
    tokio::time::sleep(env_ms("STOP_MS")).await;
    println!("stopped");
    0
}

/// Faults before it listens.
async fn fail_at_once(fail: Option<&str>) -> Option<i32> {
    let fail = fail?;
    let (what, argument) = fail.split_once(':').unwrap_or((fail, ""));
    match what {
        "exit" => argument.parse().ok(),
        "traceback" => {
            eprintln!(
                "Traceback (most recent call last):\n  File \"app.py\", line 3, in <module>\nKeyError: 'CURRENCY'"
            );
            argument.parse().ok()
        }
        "needs" if env(argument).is_none() => {
            eprintln!("FATAL: the environment variable {argument} is not set");
            Some(1)
        }
        "segv" => {
            println!("about to read a page that is not there");
            // The signal that a wild pointer would bring, without one. The first only takes away the handler that Rust
            // has for a stack that overflows.
            for _ in 0..2 {
                let _ =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::SEGV);
            }
            None
        }
        "eat" => {
            println!("about to eat");
            // As much as no test has: where nobody kills it, it ends by itself.
            let eaten: Vec<Vec<u8>> =
                (0..4096).map(|n: usize| vec![n.to_le_bytes()[0] | 1; 1 << 20]).collect();
            eprintln!("FATAL: nobody minded {} MiB", eaten.len());
            Some(1)
        }
        "dependency" => {
            tokio::time::sleep(env_ms("FAIL_MS")).await;
            match tokio::net::TcpStream::connect(argument).await {
                Ok(_) => None,
                Err(error) => {
                    eprintln!("FATAL: cannot reach the cache at {argument}: {error}");
                    Some(1)
                }
            }
        }
        _ => None,
    }
}

/// `exit_after:MS:CODE`, else never.
async fn exit_after(fail: Option<String>) -> i32 {
    let parts: Vec<_> = fail.as_deref().unwrap_or_default().split(':').collect();
    if let ["exit_after", ms, code] = parts.as_slice()
        && let (Ok(ms), Ok(code)) = (ms.parse(), code.parse())
    {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        eprintln!("FATAL: lost my mind after {ms} ms");
        return code;
    }
    std::future::pending().await
}

async fn connection(sample: Arc<Sample>, stream: tokio::net::TcpStream) {
    let service = service_fn(move |request| answer(sample.clone(), request));
    // A connection that breaks is the client's affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Answer = Result<Response<Full<Bytes>>, Infallible>;

async fn answer(sample: Arc<Sample>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let slow: Option<u64> =
        request.uri().query().and_then(|q| q.strip_prefix("ms=")).and_then(|ms| ms.parse().ok());
    let id = request.headers().get("x-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    if sample.fail.as_deref() == Some("hang") {
        std::future::pending::<()>().await;
    }
    if path == "/ready" {
        return sample.ready();
    }
    sample.first_request();
    let bytes = match request.into_body().collect().await {
        Ok(body) => body.to_bytes().len(),
        Err(_) => return text(400, "the body broke off".to_owned()),
    };
    if let Some(ms) = slow {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    if let (Some(id), Some(mut log)) = (&id, sample.id_log.as_ref()) {
        // The test reads it; without it the test fails, which is what should happen.
        let _ = writeln!(log, "{id}");
    }
    let mut response = Response::new(Full::new(Bytes::from(format!("{} {bytes}\n", sample.version))));
    for (name, value) in [("x-id", id.unwrap_or_default()), ("x-instance", sample.instance.clone())] {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

fn text(status: u16, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    Ok(response)
}

fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

impl Sample {
    fn first_request(&self) {
        let listening = self.listening_us.swap(0, Ordering::Relaxed);
        if let Some(dir) = env("TIMES").filter(|_| listening > 0) {
            // The bench counts the files: one that is missing is seen there.
            let _ = std::fs::write(
                PathBuf::from(dir).join(&self.instance),
                format!("{listening} {}", monotonic_us()),
            );
        }
    }

    /// `flap:MS:INSTANCE`
    fn is_down_by_turns(&self) -> bool {
        let parts: Vec<_> = self.fail.as_deref().unwrap_or_default().split(':').collect();
        let ["flap", ms, instance] = parts.as_slice() else { return false };
        let turn = ms.parse().ok().and_then(|ms| self.began.elapsed().as_millis().checked_div(ms));
        *instance == self.instance && turn.is_some_and(|turn| turn % 2 == 1)
    }

    fn ready(&self) -> Answer {
        if self.fail.as_deref() == Some("not_found") {
            return text(404, "no such page".to_owned());
        }
        let unready_after = self.fail.as_deref().and_then(|f| f.strip_prefix("unready_after:"));
        if unready_after
            .and_then(|ms| ms.parse().ok())
            .is_some_and(|ms| self.began.elapsed() > Duration::from_millis(ms))
        {
            return text(503, "the cache is cold".to_owned());
        }
        if self.is_down_by_turns() {
            return text(503, "up and down".to_owned());
        }
        if let Some(Err(why)) = self.database.as_ref().map(Database::connect) {
            // Once a second is enough for a log.
            let second = self.began.elapsed().as_secs() + 1;
            if self.told_at.swap(second, Ordering::Relaxed) != second {
                eprintln!("FATAL: {why}");
            }
            return text(503, why);
        }
        text(200, "ready".to_owned())
    }
}

/// A database that allows each revision a number of connections, as a role with a connection limit does. An instance takes
/// its whole pool or nothing, and keeps it until it ends.
struct Database {
    dir: PathBuf,
    instance: String,
    revision: String,
    pool: u64,
    limit: u64,
    connected: AtomicBool,
}

impl Database {
    fn of_environment(instance: &str) -> Option<Self> {
        Some(Self {
            dir: PathBuf::from(env("DB_DIR")?),
            instance: instance.to_owned(),
            revision: env("TRUNDLE_REVISION").unwrap_or_default(),
            pool: env("DB_POOL")?.parse().ok()?,
            limit: env("DB_LIMIT").and_then(|l| l.parse().ok()).unwrap_or(100),
            connected: AtomicBool::new(false),
        })
    }

    /// Takes its pool if there is room; else says why not.
    fn connect(&self) -> Result<(), String> {
        if self.connected.load(Ordering::Relaxed) {
            return Ok(());
        }
        let lock = std::fs::File::create(self.dir.join(".lock"))
            .map_err(|e| format!("the database is away: {e}"))?;
        lock.lock().map_err(|e| format!("the database is away: {e}"))?;
        // An administrator may raise the limit from outside.
        let raised =
            std::fs::read_to_string(self.dir.join(".limit")).ok().and_then(|l| l.trim().parse().ok());
        let (taken, limit) = (self.taken(), raised.unwrap_or(self.limit));
        if taken + self.pool > limit {
            let (pool, wanted) = (self.pool, taken + self.pool);
            return Err(format!(
                "too many connections: DB_POOL={pool} makes {wanted}, the database allows {limit}"
            ));
        }
        let line = format!("{} {} {}", std::process::id(), self.pool, self.revision);
        std::fs::write(self.dir.join(&self.instance), line)
            .map_err(|e| format!("the database is away: {e}"))?;
        self.connected.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// By living instances of the same revision.
    fn taken(&self) -> u64 {
        let of_entry = |entry: std::fs::DirEntry| {
            let text = std::fs::read_to_string(entry.path()).ok()?;
            let [pid, pool, revision] = text.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let counts = revision == self.revision && PathBuf::from("/proc").join(pid).exists();
            counts.then(|| pool.parse::<u64>().ok()).flatten()
        };
        std::fs::read_dir(&self.dir).into_iter().flatten().flatten().filter_map(of_entry).sum()
    }
}
