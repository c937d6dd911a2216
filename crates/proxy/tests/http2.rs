//! HTTP/2, towards clients and towards endpoints: streams side by side, trailers, windows, drains that end with the last stream, and
//! streams that an endpoint refuses.

#![allow(clippy::unwrap_used)]

mod common;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use trundle_proxy::EndpointState::{Cut, Draining};
use trundle_proxy::{Protocol, Reply};

type Body = BoxBody<Bytes, Infallible>;

fn whole(text: &str) -> Body {
    Full::from(text.to_owned()).boxed()
}

/// Connections go on between two steps.
struct Steps(tokio::runtime::Runtime);

impl Steps {
    fn new() -> Self {
        Self(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
    }

    fn run<T>(&self, step: impl Future<Output = T>) -> T {
        self.0.block_on(async { tokio::time::timeout(PATIENCE, step).await.expect("in time") })
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    Steps::new().run(test)
}

/// A server of HTTP/2 without TLS.
struct Http2App {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Http2App {
    fn start<F>(most_streams: u32, answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let app = Self { address: listener.local_addr().unwrap(), connections: Arc::default() };
        let connections = Arc::clone(&app.connections);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.fetch_add(1, SeqCst);
                    let answer = answer.clone();
                    let service = hyper::service::service_fn(move |request| {
                        let answer = answer(request);
                        async move { Ok::<_, Infallible>(answer.await) }
                    });
                    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder.max_concurrent_streams(most_streams);
                    tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
                }
            });
        });
        app
    }
}

fn by_http2(id: &str, address: SocketAddr) -> trundle_proxy::Endpoint {
    trundle_proxy::Endpoint { protocol: Protocol::Http2, ..routed(id, address) }
}

