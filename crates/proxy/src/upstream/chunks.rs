//! The end of an answer that comes in chunks (RFC 9112 §7.1), and what is between them.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;

/// Of all extensions of a body together, and of the lines behind it.
const MOST_BESIDE: usize = 16 * 1024;
const MOST_TRAILERS: usize = 100;

#[derive(Debug, Error)]
#[error("these are no chunks")]
pub struct NoChunks;

/// What comes next in a body.
#[derive(Debug)]
pub enum Part {
    Data(Bytes),
    /// The lines behind the last chunk; its end.
    Trailers(HeaderMap),
    End,
    /// More bytes are needed.
    More,
}

/// Where the next byte belongs.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// The digits of a size so far.
    Size(Option<u64>),
    /// White space behind them, after which only an extension may come.
    SizeEnd(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
}

#[derive(Debug)]
pub struct Chunks {
    place: Place,
    extensions: usize,
    trailers: Vec<u8>,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { place: Place::Size(None), extensions: 0, trailers: Vec::new() }
    }
}

impl Chunks {
    /// Takes the next part off the front of `bytes`, all of which it needs when it asks for more.
    ///
    /// # Errors
    /// When these are no chunks. Nothing is to be asked after that, nor after the end.
    pub fn next(&mut self, bytes: &mut Bytes) -> Result<Part, NoChunks> {
        loop {
            if let Place::Data(left) = self.place {
                if bytes.is_empty() {
                    return Ok(Part::More);
                }
                let piece = bytes.split_to(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
                let left = left - piece.len() as u64;
                self.place = if left == 0 { Place::DataCr } else { Place::Data(left) };
                return Ok(Part::Data(piece));
            }
            let Some(&byte) = bytes.first() else { return Ok(Part::More) };
            bytes.advance(1);
            if matches!(self.place, Place::Trailers) {
                if let Some(end) = self.trailer(byte)? {
                    return Ok(end);
                }
            } else {
                self.place = self.after(byte)?;
            }
        }
    }

    /// One byte further, outside of data and trailers.
    fn after(&mut self, byte: u8) -> Result<Place, NoChunks> {
        Ok(match (self.place, byte) {
            (Place::Size(size), _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                let so_far = size.unwrap_or(0).checked_mul(16).ok_or(NoChunks)?;
                Place::Size(Some(so_far | digit))
            }
            (Place::Size(Some(size)) | Place::SizeEnd(size) | Place::Extension(size), b'\r') => {
                Place::SizeLf(size)
            }
            (Place::Size(Some(size)) | Place::SizeEnd(size), b';') => Place::Extension(size),
            (Place::Size(Some(size)) | Place::SizeEnd(size), b' ' | b'\t') => Place::SizeEnd(size),
            (Place::Extension(size), byte) if byte != b'\n' && self.extensions < MOST_BESIDE => {
                self.extensions += 1;
                Place::Extension(size)
            }
            (Place::SizeLf(0), b'\n') => Place::Trailers,
            (Place::SizeLf(size), b'\n') => Place::Data(size),
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size(None),
            _ => return Err(NoChunks),
        })
    }

    /// One byte further behind the last chunk.
    fn trailer(&mut self, byte: u8) -> Result<Option<Part>, NoChunks> {
        let before = self.trailers.last().copied();
        // A line has one end, which is both: whoever takes another sees other lines.
        if (byte == b'\n') != (before == Some(b'\r')) || self.trailers.len() >= MOST_BESIDE {
            return Err(NoChunks);
        }
        self.trailers.push(byte);
        if self.trailers == b"\r\n" {
            return Ok(Some(Part::End));
        }
        if !self.trailers.ends_with(b"\r\n\r\n") {
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
        let parsed = httparse::parse_headers(&self.trailers, &mut fields).map_err(|_| NoChunks)?;
        let httparse::Status::Complete((_, fields)) = parsed else { return Err(NoChunks) };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| NoChunks)?;
            trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| NoChunks)?);
        }
        Ok(Some(Part::Trailers(trailers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the text says, fed in pieces of every size: data, trailers as `name=value`, and what is left behind its end.
    fn read(text: &str, size: usize) -> Result<(String, String, String), NoChunks> {
        let (mut chunks, mut data, mut rest) = (Chunks::default(), String::new(), Bytes::new());
        let mut pieces = text.as_bytes().chunks(size);
        loop {
            match chunks.next(&mut rest)? {
                Part::Data(bytes) => data += std::str::from_utf8(&bytes).unwrap(),
                Part::More => match pieces.next() {
                    Some(piece) => rest = Bytes::copy_from_slice(piece),
                    None => return Ok((data, "no end".into(), String::new())),
                },
                end @ (Part::End | Part::Trailers(_)) => {
                    let trailers =
                        if let Part::Trailers(trailers) = end { trailers } else { HeaderMap::new() };
                    let said: Vec<String> = trailers
                        .iter()
                        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
                        .collect();
                    let left = [rest.to_vec(), pieces.flatten().copied().collect()].concat();
                    return Ok((data, said.join(" "), String::from_utf8(left).unwrap()));
                }
            }
        }
    }

    fn check(text: &str, expect: Option<(&str, &str, &str)>) {
        for size in 1..=text.len() {
            let got = read(text, size).ok();
            let got = got.as_ref().map(|(data, trailers, left)| (&**data, &**trailers, &**left));
            assert_eq!(got, expect, "{text:?} by {size}");
        }
    }

    #[test]
    fn chunks_end_where_they_say_so() {
        check("0\r\n\r\n", Some(("", "", "")));
        check("3\r\nabc\r\n0\r\n\r\nnext", Some(("abc", "", "next")));
        check("1\r\na\r\n0B \t;x=\"1\"\r\n0123456789\n\r\n00\r\n\r\n", Some(("a0123456789\n", "", "")));
        check("1\r\na\r\n0\r\nA: b\r\nc:  d \r\n\r\n", Some(("a", "a=b c=d", "")));
        check("3\r\nab", Some(("ab", "no end", "")));
        check("3\r\nabc\r\n0\r\n", Some(("abc", "no end", "")));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for wrong in [
            "\r\n",
            ";\r\n",
            "g\r\n",
            "-1\r\n",
            "0x1\r\na\r\n",
            "1 1\r\n",
            "1\na",
            "1\r\nab\r\n",
            "1\r\na\n0",
            "1\r\nax\n0\r\n\r\n",
            "1\r\na\rx0\r\n\r\n",
            "1\rxa\r\n0\r\n\r\n",
            "1\r\na\r\r",
            "1;\na",
            "10000000000000000\r\n",
            "0\r\n\n",
            "0\r\na: b\n\r\n",
            "0\r\n\r\r",
            "0\r\nno field\r\n\r\n",
            "0\r\n a: b\r\n\r\n",
        ] {
            check(wrong, None);
        }
        let long = "x".repeat(MOST_BESIDE + 1);
        assert!(read(&format!("1;{long}\r\n"), 4096).is_err());
        assert!(read(&format!("0\r\na: {long}\r\n"), 4096).is_err());
        let many = "a: b\r\n".repeat(MOST_TRAILERS + 1);
        assert!(read(&format!("0\r\n{many}\r\n"), 4096).is_err());
    }
}
