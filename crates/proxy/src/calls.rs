//! An answer of gRPC, which may be a stream without an end: where it may be ended, and with which words. A client that reads
//! UNAVAILABLE calls again.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The response is one.
pub fn is_answer(head: &http::response::Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    head.status == StatusCode::OK && kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Its last words.
pub fn unavailable() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("14"));
    trailers.insert("grpc-message", HeaderValue::from_static("the instance leaves: call again"));
    trailers
}

/// Follows the bytes that pass.
#[derive(Default)]
pub struct Messages {
    /// Of the next prefix, what has passed.
    prefix: Vec<u8>,
    /// Of the present message, what has not.
    left: u64,
}

impl Messages {
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len() as u64);
                self.left -= passed;
                bytes = &bytes[passed as usize..];
                continue;
            }
            let (begin, rest) = bytes.split_at(bytes.len().min(PREFIX - self.prefix.len()));
            self.prefix.extend_from_slice(begin);
            bytes = rest;
            if let [_, a, b, c, d] = self.prefix[..] {
                self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.prefix.clear();
            }
        }
    }

    pub fn is_between(&self) -> bool {
        self.left == 0 && self.prefix.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_where_its_prefix_says_however_it_is_cut() {
        let message = |length: usize| [&[0][..], &(length as u32).to_be_bytes(), &vec![7; length]].concat();
        let bytes = [message(0), message(3), message(300)].concat();
        let ends = [5, 13, 318];
        for piece in [1, 2, 7, 1_000] {
            let mut messages = Messages::default();
            assert!(messages.is_between());
            let mut passed = 0;
            for bytes in bytes.chunks(piece) {
                messages.pass(bytes);
                passed += bytes.len();
                assert_eq!(messages.is_between(), ends.contains(&passed), "{piece} {passed}");
            }
        }
    }
}
