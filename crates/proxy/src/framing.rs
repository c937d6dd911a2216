//! Watches the raw bytes of request heads for what hyper forgives and a proxy must not.
//!
//! hyper takes a request with both `Content-Length` and `Transfer-Encoding` (it drops the first, as RFC 9112 allows) and
//! lines that end in a bare LF. Neither can smuggle anything through us, since each request is framed anew, but
//! whoever stands before us may have read it differently, so both are refused. This never looks at bodies.

/// Longest header name that matters, plus its colon.
const PREFIX: usize = 18;

#[derive(Debug, Default)]
pub struct Framing {
    /// The head is over and a body may follow: not looked at until [`Framing::rearm`].
    in_body: bool,
    /// Beginning of the present line, and its length so far without a final CR.
    prefix: [u8; PREFIX],
    length: usize,
    ends_in_cr: bool,
    /// Lines of the present head that are complete.
    lines: usize,
    has_length: bool,
    has_encoding: bool,
    both: bool,
    bare_lf: bool,
}

impl Framing {
    /// Takes the bytes that were just read.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !self.in_body && !bytes.is_empty() {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.extend(bytes);
                return;
            };
            self.extend(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
    }

    /// The exchange is over: what comes next is a head.
    pub fn rearm(&mut self) {
        if self.in_body {
            *self = Self { both: self.both, bare_lf: self.bare_lf, ..Self::default() };
        }
    }

    /// Part of a head has come, and not yet all of it.
    #[must_use]
    pub fn is_mid_head(&self) -> bool {
        !self.in_body && (self.lines > 0 || self.length > 0)
    }

    /// A head had both `Content-Length` and `Transfer-Encoding`.
    #[must_use]
    pub fn has_both(&self) -> bool {
        self.both
    }

    /// A line of a head ended in LF without CR.
    #[must_use]
    pub fn has_bare_lf(&self) -> bool {
        self.bare_lf
    }

    fn extend(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            if self.length < PREFIX {
                let take = bytes.len().min(PREFIX - self.length);
                self.prefix[self.length..self.length + take].copy_from_slice(&bytes[..take]);
            }
            self.length = self.length.saturating_add(bytes.len());
            self.ends_in_cr = *last == b'\r';
        }
    }

    fn end_line(&mut self) {
        self.bare_lf |= !self.ends_in_cr;
        let length = self.length - usize::from(self.ends_in_cr);
        (self.length, self.ends_in_cr) = (0, false);
        if length > 0 {
            if self.lines > 0 {
                let line = &self.prefix[..length.min(PREFIX)];
                self.has_length |= is_header(line, b"content-length");
                self.has_encoding |= is_header(line, b"transfer-encoding");
            }
            self.lines += 1;
        } else if self.lines > 0 {
            self.both |= self.has_length && self.has_encoding;
            self.in_body = self.has_length || self.has_encoding;
            (self.lines, self.has_length, self.has_encoding) = (0, false, false);
        }
    }
}

fn is_header(line: &[u8], name: &[u8]) -> bool {
    line.len() > name.len() && line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the text in pieces of every size.
    fn check(text: &str, both: bool, bare_lf: bool) {
        for size in 1..=text.len() {
            let mut framing = Framing::default();
            text.as_bytes().chunks(size).for_each(|piece| framing.feed(piece));
            assert_eq!((framing.has_both(), framing.has_bare_lf()), (both, bare_lf), "{text:?} by {size}");
        }
    }

    #[test]
    fn both_lengths_are_seen_however_the_bytes_come() {
        let te = "Transfer-Encoding: chunked\r\n";
        check(&format!("POST / HTTP/1.1\r\nContent-Length: 5\r\n{te}\r\n"), true, false);
        check(&format!("POST / HTTP/1.1\r\n{te}a: b\r\ncontent-LENGTH:5\r\n\r\n"), true, false);
        check(&format!("POST / HTTP/1.1\r\n{te}X-Content-Length: 5\r\n\r\n"), false, false);
        check(
            "GET /content-length: HTTP/1.1\r\nContent-Length: 5\r\n\r\ntransfer-encoding: x\n",
            false,
            false,
        );
        check(
            &format!("GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 5\r\n{te}\r\n"),
            true,
            false,
        );
    }

    #[test]
    fn a_bare_lf_is_seen_in_heads_only() {
        check("GET / HTTP/1.1\nHost: a\r\n\r\n", false, true);
        check("GET / HTTP/1.1\r\nHost: a\r\n\n", false, true);
        check("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\n\n", false, false);
    }

    #[test]
    fn after_an_exchange_the_next_head_is_watched() {
        let mut framing = Framing::default();
        framing.feed(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab");
        assert!(!framing.is_mid_head());
        framing.rearm();
        framing.feed(b"GET");
        assert!(framing.is_mid_head());
    }
}
