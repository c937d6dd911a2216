//! The access log: a line for each request, written by a thread of its own. Traffic never waits for it: what the disk does not
//! take in time is left out, and how many lines that were is said in the log of the proxy.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use http::header::{HOST, HeaderName, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request};
use jiff::Timestamp;
use serde_json::json;

use crate::classes::AppCell;
use crate::connection::Connection;
use crate::endpoint::LiveEndpoint;
use crate::routes::Route;
use crate::spans::Span;
use crate::table::{AccessFormat, AccessLog};

/// Lines that wait for the disk.
const MOST_WAITING: usize = 8_192;
/// Lines that are written with one call.
const MOST_AT_ONCE: usize = 256;
/// Whoever rotates logs moves the file away; so long it may be before that is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of what a client sent, in a line.
const MOST_BYTES: usize = 2_048;

/// The end of the thread that writes; the thread ends when all of these are gone.
#[derive(Clone)]
pub struct Writer {
    sender: SyncSender<Line>,
    left_out: Arc<AtomicU64>,
}

struct Line {
    path: Arc<Path>,
    text: String,
}

impl Writer {
    /// With it comes what says, by its end, that everything is written after the last writer is gone.
    pub fn start() -> std::io::Result<(Self, Receiver<()>)> {
        let (sender, receiver) = sync_channel(MOST_WAITING);
        let (writing, written) = sync_channel(0);
        let left_out = Arc::new(AtomicU64::new(0));
        let of_thread = Arc::clone(&left_out);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write_all(&receiver, &of_thread);
            drop(writing);
        })?;
        Ok((Self { sender, left_out }, written))
    }
}

/// Where the lines of an app go, and how they look.
pub struct Log {
    path: Arc<Path>,
    format: AccessFormat,
    writer: Writer,
}

impl Log {
    pub fn new(log: &AccessLog, writer: Writer) -> Self {
        Self { path: log.file.as_path().into(), format: log.format, writer }
    }
}

/// One request, from its head on; its line is written, and its span ends, when this is dropped.
pub struct Entry {
    log: Option<Arc<Log>>,
    span: Option<Span>,
    app: Arc<str>,
    at: Timestamp,
    began: Instant,
    method: String,
    target: String,
    http: &'static str,
    host: Option<String>,
    peer: Option<String>,
    agent: Option<String>,
    referer: Option<String>,
    is_secure: bool,
    pub request_id: Option<String>,
    pub endpoint: Option<Arc<LiveEndpoint>>,
    pub status: u16,
    pub bytes_down: u64,
    pub bytes_up: u64,
    pub outcome: Option<&'static str>,
}

impl Entry {
    /// None: nobody wants to know of it.
    pub fn of<B>(
        route: &Route,
        request: &Request<B>,
        connection: &Connection,
        began: Instant,
    ) -> Option<Self> {
        let spans = connection.worker.shared.spans.as_ref();
        if route.log.is_none() && spans.is_none() {
            return None;
        }
        let mut entry = Self::new(route, request, connection, began);
        entry.span = spans.and_then(|spans| spans.begin(&entry, request.headers()));
        (entry.log.is_some() || entry.span.is_some()).then_some(entry)
    }

    fn new<B>(route: &Route, request: &Request<B>, connection: &Connection, began: Instant) -> Self {
        let header = |name: HeaderName| request.headers().get(name).map(text);
        let uri = request.uri();
        Self {
            log: route.log.clone(),
            span: None,
            app: Arc::clone(&route.app),
            at: Timestamp::now(),
            began,
            method: request.method().as_str().to_owned(),
            target: cut(uri.path_and_query().map_or_else(|| uri.to_string(), ToString::to_string)),
            http: match request.version() {
                http::Version::HTTP_2 => "HTTP/2.0",
                http::Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            host: header(HOST).or_else(|| uri.authority().map(|host| cut(host.to_string()))),
            peer: connection.peer_value.as_ref().map(text),
            agent: header(USER_AGENT),
            referer: header(REFERER),
            is_secure: connection.is_secure,
            request_id: None,
            endpoint: None,
            status: 0,
            bytes_down: 0,
            bytes_up: 0,
            outcome: None,
        }
    }

    pub fn ends_as(&mut self, class: AppCell) {
        self.outcome = Some(class.name());
    }

    /// What the request goes on with to its endpoint.
    pub fn goes_on_in(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            span.go_on_in(headers);
        }
    }

