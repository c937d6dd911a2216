//! A stream of Server-Sent Events, which has no end of its own. When its instance has to leave it is ended between two
//! events, as if the app had ended it: the browser's `EventSource` comes again by itself, with the id of the last event
//! that it has seen.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use crate::connection::Connection;
use crate::endpoint::LiveEndpoint;
use crate::leave::{Leave, Word};

/// The response is one, and its end is not known beforehand.
pub fn is_stream(head: &http::response::Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
    head.status == StatusCode::OK
        && !head.headers.contains_key(CONTENT_LENGTH)
        && kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

pub struct Events {
    leaving: Pin<Box<dyn Future<Output = Word>>>,
    leaves: bool,
    /// The last bytes that have passed, newest last. At the beginning it is between two events.
    last: [u8; 4],
}

impl Events {
    pub fn new(endpoint: Arc<LiveEndpoint>, client: Rc<Connection>) -> Self {
        let leaving = Box::pin(async move { Leave::default().next(&endpoint, &client).await });
        Self { leaving, leaves: false, last: *b"\n\n\n\n" }
    }

    pub fn pass(&mut self, bytes: &[u8]) {
        for byte in &bytes[bytes.len().saturating_sub(4)..] {
            self.last.rotate_left(1);
            self.last[3] = *byte;
        }
    }

    /// It may be ended here, and has to be. A cut comes with the connection to the endpoint.
    pub fn is_to_end(&mut self, cx: &mut Context<'_>) -> bool {
        self.leaves = self.leaves || self.leaving.as_mut().poll(cx) == Poll::Ready(Word::Tell);
        self.leaves && self.is_between()
    }

    /// An empty line ends an event; lines end with CR LF, LF or CR.
    fn is_between(&self) -> bool {
        self.last.ends_with(b"\n\n") || self.last.ends_with(b"\r\n\r\n") || self.last.ends_with(b"\r\r")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_an_empty_line_however_it_is_cut() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("id: 1{end}data: a{end}{end}data: b{end}{end}");
            let ends: Vec<usize> = [format!("id: 1{end}data: a{end}{end}").len(), text.len()].into();
            for piece in [1, 3, 100] {
                let mut events =
                    Events { leaving: Box::pin(std::future::pending()), leaves: false, last: *b"\n\n\n\n" };
                assert!(events.is_between());
                let mut passed = 0;
                for bytes in text.as_bytes().chunks(piece) {
                    events.pass(bytes);
                    passed += bytes.len();
                    assert_eq!(events.is_between(), ends.contains(&passed), "{end:?} {piece} {passed}");
                }
            }
        }
    }
}
