//! What a proxy and its holder say to each other: one JSON message a packet, over a SEQPACKET pair.
//!
//! The proxy's end is its standard input. There is one primitive: obtain an address, and get a listening socket or a
//! reason. Obtaining an address again gives the same socket again. The rest is about who comes after a proxy: it asks for a
//! successor and how that does, the successor says whether it could serve, and the one before says that it no longer does.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::listen;
use crate::table::Listen;

/// Set by the holder for the proxy that it starts: the number of the descriptor to talk over.
pub const HOLDER_FD: &str = "TRUNDLE_HOLDER_FD";

/// Set by a holder that knows what a successor is: an older one would not answer.
pub const HOLDER_STARTS_SUCCESSORS: &str = "TRUNDLE_HOLDER_STARTS_SUCCESSORS";

/// Set for one that is to take over from the proxy that serves.
pub const SUCCEEDS: &str = "TRUNDLE_PROXY_SUCCEEDS";

/// A packet holds at most this many bytes: 64 addresses of 108 bytes fit in.
const MAX_PACKET: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    Obtain(Listen),
    Release(Listen),
    /// Release everything but these.
    Keep(Vec<Listen>),
    /// This proxy is told to stop for good: let all sockets go, and end after it.
    Ending,
    /// Start this program, which shall take over from the one that asks.
    Succeed {
        program: PathBuf,
    },
    /// How it does. Answered by Pending, Ready or Failed.
    Successor,
    /// A successor could serve, or could not.
    Ready,
    Unfit(String),
    /// This proxy serves no longer, it finishes what it has.
    Yielded,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The socket comes along with an Obtain.
    Done,
    Pending,
    Ready,
    Failed(String),
}

pub fn send(socket: impl AsFd, message: &impl Serialize, attached: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let attached = attached.as_slice().to_vec();
    if !attached.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&attached));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message; `None` when the other side is gone.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let length = match received {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(error) => return Err(error.into()),
    };
    let attached = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..length])?, attached)))
}

/// Where the proxy gets its sockets from: from the holder that started it, or, with none or a dead one, from the kernel.
pub struct Sockets {
    holder: Option<OwnedFd>,
    /// Obtained before they were needed.
    ahead: Vec<(Listen, OwnedFd)>,
}

impl Sockets {
    /// The holder's end, if a holder has started this process.
    #[must_use]
    pub fn from_environment() -> Self {
        Self { holder: Self::holder(), ahead: Vec::new() }
    }

    fn holder() -> Option<OwnedFd> {
        if std::env::var(HOLDER_FD).as_deref() != Ok("0") {
            return None;
        }
        let socket = io::stdin().as_fd().try_clone_to_owned().ok()?;
        let patience = Some(Duration::from_secs(5));
        let _ =
            rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, patience);
        Some(socket)
    }

    /// A listening socket for the address, or the reason why there is none.
    pub fn obtain(&mut self, listen: &Listen) -> Result<OwnedFd, String> {
        if let Some(n) = self.ahead.iter().position(|(of, _)| of == listen) {
            return Ok(self.ahead.swap_remove(n).1);
        }
        match self.ask(&Ask::Obtain(listen.clone())) {
            Some((Answer::Done, Some(socket))) => Ok(socket),
            Some((Answer::Failed(reason), _)) => Err(reason),
            Some((Answer::Done | Answer::Pending | Answer::Ready, _)) => {
                Err(format!("the holder sent no socket for {listen}"))
            }
            None => listen::bind(listen),
        }
    }

    /// Obtains it now for the time when it is needed: it lives on though the holder dies.
    pub fn obtain_ahead(&mut self, listen: &Listen) -> Result<(), String> {
        let socket = self.obtain(listen)?;
        self.ahead.push((listen.clone(), socket));
        Ok(())
    }

    /// What was not needed after all must not stay open, with nobody who accepts on it.
    pub fn forget_ahead(&mut self) {
        self.ahead.clear();
    }

    pub fn release(&mut self, listen: &Listen) {
        if self.ask(&Ask::Release(listen.clone())).is_none()
            && let Listen::Unix(path) = listen
        {
            let _ = std::fs::remove_file(path);
        }
    }

    pub fn keep(&mut self, listens: Vec<Listen>) {
        self.ask(&Ask::Keep(listens));
    }

    /// The proxy ends for good: nobody shall wait in a queue that nobody will serve.
    pub fn ending<'a>(&mut self, listens: impl Iterator<Item = &'a Listen>) {
        if self.ask(&Ask::Ending).is_none() {
            listens.for_each(|listen| self.release(listen));
        }
    }

    // --- who comes after, and after whom one comes ----------------------------------------------------------------

    /// Has the program started that shall take over.
    pub fn succeed(&mut self, program: PathBuf) -> Result<(), String> {
        if self.holder.is_some() && std::env::var_os(HOLDER_STARTS_SUCCESSORS).is_none() {
            return Err(OLD_HOLDER.to_owned());
        }
        match self.ask(&Ask::Succeed { program }) {
            Some((Answer::Failed(reason), _)) => Err(reason),
            Some(_) => Ok(()),
            None => Err(NO_HOLDER.to_owned()),
        }
    }

    /// Whether it could take over now; the reason, if it never will.
    pub fn is_successor_ready(&mut self) -> Result<bool, String> {
        match self.ask(&Ask::Successor) {
            Some((Answer::Ready, _)) => Ok(true),
            Some((Answer::Failed(reason), _)) => Err(reason),
            Some((Answer::Pending | Answer::Done, _)) => Ok(false),
            None => Err(NO_HOLDER.to_owned()),
        }
    }

    /// This proxy finishes what it has, and asks for nothing more.
    pub fn yielded(&mut self) {
        self.ask(&Ask::Yielded);
        self.holder = None;
    }

    /// This one could take over. False: nobody is there to be told.
    pub fn ready(&mut self) -> bool {
        self.ask(&Ask::Ready).is_some()
    }

    pub fn unfit(&mut self, reason: &str) {
        self.ask(&Ask::Unfit(reason.to_owned()));
    }

    /// `None` when there is no holder (any more): then the proxy goes on by itself.
    fn ask(&mut self, ask: &Ask) -> Option<(Answer, Option<OwnedFd>)> {
        let socket = self.holder.as_ref()?;
        let answer = send(socket, ask, None).and_then(|()| receive(socket));
        match answer {
            Ok(Some(answer)) => Some(answer),
            Ok(None) | Err(_) => {
                log_line!("trundle proxy: the holder of the listening sockets is gone; going on without it");
                self.holder = None;
                None
            }
        }
    }
}

const OLD_HOLDER: &str =
    "the holder of the listening sockets is of an older release; it ends with `trundle down`";
const NO_HOLDER: &str =
    "the holder of the listening sockets is gone; stop the proxy with `trundle down` and deploy again";
