//! A stream of Server-Sent Events, which has no end of its own: where it may be ended, as if the app had ended it. The browser's
//! `EventSource` comes again by itself, with the id of the last event that it has seen.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};

/// The response is one, and its end is not known beforehand.
pub fn is_stream(head: &http::response::Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
    head.status == StatusCode::OK
        && !head.headers.contains_key(CONTENT_LENGTH)
        && kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

/// Follows the bytes that pass.
pub struct Events {
    /// The last of them, newest last. At the beginning it is between two events.
    last: [u8; 4],
}

impl Default for Events {
    fn default() -> Self {
        Self { last: *b"\n\n\n\n" }
    }
}

impl Events {
    pub fn pass(&mut self, bytes: &[u8]) {
        for byte in &bytes[bytes.len().saturating_sub(4)..] {
            self.last.rotate_left(1);
            self.last[3] = *byte;
        }
    }

    /// An empty line ends an event; lines end with CR LF, LF or CR.
    pub fn is_between(&self) -> bool {
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
                let mut events = Events::default();
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
