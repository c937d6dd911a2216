//! A proxy in this process, tiny real apps, and a client that never retries. Nothing here sleeps and hopes: waits have
//! a condition and a deadline.
#![allow(dead_code, clippy::unwrap_used)]

pub mod two;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use trundle_proxy::{
    App, AppStats, Client, Endpoint, EndpointState, Listen, PROTOCOL, Protocol, ProxyConfig, Reply, Request,
    SOCKET_NAME, Stats, Table,
};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until the condition gives something.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Below the ports that the kernel gives to clients: one of those could be taken again before the proxy listens on it.
pub fn free_address() -> SocketAddr {
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    loop {
        let at = std::process::id() as usize * 131 + TRIES.fetch_add(1, SeqCst) * 7_919;
        let address = SocketAddr::from(([127, 0, 0, 1], 10_000 + (at % 10_000) as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// An address that refuses connections as long as the socket lives: bound, and not listening.
pub fn refusing() -> (std::os::fd::OwnedFd, SocketAddr) {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    let address = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

// --- control -----------------------------------------------------------------------------------------------------------

/// A control connection that blocks.
pub struct Control {
    runtime: tokio::runtime::Runtime,
    client: Client,
    /// Replies that were passed over.
    pub drained: Vec<Reply>,
}

impl Control {
    pub fn connect(state_dir: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let path = state_dir.join(SOCKET_NAME);
        let client = until("the control socket", || runtime.block_on(Client::connect(&path)).ok());
        Self { runtime, client, drained: Vec::new() }
    }

    pub fn pid(&self) -> u32 {
        self.client.pid()
    }

    pub fn send(&mut self, request: &Request) {
        self.runtime.block_on(self.client.send(request)).unwrap();
    }

    /// It may have ended already.
    pub fn stop(&mut self) {
        let _ = self.runtime.block_on(self.client.send(&Request::Stop));
    }

    pub fn recv(&mut self) -> Reply {
        let next = async { tokio::time::timeout(PATIENCE, self.client.recv()).await };
        self.runtime.block_on(next).expect("a reply in time").unwrap().expect("an open connection")
    }

    pub fn try_recv(&mut self, wait: Duration) -> Option<Reply> {
        let next = async { tokio::time::timeout(wait, self.client.recv()).await };
        self.runtime.block_on(next).ok().map(|reply| reply.unwrap().expect("an open connection"))
    }

    /// None: the proxy is gone.
    pub fn try_ask(&mut self, request: &Request) -> Option<Reply> {
        self.runtime.block_on(async {
            self.client.send(request).await.ok()?;
            tokio::time::timeout(PATIENCE, self.client.recv()).await.ok()?.ok()?
        })
    }

    /// The reply to a request; drains in between are kept.
    pub fn ask(&mut self, request: &Request) -> Reply {
        self.send(request);
        loop {
            match self.recv() {
                reply @ (Reply::Drained { .. } | Reply::Waiting { .. } | Reply::Released { .. }) => {
                    self.drained.push(reply)
                }
                reply => return reply,
            }
        }
    }

    pub fn set(&mut self, table: &Table) {
        let reply = self.ask(&Request::SetTable(table.clone()));
        assert_eq!(reply, Reply::Acked { epoch: table.epoch, number: table.number });
    }

    pub fn stats(&mut self) -> Stats {
        match self.ask(&Request::Stats) {
            Reply::Stats(stats) => stats,
            other => panic!("{other:?}"),
        }
    }

    pub fn app(&mut self) -> AppStats {
        self.stats().apps.remove("web").unwrap_or_default()
    }

    /// The counts once this many requests have a class: an answer counts a moment after the client has it.
    pub fn app_with(&mut self, total: u64) -> AppStats {
        until("the counts", || Some(self.app()).filter(|stats| stats.total == total))
    }

    /// Waits for the drain of an endpoint, and says how many of its requests were cut.
    pub fn await_drained(&mut self, endpoint: &str) -> u64 {
        loop {
            let kept = self
                .drained
                .iter()
                .position(|reply| matches!(reply, Reply::Drained { id, .. } if id == endpoint));
            if let Some(at) = kept {
                let Reply::Drained { cut, .. } = self.drained.remove(at) else { unreachable!() };
                return cut;
            }
            let reply = self.recv();
            self.drained.push(reply);
        }
    }
}

// --- proxy -------------------------------------------------------------------------------------------------------------

/// A proxy in a thread of this process, with one app `web`.
pub struct Proxy {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    pub control: Control,
    pub table: Table,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut App)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = free_address();
        let thread = Some(run(dir.path().to_owned()));
        let mut control = Control::connect(dir.path());
        let mut table = Table { protocol: PROTOCOL, epoch: 1, number: 1, apps: vec![app(address)] };
        change(&mut table.apps[0]);
        control.set(&table);
        Self { dir, address, control, table, thread }
    }

    /// The next table, with these endpoints.
    pub fn route(&mut self, endpoints: Vec<Endpoint>) {
        self.table.number += 1;
        self.table.apps[0].endpoints = endpoints;
        self.control.set(&self.table);
    }

    pub fn restart(&mut self) {
        self.stop();
        self.thread = Some(run(self.dir.path().to_owned()));
        self.control = Control::connect(self.dir.path());
    }

    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.control.stop();
            thread.join().unwrap();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stop();
        }
    }
}

fn run(state_dir: PathBuf) -> JoinHandle<()> {
    thread::spawn(move || trundle_proxy::run_proxy(ProxyConfig { state_dir, workers: 2 }).unwrap())
}

pub fn app(address: SocketAddr) -> App {
    App { listen: vec![Listen::Http(address)], ..App::named("web") }
}

pub fn endpoint(id: &str, address: SocketAddr, state: EndpointState) -> Endpoint {
    Endpoint {
        id: id.into(),
        incarnation: format!("token-of-{id}"),
        version: "1".into(),
        revision: 1,
        address,
        protocol: Protocol::Http1,
        weight: 1,
        state,
    }
}

pub fn routed(id: &str, address: SocketAddr) -> Endpoint {
    endpoint(id, address, EndpointState::Routed)
}

// --- apps --------------------------------------------------------------------------------------------------------------

/// A request as an app saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// A server on loopback; its handler writes the answer and says whether the connection goes on.
pub struct Upstream {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    pub fn start(handler: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), handler)
    }

    pub fn on(
        listener: TcpListener,
        handler: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let upstream =
            Self { address: listener.local_addr().unwrap(), requests: Arc::default(), seen: Arc::default() };
        let (requests, seen) = (Arc::clone(&upstream.requests), Arc::clone(&upstream.seen));
        let handler = Arc::new(handler);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                stream.set_nodelay(true).unwrap();
                let (requests, seen, handler) =
                    (Arc::clone(&requests), Arc::clone(&seen), Arc::clone(&handler));
                thread::spawn(move || {
                    let mut reader = Reader::default();
                    while let Some((head, body)) = reader.message(&mut stream, true) {
                        requests.fetch_add(1, SeqCst);
                        let request = Seen { head, body };
                        let go_on = handler(&request, &mut stream);
                        let mut seen = seen.lock().unwrap();
                        if seen.len() < 1000 {
                            seen.push(request);
                        }
                        if !go_on {
                            return;
                        }
                    }
                });
            }
        });
        upstream
    }

    /// Answers everything with 200 and a fixed text.
    pub fn says(text: &'static str) -> Self {
        Self::start(move |_, stream| respond(stream, 200, text))
    }

    pub fn count(&self) -> usize {
        self.requests.load(SeqCst)
    }

    pub fn last(&self) -> Seen {
        until("a request at the app", || self.seen.lock().unwrap().last().cloned())
    }
}