async fn client(address: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get_request(address: SocketAddr, path: &str) -> Request<Body> {
    Request::get(format!("http://{address}{path}")).body(Empty::new().boxed()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn a_thousand_streams_of_one_client_are_answered_side_by_side() {
    let mut proxy = Proxy::start_with(|app| app.version_header = Some("x-app-version".into()));
    let gate = Arc::new(Notify::new());
    let inside = Arc::new(AtomicUsize::new(0));
    let (wait, count) = (Arc::clone(&gate), Arc::clone(&inside));
    let app = Http2App::start(100, move |request| {
        let (wait, count) = (Arc::clone(&wait), Arc::clone(&count));
        async move {
            count.fetch_add(1, SeqCst);
            wait.notified().await;
            Response::new(whole(request.uri().path()))
        }
    });
    proxy.route(vec![by_http2("web-1-1", app.address)]);
    let address = proxy.address;
    run(async {
        let mut sender = client(address).await;
        let mut answers = Vec::new();
        for n in 0..1_000 {
            sender.ready().await.unwrap();
            answers.push(tokio::spawn(sender.send_request(get_request(address, &format!("/{n}")))));
        }
        while inside.load(SeqCst) < 1_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gate.notify_waiters();
        for (n, answer) in answers.into_iter().enumerate() {
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["x-app-version"]),
                (200, &"1".parse().unwrap())
            );
            assert_eq!(text(answer).await, format!("/{n}"));
        }
    });
    assert!(app.connections.load(SeqCst) >= 10, "an endpoint is given no more at once than it takes");
    let stats = proxy.control.app_with(1_000);
    assert_eq!((stats.lost, stats.crashed, stats.by_version["1"]), (0, 0, 1_000));
}

/// What the app sees of a request, as text.
fn seen(request: &Request<Incoming>) -> String {
    let mut lines: Vec<String> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    format!("{} {} {:?}\n{}", request.method(), request.uri(), request.version(), lines.join("\n"))
}

#[test]
fn each_side_has_its_own_form_of_a_request() {
    let mut proxy = Proxy::start();
    let app = Http2App::start(100, |request| {
        let seen = seen(&request);
        async move { Response::new(whole(&seen)) }
    });
    let old = Upstream::says("old");
    let address = proxy.address;
    proxy.route(vec![by_http2("web-1-1", app.address)]);
    // From HTTP/1.1 to HTTP/2.
    let answer = raw(
        address,
        "GET /a?b HTTP/1.1\r\nHost: web.test\r\nTE: trailers\r\nConnection: TE, close\r\nCookie: a=1\r\n\
         X-Request-Id: r1\r\n\r\n",
    );
    assert_eq!(
        answer.text(),
        "GET http://web.test/a?b HTTP/2.0\ncookie: a=1\nte: trailers\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: web.test\n\
         x-forwarded-proto: http\nx-request-id: r1"
    );
    // From HTTP/2 to HTTP/1.1, cookies in one line, a body without a length in pieces.
    proxy.route(vec![routed("web-2-1", old.address)]);
    run(async {
        let mut sender = client(address).await;
        let pieces = tokio_pieces(&["one", "two"]);
        let request = Request::post(format!("http://{address}/up"))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .body(pieces)
            .unwrap();
        assert_eq!(text(sender.send_request(request).await.unwrap()).await, "old");
    });
    let seen = old.last();
    assert_eq!((seen.target(), seen.body.as_slice()), ("/up", &b"onetwo"[..]));
    assert_eq!((seen.header("cookie"), seen.header("te")), (Some("a=1; b=2"), None));
    assert_eq!(seen.header("host"), Some(address.to_string().as_str()));
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
}

fn tokio_pieces(texts: &[&'static str]) -> Body {
    let (sender, receiver) = mpsc::unbounded_channel();
    for text in texts {
        sender.send(Bytes::from_static(text.as_bytes())).unwrap();
    }
    stream_of(receiver)
}

fn stream_of(receiver: mpsc::UnboundedReceiver<Bytes>) -> Body {
    BodyExt::boxed(StreamBody::new(Pieces(receiver)))
}

struct Pieces(mpsc::UnboundedReceiver<Bytes>);

impl futures_core::Stream for Pieces {
    type Item = Result<Frame<Bytes>, Infallible>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[test]
fn trailers_come_through_and_a_megabyte_in_both_directions() {
    let mut proxy = Proxy::start();
    let app = Http2App::start(100, |request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let body = Full::from(body).with_trailers(async move { Some(Ok(trailers)) });
        Response::new(body.boxed())
    });
    proxy.route(vec![by_http2("web-1-1", app.address)]);
    let address = proxy.address;
    run(async {
        let mut sender = client(address).await;
        let sent: Vec<u8> = (0..3 << 20).map(|n: u32| n as u8).collect();
        let request =
            Request::post(format!("http://{address}/")).body(Full::from(sent.clone()).boxed()).unwrap();
        let answer = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
        assert!(answer.to_bytes() == sent);
    });
    assert_eq!(proxy.control.app_with(1).lost, 0);
}

/// Its streams are finished, new ones go elsewhere; what is left at the deadline is cut.
#[test]
fn a_drain_ends_with_the_last_stream_and_a_cut_ends_all() {
    let mut proxy = Proxy::start();
    let open: Arc<Mutex<Vec<mpsc::UnboundedSender<Bytes>>>> = Arc::default();
    let streams = Arc::clone(&open);
    let app = Http2App::start(100, move |_| {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(Bytes::from_static(b"begun ")).unwrap();
        streams.lock().unwrap().push(sender);
        async move { Response::new(stream_of(receiver)) }
    });
    let next = Upstream::says("next");
    proxy.route(vec![by_http2("web-1-1", app.address)]);
    let (address, steps) = (proxy.address, Steps::new());
    let mut sender = steps.run(client(address));
    let mut ask = |path: &str| steps.run(sender.send_request(get_request(address, path))).unwrap();
    let (first, second) = (ask("/1"), ask("/2"));
    let mut leaving = by_http2("web-1-1", app.address);
    leaving.state = Draining;
    proxy.route(vec![leaving.clone(), routed("web-2-1", next.address)]);
    // The connection goes on: it is not bound to an instance.
    assert_eq!(steps.run(text(ask("/3"))), "next");
    open.lock().unwrap().remove(0).send(Bytes::from_static(b"ended")).unwrap();
    assert_eq!(steps.run(text(first)), "begun ended");
    while let Some(reply) = proxy.control.try_recv(Duration::from_millis(100)) {
        assert!(!matches!(reply, Reply::Drained { .. }), "one is still inside: {reply:?}");
    }
    leaving.state = Cut;
    proxy.route(vec![leaving, routed("web-2-1", next.address)]);
    assert!(steps.run(second.into_body().collect()).is_err(), "the client sees that it is not whole");
    assert_eq!(proxy.control.await_drained("web-1-1"), 1);
    assert_eq!(steps.run(text(ask("/4"))), "next");
    let stats = proxy.control.app_with(4);
    assert_eq!((stats.cut, stats.lost, stats.crashed), (1, 0, 0));
    assert_eq!(stats.cut_by_kind["request"], 1);
}

/// An app that speaks HTTP/2 behind TLS, with a certificate that it has made for itself; and one that does not, which is no
/// instance that can be reached.
#[test]
fn an_app_behind_tls_is_spoken_to_with_http2_and_gets_no_websocket() {
    let mut proxy = Proxy::start();
    let own = rcgen::generate_simple_self_signed(["app".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                    Ok::<_, Infallible>(Response::new(whole(&format!("{:?}", request.version()))))
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    let behind_tls = |id: &str, address| {
        let mut endpoint = by_http2(id, address);
        endpoint.protocol = Protocol::Http2Tls;
        endpoint
    };
    proxy.route(vec![behind_tls("web-1-1", address)]);
    assert_eq!(get(proxy.address, "/").text(), "HTTP/2.0");
    let mut sent = Http::connect(proxy.address);
    assert_eq!(sent.post("/", &[b'x'; 100_000]).unwrap().text(), "HTTP/2.0");
    let upgrade = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert_eq!(raw(proxy.address, upgrade).status, 501);
    let plain = Upstream::says("plain");
    proxy.route(vec![behind_tls("web-1-2", plain.address)]);
    assert_eq!(get(proxy.address, "/").status, 502);
}

/// RFC 9113 §8.7: a stream that was refused, or that is above the last one of a GOAWAY, was not looked at.
#[test]
fn a_stream_that_was_refused_goes_to_another_endpoint_also_with_a_body() {
    let mut proxy = Proxy::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            refuse_streams(stream.unwrap());
        }
    });
    let good =
        Upstream::start(|request, stream| respond(stream, 200, &String::from_utf8_lossy(&request.body)));
    let mut second = routed("web-1-2", good.address);
    second.weight = 1;
    let mut first = by_http2("web-1-1", refusing);
    first.weight = 1_000;
    proxy.route(vec![first, second]);
    for n in 0..20 {
        let answer = Http::connect(proxy.address).post("/", format!("body {n}").as_bytes());
        let answer = answer.unwrap_or_else(|| panic!("no answer to request {n}"));
        assert_eq!((answer.status, answer.text()), (200, format!("body {n}").as_str()));
    }
    let stats = proxy.control.app_with(20);
    assert_eq!((stats.lost, stats.crashed), (0, 0));
    assert!(stats.retried > 0, "{stats:?}");
    let sent: usize = (0..20).map(|n| format!("body {n}").len()).sum();
    assert_eq!(stats.bytes_up.values().sum::<u64>(), sent as u64, "what goes up again is the same bytes");
}

/// The app has begun to answer and waits for the rest, as its client does for the end of the answer.
#[test]
fn a_client_that_stops_in_the_middle_of_its_body_is_given_up_though_it_is_being_answered() {
    let mut proxy = Proxy::start_with(|app| app.limits.idle_timeout_ms = 500);
    let (open, _answers) = mpsc::unbounded_channel();
    let app = Http2App::start(10, move |request| {
        let (sender, receiver) = mpsc::unbounded_channel();
        open.send((request, sender)).unwrap();
        async move { Response::new(stream_of(receiver)) }
    });
    proxy.route(vec![by_http2("web-1-1", app.address)]);
    let mut http = Http::connect(proxy.address);
    http.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    let began = std::time::Instant::now();
    assert!(http.answer().is_none(), "it does not end well");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// An app may reset its answer in the middle and call that no error: what is there looks whole to nobody.
#[test]
fn an_answer_that_is_reset_without_an_error_is_not_taken_for_whole() {
    let mut proxy = Proxy::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.route(vec![by_http2("web-1-1", listener.local_addr().unwrap())]);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // `:status: 200` (index 8 of the static table), a piece of the body, NO_ERROR.
            let half =
                |id| [frame(1, 4, id, &[0x88]), frame(0, 0, id, b"half"), frame(3, 0, id, &[0; 4])].concat();
            answer_streams(stream.unwrap(), half);
        }
    });
    for n in 1..=10 {
        let answer = Http::connect(proxy.address).get("/");
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 502), "{answer:?}");
        let stats = proxy.control.app_with(n);
        assert_eq!(stats.crashed, n, "{stats:?}");
    }
}

