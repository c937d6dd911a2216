//! The holder: a tiny process that owns the listening sockets and keeps a proxy running.
//!
//! When the proxy dies, connections wait in the kernel's queue for the few milliseconds until the next one serves: none
//! is refused. One thread, one poll loop, no async runtime; it parses nothing that comes from a client. It must never
//! give up as long as it is not told to stop.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use trundle_crashpoint::crash_point;

use crate::HolderConfig;
use crate::error::ProxyError;
use crate::holding::{self, Answer, Ask, HOLDER_FD};
use crate::table::Listen;
use crate::{listen, lock, sys};

/// A proxy that dies sooner than this after its start is started again only after a pause.
const TOO_SOON: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A proxy gives its last requests 30 s.
const LONGEST_END: Duration = Duration::from_secs(35);

struct Holder {
    config: HolderConfig,
    sockets: BTreeMap<Listen, OwnedFd>,
    /// Sockets of the service manager; never closed before the end.
    given: Vec<(Listen, OwnedFd)>,
    proxy: Option<Proxy>,
    pause: Duration,
    stopping: bool,
}

/// A running proxy.
struct Proxy {
    child: Child,
    pidfd: OwnedFd,
    socket: OwnedFd,
    since: Instant,
}

/// Holds and restarts until SIGTERM, SIGINT, or a proxy that was told to stop for good.
pub fn run(config: HolderConfig) -> Result<(), ProxyError> {
    // First: descriptors that came by number must be taken before others are opened.
    let given = given_sockets();
    let _lock = lock::take(&config.state_dir, crate::HOLDER_LOCK, Duration::ZERO)?;
    note_given(&config.state_dir, &given);
    let (signals, sender) = UnixStream::pair().map_err(ProxyError::Holder)?;
    for signal in [SIGTERM, SIGINT] {
        let sender = sender.try_clone().map_err(ProxyError::Holder)?;
        signal_hook::low_level::pipe::register(signal, sender).map_err(ProxyError::Holder)?;
    }
    let mut holder = Holder {
        config,
        sockets: BTreeMap::new(),
        given,
        proxy: None,
        pause: Duration::ZERO,
        stopping: false,
    };
    holder.proxy = Some(holder.spawn()?);
    let result = holder.run_loop(&signals);
    holder.let_go();
    result.map_err(ProxyError::Holder)
}

impl Holder {
    fn run_loop(&mut self, signals: &UnixStream) -> io::Result<()> {
        loop {
            let Some(proxy) = &self.proxy else {
                if self.stopping || wait(&[signals.as_fd()], Some(self.pause))?[0] {
                    return Ok(());
                }
                match self.spawn() {
                    Ok(proxy) => self.proxy = Some(proxy),
                    Err(error) => {
                        log_line!("trundle shim proxy: {error}");
                        self.lengthen_pause();
                    }
                }
                continue;
            };
            let ready = wait(&[proxy.pidfd.as_fd(), proxy.socket.as_fd(), signals.as_fd()], None)?;
            if ready[1] {
                self.answer(); // before the end is looked at: its last words count
            }
            if ready[0] {
                self.bury();
            }
            if ready[2] && !self.stopping {
                self.stopping = true;
                if let Some(proxy) = &self.proxy {
                    let _ = rustix::process::pidfd_send_signal(&proxy.pidfd, Signal::TERM);
                }
                self.let_go();
            }
            // A signal that has been seen stays readable: wait for the end alone from here on.
            if self.stopping
                && let Some(mut proxy) = self.proxy.take()
            {
                // It bounds its own end; one that does not is stuck.
                if !wait(&[proxy.pidfd.as_fd()], Some(LONGEST_END))?[0] {
                    proxy.child.kill()?;
                }
                proxy.child.wait()?;
            }
        }
    }

    fn spawn(&self) -> Result<Proxy, ProxyError> {
        let failed = |source| ProxyError::Spawn { program: self.config.program.clone(), source };
        let start = || -> io::Result<Proxy> {
            let flags = SocketFlags::CLOEXEC;
            let (ours, theirs) =
                rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            crash_point!("holder.proxy.before");
            // As its standard input: so it is the only descriptor that is inherited, and no number must be trusted.
            let child = Command::new(&self.config.program)
                .args(&self.config.args)
                .env(HOLDER_FD, "0")
                .env("TRUNDLE_STATE_DIR", &self.config.state_dir)
                .env_remove("LISTEN_FDS")
                .env_remove("LISTEN_PID")
                .env_remove("LISTEN_FDNAMES")
                .stdin(Stdio::from(theirs))
                .spawn()?;
            crash_point!("holder.proxy.after");
            let pid = Pid::from_child(&child);
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            Ok(Proxy { child, pidfd, socket: ours, since: Instant::now() })
        };
        start().map_err(failed)
    }

