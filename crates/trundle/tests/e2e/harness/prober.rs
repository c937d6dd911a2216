//! An observer that asks nobody: it finds the app processes in `/proc`, asks each `GET /ready`, and counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Site;
use super::procs::{self, Proc};

const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// A process gets its name by exec, on a busy machine long after it was first seen. Those of the site are looked at each time, as long as
/// they are young; strangers less and less often: all of them at each look would make the looks slow.
const YOUNG: Duration = Duration::from_secs(3);
const LOOKS_FOR_A_NAME: u32 = 5;

/// What was seen from outside.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub looks: u64,
    /// Instances that answered their check. A dip counts when two looks in a row see it: one look takes a moment, in
    /// which one may come and another go.
    pub lowest_serving: usize,
    /// App processes alive.
    pub highest_alive: usize,
    /// Of the pairs (serving of the oldest version seen, of the newest) the one with the largest minimum, then sum.
    pub mix: BTreeMap<String, usize>,
    /// Names that two processes had.
    pub twins: Vec<String>,
}

pub struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Prober {
    pub fn start(site: &Site) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut eye = Eye::of(site);
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Seen { lowest_serving: usize::MAX, ..Seen::default() };
            let mut before = usize::MAX;
            while !stopped.load(Ordering::Relaxed) {
                let serving = eye.look(&mut seen);
                seen.lowest_serving = seen.lowest_serving.min(serving.max(before));
                before = serving;
                std::thread::sleep(BETWEEN_LOOKS);
            }
            seen
        });
        Self { stop, thread }
    }

    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What an instance says when it is asked whether it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Ready,
    NotReady,
    /// Nothing in time, or it is halted by a signal: nobody can tell.
    Nothing,
}

/// Finds the instances of a site, and asks them.
#[derive(Default)]
pub struct Eye {
    state: PathBuf,
    /// Everybody in `/proc`: whether he is an app of ours is found out once, when he is no longer young.
    known: BTreeMap<u32, Known>,
    connections: BTreeMap<u32, TcpStream>,
    /// The process of each instance name.
    named: BTreeMap<String, BTreeSet<(u32, u64)>>,
}

struct Known {
    since: Instant,
    /// How often a name was looked for, and when that is done next.
    looks: u32,
    next: Instant,
    app: Option<Proc>,
}

impl Known {
    fn new() -> Self {
        let now = Instant::now();
        Self { since: now, looks: 0, next: now, app: None }
    }

    fn is_to_be_named(&self) -> bool {
        let is_young = self.since.elapsed() < YOUNG || self.looks < LOOKS_FOR_A_NAME;
        self.app.is_none() && is_young && Instant::now() >= self.next
    }

    fn name(&mut self, pid: u32, state: &Path) {
        self.looks += 1;
        let ours = procs::read(pid).filter(|proc| procs::belongs(proc, state));
        if ours.is_none() {
            self.next = Instant::now() + self.since.elapsed() / 2;
        }
        self.app = ours.filter(|proc| proc.app().is_some());
    }
}

impl Eye {
    pub fn of(site: &Site) -> Self {
        Self { state: site.state(), ..Self::default() }
    }

    /// Every instance that lives, and what it said.
    pub fn each(&mut self) -> Vec<(Proc, Said)> {
        let apps = self.apps();
        let said: Vec<_> = apps.iter().map(|app| self.asked(app)).collect();
        apps.into_iter().zip(said).collect()
    }

    /// Names that two processes had.
    pub fn twins(&self) -> Vec<String> {
        self.named.iter().filter(|(_, who)| who.len() > 1).map(|(name, _)| name.clone()).collect()
    }

    /// How many serve.
    fn look(&mut self, seen: &mut Seen) -> usize {
        let apps = self.each();
        let mut by_version: BTreeMap<String, usize> = BTreeMap::new();
        for (app, said) in &apps {
            let ok = *said == Said::Ready;
            *by_version.entry(app.env["TRUNDLE_VERSION"].clone()).or_default() += usize::from(ok);
        }
        seen.looks += 1;
        // Who died while we looked was not alive together with who came.
        seen.highest_alive = seen.highest_alive.max(apps.iter().filter(|(app, _)| app.lives()).count());
        let weight = |mix: &BTreeMap<String, usize>| {
            (mix.values().min().copied().filter(|_| mix.len() > 1), mix.values().sum::<usize>())
        };
        if weight(&by_version) > weight(&seen.mix) {
            seen.mix = by_version.clone();
        }
        seen.twins = self.twins();
        by_version.values().sum()
    }

    fn apps(&mut self) -> Vec<Proc> {
        let pids: BTreeSet<u32> = procs::pids().into_iter().collect();
        self.known.retain(|pid, _| pids.contains(pid));
        self.connections.retain(|pid, _| pids.contains(pid));
        let mut apps = Vec::new();
        for pid in pids {
            let known = self.known.entry(pid).or_insert_with(Known::new);
            if known.is_to_be_named() {
                known.name(pid, &self.state);
            }
            let Some(app) = &known.app else { continue };
            if !app.lives() {
                known.app = None;
                continue;
            }
            let name = app.app().unwrap_or_default().to_owned();
            self.named.entry(name).or_default().insert((app.pid, app.start));
            apps.push(app.clone());
        }
        apps
    }

    fn asked(&mut self, app: &Proc) -> Said {
        let Some(port) = app.port() else { return Said::NotReady };
        if procs::is_halted(app.pid) {
            return Said::Nothing;
        }
        // A kept connection may have been closed: then a new one is tried.
        let kept = self.connections.remove(&app.pid);
        let fresh = kept.is_none();
        let ask = |stream: Option<TcpStream>| -> io::Result<(bool, TcpStream)> {
            let mut stream = match stream {
                Some(stream) => stream,
                None => connect(port)?,
            };
            let answer = exchange(&mut stream, "/ready")?;
            Ok((answer.starts_with("HTTP/1.1 200"), stream))
        };
        let is_late =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let mut asked = ask(kept);
        if !fresh && asked.as_ref().is_err_and(|error| !is_late(error)) {
            asked = ask(None);
        }
        match asked {
            Ok((ok, stream)) => {
                self.connections.insert(app.pid, stream);
                if ok { Said::Ready } else { Said::NotReady }
            }
            Err(error) if is_late(&error) => Said::Nothing,
            Err(_) => Said::NotReady,
        }
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One GET on a connection of its own; the whole answer.
pub fn get(port: u16, path: &str) -> io::Result<String> {
    exchange(&mut connect(port)?, path)
}

fn exchange(stream: &mut TcpStream, path: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: probe\r\n\r\n").as_bytes())?;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Ok(text.into_owned());
        }
    }
}
