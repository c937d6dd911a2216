//! What a fuzzer calls: each function takes any bytes, and panics when a rule does not hold. They are run with
//! `cargo fuzz` (see `crates/proxy/fuzz/`) and for a few seconds by `tests/fuzz.rs`.
//!
//! Here is what we parse or rewrite ourselves. What hyper, `h2` and `serde_json` parse is theirs to fuzz; that our idea of
//! where a request ends is hyper's is ours, and that an answer is what hyper's client would have taken it for.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trundle_versions::Range;

use crate::ask::target::is_host;
use crate::calls::Messages;
use crate::events::Events;
use crate::framing::Framing;
use crate::headers::{self, Origin};
use crate::http2::floods::Floods;
use crate::table::Table;
use crate::trust::{Peer, Trust};
use crate::upstream::chunks::{Chunks, Part};
use crate::upstream::head::{self, Ends};
use crate::websocket::Frames;
use crate::window::keys::Keys;
use crate::window::{Token, cookie};

pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 10] = [
    ("framing", framing),
    ("framing_and_hyper", framing_and_hyper),
    ("request_headers", request_headers),
    ("hosts", hosts),
    ("trusted_proxies", trusted_proxies),
    ("tables", tables),
    ("http2_floods", http2_floods),
    ("streams", streams),
    ("answers", answers),
    ("versions", versions),
];

/// Long enough for a seed and short enough to be met.
const LONGEST_LINE: usize = 200;

/// The bytes in pieces, whose sizes come from the bytes themselves.
fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    let mut state = bytes.iter().fold(17_u32, |state, byte| state.wrapping_mul(31) ^ u32::from(*byte));
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = (1 + (state >> 16) as usize % 24).min(rest.len());
        let (piece, after) = rest.split_at(size);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// The watcher sees the same however the bytes come, and what a plain parser sees that has all of them.
pub fn framing(bytes: &[u8]) {
    let mut whole = Framing::new(LONGEST_LINE);
    whole.feed(bytes);
    let mut torn = Framing::new(LONGEST_LINE);
    pieces(bytes).into_iter().for_each(|piece| torn.feed(piece));
    let reference = Reference::of(bytes);
    // After a wrong head nothing is served, and what is seen does not matter.
    for head in 0..reference.heads.len() as u64 {
        let expected = reference.heads[head as usize];
        assert_eq!(whole.wrong(head).is_some(), expected, "head {head} of {reference:?}");
        assert_eq!(whole.wrong(head), torn.wrong(head), "head {head}");
        assert_eq!(whole.is_line_long(head), torn.is_line_long(head), "head {head}");
        if expected {
            return;
        }
    }
    assert_eq!(whole.wrong(reference.heads.len() as u64), None, "{reference:?}");
    assert_eq!(whole.is_mid_head(), torn.is_mid_head());
    if !reference.is_lost {
        assert_eq!(whole.heads(), reference.heads.len() as u64);
        assert_eq!(whole.is_mid_head(), reference.is_mid_head, "{reference:?}");
    }
}

/// Reads all bytes at once, by lines; knows nothing of states.
#[derive(Debug, Default)]
struct Reference {
    /// Whether each head breaks a rule, up to the first that does.
    heads: Vec<bool>,
    is_mid_head: bool,
    /// A body is not what hyper takes.
    is_lost: bool,
}

/// Its lines, whether it breaks a rule, and what follows it.
type ReadHead<'a> = (Vec<&'a [u8]>, bool, &'a [u8]);

impl Reference {
    fn of(bytes: &[u8]) -> Self {
        let mut this = Self::default();
        let mut rest = bytes;
        while let Some((lines, is_wrong, after)) = this.head(rest) {
            rest = after;
            this.heads.push(is_wrong);
            if is_wrong {
                return this;
            }
            let after_body = if last_of(&lines, b"transfer-encoding:").is_some() {
                chunks(rest)
            } else if let Some(value) = last_of(&lines, b"content-length:") {
                let digits: Vec<u8> = value.iter().copied().filter(u8::is_ascii_digit).collect();
                let length = std::str::from_utf8(&digits).ok().filter(|digits| !digits.is_empty());
                length.map(|digits| rest.get(digits.parse::<usize>().unwrap_or(usize::MAX)..))
            } else {
                Some(Some(rest))
            };
            match after_body {
                Some(Some(after)) => rest = after,
                Some(None) => return this, // in a body
                None => {
                    this.is_lost = true;
                    return this;
                }
            }
        }
        this
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Option<ReadHead<'a>> {
        let mut lines: Vec<&[u8]> = Vec::new();
        let mut is_bare = false;
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let text = line.strip_suffix(b"\r").unwrap_or(line);
            is_bare |= text.len() == line.len();
            if !text.is_empty() {
                lines.push(text);
            } else if !lines.is_empty() {
                let is_wrong = is_bare
                    || lines[0].contains(&b'#')
                    || (last_of(&lines, b"content-length:").is_some()
                        && last_of(&lines, b"transfer-encoding:").is_some());
                return Some((lines, is_wrong, rest));
            }
        }
        self.is_mid_head = !lines.is_empty() || !rest.is_empty();
        None
    }
}

