//! The holder: a tiny process that owns the listening sockets and keeps a proxy running.
//!
//! When the proxy dies, connections wait in the kernel's queue for the few milliseconds until the next one serves: none
//! is refused. When it is to be replaced by another file of the program, the next one is started beside it and says that it
//! could serve; then the one before stops to accept, the next one serves, and the one before finishes what it has. One thread,
//! one poll loop, no async runtime; it parses nothing that comes from a client. It must never give up as long as it is not told to stop.

mod child;
mod given;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use signal_hook::consts::{SIGINT, SIGTERM};
use trundle_crashpoint::crash_point;

use crate::HolderConfig;
use crate::error::ProxyError;
use crate::holding::{self, Answer, Ask};
use crate::table::Listen;
use crate::{listen, lock};
use child::{Proxy, Role};

/// A proxy that dies sooner than this after its start is started again only after a pause.
const TOO_SOON: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A successor has so long to see whether it could serve.
const LONGEST_CHECK: Duration = Duration::from_secs(30);
/// Of a program that takes over, so many young deaths, one after the other, bring the one before it back.
const MOST_YOUNG_DEATHS: u32 = 3;
/// A proxy gives its last requests 30 s.
const LONGEST_END: Duration = Duration::from_secs(35);

struct Holder {
    config: HolderConfig,
    sockets: BTreeMap<Listen, OwnedFd>,
    /// Sockets of the service manager; never closed before the end.
    given: Vec<(Listen, OwnedFd)>,
    /// At most one of them serves, at most one is to succeed it.
    proxies: Vec<Proxy>,
    /// Why there is no successor, for the one who asked for it.
    no_successor: String,
    /// What was started before another program took over, and how often that has died young since.
    program_before: Option<PathBuf>,
    young_deaths: u32,
    pause: Duration,
    stopping: bool,
}

/// Holds and restarts until SIGTERM, SIGINT, or a proxy that was told to stop for good.
pub fn run(config: HolderConfig) -> Result<(), ProxyError> {
    // First: descriptors that came by number must be taken before others are opened.
    let given = given::sockets();
    let _lock = lock::take(&config.state_dir, crate::HOLDER_LOCK, Duration::ZERO)?;
    given::note(&config.state_dir, &given);
    let (signals, sender) = UnixStream::pair().map_err(ProxyError::Holder)?;
    for signal in [SIGTERM, SIGINT] {
        let sender = sender.try_clone().map_err(ProxyError::Holder)?;
        signal_hook::low_level::pipe::register(signal, sender).map_err(ProxyError::Holder)?;
    }
    let first = Proxy::spawn(&config, &config.program, Role::Serves)?;
    let mut holder = Holder {
        config,
        sockets: BTreeMap::new(),
        given,
        proxies: vec![first],
        no_successor: String::new(),
        program_before: None,
        young_deaths: 0,
        pause: Duration::ZERO,
        stopping: false,
    };
    let result = holder.run_loop(&signals);
    holder.let_go();
    result.map_err(ProxyError::Holder)
}

impl Holder {
    fn run_loop(&mut self, signals: &UnixStream) -> io::Result<()> {
        loop {
            if self.stopping {
                return self.end_all();
            }
            let mut pause = self.serving().is_none().then_some(self.pause);
            if let Some(n) = self.successor().filter(|n| self.proxies[*n].role == Role::Succeeds) {
                let left = LONGEST_CHECK.saturating_sub(self.proxies[n].since.elapsed());
                if left.is_zero() {
                    self.no_successor = format!("it was not ready within {} s", LONGEST_CHECK.as_secs());
                    self.proxies[n].kill();
                }
                pause = Some(pause.unwrap_or(left).min(left.max(SHORTEST_PAUSE)));
            }
            // The last word of one that ends counts, so its socket is looked at before its end.
            let mut of: Vec<BorrowedFd<'_>> = vec![signals.as_fd()];
            for proxy in &self.proxies {
                of.push(proxy.pidfd.as_fd());
                // One that finishes has nothing to ask.
                of.push(if proxy.role == Role::Finishes {
                    proxy.pidfd.as_fd()
                } else {
                    proxy.socket.as_fd()
                });
            }
            let ready = wait(&of, pause)?;
            if ready[0] {
                self.stopping = true;
                continue;
            }
            let known = self.proxies.len();
            (0..known).filter(|n| ready[2 + 2 * n]).for_each(|n| self.answer(n));
            (0..known).rev().filter(|n| ready[1 + 2 * n]).for_each(|n| self.bury(n));
            if self.serving().is_none() && pause.is_some() && !ready.contains(&true) {
                self.start_again();
            }
        }
    }