    /// The proxy has ended: note why, and decide when the next one starts.
    fn bury(&mut self) {
        let Some(mut proxy) = self.proxy.take() else { return };
        let status = proxy.child.wait();
        if self.stopping {
            return;
        }
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        log_line!(
            "trundle shim proxy: the proxy (pid {}) ended with {status}; starting it again",
            proxy.child.id()
        );
        if proxy.since.elapsed() >= TOO_SOON {
            self.pause = Duration::ZERO;
        } else {
            self.lengthen_pause();
        }
    }

    fn lengthen_pause(&mut self) {
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    }

    fn answer(&mut self) {
        let Some(proxy) = &self.proxy else { return };
        let Ok(Some((ask, _))) = holding::receive(&proxy.socket) else {
            // It has closed its end: it is about to die, and the pidfd will say so. Until then there is nothing to read.
            if let Some(proxy) = &mut self.proxy
                && proxy.child.try_wait().is_ok_and(|status| status.is_none())
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            return;
        };
        let answer = match ask {
            Ask::Obtain(listen) => self.obtain(&listen),
            Ask::Release(listen) => {
                self.release(&listen);
                Ok(None)
            }
            Ask::Keep(kept) => {
                let gone: Vec<Listen> = self
                    .sockets
                    .keys()
                    .filter(|held| !kept.iter().any(|kept| kept.socket() == **held))
                    .cloned()
                    .collect();
                gone.iter().for_each(|listen| self.release(listen));
                Ok(None)
            }
            Ask::Ending => {
                self.stopping = true;
                Ok(None)
            }
        };
        let Some(proxy) = &self.proxy else { return };
        let _ = match answer {
            Ok(socket) => holding::send(&proxy.socket, &Answer::Done, socket.as_ref().map(AsFd::as_fd)),
            Err(reason) => holding::send(&proxy.socket, &Answer::Failed(reason), None),
        };
        if self.stopping {
            self.let_go();
        }
    }

    fn obtain(&mut self, listen: &Listen) -> Result<Option<OwnedFd>, String> {
        let listen = &listen.socket();
        let copy = |socket: &OwnedFd| {
            socket.try_clone().map(Some).map_err(|error| format!("cannot hand over {listen}: {error}"))
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
fn wait(of: &[std::os::fd::BorrowedFd<'_>], limit: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        of.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match rustix::event::poll(&mut polled, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
}

/// Whoever asks whether an address is free cannot bind these, and is told so.
fn note_given(state_dir: &Path, given: &[(Listen, OwnedFd)]) {
    let path = state_dir.join(crate::GIVEN);
    let lines: String = given.iter().map(|(listen, _)| format!("{listen}\n")).collect();
    let noted = if given.is_empty() { std::fs::remove_file(&path) } else { std::fs::write(&path, lines) };
    match noted {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log_line!("trundle shim proxy: cannot note the sockets of the service manager: {error}");
        }
        Ok(()) | Err(_) => {}
    }
}

/// The sockets of a service manager (`LISTEN_FDS`, `LISTEN_PID`), by the address they listen on.
fn given_sockets() -> Vec<(Listen, OwnedFd)> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(64);
    (3..3 + count as i32)
        .filter_map(|fd| {
            let socket = sys::adopt_descriptor(fd).ok()?;
            let listen = address_of(&socket);
            if listen.is_none() {
                log_line!(
                    "trundle shim proxy: descriptor {fd} of LISTEN_FDS is not a listening TCP or Unix socket"
                );
            }
            rustix::io::ioctl_fionbio(&socket, true).ok()?;
            Some((listen?, socket))
        })
        .collect()
}

fn address_of(socket: &OwnedFd) -> Option<Listen> {
    if !rustix::net::sockopt::socket_acceptconn(socket).ok()? {
        return None;
    }
    let address = rustix::net::getsockname(socket).ok()?;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Some(Listen::Http(address));
    }
    let address = SocketAddrUnix::try_from(address).ok()?;
    Some(Listen::Unix(PathBuf::from(String::from_utf8(address.path_bytes()?.to_vec()).ok()?)))
}