/// A frame of HTTP/2, by hand.
fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, payload.len() as u8, kind, flags];
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// REFUSED_STREAM.
fn refuse_streams(stream: std::net::TcpStream) {
    answer_streams(stream, |id| frame(3, 0, id, &7_u32.to_be_bytes()));
}

/// A server that answers the head of each stream with these frames.
fn answer_streams(mut stream: std::net::TcpStream, answer: fn(u32) -> Vec<u8>) {
    use std::io::{Read, Write};
    std::thread::spawn(move || {
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).is_err() || stream.write_all(&frame(4, 0, 0, &[])).is_err() {
            return;
        }
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).is_err() {
                return;
            }
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let answer = match (head[3], head[4]) {
                (4, 0) => frame(4, 1, 0, &[]),
                (6, 0) => frame(6, 1, 0, &payload),
                (1, _) => answer(id),
                _ => continue,
            };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
}

/// Two requests on one connection, of which the first is cut: its client does not take the answer.
#[test]
fn a_cut_ends_the_stream_that_stands_still_and_no_other() {
    let mut proxy = Proxy::start();
    let old = Http2App::start(100, |_| async {
        Response::new(Full::from(vec![b'x'; 8 << 20]).boxed()) // more than all windows
    });
    let gate = Arc::new(Notify::new());
    let wait = Arc::clone(&gate);
    let new = Http2App::start(100, move |_| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            Response::new(whole("done"))
        }
    });
    proxy.route(vec![by_http2("web-1-1", old.address)]);
    let (address, steps) = (proxy.address, Steps::new());
    let mut sender = steps.run(client(address));
    let stands_still = steps.run(sender.send_request(get_request(address, "/"))).unwrap();
    let mut leaving = by_http2("web-1-1", old.address);
    leaving.state = Draining;
    proxy.route(vec![leaving.clone(), by_http2("web-2-1", new.address)]);
    let answer = steps.0.spawn(sender.send_request(get_request(address, "/")));
    until("the second request", || (proxy.control.app().endpoints[1].in_flight == 1).then_some(()));
    leaving.state = Cut;
    proxy.route(vec![leaving, by_http2("web-2-1", new.address)]);
    assert_eq!(proxy.control.await_drained("web-1-1"), 1);
    gate.notify_one(); // kept for whoever comes to wait
    assert_eq!(steps.run(async { text(answer.await.unwrap().unwrap()).await }), "done");
    assert!(steps.run(stands_still.into_body().collect()).is_err());
    let stats = proxy.control.app_with(2);
    assert_eq!((stats.cut, stats.crashed, stats.lost, stats.total), (1, 0, 0, 2), "{stats:?}");
}

