//! Plays a case: a client that sends raw bytes, whole or in pieces, and an app that keeps the bytes that reach it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::case::{Case, Step};
use crate::common::{Proxy, routed};
use crate::frames::Fates;

/// Asked for after a case whose connection stays open: what came before has left nothing behind.
const AFTER: &str = "GET /after HTTP/1.1\r\nHost: after.test\r\n\r\n";
/// Only what goes wrong waits so long.
const PATIENCE: Duration = Duration::from_secs(10);
const SHORT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[derive(Debug, Clone, Copy)]
pub enum Pace {
    Whole,
    /// Byte by byte, or of what is long so many pieces.
    Pieces(usize),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub answers: Vec<String>,
    pub closed: bool,
    pub app_saw: Vec<Vec<u8>>,
    pub client_saw: Vec<u8>,
}

// --- the app -----------------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Script {
    saw: Vec<Vec<u8>>,
    answer: Option<(Vec<u8>, bool)>,
}

/// An app that believes nothing: a request that is not framed plainly is none.
pub struct App {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl App {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script: Arc<Mutex<Script>> = Arc::default();
        let shared = Arc::clone(&script);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, script) = (stream.unwrap(), Arc::clone(&shared));
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || serve(stream, &script));
            }
        });
        Self { address, script }
    }

    /// What came since the last time.
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.script.lock().unwrap().saw)
    }
}

fn serve(mut stream: TcpStream, script: &Mutex<Script>) {
    let mut buffer = Vec::new();
    while let Some(request) = message(&mut stream, &mut buffer, true) {
        let answer = {
            let mut script = script.lock().unwrap();
            let is_after = request.bytes.starts_with(b"GET /after ");
            if !is_after {
                script.saw.push(request.bytes);
            }
            if is_after { None } else { script.answer.take() }
        };
        let (answer, closes) = answer.unwrap_or_else(|| (SHORT.to_vec(), false));
        let length =
            if request.is_head { answer.windows(4).position(|end| end == b"\r\n\r\n") } else { None };
        let answer = length.map_or(&answer[..], |length| &answer[..length + 4]);
        if stream.write_all(answer).is_err() || closes {
            return;
        }
    }
}

struct Message {
    bytes: Vec<u8>,
    is_head: bool,
}

/// One whole message: head, the body put together, and trailers. `None` if it breaks off or is nothing.
fn message(stream: &mut impl Read, buffer: &mut Vec<u8>, is_request: bool) -> Option<Message> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        fill(stream, buffer)?;
    };
    let mut bytes: Vec<u8> = buffer.drain(..end).collect();
    let head = String::from_utf8_lossy(&bytes).to_lowercase();
    let is_head = bytes.starts_with(b"HEAD ");
    let has =
        |name: &str| head.lines().filter_map(|line| line.split_once(':')).find(|(found, _)| *found == name);
    let has_none =
        !is_request && (head.contains(" 204 ") || head.contains(" 304 ") || head.starts_with("http/1.1 1"));
    if has_none {
        return Some(Message { bytes, is_head });
    }
    if let Some((_, value)) = has("transfer-encoding") {
        assert_eq!((value.trim(), has("content-length")), ("chunked", None), "in {head}");
        loop {
            let line = line(stream, buffer)?;
            let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim_end(), 16).ok()?;
            if size == 0 {
                break;
            }
            while buffer.len() < size + 2 {
                fill(stream, buffer)?;
            }
            bytes.extend(buffer.drain(..size));
            assert_eq!(buffer.drain(..2).collect::<Vec<u8>>(), b"\r\n", "after a chunk");
        }
        loop {
            let trailer = line(stream, buffer)?;
            if trailer == b"\r\n" {
                return Some(Message { bytes, is_head });
            }
            bytes.extend(trailer);
        }
    }
    match has("content-length") {
        Some((_, value)) => {
            let length: usize = value.trim().parse().ok()?;
            while buffer.len() < length {
                fill(stream, buffer)?;
            }
            bytes.extend(buffer.drain(..length));
        }
        None if is_request => {}
        None => {
            while fill(stream, buffer).is_some() {}
            bytes.append(buffer);
        }
    }
    Some(Message { bytes, is_head })
}

fn line(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
            return Some(buffer.drain(..=at).collect());
        }
        fill(stream, buffer)?;
    }
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<()> {
    let mut bytes = [0; 16 * 1024];
    let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
    buffer.extend_from_slice(&bytes[..count]);
    Some(())
}

// --- the proxies -------------------------------------------------------------------------------------------------------

/// One for each set of settings, used for all cases that want it: what one case leaves behind would show in the next.
#[derive(Default)]
pub struct Stage {
    proxies: BTreeMap<String, (Proxy, App)>,
}

impl Stage {
    fn proxy(&mut self, with: &[String]) -> &(Proxy, App) {
        self.proxies.entry(with.join("\n")).or_insert_with(|| {
            let mut proxy = Proxy::start_with(|app| with.iter().for_each(|setting| set(app, setting)));
            let app = App::start();
            proxy.route(vec![routed("a", app.address)]);
            (proxy, app)
        })
    }

