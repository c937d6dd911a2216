//! One `GET` on a connection of its own, to the instance's own address only.
//!
//! Invariant: redirects are not followed, and no more than [`BODY_BYTES_MAX`] are read, whatever the other side sends.

use std::net::SocketAddrV4;
use std::pin::pin;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use trundle_core::event::ProbeEvidence;
use trundle_core::revision::HttpProbe;

use super::probe::{io_text, shown};

const BODY_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

/// Whether the request can be made at all; the text names what is wrong with it.
pub(crate) fn check_request(probe: &HttpProbe) -> Result<(), String> {
    if !probe.path.starts_with('/') {
        return Err(format!("the path \"{}\" does not begin with /", probe.path.escape_debug()));
    }
    request(probe).map(|_| ())
}

fn request(probe: &HttpProbe) -> Result<Request<Empty<Bytes>>, String> {
    let path = probe.path.as_str();
    let bad_path =
        |error| format!("the path \"{}\" is refused: {error}; write it percent-encoded", path.escape_debug());
    let uri: http::uri::PathAndQuery = path.parse().map_err(bad_path)?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from(uri);
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("trundle-probe"));
    for (name, value) in &probe.headers {
        let shown_name = name.escape_debug();
        let header: HeaderName =
            name.parse().map_err(|_| format!("\"{shown_name}\" is not the name of a header"))?;
        let value: HeaderValue = value
            .parse()
            .map_err(|_| format!("the value of the header {shown_name} holds what a header may not"))?;
        headers.insert(header, value);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// The caller bounds the time.
pub(super) async fn get(address: SocketAddrV4, is_tls: bool, probe: &HttpProbe) -> (bool, ProbeEvidence) {
    let answer = if is_tls { exchange_h2(address, probe).await } else { exchange(address, probe).await };
    match answer {
        Ok(answer) => answer,
        Err(error) => (false, ProbeEvidence { error: Some(error), ..ProbeEvidence::default() }),
    }
}

async fn exchange(address: SocketAddrV4, probe: &HttpProbe) -> Result<(bool, ProbeEvidence), String> {
    let request = request(probe)?;
    let stream = TcpStream::connect(address).await.map_err(|error| io_text(&error))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(BODY_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| hyper_text(&error))?;
    let mut answer = pin!(async move {
        let response = sender.send_request(request).await.map_err(|error| hyper_text(&error))?;
        Ok(judge(response, probe).await)
    });
    // The connection may be done with its work before the answer was read out of it.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// The same of an app that speaks TLS, and HTTP/2 behind it.
async fn exchange_h2(address: SocketAddrV4, probe: &HttpProbe) -> Result<(bool, ProbeEvidence), String> {
    let mut request = request(probe)?;
    // HTTP/2 has the host in the address, and no word about the connection.
    let host = request.headers_mut().remove(header::HOST);
    request.headers_mut().remove(header::CONNECTION);
    let host = host.and_then(|host| host.to_str().ok().map(str::to_owned)).unwrap_or_default();
    let uri = http::Uri::builder().scheme("https").authority(host).path_and_query(probe.path.as_str());
    *request.uri_mut() = uri.build().map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(|error| io_text(&error))?;
    let stream = trundle_tls::connect_h2(stream).await.map_err(|error| io_text(&error))?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| hyper_text(&error))?;
    let connection = tokio::spawn(connection);
    let answer = match sender.send_request(request).await {
        Ok(response) => Ok(judge(response, probe).await),
        Err(error) => Err(hyper_text(&error)),
    };
    connection.abort();
    answer
}

async fn judge(response: Response<Incoming>, probe: &HttpProbe) -> (bool, ProbeEvidence) {
    let status = response.status();
    let status_fits = probe.status.map_or(status.is_success(), |expected| expected == status.as_u16());
    let mut evidence = ProbeEvidence { status: Some(status.as_u16()), ..ProbeEvidence::default() };
    // A status that fits and no word about the body: what follows does not matter, be it endless.
    if status_fits && probe.body.is_none() {
        return (true, evidence);
    }
    if status.is_redirection() && !status_fits {
        let to =
            response.headers().get(header::LOCATION).and_then(|to| shown(to.as_bytes())).unwrap_or_default();
        evidence.error = Some(format!("a redirect to {to} is not followed"));
    }
    let body = beginning(response.into_body()).await;
    evidence.body = shown(&body);
    let body_fits = probe.body.as_ref().is_none_or(|text| contains(&body, text.as_bytes()));
    if status_fits && !body_fits {
        evidence.error = Some("the body does not contain the expected text".to_owned());
    }
    (status_fits && body_fits, evidence)
}

async fn beginning(mut body: Incoming) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < BODY_BYTES_MAX {
        // An answer that breaks off is judged by what came.
        let Some(Ok(frame)) = body.frame().await else { break };
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - read.len())]);
        }
    }
    read
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