    fn serving(&self) -> Option<usize> {
        self.proxies.iter().position(|proxy| proxy.role == Role::Serves)
    }

    fn successor(&self) -> Option<usize> {
        self.proxies.iter().position(|proxy| proxy.role.is_successor())
    }

    /// Nobody shall wait in a queue that nobody will serve.
    fn end_all(&mut self) -> io::Result<()> {
        self.let_go();
        // One that was told to stop for good is on its way already; a second word changes nothing.
        self.proxies.iter().for_each(Proxy::terminate);
        let until = Instant::now() + LONGEST_END;
        self.proxies.iter_mut().try_for_each(|proxy| proxy.end_by(until))
    }

    fn start_again(&mut self) {
        match Proxy::spawn(&self.config, &self.config.program, Role::Serves) {
            Ok(proxy) => self.proxies.push(proxy),
            Err(error) => {
                log_line!("trundle shim proxy: {error}");
                self.lengthen_pause();
                self.go_back();
            }
        }
    }

    /// To the program before the last one that took over, if there was another.
    fn go_back(&mut self) {
        if let Some(before) = self.program_before.take() {
            log_line!("trundle shim proxy: going back to {}", before.display());
            self.config.program = before;
            self.young_deaths = 0;
        }
    }

    /// This proxy has ended: note why, and decide what follows.
    fn bury(&mut self, n: usize) {
        let mut proxy = self.proxies.remove(n);
        let (pid, how) = (proxy.pid(), proxy.how_it_ended());
        match proxy.role {
            Role::Finishes => {
                log_line!("trundle shim proxy: the proxy before (pid {pid}) has ended with {how}")
            }
            Role::Succeeds | Role::SucceedsNow => {
                if self.no_successor.is_empty() {
                    self.no_successor = format!("it ended with {how}");
                }
                log_line!(
                    "trundle shim proxy: the proxy that was to take over (pid {pid}) is gone: {}",
                    self.no_successor
                );
            }
            Role::Serves => match self.successor().filter(|n| self.proxies[*n].role == Role::SucceedsNow) {
                Some(next) => {
                    log_line!(
                        "trundle shim proxy: the proxy (pid {pid}) ended with {how}; the one that was to take over does so"
                    );
                    self.promote(next);
                }
                None => {
                    log_line!(
                        "trundle shim proxy: the proxy (pid {pid}) ended with {how}; starting it again"
                    );
                    // One that has not come so far would be in the way of what is started now.
                    self.proxies.iter().filter(|other| other.role == Role::Succeeds).for_each(Proxy::kill);
                    if proxy.since.elapsed() >= TOO_SOON {
                        self.pause = Duration::ZERO;
                        self.young_deaths = 0;
                    } else {
                        self.lengthen_pause();
                        self.young_deaths += 1;
                        if self.young_deaths >= MOST_YOUNG_DEATHS {
                            self.go_back();
                        }
                    }
                }
            },
        }
    }

    fn promote(&mut self, n: usize) {
        let next = &mut self.proxies[n];
        next.role = Role::Serves;
        // Another file is what is started from now on.
        if self.config.program != next.program {
            let before = std::mem::replace(&mut self.config.program, next.program.clone());
            self.program_before = Some(before);
        }
        self.young_deaths = 0;
    }

    fn lengthen_pause(&mut self) {
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    }

