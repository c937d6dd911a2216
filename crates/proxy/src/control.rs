//! The control protocol: newline-delimited JSON over the Unix socket `STATE_DIR/proxy.sock` (0600).
//!
//! A client says Hello first. Replies come in the order of the requests; `Drained` comes in between, on connections
//! that have set a table. The same `Drained` may come again: after a table that is sent again, for instance.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::compared::Comparison;
use crate::stats::Stats;
use crate::table::{PROTOCOL, Table, protocol_accepted};

/// Name of the control socket in the state directory.
pub const SOCKET_NAME: &str = "proxy.sock";

/// One line holds at most this many bytes.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The first line of a connection.
    Hello { protocol: u32 },
    /// Answered by `Acked` once the table is on disk and in force, or by `Refused`, and then nothing has changed.
    SetTable(Table),
    /// Answered by `Stats`.
    Stats,
    /// Answered by `Compared`, of this app.
    Compared { app: String },
    /// Let this program take over, and finish what is in flight. Answered by the end of the connection once it has, or by
    /// `KeptOn`.
    Upgrade { program: PathBuf },
    /// Stop accepting, finish what is in flight within a bound, and end. Answered by the end of the connection.
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Hello {
        protocol: u32,
        pid: u32,
        /// The file that it runs, as [`crate::identity`] says it.
        #[serde(default)]
        program: String,
    },
    Acked {
        epoch: u64,
        number: u64,
    },
    Refused {
        reason: String,
    },
    /// The program that was to take over could not: this proxy serves on.
    KeptOn {
        reason: String,
    },
    /// An endpoint that is `Draining` or `Cut` has nothing in flight and gets nothing any more, as long as tables keep it
    /// out.
    Drained {
        id: String,
        incarnation: String,
        /// The table that it was out of when nothing was in flight.
        epoch: u64,
        number: u64,
        /// How many of its requests were cut.
        cut: u64,
    },
    /// An endpoint that is `Kept` in the table is draining by now: nobody has a page of it. `Drained` follows.
    Released {
        id: String,
        incarnation: String,
    },
    /// After a table: an endpoint that is on its way out still has requests in flight. `Drained` follows.
    Waiting {
        id: String,
        incarnation: String,
        in_flight: u64,
    },
    Stats(Stats),
    /// What two versions have answered to the same request, the oldest first.
    Compared(Vec<Comparison>),
}

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("no proxy answers on {path}: {source}; it is started by `trundle shim proxy`")]
    Connect { path: PathBuf, source: io::Error },
    #[error("the connection to the proxy failed: {0}; connect again and send the table again")]
    Broken(#[from] io::Error),
    #[error(
        "the proxy speaks protocol {theirs}, this program speaks {PROTOCOL}; use the same release for both"
    )]
    Protocol { theirs: u32 },
    #[error("the proxy answered {0:?} to hello; is another program listening there?")]
    Unexpected(String),
}

/// A connection to the proxy, after Hello.
pub struct Client {
    sender: ClientSender,
    receiver: ClientReceiver,
    pid: u32,
    protocol: u32,
    program: String,
}

/// Sends requests; may live in another task than the receiver.
pub struct ClientSender(OwnedWriteHalf);

/// Receives replies in order.
pub struct ClientReceiver(LineReader<OwnedReadHalf>);

impl Client {
    /// Connects to the control socket at `path` and says hello.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let (read, write) = stream.into_split();
        let mut sender = ClientSender(write);
        let mut receiver = ClientReceiver(LineReader::new(read));
        sender.send(&Request::Hello { protocol: PROTOCOL }).await?;
        match receiver.recv().await? {
            Some(Reply::Hello { protocol, pid, program }) if protocol_accepted(protocol) => {
                Ok(Self { sender, receiver, pid, protocol, program })
            }
            Some(Reply::Hello { protocol, .. }) => Err(ClientError::Protocol { theirs: protocol }),
            other => Err(ClientError::Unexpected(format!("{other:?}"))),
        }
    }

    /// The process id of the proxy.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that the proxy runs, as [`crate::identity`] says it.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The protocol that the proxy speaks.
    #[must_use]
    pub fn protocol(&self) -> u32 {
        self.protocol
    }

    pub async fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.sender.send(request).await
    }

    /// The next reply; `None` when the proxy has closed the connection.
    pub async fn recv(&mut self) -> Result<Option<Reply>, ClientError> {
        self.receiver.recv().await
    }

    #[must_use]
    pub fn split(self) -> (ClientSender, ClientReceiver) {
        (self.sender, self.receiver)
    }
}

impl ClientSender {
    pub async fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        Ok(write_line(&mut self.0, request).await?)
    }
}

impl ClientReceiver {
    /// The next reply; `None` when the proxy has closed the connection. Safe to drop before it is ready.
    pub async fn recv(&mut self) -> Result<Option<Reply>, ClientError> {
        Ok(self.0.next().await?)
    }
}

/// Writes one message as one line.
pub(crate) async fn write_line(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// Reads messages, one a line, of bounded length.
pub(crate) struct LineReader<R> {
    from: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from: BufReader::new(from), line: Vec::new() }
    }

    /// The next message; `None` at the end. A half-read line is kept if this future is dropped.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let room = MAX_LINE_BYTES - (self.line.len() as u64).min(MAX_LINE_BYTES);
        (&mut self.from).take(room).read_until(b'\n', &mut self.line).await?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a message ended in the middle or is too long",
            ));
        }
        let message = serde_json::from_slice(&self.line);
        self.line.clear();
        Ok(Some(message?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &Request, json: &str) {
        assert_eq!(serde_json::to_string(request).unwrap(), json);
        assert_eq!(&serde_json::from_str::<Request>(json).unwrap(), request);
    }

    #[test]
    fn the_wire_format_is_externally_tagged_snake_case() {
        check(&Request::Hello { protocol: 1 }, r#"{"hello":{"protocol":1}}"#);
        check(&Request::Stats, r#""stats""#);
        check(&Request::Stop, r#""stop""#);
        let table = Table { protocol: 1, epoch: 2, number: 3, apps: vec![] };
        check(&Request::SetTable(table), r#"{"set_table":{"protocol":1,"epoch":2,"number":3,"apps":[]}}"#);
    }
}
