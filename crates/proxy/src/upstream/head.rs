//! The head of a request to an endpoint, and of its answer, in HTTP/1.1.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;
use thiserror::Error;

/// Of an answer.
const MOST_FIELDS: usize = 100;

#[derive(Debug, Error)]
#[error("this is no head of HTTP/1.1")]
pub struct NoHead;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    After(u64),
    Chunked,
    /// With the connection.
    AtClose,
}

/// A head that has come whole.
pub struct Answer {
    pub head: Parts,
    /// So many bytes it has.
    pub bytes: usize,
    pub ends: Ends,
    /// The connection may be used again after it.
    pub stays: bool,
}

/// Writes the head of a request, and in it how its body ends, if it has one.
pub fn write<B>(request: &Request<B>, body: Option<Ends>, out: &mut Vec<u8>) {
    let is_chunked = body == Some(Ends::Chunked);
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let target = request.uri();
    out.extend_from_slice(target.path().as_bytes());
    if let Some(query) = target.query() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        // The coding is said below, and then no length.
        if *name != TRANSFER_ENCODING && !(is_chunked && *name == CONTENT_LENGTH) {
            write_field(name, value, out);
        }
    }
    if is_chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

pub fn write_field(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// How the body of a request ends that has one.
pub fn request_ends(headers: &HeaderMap) -> Ends {
    let mut said = Said::default();
    headers.iter().for_each(|(name, value)| said.note(name, value.as_bytes()));
    match said {
        Said { length: Some(Ok(length)), coding: None, .. } => Ends::After(length),
        _ => Ends::Chunked,
    }
}

/// The head that `bytes` begin with, to a request with this method; `None` if it has not come whole. Its fields take the room of those
/// that are used no longer.
///
/// # Errors
/// When this is no head, or it is not clear where its body ends.
pub fn parse(bytes: &Bytes, method: &Method, used: &mut HeaderMap) -> Result<Option<Answer>, NoHead> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let end = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(NoHead),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(NoHead)?;
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    head.version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    if let Some(reason) = parsed.reason.filter(|reason| status.canonical_reason() != Some(reason)) {
        head.extensions.insert(ReasonPhrase::try_from(reason.as_bytes()).map_err(|_| NoHead)?);
    }
    head.headers = std::mem::take(used);
    head.headers.clear();
    head.headers.reserve(parsed.headers.len());
    let mut said = Said::default();
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| NoHead)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| NoHead)?;
        said.note(&name, value.as_bytes());
        head.headers.append(name, value);
    }
    let ends = said.ends(&head, method)?;
    let is_kept = said.keep_alive || head.version == Version::HTTP_11;
    Ok(Some(Answer { head, bytes: end, ends, stays: is_kept && !said.close && ends != Ends::AtClose }))
}

/// What the fields of an answer say of its end, and of the connection (RFC 9112 §6.3, §9.3).
#[derive(Default)]
struct Said {
    /// Said more than once it must be the same.
    length: Option<Result<u64, NoHead>>,
    /// Whether it is chunked, once, and nothing else.
    coding: Option<bool>,
    close: bool,
    keep_alive: bool,
}

impl Said {
    fn note(&mut self, name: &HeaderName, value: &[u8]) {
        let tokens = || value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        match *name {
            CONTENT_LENGTH => {
                for number in tokens().map(length) {
                    self.length = Some(match (self.length.take(), number) {
                        (None, number) => number,
                        (Some(Ok(before)), Ok(number)) if before == number => Ok(number),
                        _ => Err(NoHead),
                    });
                }
            }
            TRANSFER_ENCODING => {
                self.coding = Some(self.coding.is_none() && value.eq_ignore_ascii_case(b"chunked"));
            }
            CONNECTION => {
                self.close |= tokens().any(|token| token.eq_ignore_ascii_case(b"close"));
                self.keep_alive |= tokens().any(|token| token.eq_ignore_ascii_case(b"keep-alive"));
            }
            _ => {}
        }
    }

    fn ends(&mut self, head: &Parts, method: &Method) -> Result<Ends, NoHead> {
        let is_clear = match self.coding {
            Some(is_chunked) => is_chunked && self.length.is_none(),
            None => true,
        };
        let has_none = head.status.is_informational()
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *method == Method::HEAD;
        match self.coding {
            _ if !is_clear => Err(NoHead),
            _ if has_none => Ok(Ends::After(0)),
            Some(_) if head.version == Version::HTTP_11 => Ok(Ends::Chunked),
            Some(_) => Err(NoHead), // HTTP/1.0 knows no chunks
            None => self.length.take().map_or(Ok(Ends::AtClose), |length| length.map(Ends::After)),
        }
    }
}