    fn answer(&mut self, n: usize) {
        let asked = holding::receive(&self.proxies[n].socket);
        if asked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            // A proxy of a later release. Without an answer it would wait, and take us for dead.
            let unknown = Answer::Failed("the holder of the sockets is of an older release".to_owned());
            let _ = holding::send(&self.proxies[n].socket, &unknown, None);
            return;
        }
        let Ok(Some((ask, _))) = asked else {
            // It has closed its end: it is about to die, and the pidfd will say so. Until then there is nothing to read.
            if self.proxies[n].is_alive() {
                std::thread::sleep(Duration::from_millis(1));
            }
            return;
        };
        let mut attached = None;
        let answer = match ask {
            Ask::Obtain(listen) => match self.obtain(&listen) {
                Ok(socket) => {
                    attached = Some(socket);
                    Answer::Done
                }
                Err(reason) => Answer::Failed(reason),
            },
            Ask::Release(listen) => {
                self.release(&listen);
                Answer::Done
            }
            Ask::Keep(kept) => {
                let gone: Vec<Listen> = self
                    .sockets
                    .keys()
                    .filter(|held| !kept.iter().any(|kept| kept.socket() == **held))
                    .cloned()
                    .collect();
                gone.iter().for_each(|listen| self.release(listen));
                Answer::Done
            }
            Ask::Ending => {
                self.stopping = true;
                Answer::Done
            }
            Ask::Succeed { program } => self.begin_succession(n, program),
            Ask::Successor => self.how_is_the_successor(),
            Ask::Ready => {
                let proxy = &mut self.proxies[n];
                if proxy.role == Role::Succeeds {
                    proxy.role = Role::SucceedsNow;
                }
                Answer::Done
            }
            Ask::Unfit(reason) => {
                self.no_successor = reason;
                Answer::Done
            }
            Ask::Yielded => {
                crash_point!("holder.yielded");
                self.proxies[n].role = Role::Finishes;
                if let Some(next) = self.successor().filter(|n| self.proxies[*n].role == Role::SucceedsNow) {
                    self.promote(next);
                }
                Answer::Done
            }
        };
        let _ = holding::send(&self.proxies[n].socket, &answer, attached.as_ref().map(AsFd::as_fd));
        if self.stopping {
            self.let_go();
        }
    }

    fn begin_succession(&mut self, n: usize, program: PathBuf) -> Answer {
        if self.proxies[n].role != Role::Serves || self.successor().is_some() {
            return Answer::Failed("another proxy is about to take over already".to_owned());
        }
        self.no_successor.clear();
        match Proxy::spawn(&self.config, &program, Role::Succeeds) {
            Ok(proxy) => {
                log_line!("trundle shim proxy: {} (pid {}) shall take over", program.display(), proxy.pid());
                self.proxies.push(proxy);
                Answer::Done
            }
            Err(error) => Answer::Failed(error.to_string()),
        }
    }

    fn how_is_the_successor(&self) -> Answer {
        match self.successor().map(|n| self.proxies[n].role) {
            Some(Role::SucceedsNow) => Answer::Ready,
            Some(_) => Answer::Pending,
            None => Answer::Failed(self.no_successor.clone()),
        }
    }

    fn obtain(&mut self, listen: &Listen) -> Result<OwnedFd, String> {
        let listen = &listen.socket();
        let copy = |socket: &OwnedFd| {
            socket.try_clone().map_err(|error| format!("cannot hand over {listen}: {error}"))
        };
        if let Some(socket) = self.sockets.get(listen) {
            return copy(socket);
        }
        if let Some((_, socket)) = self.given.iter().find(|(of, _)| of == listen) {
            return copy(socket);
        }
        crash_point!("holder.bind.before");
        let socket = listen::bind(listen)?;
        crash_point!("holder.bind.after");
        let given = copy(&socket)?;
        self.sockets.insert(listen.clone(), socket);
        Ok(given)
    }

    fn release(&mut self, listen: &Listen) {
        let listen = &listen.socket();
        if self.sockets.remove(listen).is_some()
            && let Listen::Unix(path) = listen
        {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Nobody shall wait in a queue that nobody will serve.
    fn let_go(&mut self) {
        let held: Vec<Listen> = self.sockets.keys().cloned().collect();
        held.iter().for_each(|listen| self.release(listen));
        self.given.clear();
    }
}

/// Waits until one of the descriptors has something, or the time is over; says which.
fn wait(of: &[BorrowedFd<'_>], limit: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        of.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match rustix::event::poll(&mut polled, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
}
