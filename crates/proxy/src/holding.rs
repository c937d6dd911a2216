//! What a proxy and its holder say to each other: one JSON message a packet, over a SEQPACKET pair.
//!
//! The proxy's end is its standard input. There is one primitive: obtain an address, and get a listening socket or a
//! reason. Obtaining an address again gives the same socket again.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The socket comes along with an Obtain.
    Done,
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

/// Where the proxy gets its sockets from.
pub enum Sockets {
    /// From the holder that started it.
    Held(OwnedFd),
    /// From the kernel: there is no holder, or it has died.
    Own,
}

impl Sockets {
    /// The holder's end, if a holder has started this process.
    #[must_use]
    pub fn from_environment() -> Self {
        if std::env::var(HOLDER_FD).as_deref() != Ok("0") {
            return Self::Own;
        }
        match io::stdin().as_fd().try_clone_to_owned() {
            Ok(socket) => {
                let patience = Some(Duration::from_secs(5));
                let _ = rustix::net::sockopt::set_socket_timeout(
                    &socket,
                    rustix::net::sockopt::Timeout::Recv,
                    patience,
                );
                Self::Held(socket)
            }
            Err(_) => Self::Own,
        }
    }

    /// A listening socket for the address, or the reason why there is none.
    pub fn obtain(&mut self, listen: &Listen) -> Result<OwnedFd, String> {
        match self.ask(&Ask::Obtain(listen.clone())) {
            Some((Answer::Done, Some(socket))) => Ok(socket),
            Some((Answer::Done, None)) => Err(format!("the holder sent no socket for {listen}")),
            Some((Answer::Failed(reason), _)) => Err(reason),
            None => listen::bind(listen),
        }
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

    /// `None` when there is no holder (any more): then the proxy goes on by itself.
    fn ask(&mut self, ask: &Ask) -> Option<(Answer, Option<OwnedFd>)> {
        let Self::Held(socket) = self else { return None };
        let answer = send(&*socket, ask, None).and_then(|()| receive(&*socket));
        match answer {
            Ok(Some(answer)) => Some(answer),
            Ok(None) | Err(_) => {
                log_line!("trundle proxy: the holder of the listening sockets is gone; going on without it");
                *self = Self::Own;
                None
            }
        }
    }
}