fn length(text: &[u8]) -> Result<u64, NoHead> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.filter(|_| is_number).ok_or(NoHead)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, method: &Method) -> Result<Option<Answer>, NoHead> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), method, &mut HeaderMap::new())
    }

    /// How its body ends, and whether the connection stays; `None` if it is refused.
    fn check(fields: &str, expect: Option<(Ends, bool)>) {
        for (version, method, status) in [
            ("1.1", Method::GET, 200),
            ("1.1", Method::HEAD, 200),
            ("1.1", Method::GET, 204),
            ("1.1", Method::GET, 304),
        ] {
            let text = format!("HTTP/{version} {status} Fine\r\n{fields}\r\n");
            let got = read(&text, &method).ok().map(|answer| answer.expect("a whole head"));
            let no_body = method == Method::HEAD || status != 200;
            let expect = match expect {
                Some((Ends::AtClose, _)) if no_body => Some((Ends::After(0), !fields.contains("close"))),
                Some((_, stays)) if no_body => Some((Ends::After(0), stays)),
                expect => expect,
            };
            assert_eq!(got.as_ref().map(|answer| (answer.ends, answer.stays)), expect, "{text:?}");
            assert!(got.is_none_or(|answer| answer.bytes == text.len() && answer.head.status == status));
        }
    }

    #[test]
    fn where_an_answer_ends_is_clear_or_it_is_none() {
        check("", Some((Ends::AtClose, false)));
        check("content-length: 5\r\n", Some((Ends::After(5), true)));
        check("Content-Length: 5\r\ncontent-length:5 , 5\r\n", Some((Ends::After(5), true)));
        check("transfer-encoding: Chunked\r\n", Some((Ends::Chunked, true)));
        check("content-length: 5\r\nconnection: x, Close\r\n", Some((Ends::After(5), false)));
        check("content-length: 5\r\ntransfer-encoding: chunked\r\n", None);
        check("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", None);
        check("transfer-encoding: gzip, chunked\r\n", None);
    }

    #[test]
    fn a_length_that_is_none_is_refused_where_there_is_a_body() {
        for wrong in ["+5", "-5", "5, 6", "", "5,", "0x5", "99999999999999999999", "5 5"] {
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {wrong}\r\n\r\n");
            assert!(read(&text, &Method::GET).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn http_1_0_closes_unless_it_says_so_and_knows_no_chunks() {
        let of = |fields: &str| {
            read(&format!("HTTP/1.0 200 OK\r\n{fields}\r\n"), &Method::GET)
                .ok()
                .flatten()
                .map(|answer| answer.stays)
        };
        assert_eq!(of("content-length: 5\r\n"), Some(false));
        assert_eq!(of("content-length: 5\r\nconnection: Keep-Alive\r\n"), Some(true));
        assert_eq!(of("connection: keep-alive\r\n"), Some(false));
        assert_eq!(of("content-length: 5\r\nconnection: close\r\nconnection: keep-alive\r\n"), Some(false));
        assert_eq!(of("transfer-encoding: chunked\r\n"), None);
    }

    #[test]
    fn a_head_is_whole_with_its_empty_line_and_its_reason_stays() {
        let text = "HTTP/1.1 200 As you like\r\nA: b\r\nA: c\r\ncontent-length: 0\r\n\r\n";
        for end in 0..text.len() {
            assert!(read(&text[..end], &Method::GET).unwrap().is_none(), "{end}");
        }
        let head = read(text, &Method::GET).unwrap().unwrap().head;
        assert_eq!(head.headers.get_all("a").iter().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(head.extensions.get::<ReasonPhrase>().unwrap().as_bytes(), b"As you like");
        let head = read("HTTP/1.1 200 OK\r\n\r\n", &Method::GET).unwrap().unwrap().head;
        assert!(head.extensions.get::<ReasonPhrase>().is_none(), "what everybody says");
    }

    #[test]
    fn only_one_header_says_where_a_request_ends() {
        let mut request = Request::post("/a/b?c=%20d").body(()).unwrap();
        for (name, value) in [("host", "a"), ("content-length", "5"), ("transfer-encoding", "chunked")] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let written = |request: &Request<()>, ends: Option<Ends>| {
            let mut out = Vec::new();
            write(request, ends, &mut out);
            String::from_utf8(out).unwrap()
        };
        let line = "POST /a/b?c=%20d HTTP/1.1\r\nhost: a\r\n";
        assert_eq!(request_ends(request.headers()), Ends::Chunked);
        assert_eq!(
            written(&request, Some(Ends::Chunked)),
            format!("{line}transfer-encoding: chunked\r\n\r\n")
        );
        assert_eq!(written(&request, None), format!("{line}content-length: 5\r\n\r\n"));
        request.headers_mut().remove("transfer-encoding");
        assert_eq!(request_ends(request.headers()), Ends::After(5));
        assert_eq!(written(&request, Some(Ends::After(5))), format!("{line}content-length: 5\r\n\r\n"));
        // Whatever brought it here: what is sent in chunks says so.
        request.headers_mut().insert("content-length", HeaderValue::from_static(""));
        let ends = request_ends(request.headers());
        assert_eq!(written(&request, Some(ends)), format!("{line}transfer-encoding: chunked\r\n\r\n"));
        let all = Request::options("*").body(()).unwrap();
        assert_eq!(written(&all, None), "OPTIONS * HTTP/1.1\r\n\r\n");
    }
}