pub fn respond(stream: &mut TcpStream, status: u16, text: &str) -> bool {
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    stream.write_all(answer.as_bytes()).is_ok()
}

// --- HTTP, by hand -----------------------------------------------------------------------------------------------------

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Reads messages off a stream.
#[derive(Default)]
pub struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    fn fill(&mut self, stream: &mut TcpStream) -> bool {
        let mut bytes = [0; 16 * 1024];
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                true
            }
        }
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        self.buffer.drain(..n).collect()
    }

    fn line(&mut self, stream: &mut TcpStream) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(at + 2);
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.fill(stream) {
                return None;
            }
        }
    }

    fn exactly(&mut self, stream: &mut TcpStream, n: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < n {
            if !self.fill(stream) {
                return None;
            }
        }
        Some(self.take(n))
    }

    pub fn head(&mut self, stream: &mut TcpStream) -> Option<String> {
        let mut head = String::new();
        loop {
            let line = self.line(stream)?;
            if line.is_empty() {
                return Some(head);
            }
            head.push_str(&line);
            head.push('\n');
        }
    }

    /// Head and body; `None` when the stream ends before the end of the message.
    pub fn message(&mut self, stream: &mut TcpStream, request: bool) -> Option<(String, Vec<u8>)> {
        let head = self.head(stream)?;
        if header(&head, "transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            let mut body = Vec::new();
            loop {
                let size = usize::from_str_radix(self.line(stream)?.trim(), 16).ok()?;
                body.extend(self.exactly(stream, size)?);
                self.line(stream)?;
                if size == 0 {
                    return Some((head, body));
                }
            }
        }
        if let Some(length) = header(&head, "content-length") {
            let body = self.exactly(stream, length.parse().unwrap())?;
            return Some((head, body));
        }
        if !request && !head.starts_with("HTTP/1.1 204") {
            while self.fill(stream) {}
            let rest = self.buffer.len();
            return Some((head, self.take(rest)));
        }
        Some((head, Vec::new()))
    }
}

/// A client with one keep-alive connection. An answer that does not come whole is an error.
pub struct Http {
    pub stream: TcpStream,
    reader: Reader,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Http {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, reader: Reader::default() }
    }

    /// An answer, if there is anybody.
    pub fn try_get(address: SocketAddr) -> Option<Answer> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, reader: Reader::default() }.get("/")
    }

    pub fn send(&mut self, raw: &str) {
        self.stream.write_all(raw.as_bytes()).unwrap();
    }

    pub fn answer(&mut self) -> Option<Answer> {
        let (head, body) = self.reader.message(&mut self.stream, false)?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head, body })
    }

    pub fn head(&mut self) -> Option<String> {
        self.reader.head(&mut self.stream)
    }

    pub fn get(&mut self, path: &str) -> Option<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n");
        self.stream.write_all(request.as_bytes()).ok()?;
        self.answer()
    }

    pub fn post(&mut self, path: &str, body: &[u8]) -> Option<Answer> {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: web.test\r\nContent-Length: {}\r\n\r\n", body.len());
        self.stream.write_all(head.as_bytes()).ok()?;
        self.stream.write_all(body).ok()?;
        self.answer()
    }

    /// The other side has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}

/// One request on its own connection.
pub fn raw(address: SocketAddr, request: &str) -> Answer {
    let mut http = Http::connect(address);
    http.send(request);
    http.answer().unwrap_or_else(|| panic!("no answer to {request:?}"))
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    Http::connect(address).get(path).unwrap()
}