/// One that begins on a connection with nothing on it has its own time, and not that of the connection.
#[test]
fn an_app_that_does_not_answer_in_time_is_given_up_on_a_connection_that_waited() {
    let mut proxy = Proxy::start_with(|app| app.limits.response_timeout_ms = 200);
    let app = Http2App::start(100, |request| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        Response::new(whole("ok"))
    });
    proxy.route(vec![by_http2("web-1-1", app.address)]);
    let (address, steps) = (proxy.address, Steps::new());
    let mut sender = steps.run(client(address));
    assert_eq!(steps.run(sender.send_request(get_request(address, "/"))).unwrap().status(), 200);
    std::thread::sleep(Duration::from_millis(50));
    let late = steps.run(sender.send_request(get_request(address, "/never"))).unwrap();
    assert_eq!(late.status(), 504);
}

/// A proxy that ends says so with GOAWAY, and finishes what is open.
#[test]
fn a_proxy_that_stops_finishes_its_streams() {
    let mut proxy = Proxy::start();
    let gate = Arc::new(Notify::new());
    let wait = Arc::clone(&gate);
    let app = Http2App::start(100, move |_| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            Response::new(whole("done"))
        }
    });
    proxy.route(vec![by_http2("web-1-1", app.address)]);
    let (address, steps) = (proxy.address, Steps::new());
    let mut sender = steps.run(client(address));
    let answer = steps.0.spawn(sender.send_request(get_request(address, "/")));
    until("the request inside", || (proxy.control.app().endpoints[0].in_flight == 1).then_some(()));
    proxy.control.stop();
    until("the end of new streams", || {
        let late = steps.0.spawn(sender.send_request(get_request(address, "/late")));
        std::thread::sleep(Duration::from_millis(20));
        let refused = late.is_finished() && steps.run(late).unwrap().is_err();
        refused.then_some(())
    });
    gate.notify_one(); // kept for whoever comes to wait
    assert_eq!(steps.run(async { text(answer.await.unwrap().unwrap()).await }), "done");
}