fn hyper_text(error: &hyper::Error) -> String {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match io {
        Some(io) => io_text(io),
        None if error.is_incomplete_message() || error.is_canceled() => {
            "the connection was closed before there was an answer".to_owned()
        }
        None if error.is_parse() || error.is_parse_too_large() => format!("the answer is not HTTP: {error}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};

    fn probe(path: &str) -> HttpProbe {
        HttpProbe { path: path.into(), status: None, body: None, headers: BTreeMap::new() }
    }

    /// Answers one connection with these bytes and probes it.
    fn check(answer: &'static [u8], probe: &HttpProbe) -> (bool, ProbeEvidence, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("bound to IPv4") };
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (succeeded, evidence) = runtime.block_on(get(address, false, probe));
        (succeeded, evidence, server.join().unwrap())
    }

    #[test]
    fn an_answer_is_judged_by_status_and_body() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let (up, evidence, request) = check(ok, &probe("/ready?x=1"));
        assert!(up && evidence.status == Some(200));
        assert!(request.starts_with("GET /ready?x=1 HTTP/1.1\r\n"), "{request}");
        for line in ["host: localhost\r\n", "user-agent: trundle-probe\r\n", "connection: close\r\n"] {
            assert!(request.to_lowercase().contains(line), "{request}");
        }
        assert!(check(ok, &HttpProbe { body: Some("ell".into()), ..probe("/") }).0);
        let (up, evidence, _) = check(ok, &HttpProbe { body: Some("bye".into()), ..probe("/") });
        assert!(!up && evidence.body.as_deref() == Some("hello") && evidence.error.is_some());
        assert!(!check(ok, &HttpProbe { status: Some(204), ..probe("/") }).0);

        let chunked = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\x1bc\r\n0\r\n\r\n";
        let (up, evidence, _) = check(chunked, &probe("/"));
        assert!(!up && evidence.status == Some(503));
        assert_eq!(evidence.body.as_deref(), Some("a\\u{1b}c"));

        let redirect = b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n";
        let (up, evidence, _) = check(redirect, &probe("/"));
        assert!(!up && evidence.error.as_deref() == Some("a redirect to /login is not followed"));
        assert!(check(redirect, &HttpProbe { status: Some(302), ..probe("/") }).0);

        assert!(check(b"SSH-2.0-OpenSSH\r\n\r\n", &probe("/")).1.error.unwrap().contains("not HTTP"));
        assert!(check(b"", &probe("/")).1.error.is_some());
    }

    /// Answers one connection with `head` and then `piece` for ever; answers how many bytes were taken.
    fn check_endless(
        head: &'static str,
        piece: &'static str,
        probe: &HttpProbe,
    ) -> (bool, ProbeEvidence, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("bound to IPv4") };
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let mut sent = 0;
            let mut next = head;
            while stream.write_all(next.as_bytes()).is_ok() {
                sent += next.len() as u64;
                next = piece;
            }
            sent
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(20), get(address, false, probe)).await
        });
        let (succeeded, evidence) = answer.expect("it reads for ever");
        drop(runtime);
        (succeeded, evidence, server.join().unwrap())
    }

    /// Row 54 of the faults. What the kernel holds for a connection is taken too: some MiB.
    #[test]
    fn an_answer_without_an_end_is_judged_by_its_beginning() {
        const KERNEL_BYTES_MAX: u64 = 16 * 1024 * 1024;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let piece = "1000\r\n".to_owned() + &"y".repeat(0x1000) + "\r\n";
        let piece: &'static str = piece.leak();
        let (up, evidence, sent) = check_endless(head, piece, &probe("/"));
        assert!(up && evidence.status == Some(200) && sent < KERNEL_BYTES_MAX, "{sent} bytes, {evidence:?}");

        let expecting = HttpProbe { body: Some("the end".into()), ..probe("/") };
        let (up, evidence, sent) = check_endless(head, piece, &expecting);
        assert!(!up && sent < KERNEL_BYTES_MAX, "{sent} bytes");
        assert_eq!(evidence.error.as_deref(), Some("the body does not contain the expected text"));
        assert!(evidence.body.unwrap().len() < 1000, "what is kept of it is short");

        let found = HttpProbe { body: Some("yy".into()), ..probe("/") };
        assert!(check_endless(head, piece, &found).0, "within the beginning");

        let (up, evidence, sent) = check_endless("HTTP/1.1 200 OK\r\n", "X-A: b\r\n", &probe("/"));
        assert!(!up && sent < KERNEL_BYTES_MAX, "{sent} bytes");
        assert!(evidence.error.as_ref().is_some_and(|e| e.contains("not HTTP")), "{evidence:?}");
    }

    #[test]
    fn an_app_behind_tls_is_asked_by_http2() {
        use hyper::service::service_fn;
        let own = rcgen::generate_simple_self_signed(["app".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let mut config =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![own.cert.der().clone()], key)
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("IPv4") };
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let Ok(stream) = acceptor.accept(stream).await else { continue };
                    let answer = service_fn(|request: Request<Incoming>| async move {
                        let status = if request.uri().path() == "/ready" { 200 } else { 503 };
                        let said = format!("{:?} {:?}", request.version(), request.uri().authority());
                        let said = http_body_util::Full::<Bytes>::from(said);
                        Response::builder().status(status).body(said)
                    });
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(builder.serve_connection(TokioIo::new(stream), answer));
                }
            });
            let body = Some("HTTP/2.0 Some(localhost)".to_owned());
            let (up, evidence) = get(address, true, &HttpProbe { body, ..probe("/ready") }).await;
            assert!(up, "{evidence:?}");
            let (up, evidence) = get(address, true, &probe("/other")).await;
            assert_eq!((up, evidence.status), (false, Some(503)));
            // An app that speaks no TLS is not there for it.
            let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let SocketAddr::V4(address) = plain.local_addr().unwrap() else { unreachable!("IPv4") };
            tokio::spawn(async move {
                while let Ok((stream, _)) = plain.accept().await {
                    let _ = stream.try_write(b"HTTP/1.1 400 X\r\n\r\n");
                }
            });
            let (up, evidence) = get(address, true, &probe("/ready")).await;
            assert!(!up && evidence.error.is_some(), "{evidence:?}");
        });
    }

    /// Row 54 of the faults: nobody is asked at the place that the app names.
    #[test]
    fn nobody_knocks_at_the_place_of_a_redirect() {
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        let place = elsewhere.local_addr().unwrap();
        for status in [301, 302, 303, 307, 308] {
            let answer =
                format!("HTTP/1.1 {status} X\r\nLocation: http://{place}/\r\nContent-Length: 0\r\n\r\n");
            let (up, evidence, _) = check(answer.leak().as_bytes(), &probe("/"));
            assert!(!up && evidence.error.unwrap().contains("is not followed"));
        }
        assert!(elsewhere.accept().is_err(), "somebody did");
    }

    #[test]
    fn a_request_that_cannot_be_made_is_named() {
        assert!(check_request(&probe("ready")).unwrap_err().contains("does not begin with /"));
        assert!(check_request(&probe("/a b")).unwrap_err().contains("percent-encoded"));
        let headers = [("X-Y".to_owned(), "a\r\nb".to_owned())].into();
        assert!(check_request(&HttpProbe { headers, ..probe("/") }).unwrap_err().contains("X-Y"));
    }
}