    fn outcome(&self) -> &'static str {
        self.outcome.unwrap_or_else(|| {
            let is_cut = self.endpoint.as_ref().is_some_and(|endpoint| endpoint.was_cut());
            if is_cut { "cut" } else { "gone" }
        })
    }

    fn line(&self, log: &Log) -> String {
        match log.format {
            AccessFormat::Json => self.json(),
            AccessFormat::Combined => self.combined(),
        }
    }

    fn json(&self) -> String {
        let endpoint = self.endpoint.as_ref();
        let took_ms = (self.began.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        let line = json!({
            "at": format!("{:.3}", self.at),
            "app": &*self.app,
            "client": self.peer,
            "method": self.method,
            "host": self.host,
            "target": self.target,
            "protocol": self.http,
            "tls": self.is_secure,
            "status": (self.status > 0).then_some(self.status),
            "outcome": self.outcome(),
            "duration_ms": took_ms,
            "bytes_received": self.bytes_up,
            "bytes_sent": self.bytes_down,
            "version": endpoint.map(|endpoint| endpoint.version.as_str()),
            "instance": endpoint.map(|endpoint| endpoint.id.as_str()),
            "request_id": self.request_id,
            "user_agent": self.agent,
            "referer": self.referer,
        });
        format!("{line}\n")
    }

    /// What its span says of it, by the names that OpenTelemetry has for it.
    #[cfg(feature = "otel")]
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let (path, query) = self.target.split_once('?').map_or((&*self.target, None), |(p, q)| (p, Some(q)));
        let endpoint = self.endpoint.as_ref();
        let version = self.http.strip_prefix("HTTP/").map(|version| version.trim_end_matches(".0"));
        [
            ("http.request.method", Some(&*self.method)),
            ("url.scheme", Some(if self.is_secure { "https" } else { "http" })),
            ("url.path", Some(path)),
            ("url.query", query),
            ("server.address", self.host.as_deref()),
            ("client.address", self.peer.as_deref()),
            ("user_agent.original", self.agent.as_deref()),
            // "1.0" has no shorter name.
            ("network.protocol.version", version.map(|version| if version == "1" { "1.0" } else { version })),
            ("trundle.app", Some(&*self.app)),
            ("trundle.version", endpoint.map(|endpoint| endpoint.version.as_str())),
            ("trundle.instance", endpoint.map(|endpoint| endpoint.id.as_str())),
            ("trundle.request_id", self.request_id.as_deref()),
        ]
        .into_iter()
        .filter_map(|(key, text)| Some((key, text?)))
    }

    #[cfg(feature = "otel")]
    pub fn method(&self) -> &str {
        &self.method
    }

    #[cfg(feature = "otel")]
    pub fn at(&self) -> std::time::SystemTime {
        self.at.into()
    }

    /// As Apache and nginx call it: bytes of the answer's body, no times.
    fn combined(&self) -> String {
        let time = self.at.strftime("%d/%b/%Y:%H:%M:%S +0000");
        let shown = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), escaped);
        format!(
            "{} - - [{time}] \"{} {} {}\" {} {} \"{}\" \"{}\"\n",
            self.peer.as_deref().unwrap_or("unix"),
            escaped(&self.method),
            escaped(&self.target),
            self.http,
            self.status,
            self.bytes_down,
            shown(&self.referer),
            shown(&self.agent),
        )
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            span.end(self, self.outcome());
        }
        let Some(log) = &self.log else { return };
        let line = Line { path: Arc::clone(&log.path), text: self.line(log) };
        match log.writer.sender.try_send(line) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => drop(log.writer.left_out.fetch_add(1, Relaxed)),
        }
    }
}

fn text(value: &HeaderValue) -> String {
    cut(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn cut(mut text: String) -> String {
    if text.len() > MOST_BYTES {
        text.truncate(text.floor_char_boundary(MOST_BYTES));
    }
    text
}

/// So that nobody ends a field or a line, or speaks to a terminal.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '\\' => safe.extend(['\\', char]),
            char if char.is_control() => safe.extend(char.escape_unicode()),
            char => safe.push(char),
        }
    }
    safe
}

// --- the thread ---------------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Open {
    file: Option<File>,
    looked: Option<Instant>,
    /// What went wrong last, so that it is said once.
    trouble: Option<String>,
}

fn write_all(lines: &Receiver<Line>, left_out: &AtomicU64) {
    let mut files: HashMap<Arc<Path>, Open> = HashMap::new();
    let mut texts: HashMap<Arc<Path>, String> = HashMap::new();
    while let Ok(first) = lines.recv() {
        for line in std::iter::once(first).chain(lines.try_iter().take(MOST_AT_ONCE)) {
            texts.entry(line.path).or_default().push_str(&line.text);
        }
        for (path, text) in texts.drain() {
            files.entry(Arc::clone(&path)).or_default().append(&path, &text);
        }
        let missed = left_out.swap(0, Relaxed);
        if missed > 0 {
            log_line!(
                "trundle proxy: {missed} lines of access logs were left out: the disk is too slow for them"
            );
        }
    }
}

impl Open {
    fn append(&mut self, path: &Path, text: &str) {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            if self.file.as_ref().is_none_or(|file| !is_at(file, path)) {
                self.file = None;
            }
        }
        if let Err(error) = self.try_append(path, text) {
            self.file = None;
            let trouble = error.to_string();
            if self.trouble.as_ref() != Some(&trouble) {
                log_line!("trundle proxy: the access log {} cannot be written: {trouble}", path.display());
                self.trouble = Some(trouble);
            }
            return;
        }
        self.trouble = None;
    }

    fn try_append(&mut self, path: &Path, text: &str) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?),
        };
        file.write_all(text.as_bytes())
    }
}

/// Whether the file that is open is the one of that name.
fn is_at(file: &File, path: &Path) -> bool {
    let named = fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    let open = file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((named, open), (Ok(named), Ok(open)) if named == open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_ends_a_field_or_a_line() {
        assert_eq!(escaped("a\"b\\c\nd\u{1b}[2J"), "a\\\"b\\\\c\\u{a}d\\u{1b}[2J");
        assert_eq!(cut("é".repeat(2_000)).len(), 2_048);
    }
}
