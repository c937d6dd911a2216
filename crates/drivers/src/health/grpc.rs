//! The standard health service of gRPC (`grpc.health.v1.Health/Check`), on a connection of its own, to the instance's own address only.
//!
//! The two messages have one field each, so they are written and read by hand: `HealthCheckRequest { string service = 1 }` and
//! `HealthCheckResponse { enum status = 1 }`. Invariant: only SERVING is good, and no more is read than such an answer has.

use std::net::SocketAddrV4;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::probe::io_text;

/// A message is preceded by a flag and its length (gRPC over HTTP2, "Length-Prefixed-Message").
const PREFIX: usize = 5;
const ANSWER_BYTES_MAX: usize = 1024;

/// The caller bounds the time.
pub(super) async fn check(address: SocketAddrV4, is_tls: bool, service: &str) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| io_text(&error))?;
    if is_tls {
        let stream = trundle_tls::connect_h2(stream).await.map_err(|error| io_text(&error))?;
        return check_on(stream, address, service).await;
    }
    check_on(stream, address, service).await
}

async fn check_on<S>(stream: S, address: SocketAddrV4, service: &str) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| no_http2(&error))?;
    let connection = tokio::spawn(connection);
    let answer = ask(&mut sender, address, service).await;
    connection.abort();
    answer
}

fn no_http2(error: &hyper::Error) -> String {
    format!("no answer of HTTP/2: {error}")
}

async fn ask(
    sender: &mut http2::SendRequest<Full<Bytes>>,
    address: SocketAddrV4,
    service: &str,
) -> Result<(), String> {
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "trundle-probe")
        .body(Full::from(question(service)))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| no_http2(&error))?;
    if !response.status().is_success() {
        return Err(format!("answered {}", response.status()));
    }
    let early = response.headers().clone();
    let (message, trailers) = read(response.into_body()).await?;
    judge(&message, if trailers.is_empty() { &early } else { &trailers })
}

fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, length-delimited. A name has at most 200 bytes, so the length takes one or two.
        message.push(0x0a);
        let length = service.len();
        if length < 0x80 {
            message.push(length as u8);
        } else {
            message.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
        }
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed
}

async fn read(mut body: Incoming) -> Result<(Vec<u8>, HeaderMap), String> {
    let mut message = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the answer broke off: {error}"))?;
        match frame.into_data() {
            Ok(data) if message.len() + data.len() <= ANSWER_BYTES_MAX => message.extend_from_slice(&data),
            Ok(_) => return Err("the answer is longer than one of a health check".to_owned()),
            Err(frame) => return Ok((message, frame.into_trailers().unwrap_or_default())),
        }
    }
    Ok((message, HeaderMap::new()))
}

fn judge(message: &[u8], trailers: &HeaderMap) -> Result<(), String> {
    let text = |name| trailers.get(name).map(HeaderValue::as_bytes).map(String::from_utf8_lossy);
    match text("grpc-status").as_deref() {
        Some("0") => {}
        Some("5") => return Err("the server does not know this service (NOT_FOUND)".to_owned()),
        Some("12") => return Err("the server has no health service (UNIMPLEMENTED)".to_owned()),
        Some(code) => {
            let said = text("grpc-message").unwrap_or_default();
            return Err(format!("status {code} {said}").trim_end().to_owned());
        }
        None => return Err("the answer is not one of gRPC: it has no grpc-status".to_owned()),
    }
    match status(message) {
        Some(1) => Ok(()),
        Some(2) => Err("NOT_SERVING".to_owned()),
        Some(0) => Err("UNKNOWN".to_owned()),
        Some(3) => Err("SERVICE_UNKNOWN".to_owned()),
        Some(other) => Err(format!("status {other}")),
        None => Err("the answer is not one of a health check".to_owned()),
    }
}

/// Field 1 as a number; what is not there is 0.
fn status(message: &[u8]) -> Option<u8> {
    let (prefix, message) = message.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
    match (prefix[0], message) {
        (0, []) if length == 0 => Some(0),
        (0, [0x08, status]) if length == 2 && *status < 0x80 => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_what_protobuf_makes_of_it() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B"), *b"\0\0\0\0\x05\x0a\x03a.B");
        let long = question(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn only_serving_is_good() {
        let judged = |message: &[u8], code: &str, said: &str| {
            let mut trailers = HeaderMap::new();
            if !code.is_empty() {
                trailers.insert("grpc-status", code.parse().unwrap());
                trailers.insert("grpc-message", said.parse().unwrap());
            }
            judge(message, &trailers).err().unwrap_or_default()
        };
        assert_eq!(judged(b"\0\0\0\0\x02\x08\x01", "0", ""), "");
        assert_eq!(judged(b"\0\0\0\0\x02\x08\x02", "0", ""), "NOT_SERVING");
        assert_eq!(judged(b"\0\0\0\0\0", "0", ""), "UNKNOWN");
        for wrong in [&b""[..], b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x03\x08\x01", b"\0\0\0\0\x02\x10\x01"] {
            assert_eq!(judged(wrong, "0", ""), "the answer is not one of a health check", "{wrong:?}");
        }
        assert!(judged(b"", "5", "").contains("NOT_FOUND"));
        assert!(judged(b"", "12", "").contains("UNIMPLEMENTED"));
        assert_eq!(judged(b"", "14", "later"), "status 14 later");
        assert!(judged(b"\0\0\0\0\x02\x08\x01", "", "").contains("no grpc-status"));
    }
}