/// The value of the last header with this name and a colon.
fn last_of<'a>(lines: &[&'a [u8]], name: &[u8]) -> Option<&'a [u8]> {
    let mut values = lines.iter().skip(1).filter_map(|line| {
        let (found, value) = (line.get(..name.len())?, line.get(name.len()..)?);
        found.eq_ignore_ascii_case(name).then_some(value)
    });
    values.next_back()
}

/// What follows a body in chunks: `None` if it is none, `Some(None)` if it is not whole.
#[allow(clippy::option_option)]
fn chunks(mut rest: &[u8]) -> Option<Option<&[u8]>> {
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\r') else { return Some(None) };
        let digits = rest[..end].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let text = std::str::from_utf8(&rest[..digits]).unwrap_or_default();
        let size = if text.is_empty() { 0 } else { u64::from_str_radix(text, 16).ok()? };
        match rest.get(end + 1) {
            None => return Some(None),
            Some(b'\n') => rest = &rest[end + 2..],
            Some(_) => return None,
        }
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).ok()?;
        let Some(after) = rest.get(size..) else { return Some(None) };
        match after {
            [] | [b'\r'] => return Some(None),
            [b'\r', b'\n', ..] => rest = &after[2..],
            _ => return None,
        }
    }
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\r' || *byte == b'\n') else {
            return Some(None);
        };
        match &rest[end..] {
            [b'\r'] => return Some(None),
            [b'\r', b'\n', ..] => rest = &rest[end + 2..],
            _ => return None,
        }
        if end == 0 {
            return Some(Some(rest));
        }
    }
}

/// Where hyper takes requests, the watcher has seen each of their heads, and no other.
pub fn framing_and_hyper(bytes: &[u8]) {
    let mut watcher = Framing::new(LONGEST_LINE);
    watcher.feed(bytes);
    let (served, is_last) = served_by_hyper(bytes);
    // Of trailers that hyper takes and we do not, nothing more is served.
    if (0..watcher.heads()).any(|head| watcher.has_wrong_trailers(head)) {
        return;
    }
    assert!(watcher.heads() >= served, "hyper has served {served}, {watcher:?}");
    // A wrong head ends what is served; before it, both agree.
    let is_wrong = served > 0 && watcher.wrong(served - 1).is_some();
    if !is_last && !is_wrong {
        assert_eq!(watcher.heads(), served, "{watcher:?}");
    }
}

/// How many requests hyper takes with their bodies, and whether it looks at what follows the last one: not when that said so,
/// and not when something is no HTTP.
fn served_by_hyper(bytes: &[u8]) -> (u64, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without timers and sockets needs nothing");
    let seen = Rc::new(RefCell::new((0, false)));
    let served = Rc::clone(&seen);
    let service = service_fn(move |request: Request<Incoming>| {
        let served = Rc::clone(&served);
        async move {
            let is_old = request.version() != http::Version::HTTP_11;
            let says_close = request.headers().contains_key(http::header::CONNECTION);
            // What hyper closes for by itself.
            let is_odd = request.method() == http::Method::CONNECT
                || request.headers().contains_key(http::header::UPGRADE)
                || request.headers().contains_key(http::header::TRANSFER_ENCODING);
            let is_whole = request.into_body().collect().await.is_ok();
            let mut seen = served.borrow_mut();
            seen.0 += u64::from(is_whole);
            seen.1 |= is_old || says_close || is_odd || !is_whole;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let is_fine = runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(bytes.len().max(1));
        let serving = hyper::server::conn::http1::Builder::new()
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(server), service);
        let asking = async {
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let mut answers = [0; 4096];
            while let Ok(1..) = client.read(&mut answers).await {}
        };
        tokio::join!(serving, asking).0.is_ok()
    });
    let (served, is_last) = *seen.borrow();
    (served, is_last || !is_fine)
}

const PEER: &str = "9.9.9.9";