/// They have ten seconds to end before any is told: a stop takes none of that away.
#[test]
fn calls_that_end_by_themselves_in_seconds_are_not_told_by_a_stop() {
    const CALLS: usize = 8;
    let mut proxy = Proxy::start_with(|app| app.limits.drain_spread_ms = 600_000);
    let (senders, mut calls) = mpsc::unbounded_channel();
    let app = Http2App::start(100, move |_| {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(Bytes::from_static(b"\0\0\0\0\x05first")).unwrap();
        senders.send(sender).unwrap();
        let call =
            Response::builder().header("content-type", "application/grpc").body(stream_of(receiver)).unwrap();
        async move { call }
    });
    proxy.route(vec![by_http2("web-1-1", app.address)]);
    let (address, steps) = (proxy.address, Steps::new());
    let bodies = steps.run(async {
        let mut sender = client(address).await;
        let mut bodies = Vec::new();
        for _ in 0..CALLS {
            let mut answer = sender.send_request(get_request(address, "/call")).await.unwrap().into_body();
            let first = answer.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(first.ends_with(b"first"));
            bodies.push(answer);
        }
        bodies
    });
    proxy.control.stop();
    std::thread::sleep(Duration::from_secs(4));
    steps.run(async {
        for _ in 0..CALLS {
            calls.recv().await.unwrap().send(Bytes::from_static(b"\0\0\0\0\x04last")).unwrap();
        }
        for body in bodies {
            let rest = body.collect().await.unwrap();
            assert!(rest.trailers().is_none(), "told, though it would have ended: {:?}", rest.trailers());
            assert!(rest.to_bytes().ends_with(b"last"));
        }
    });
}

#[test]
fn what_is_wrong_in_a_request_is_refused_alone() {
    let mut proxy = Proxy::start_with(|app| (app.limits.headers, app.limits.body_bytes) = (20, Some(1000)));
    let app = Upstream::says("ok");
    proxy.route(vec![routed("web-1-1", app.address)]);
    let address = proxy.address;
    run(async {
        let mut sender = client(address).await;
        let mut ask = |request: Request<Body>| {
            let answer = sender.send_request(request);
            async move { answer.await.map(|answer| answer.status().as_u16()).unwrap_or(0) }
        };
        let other = Request::get(format!("http://{address}/")).header("host", "evil.test");
        assert_eq!(ask(other.body(Empty::new().boxed()).unwrap()).await, 400);
        let mut many = get_request(address, "/");
        for n in 0..21 {
            many.headers_mut()
                .insert(http::HeaderName::try_from(format!("h-{n}")).unwrap(), "1".parse().unwrap());
        }
        assert_eq!(ask(many).await, 431);
        let long =
            Request::post(format!("http://{address}/")).body(Full::from(vec![0; 1001]).boxed()).unwrap();
        assert_eq!(ask(long).await, 413);
        assert_eq!(ask(get_request(address, "/")).await, 200, "the connection is as good as before");
    });
    assert_eq!(app.count(), 1);
}