    pub fn play(&mut self, case: &Case, pace: Pace) -> Outcome {
        let (proxy, app) = self.proxy(&case.with);
        {
            let mut script = app.script.lock().unwrap();
            script.saw.clear();
            script.answer = case.app_answers.clone().map(|answer| (answer, case.app_closes));
        }
        let mut client = Client::connect(proxy.address, case);
        let is_sent = client.perform(&case.client, pace);
        let mut outcome = Outcome::default();
        if case.is_http2 {
            client.settle_streams(&case.answers.1);
        }
        outcome.closed = if case.closed.1 == Some(true) || !is_sent {
            client.read_to_end()
        } else {
            client.is_over(case.answers.1.len())
        };
        outcome.answers = client.answers();
        outcome.client_saw = client.seen;
        outcome.app_saw = app.take();
        let name = proxy.address.to_string();
        for saw in &mut outcome.app_saw {
            *saw = replaced(saw, name.as_bytes(), b"{proxy}");
        }
        outcome
    }
}

fn set(app: &mut trundle_proxy::App, setting: &str) {
    let (name, value) = setting.split_once(" = ").unwrap();
    if name == "trusted_proxies" {
        app.trusted_proxies = value.split(' ').map(str::to_owned).collect();
        return;
    }
    let mut limits = serde_json::to_value(&app.limits).unwrap();
    let known = limits.as_object_mut().unwrap();
    assert!(known.insert(name.to_owned(), value.parse::<u64>().unwrap().into()).is_some(), "{name}");
    app.limits = serde_json::from_value(limits).unwrap();
}

fn replaced(bytes: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    match bytes.windows(what.len()).position(|part| part == what) {
        Some(at) => [&bytes[..at], by, &replaced(&bytes[at + what.len()..], what, by)[..]].concat(),
        None => bytes.to_vec(),
    }
}

// --- the client --------------------------------------------------------------------------------------------------------

struct Client {
    stream: TcpStream,
    is_http2: bool,
    asks_for_head: bool,
    /// All that was read.
    seen: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr, case: &Case) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let asks_for_head =
            matches!(case.client.first(), Some(Step::Send(bytes)) if bytes.starts_with(b"HEAD "));
        Self { stream, is_http2: case.is_http2, asks_for_head, seen: Vec::new() }
    }

    /// False when nobody took the rest.
    fn perform(&mut self, steps: &[Step], pace: Pace) -> bool {
        for step in steps {
            match step {
                Step::Send(bytes) => {
                    let size = match pace {
                        Pace::Whole => bytes.len(),
                        Pace::Pieces(most) => bytes.len().div_ceil(most).max(1),
                    };
                    for piece in bytes.chunks(size) {
                        if self.stream.write_all(piece).is_err() {
                            return false;
                        }
                    }
                }
                Step::Wait(count) => self.read_until(|client| client.answers().len() >= *count),
            }
        }
        true
    }

    fn read_until(&mut self, is_enough: impl Fn(&Self) -> bool) {
        while !is_enough(self) {
            if fill(&mut self.stream, &mut self.seen).is_none() {
                return;
            }
        }
    }

    /// True: the proxy has closed. It would not do so by itself within our patience.
    fn read_to_end(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(count) => self.seen.extend_from_slice(&bytes[..count]),
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Waits for so many answers, and asks once more.
    fn is_over(&mut self, answers: usize) -> bool {
        self.read_until(|client| client.answers().len() >= answers);
        if self.is_http2 {
            // Whoever answers a PING is there.
            let before = self.seen.len();
            let ping = crate::frames::frame(6, 0, 0, b"are here");
            let pong = crate::frames::frame(6, 1, 0, b"are here");
            let _ = self.stream.write_all(&ping);
            let has_pong = |client: &Self| client.seen[before..].windows(pong.len()).any(|part| part == pong);
            self.read_until(has_pong);
            return !has_pong(self);
        }
        let before = self.seen.clone();
        let _ = self.stream.write_all(AFTER.as_bytes());
        self.read_until(|client| client.answers().len() > answers);
        let after = self.answers().pop().filter(|_| self.answers().len() == answers + 1);
        self.seen = before;
        let _ = self.stream.shutdown(Shutdown::Both);
        after.as_deref() != Some("200")
    }

    /// Waits until each stream that the case speaks of has its fate.
    fn settle_streams(&mut self, expected: &[String]) {
        let until = Instant::now() + PATIENCE;
        let count = expected.iter().filter(|word| *word != "none").count();
        self.read_until(|client| client.answers().len() >= count || Instant::now() > until);
    }

    /// The statuses of the whole answers.
    fn answers(&self) -> Vec<String> {
        let mut rest = self.seen.clone();
        if self.is_http2 {
            let mut fates = Fates::default();
            fates.take(&mut rest);
            return fates.words();
        }
        let mut statuses = Vec::new();
        loop {
            if self.asks_for_head
                && let Some(at) = rest.windows(4).position(|end| end == b"\r\n\r\n")
            {
                let head: Vec<u8> = rest.drain(..at + 4).collect();
                statuses.push(String::from_utf8_lossy(&head[9..12]).into_owned());
                continue;
            }
            match message(&mut std::io::empty(), &mut rest, false) {
                Some(answer) => statuses.push(String::from_utf8_lossy(&answer.bytes[9..12]).into_owned()),
                None => return statuses,
            }
        }
    }
}

/// Two runs differ in the time of day, and in the names that the proxy gives to requests.
pub fn without_chance(bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let is_made = |line: &[u8]| {
            let id = line.strip_prefix(b"x-request-id: ").and_then(|rest| rest.strip_suffix(b"\r\n"));
            id.is_some_and(|id| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit))
        };
        if !line.starts_with(b"date: ") && !is_made(line) {
            kept.extend_from_slice(line);
        }
    }
    kept
}
