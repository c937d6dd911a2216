//! Watches the raw bytes of requests for what hyper forgives and a proxy must not.
//!
//! hyper takes a request with both `Content-Length` and `Transfer-Encoding` (it drops the first, as RFC 9112 allows),
//! lines that end in a bare LF, and a target with a fragment (it cuts that off). None of them can smuggle anything
//! through us, since each request is framed anew, but whoever stands before us may have read it differently, so they are
//! refused. To know where the next head begins, also one that comes in the same packet, bodies are followed by their
//! lengths; what they hold is never looked at.
//!
//! Invariant: where hyper takes a request, this agrees with it on where the request ends. Where hyper refuses one, the
//! connection ends, and it does not matter what is seen here.

/// Longest header name that matters, plus its colon.
const PREFIX: usize = 18;

#[derive(Debug, Default)]
pub struct Framing {
    place: Place,
    line: Line,
    head: Head,
    /// Heads that have come whole.
    heads: u64,
    /// The first one that breaks a rule, counted from 0, and which rule. No other is served after it.
    wrong: Option<(u64, &'static str)>,
    /// The head whose trailers have a line that ends in a bare LF: hyper takes what follows for a part of them.
    wrong_trailers: Option<u64>,
    /// The first head whose request line is longer than that.
    long_line: Option<u64>,
    longest_line: usize,
}

/// Where the next byte belongs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// So many bytes of a body are left.
    Sized(u64),
    /// Digits of a chunk's size; what they say so far.
    Size(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// A line behind the last chunk; whether it is empty so far.
    Trailer(bool),
    TrailerLf(bool),
    /// It is not what hyper takes.
    Lost,
}

/// The present line of a head.
#[derive(Debug, Default, Clone, Copy)]
struct Line {
    prefix: [u8; PREFIX],
    /// With its CR.
    length: usize,
    ends_in_cr: bool,
    /// What the digits behind `content-length:` say.
    number: Option<u64>,
    has_fragment: bool,
}

/// The present head.
#[derive(Debug, Default, Clone, Copy)]
struct Head {
    /// Complete ones.
    lines: usize,
    length: Option<u64>,
    has_length: bool,
    has_encoding: bool,
    bare_lf: bool,
    has_fragment: bool,
}

impl Framing {
    pub fn new(longest_line: usize) -> Self {
        Self { longest_line, ..Self::default() }
    }

    /// Takes the bytes that were just read.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            let used = match self.place {
                Place::Head => self.feed_head(bytes),
                Place::Sized(left) | Place::Data(left) => {
                    let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let left = left - used as u64;
                    self.place = match self.place {
                        Place::Data(_) if left == 0 => Place::DataCr,
                        Place::Data(_) => Place::Data(left),
                        _ if left == 0 => Place::Head,
                        _ => Place::Sized(left),
                    };
                    used
                }
                Place::Lost => return,
                Place::Trailer(_) if *first == b'\n' => {
                    self.wrong_trailers = self.heads.checked_sub(1);
                    self.place = Place::Lost;
                    1
                }
                place => {
                    self.place = place.after(*first);
                    1
                }
            };
            bytes = &bytes[used..];
        }
    }

    /// So many heads have come whole.
    #[must_use]
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Part of a head has come, and not yet all of it.
    #[must_use]
    pub fn is_mid_head(&self) -> bool {
        self.place == Place::Head && (self.head.lines > 0 || self.line.length > 0)
    }

    /// The request line of the head with this number is longer than it may be.
    #[must_use]
    pub fn is_line_long(&self, head: u64) -> bool {
        self.long_line == Some(head)
    }

    /// Which rule the head with this number breaks, counted from 0.
    #[must_use]
    pub fn wrong(&self, head: u64) -> Option<&'static str> {
        self.wrong.filter(|(first, _)| head >= *first).map(|(_, reason)| reason)
    }

    /// A line behind the body of this head ends in LF without CR.
    #[must_use]
    pub fn has_wrong_trailers(&self, head: u64) -> bool {
        self.wrong_trailers == Some(head)
    }

    /// Up to the end of a line; says how many bytes that are.
    fn feed_head(&mut self, bytes: &[u8]) -> usize {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        self.line.extend(&bytes[..end.unwrap_or(bytes.len())], self.head.lines);
        if self.head.lines == 0 && self.line.length > self.longest_line {
            self.long_line.get_or_insert(self.heads);
        }
        end.map_or(bytes.len(), |end| {
            self.end_line();
            end + 1
        })
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let head = &mut self.head;
        head.bare_lf |= !line.ends_in_cr;
        let length = line.length - usize::from(line.ends_in_cr);
        if length == 0 {
            // Empty lines in front of a request are skipped.
            if head.lines > 0 {
                self.end_head();
            }
            return;
        }
        if head.lines == 0 {
            head.has_fragment = line.has_fragment;
        } else if line.is("content-length") {
            head.has_length = true;
            head.length = line.number;
        } else if line.is("transfer-encoding") {
            head.has_encoding = true;
        }
        head.lines += 1;
    }

    fn end_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        let reason = match head {
            Head { has_length: true, has_encoding: true, .. } => {
                Some("the head has both Content-Length and Transfer-Encoding\n")
            }
            Head { bare_lf: true, .. } => Some("the head has a line without CR\n"),
            Head { has_fragment: true, .. } => Some("the target has a fragment, or the method a #\n"),
            _ => None,
        };
        if let (Some(reason), None) = (reason, self.wrong) {
            self.wrong = Some((self.heads, reason));
        }
        self.heads += 1;
        self.place = match head {
            Head { has_encoding: true, .. } => Place::Size(0),
            Head { has_length: false, .. } | Head { length: Some(0), .. } => Place::Head,
            Head { length: Some(length), .. } => Place::Sized(length),
            Head { length: None, .. } => Place::Lost,
        };
    }
}