/// Lines `name: value`, of which the first byte says whether they come from a proxy that is trusted.
pub fn request_headers(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let trusted = first % 2 == 1;
    let mut headers = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let before = headers.clone();
    let peer_value = HeaderValue::from_static(PEER);
    let origin = Origin { peer_value: Some(&peer_value), trusted, is_secure: false };
    if !headers::to_endpoint(&mut headers, &origin) {
        return;
    }
    let cgi = |name: &str| -> String {
        name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte) } else { '_' }).collect()
    };
    for name in headers.keys().map(HeaderName::as_str) {
        let read = cgi(name);
        let is_identity = read.starts_with("x_forwarded_") || read == "forwarded" || read == "x_real_ip";
        let is_ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"].contains(&name);
        assert!(
            !is_identity || is_ours || (trusted && before.contains_key(name) && !name.contains('_')),
            "{name}"
        );
        let is_length = read == "content_length" || read == "transfer_encoding";
        assert!(!is_length || name == "content-length", "{name}");
        let of_connection =
            ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];
        assert!(!of_connection.contains(&name) && name != "expect" && name != "proxy", "{name}");
    }
    for name in [HOST, CONTENT_LENGTH] {
        assert!(headers.get_all(&name).iter().eq(before.get_all(&name).iter()), "{name}");
    }
    let chain = headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>();
    assert_eq!(chain.len(), 1);
    assert!(chain[0].as_bytes().ends_with(PEER.as_bytes()) && (trusted || chain[0] == PEER), "{chain:?}");
    assert!(trusted || headers["x-forwarded-proto"] == "http");
}

/// A host is an authority without a user for everybody, and nothing but that.
pub fn hosts(bytes: &[u8]) {
    if !is_host(bytes) {
        return;
    }
    let authority = Authority::try_from(bytes).expect("a host is an authority");
    let port = authority.port().map_or(String::new(), |port| format!(":{port}"));
    assert_eq!(format!("{}{port}", authority.host()).as_bytes(), bytes);
    assert!(bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte)));
}

/// Lines of a list; what it covers is looked at bit by bit.
pub fn trusted_proxies(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let list: Vec<String> = text.lines().map(str::to_owned).collect();
    let Ok(trust) = Trust::parse(&list) else { return };
    assert_eq!(trust.covers(Peer::Unix), list.iter().any(|entry| entry == "unix"));
    let bits = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => format!("4{:032b}", ip.to_bits()),
        IpAddr::V6(ip) => format!("6{:0128b}", ip.to_bits()),
    };
    let networks: Vec<(String, usize)> = list
        .iter()
        .filter(|entry| *entry != "unix")
        .map(|entry| {
            let (address, length) = entry.split_once('/').unwrap_or((entry, "128"));
            let bits = bits(address.parse().expect("it was taken"));
            let length = length.parse::<usize>().expect("it was taken");
            let length = if bits.starts_with('4') { length.min(32) } else { length };
            (bits, length)
        })
        .collect();
    let asked =
        ["0.0.0.0", "10.1.2.3", "127.0.0.1", "255.255.255.255", "::", "::1", "fd00::7", "::ffff:10.1.2.3"];
    for ip in asked.map(|ip| ip.parse::<IpAddr>().expect("an address")) {
        let asked = bits(ip);
        let expected = networks.iter().any(|(network, length)| {
            asked[..=*length.min(&(asked.len() - 1))] == network[..=*length.min(&(network.len() - 1))]
        });
        assert_eq!(trust.covers(Peer::Ip(ip)), expected, "{ip} and {list:?}");
    }
}

/// A table that is taken is the same once it was written and read.
pub fn tables(bytes: &[u8]) {
    let Ok(table) = serde_json::from_slice::<Table>(bytes) else { return };
    let is_valid = table.validate().is_ok();
    let text = serde_json::to_vec(&table).expect("what was read can be written");
    let again: Table = serde_json::from_slice(&text).expect("what was written can be read");
    assert!(again == table && again.validate().is_ok() == is_valid);
}

/// Frames are counted the same however they come.
pub fn http2_floods(bytes: &[u8]) {
    let (mut whole, mut torn) = (Floods::new(), Floods::new());
    let is_flood = whole.feed(crate::http2::PREFACE) || whole.feed(bytes);
    let preface = crate::http2::PREFACE.iter().map(std::slice::from_ref);
    let mut of_pieces = false;
    preface.chain(pieces(bytes)).for_each(|piece| of_pieces |= torn.feed(piece));
    assert_eq!(is_flood, of_pieces);
}

