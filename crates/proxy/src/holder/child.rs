//! A proxy as its holder sees it: a child process, what it is there for, and the socket that it asks over.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};
use trundle_crashpoint::crash_point;

use crate::HolderConfig;
use crate::error::ProxyError;
use crate::holding::{HOLDER_FD, HOLDER_STARTS_SUCCESSORS, SUCCEEDS};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has the sockets, and is started again when it dies.
    Serves,
    /// It shall take over from the one that serves.
    Succeeds,
    /// As before, and it has said that it could.
    SucceedsNow,
    /// Another has taken over from it: it answers what it has, and ends.
    Finishes,
}

impl Role {
    pub fn is_successor(self) -> bool {
        matches!(self, Self::Succeeds | Self::SucceedsNow)
    }
}

pub struct Proxy {
    child: Child,
    pub pidfd: OwnedFd,
    pub socket: OwnedFd,
    pub since: Instant,
    pub role: Role,
    pub program: PathBuf,
}

impl Proxy {
    pub fn spawn(config: &HolderConfig, program: &Path, role: Role) -> Result<Self, ProxyError> {
        let start = || -> io::Result<Self> {
            let flags = SocketFlags::CLOEXEC;
            let (ours, theirs) =
                rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            crash_point!("holder.proxy.before");
            // As its standard input: so it is the only descriptor that is inherited, and no number must be trusted.
            let mut command = Command::new(program);
            command
                .args(&config.args)
                .env(HOLDER_FD, "0")
                .env(HOLDER_STARTS_SUCCESSORS, "1")
                .env("TRUNDLE_STATE_DIR", &config.state_dir)
                .env_remove("LISTEN_FDS")
                .env_remove("LISTEN_PID")
                .env_remove("LISTEN_FDNAMES")
                .stdin(Stdio::from(theirs));
            if role.is_successor() {
                command.env(SUCCEEDS, "1");
            }
            let child = command.spawn()?;
            crash_point!("holder.proxy.after");
            let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
            Ok(Self { child, pidfd, socket: ours, since: Instant::now(), role, program: program.to_owned() })
        };
        start().map_err(|source| ProxyError::Spawn { program: program.to_owned(), source })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// It bounds its own end.
    pub fn terminate(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM);
    }

    /// One that does not end within the bound is stuck.
    pub fn end_by(&mut self, until: Instant) -> io::Result<()> {
        // A signal may end a wait early.
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if super::wait(&[std::os::fd::AsFd::as_fd(&self.pidfd)], Some(left))?[0] {
                break;
            }
            if left.is_zero() {
                self.child.kill()?;
                break;
            }
        }
        self.child.wait().map(drop)
    }

    /// How it ended, in words. It has ended.
    pub fn how_it_ended(&mut self) -> String {
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}