impl Line {
    fn extend(&mut self, bytes: &[u8], lines_before: usize) {
        const NAME: usize = "content-length:".len();
        let Some(last) = bytes.last() else { return };
        let before = self.length;
        if before < PREFIX {
            let take = bytes.len().min(PREFIX - before);
            self.prefix[before..before + take].copy_from_slice(&bytes[..take]);
        }
        self.length = before.saturating_add(bytes.len());
        self.ends_in_cr = *last == b'\r';
        if lines_before == 0 {
            self.has_fragment |= bytes.contains(&b'#');
        } else if self.is("content-length") {
            bytes.iter().skip(NAME.saturating_sub(before)).for_each(|byte| self.take_digit(*byte));
        }
    }

    /// hyper has looked at what is no digit: only white space may be around them.
    fn take_digit(&mut self, byte: u8) {
        if byte.is_ascii_digit() {
            let digit = u64::from(byte - b'0');
            let so_far = self.number.unwrap_or(0).saturating_mul(10).saturating_add(digit);
            self.number = Some(so_far);
        }
    }

    fn is(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let prefix = &self.prefix[..self.length.min(PREFIX)];
        prefix.len() > name.len()
            && prefix[name.len()] == b':'
            && prefix[..name.len()].eq_ignore_ascii_case(name)
    }
}

impl Place {
    /// Of a body in chunks: one byte further.
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size(size), _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                size.checked_mul(16).map_or(Self::Lost, |size| Self::Size(size + digit))
            }
            (Self::Size(size) | Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::Size(size) | Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeLf(0), b'\n') => Self::Trailer(true),
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size(0),
            (Self::Trailer(is_empty), b'\r') => Self::TrailerLf(is_empty),
            (Self::Trailer(_), _) => Self::Trailer(false),
            (Self::TrailerLf(true), b'\n') => Self::Head,
            (Self::TrailerLf(false), b'\n') => Self::Trailer(true),
            _ => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the text in pieces of every size; `expect` is a part of the reason, for each head.
    fn check(text: &str, expect: &[&str]) {
        for size in 1..=text.len() {
            let mut framing = Framing::new(100);
            text.as_bytes().chunks(size).for_each(|piece| framing.feed(piece));
            let got: Vec<&str> = (0..framing.heads).map(|head| framing.wrong(head).unwrap_or("")).collect();
            let is_so = got.len() == expect.len()
                && got
                    .iter()
                    .zip(expect)
                    .all(|(got, expect)| got.contains(expect) && (got.is_empty() == expect.is_empty()));
            assert!(is_so, "{text:?} by {size}: {got:?}");
        }
    }

    const BOTH: &str = "both";
    const TE: &str = "Transfer-Encoding: chunked\r\n";

    #[test]
    fn both_lengths_are_seen_however_the_bytes_come() {
        check(&format!("POST / HTTP/1.1\r\nContent-Length: 5\r\n{TE}\r\n"), &[BOTH]);
        check(&format!("POST / HTTP/1.1\r\n{TE}a: b\r\ncontent-LENGTH:5\r\n\r\n"), &[BOTH]);
        check(&format!("POST / HTTP/1.1\r\n{TE}X-Content-Length: 5\r\n\r\n"), &[""]);
        check("GET /content-length: HTTP/1.1\r\nContent-Length: 5\r\n\r\ntransfer-encoding: x\n", &[""]);
        check(
            &format!("GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 5\r\n{TE}\r\n"),
            &["", BOTH],
        );
    }

    #[test]
    fn a_bare_lf_and_a_fragment_are_seen_in_heads_only() {
        check("GET / HTTP/1.1\nHost: a\r\n\r\n", &["CR"]);
        check("GET / HTTP/1.1\r\nHost: a\r\n\n", &["CR"]);
        check("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &["CR"]);
        check("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", &["fragment"]);
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\nX: #\r\n\r\n\n#\n", &[""]);
    }

    #[test]
    fn the_head_behind_a_body_is_watched_too() {
        let next = format!("GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\n{TE}\r\n");
        check(&format!("POST / HTTP/1.1\r\nContent-Length: 05 \r\n\r\nG\n\r\n\n{next}"), &["", "", BOTH]);
        check(&format!("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n{next}"), &["", "", BOTH]);
        let chunks = "3\r\n0\r\n\r\nA;x=1\r\n0123456\r\n\n\r\n000 ;\r\n";
        check(&format!("POST / HTTP/1.1\r\n{TE}\r\n{chunks}\r\n{next}"), &["", "", BOTH]);
        check(&format!("POST / HTTP/1.1\r\n{TE}\r\n{chunks}A: b\r\nC: \r\n\r\n{next}"), &["", "", BOTH]);
    }

    #[test]
    fn a_head_has_begun_with_its_first_byte_and_not_with_those_of_a_body() {
        let mut framing = Framing::new(100);
        framing.feed(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na");
        assert!(!framing.is_mid_head());
        framing.feed(b"b");
        assert!(!framing.is_mid_head());
        framing.feed(b"GET");
        assert!(framing.is_mid_head());
    }

    #[test]
    fn a_long_request_line_is_seen_before_its_end() {
        let mut framing = Framing::new(5);
        framing.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(framing.is_line_long(0));
        let mut framing = Framing::new(15);
        framing.feed(b"GET / HTTP/1.1\r\nX: longer than any line\r\n\r\nGET /abcdefghij");
        assert!(!framing.is_line_long(0) && !framing.is_line_long(1));
        framing.feed(b"k");
        assert!(framing.is_line_long(1));
    }
}