/// Where a stream may be ended is the same however its bytes come: of WebSockets, of events, of calls of gRPC.
pub fn streams(bytes: &[u8]) {
    let (mut frames, mut torn_frames) = (Frames::default(), Frames::default());
    let (mut events, mut torn_events) = (Events::default(), Events::default());
    let (mut calls, mut torn_calls) = (Messages::default(), Messages::default());
    frames.pass(bytes);
    events.pass(bytes);
    calls.pass(bytes);
    for piece in pieces(bytes) {
        let mut rest = piece;
        while !rest.is_empty() {
            let passed = torn_frames.pass_frame(rest);
            assert!((1..=rest.len()).contains(&passed));
            rest = &rest[passed..];
        }
        torn_events.pass(piece);
        torn_calls.pass(piece);
    }
    assert_eq!(frames.has_closed(), torn_frames.has_closed());
    assert_eq!(frames.is_between(), torn_frames.is_between());
    assert_eq!(events.is_between(), torn_events.is_between());
    assert_eq!(calls.is_between(), torn_calls.is_between());
}

/// What a client says of versions leads to no panic, the order of labels is one, and nobody can make up what we have signed.
pub fn versions(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (first, second) = text.split_once(['\n', ' ', ',']).unwrap_or((&text, "4.0"));
    if let Ok(range) = Range::parse(&text) {
        let labels = ["3.9", "v4", "4.0.1-rc1", "blue", first, second];
        assert_eq!(labels.map(|label| range.covers(label)), labels.map(|label| range.covers(label)));
    }
    let order = trundle_versions::compare(first, second);
    assert_eq!(order, trundle_versions::compare(second, first).map(std::cmp::Ordering::reverse));
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let headers = HeaderMap::from_iter([(COOKIE, value)]);
        let found = cookie(&headers, "trundle-web").unwrap_or(bytes);
        assert_eq!(Token::read(found, "web", &Keys::of_this_process()), None);
    }
}

/// An answer that we take for whole is the same however its bytes come, and hyper's client takes it for the same one.
pub fn answers(bytes: &[u8]) {
    let whole = read_answer(std::iter::once(bytes));
    let torn = read_answer(pieces(bytes).into_iter());
    assert_eq!(whole, torn);
    if let Some(ours) = whole {
        assert_eq!(Some(ours), read_by_hyper(bytes));
    }
}

/// Status and body of an answer that is whole, and how many trailers it has.
type Read = (u16, Vec<u8>, usize);

/// The connection ends behind the pieces.
fn read_answer<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> Option<Read> {
    let mut rest = Bytes::new();
    let mut more = |rest: &mut Bytes| {
        let piece = pieces.next()?;
        *rest = [rest, piece].concat().into();
        Some(())
    };
    let (status, ends) = loop {
        match head::parse(&rest, &http::Method::GET, &mut HeaderMap::new()).ok()? {
            Some(answer) => {
                let _ = rest.split_to(answer.bytes);
                match answer.head.status.as_u16() {
                    101 => return None,
                    100..200 => {}
                    status => break (status, answer.ends),
                }
            }
            None => more(&mut rest)?,
        }
    };
    let (mut body, mut trailers, mut chunks) = (Vec::new(), 0, Chunks::default());
    match ends {
        Ends::After(length) => {
            while (rest.len() as u64) < length {
                more(&mut rest)?;
            }
            body.extend_from_slice(&rest[..usize::try_from(length).ok()?]);
        }
        Ends::AtClose => {
            while more(&mut rest).is_some() {}
            body.extend_from_slice(&rest);
        }
        Ends::Chunked => loop {
            match chunks.next(&mut rest).ok()? {
                Part::Data(bytes) => body.extend_from_slice(&bytes),
                Part::More => more(&mut rest)?,
                Part::Trailers(fields) => {
                    trailers = fields.len();
                    break;
                }
                Part::End => break,
            }
        },
    }
    Some((status, body, trailers))
}

fn read_by_hyper(bytes: &[u8]) -> Option<Read> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without timers and sockets needs nothing");
    runtime.block_on(async {
        let (mut app, ours) = tokio::io::duplex(bytes.len().max(1024));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.ok()?;
        let answering = async {
            // Not before it is asked: an answer to nothing is none.
            let _ = app.read(&mut [0; 1024]).await;
            let _ = app.write_all(bytes).await;
            let _ = app.shutdown().await;
        };
        let asking = async {
            let response = sender.send_request(Request::new(Empty::<Bytes>::new())).await.ok()?;
            let status = response.status().as_u16();
            let whole = response.into_body().collect().await.ok()?;
            let trailers = whole.trailers().map_or(0, HeaderMap::len);
            Some((status, whole.to_bytes().to_vec(), trailers))
        };
        let driving = async {
            let _ = connection.await;
        };
        tokio::join!(asking, answering, driving).0
    })
}
