//! A request on its way from a client to an endpoint: what hyper does not check, and the form that it has in the protocol of the
//! endpoint. What is not clear is refused, never guessed.

pub mod target;

use std::rc::Rc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};

use crate::body::RequestBody;
use crate::connection::Connection;
use crate::headers::{self, Origin};
use crate::refusal::Refusal;
use crate::routes::Route;
use crate::turn::Turn;
use crate::upgrade;

/// What the two forms of a request have in common.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The client wants to open a WebSocket.
    pub websocket: bool,
    /// The client takes trailers.
    takes_trailers: bool,
}

/// Checks the request of a client and makes it ours, in the form of HTTP/1.1.
pub fn prepare(
    client: &Rc<Turn>,
    route: &Route,
    request: Request<Incoming>,
) -> Result<(Request<RequestBody>, Shape), Refusal> {
    let connection = &client.connection;
    let (mut head, body) = request.into_parts();
    if let Some(reason) = connection.wrong_head() {
        return Err(Refusal::bad(reason));
    }
    check_method(&head.method)?;
    check_lengths(&head.headers)?;
    check_expectation(&head)?;
    if head.headers.len() > route.limits.headers {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::rejected(status, "the head has more fields than allowed\n"));
    }
    if let Some(limit) = route.limits.body_bytes
        && body.size_hint().lower() > limit
    {
        return Err(Refusal::rejected(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than allowed\n"));
    }
    set_target(&mut head, connection)?;
    headers::say_length_once(&mut head.headers);
    if connection.has_streams() {
        join_cookies(&mut head.headers);
    }
    let shape = Shape {
        websocket: upgrade::is_wanted(&head, &body),
        takes_trailers: head
            .headers
            .get(TE)
            .is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers")),
    };
    let trusted = route.trust.covers(connection.peer);
    let is_secure = connection.is_secure;
    let origin = Origin { peer_value: connection.peer_value.as_ref(), trusted, is_secure };
    if !headers::to_endpoint(&mut head.headers, &origin) {
        return Err(Refusal::bad("a header has almost the name of one that says where the request ends\n"));
    }
    head.version = Version::HTTP_11;
    head.extensions.clear();
    if shape.websocket {
        upgrade::ask(&mut head.headers);
    }
    let body = RequestBody::new(body, route.limits.body_bytes, Rc::clone(client));
    Ok((Request::from_parts(head, body), shape))
}

/// No method that we know is longer.
const LONGEST_METHOD: usize = 32;

fn check_method(method: &Method) -> Result<(), Refusal> {
    let not_allowed = |reason| Err(Refusal::rejected(StatusCode::METHOD_NOT_ALLOWED, reason));
    match *method {
        Method::CONNECT => not_allowed("CONNECT is not possible here\n"),
        // It would show a client what we, and others before us, have added.
        Method::TRACE => not_allowed("TRACE is not possible here\n"),
        _ if method.as_str().len() > LONGEST_METHOD => {
            Err(Refusal::rejected(StatusCode::NOT_IMPLEMENTED, "nobody knows such a method\n"))
        }
        _ => Ok(()),
    }
}

/// The only coding that a request may have is chunked, once; a length is a number, the same where it is said twice, with no zero in
/// front, which some read as octal. An empty one is 0 for `h2`.
fn check_lengths(headers: &HeaderMap) -> Result<(), Refusal> {
    if !headers::is_chunked_at_most(headers) {
        return Err(Refusal::bad("the only Transfer-Encoding of a request is chunked, once\n"));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let Some(length) = lengths.next() else { return Ok(()) };
    if length.len() > 1 && length[0] == b'0' {
        return Err(Refusal::bad("the Content-Length begins with 0\n"));
    }
    if length.is_empty() || !length.iter().all(u8::is_ascii_digit) || lengths.any(|other| other != length) {
        return Err(Refusal::bad("the Content-Length is no number, or two\n"));
    }
    Ok(())
}

/// HTTP/1.0 knows none, and there it is passed over (RFC 9110 §10.1.1).
fn check_expectation(head: &http::request::Parts) -> Result<(), Refusal> {
    let mut expectations = head.headers.get_all(EXPECT).iter();
    let is_known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if head.version == Version::HTTP_10 || expectations.all(is_known) {
        return Ok(());
    }
    Err(Refusal::rejected(StatusCode::EXPECTATION_FAILED, "nothing but 100-continue can be expected here\n"))
}

/// One Host, and the target in origin-form with the bytes as they came.
fn set_target(head: &mut http::request::Parts, client: &Connection) -> Result<(), Refusal> {
    target::check_path(&head.method, &head.uri).map_err(Refusal::bad)?;
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::bad("the request has more than one Host\n"));
    }
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    if ![host.map(HeaderValue::as_bytes), authority].into_iter().flatten().all(target::is_host) {
        return Err(Refusal::bad("the Host, or the target's, is no name with or without a port\n"));
    }
    if host.is_none() && head.version != Version::HTTP_10 && !(client.has_streams() && authority.is_some()) {
        return Err(Refusal::bad("the request has no Host\n"));
    }
    if let Some(authority) = authority {
        // Of HTTP/2 both stand for the same (RFC 9113 §8.3.1); of HTTP/1.1 the target prevails (RFC 9112 §3.2.2).
        let same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority);
        if client.has_streams() && host.is_some_and(|host| !same(host)) {
            return Err(Refusal::bad("the request has an authority and another Host\n"));
        }
        let host = HeaderValue::from_bytes(authority);
        let host = host.map_err(|_| Refusal::bad("the target's host is wrong\n"))?;
        let path = head.uri.path_and_query().cloned();
        head.headers.insert(HOST, host);
        head.uri = path.map_or_else(Uri::default, Uri::from);
    } else if host.is_none() {
        head.headers.insert(HOST, client.door.default_host.clone());
    }
    Ok(())
}

/// HTTP/2 may send them one by one; HTTP/1.1 knows one line (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The form for an endpoint of HTTP/1.1.
pub fn as_http1(request: &mut Request<RequestBody>, shape: Shape) {
    if request.version() == Version::HTTP_11 {
        return;
    }
    let uri = request.uri();
    let host = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    let path = uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    *request.uri_mut() = path;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.remove(TE);
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    if shape.websocket {
        upgrade::ask(headers);
    }
}

/// The form for an endpoint of HTTP/2.
///
/// # Errors
/// When its Host cannot be an authority.
pub fn as_http2(request: &mut Request<RequestBody>, shape: Shape) -> Result<(), Refusal> {
    if request.version() == Version::HTTP_2 {
        return Ok(());
    }
    let wrong = || Refusal::bad("the Host is wrong\n");
    let host = request.headers_mut().remove(HOST).ok_or_else(wrong)?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| wrong())?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| wrong())?;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    for name in [TRANSFER_ENCODING, CONNECTION, UPGRADE] {
        headers.remove(name);
    }
    if shape.takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}
