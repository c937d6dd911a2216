//! What comes over the wire, sent raw: limits, deadlines, and headers on their way through. What a client or an app could play
//! tricks with stands in `tests/http/`.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::*;
use trundle_proxy::{App, Listen};

/// A proxy in front of an app that says how long the body was.
fn proxy_and_app(change: impl FnOnce(&mut App)) -> (Proxy, Upstream) {
    let mut proxy = Proxy::start_with(change);
    let app = Upstream::start(|seen, stream| respond(stream, 200, &seen.body.len().to_string()));
    proxy.route(vec![routed("a", app.address)]);
    (proxy, app)
}

#[test]
fn limits_on_heads_and_bodies_are_held() {
    let (proxy, app) = proxy_and_app(|app| {
        app.limits.header_bytes = 8 * 1024;
        app.limits.headers = 20;
        app.limits.body_bytes = Some(1000);
    });
    let address = proxy.address;
    let head = |headers: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    assert_eq!(raw(address, &head(&"X: y\r\n".repeat(19))).status, 200);
    assert_eq!(raw(address, &head(&"X: y\r\n".repeat(21))).status, 431);
    assert_eq!(raw(address, &head(&format!("X: {}\r\n", "y".repeat(9000)))).status, 431);
    let before = app.count();
    assert_eq!(Http::connect(address).post("/", &[0; 1000]).unwrap().text(), "1000");
    assert_eq!(raw(address, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n").status, 413);
    assert_eq!(app.count(), before + 1);
    // The length is not known before: it is counted on the way.
    let mut http = Http::connect(address);
    http.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..20 {
        let _ = http.stream.write_all(format!("64\r\n{}\r\n", "z".repeat(100)).as_bytes());
    }
    assert_eq!(http.answer().unwrap().status, 413);
    assert_eq!(app.count(), before + 1);
}

#[test]
fn a_dripping_head_is_cut_off_with_408_and_others_are_served() {
    let (proxy, _app) = proxy_and_app(|app| app.limits.header_timeout_ms = 300);
    let mut dripping: Vec<Http> = (0..50).map(|_| Http::connect(proxy.address)).collect();
    let silent = Http::connect(proxy.address);
    dripping.iter_mut().for_each(|http| http.send("GET / HTTP/1.1\r\n"));
    let started = Instant::now();
    let mut closed = 0;
    while closed < dripping.len() {
        // A byte every few milliseconds would keep a timeout per read alive for ever.
        dripping.retain_mut(|http| http.stream.write_all(b"X: y\r\n").is_ok());
        closed = 50 - dripping.len();
        assert_eq!(get(proxy.address, "/").status, 200);
        assert!(started.elapsed() < PATIENCE, "{} still drip", dripping.len());
    }
    assert!(started.elapsed() >= Duration::from_millis(250));
    let mut one = Http::connect(proxy.address);
    one.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(one.answer().unwrap().status, 408);
    assert!({ silent }.is_closed());
}

#[test]
fn waiting_connections_are_closed_and_stalled_bodies_too() {
    let (mut proxy, _app) = proxy_and_app(|app| app.limits.idle_timeout_ms = 200);
    let mut http = Http::connect(proxy.address);
    assert_eq!(http.get("/").unwrap().status, 200);
    assert!(http.is_closed());
    let mut stalls = Http::connect(proxy.address);
    stalls.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
    assert_eq!(stalls.answer().unwrap().status, 408);
    let stats = proxy.control.app_with(2);
    assert_eq!((stats.rejected, stats.lost, stats.total), (1, 0, 2), "{stats:?}");
}

#[test]
fn spoofed_headers_are_replaced_and_hop_by_hop_ones_stay() {
    let (proxy, app) = proxy_and_app(|_| {});
    raw(
        proxy.address,
        "GET /a/../b%2F?x=%20 HTTP/1.1\r\nHost: web.test:8080\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n\
         X-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nConnection: X-Forwarded-For, X-Secret, Upgrade\r\n\
         X-Secret: 1\r\nUpgrade: h2c\r\nTE: trailers\r\nKeep-Alive: 5\r\nAuthorization: kept\r\n\r\n",
    );
    let seen = app.last();
    assert_eq!(seen.target(), "/a/../b%2F?x=%20", "the same bytes go on");
    let check = |name: &str, expect: Option<&str>| assert_eq!(seen.header(name), expect, "{name}");
    check("x-forwarded-for", Some("127.0.0.1"));
    check("x-forwarded-proto", Some("http"));
    check("x-forwarded-host", Some("web.test:8080"));
    check("host", Some("web.test:8080"));
    check("authorization", Some("kept"));
    for gone in ["x_forwarded_for", "forwarded", "x-secret", "upgrade", "te", "keep-alive", "connection"] {
        check(gone, None);
    }
}

#[test]
fn a_trusted_proxy_is_believed() {
    let (proxy, app) = proxy_and_app(|app| app.trusted_proxies = vec!["127.0.0.0/8".into()]);
    raw(
        proxy.address,
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX_Forwarded_Proto: x\r\n\r\n",
    );
    let seen = app.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!((seen.header("x-forwarded-proto"), seen.header("x_forwarded_proto")), (Some("https"), None));
}

#[test]
fn a_unix_listener_serves_and_trusts_only_when_told() {
    for trusted in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.sock");
        let (mut proxy, app) = proxy_and_app(|app| {
            app.listen.push(Listen::Unix(path.clone()));
            app.trusted_proxies = if trusted { vec!["unix".into()] } else { vec![] };
        });
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n").unwrap();
        let seen = app.last();
        assert_eq!(seen.header("x-forwarded-for"), trusted.then_some("6.6.6.6"));
        assert_eq!(seen.header("host"), Some("localhost"));
        proxy.stop();
        assert!(!path.exists());
    }
}

#[test]
fn absolute_targets_old_clients_and_expectations_work() {
    let (proxy, app) = proxy_and_app(|_| {});
    raw(proxy.address, "GET http://other.test/p?q HTTP/1.1\r\nHost: ignored\r\n\r\n");
    assert_eq!((app.last().target(), app.last().header("host")), ("/p?q", Some("other.test")));
    assert_eq!(raw(proxy.address, "GET http://u:p@other.test/ HTTP/1.1\r\nHost: a\r\n\r\n").status, 400);

    let mut old = Http::connect(proxy.address);
    old.send("GET /old HTTP/1.0\r\n\r\n");
    let answer = old.answer().unwrap();
    assert!(answer.head.starts_with("HTTP/1.0 200") && old.is_closed(), "{}", answer.head);

    let mut http = Http::connect(proxy.address);
    http.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert!(http.head().unwrap().starts_with("HTTP/1.1 100"));
    http.send("hello");
    assert_eq!(http.answer().unwrap().text(), "5");
    assert_eq!(app.last().header("expect"), None);
}

#[test]
fn bodies_are_streamed_both_ways() {
    let mut proxy = Proxy::start();
    // Answers each chunk before the next one comes: buffering on either side would stop it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::Read;
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = Reader::default();
        assert!(reader.head(&mut stream).unwrap().contains("chunked"));
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        let mut bytes = [0; 1024];
        while let Ok(1..) = stream.read(&mut bytes) {
            stream.write_all(b"2\r\nok\r\n").unwrap();
        }
    });
    proxy.route(vec![routed("a", address)]);
    let mut http = Http::connect(proxy.address);
    http.send("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(http.head().unwrap().starts_with("HTTP/1.1 200"));
    use std::io::Read;
    for _ in 0..10 {
        http.send("1\r\nx\r\n");
        let mut piece = [0; 7];
        http.stream.read_exact(&mut piece).unwrap();
        assert_eq!(&piece, b"2\r\nok\r\n");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (mut proxy, _app) = proxy_and_app(|_| {});
    let mut http = Http::connect(proxy.address);
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    http.send(&format!("{get}{post}{get}{post}"));
    for expect in ["0", "3", "0", "3"] {
        assert_eq!(http.answer().unwrap().text(), expect);
    }
    until("the counts", || (proxy.control.app().total == 4).then_some(()));
}

#[test]
fn above_the_cap_clients_wait_and_nobody_is_refused() {
    let (proxy, _app) = proxy_and_app(|app| app.limits.max_connections = 2);
    let mut first: Vec<Http> = (0..2).map(|_| Http::connect(proxy.address)).collect();
    first.iter_mut().for_each(|http| assert_eq!(http.get("/").unwrap().status, 200));
    let mut third = Http::connect(proxy.address);
    third.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    third.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(third.head().is_none(), "it waits");
    third.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(first);
    assert!(third.head().unwrap().starts_with("HTTP/1.1 200"));
}

/// An app that reads one head, and says what follows it on the same connection until its end.
fn reads_one_head(proxy: &mut Proxy) -> std::sync::mpsc::Receiver<Vec<u8>> {
    use std::io::Read;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut bytes, mut piece) = (Vec::new(), [0; 1024]);
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            bytes.extend_from_slice(&piece[..count]);
            sender.send(bytes.clone()).unwrap();
        }
    });
    proxy.route(vec![routed("b", address)]);
    receiver
}

/// CVE-2025-4366: what is left of a body is not the beginning of somebody else's request.
#[test]
fn the_connection_of_a_body_that_broke_off_is_not_used_again() {
    for (head, half) in [("Content-Length: 100", "half"), ("Transfer-Encoding: chunked", "4\r\nhalf\r\n")] {
        let (mut proxy, good) = proxy_and_app(|_| {});
        let seen = reads_one_head(&mut proxy);
        let mut http = Http::connect(proxy.address);
        http.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{half}"));
        until("half a body at the app", || {
            seen.try_iter().any(|bytes| bytes.ends_with(half.as_bytes())).then_some(())
        });
        drop(http);
        // The app reads to the end, and there is nothing after the half.
        let rest: Vec<Vec<u8>> = seen.iter().collect();
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest[0]));
        proxy.route(vec![routed("c", good.address)]);
        assert_eq!((get(proxy.address, "/").status, good.count()), (200, 1));
        let stats = proxy.control.app_with(1);
        assert_eq!((stats.lost, stats.crashed), (0, 0), "a client that goes is nobody's fault");
    }
}

/// The same when it is refused on the way.
#[test]
fn the_connection_of_a_body_that_was_refused_is_not_used_again() {
    let (mut proxy, _) = proxy_and_app(|app| app.limits.body_bytes = Some(8));
    let seen = reads_one_head(&mut proxy);
    let mut http = Http::connect(proxy.address);
    http.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    until("half a body at the app", || {
        seen.try_iter().any(|bytes| bytes.ends_with(b"half\r\n")).then_some(())
    });
    http.send("5\r\nmore!\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(http.answer().map(|answer| answer.status), Some(413));
    assert!(http.is_closed() && seen.iter().next().is_none());
}

/// Neither a body nor an answer is gathered here: who sends it waits for who takes it.
#[test]
fn nobody_is_read_faster_than_the_other_side_takes() {
    use std::io::Read;
    const MUCH: usize = 64 << 20;
    // What two kernels and we hold of it.
    const HELD: usize = 24 << 20;
    let mut proxy = Proxy::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let (holder, held) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 3];
            stream.read_exact(&mut head).unwrap();
            if head == *b"GET" {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                sender.send(written(&mut stream, MUCH)).unwrap();
            } else {
                holder.send(stream).unwrap(); // it takes no more
            }
        }
    });
    proxy.route(vec![routed("a", address)]);
    let mut upload = Http::connect(proxy.address);
    upload.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n"));
    let taken = written(&mut upload.stream, MUCH);
    assert!(taken < HELD, "{taken} bytes of a body went somewhere");
    drop((upload, held.recv()));
    let mut download = Http::connect(proxy.address);
    download.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let taken = receiver.recv_timeout(PATIENCE).unwrap();
    assert!(taken < HELD, "{taken} bytes of an answer went somewhere");
}

/// How many bytes are taken until nothing moves for a while.
fn written(stream: &mut std::net::TcpStream, most: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let (piece, mut sent) = ([b'x'; 64 * 1024], 0);
    while sent < most {
        match stream.write(&piece) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    sent
}

#[test]
fn a_redirect_to_tls_is_no_way_around_the_rules_of_framing() {
    let (proxy, app) = proxy_and_app(|app| app.redirect_to = Some("127.0.0.1:443".parse().unwrap()));
    let head = "POST /x HTTP/1.1\r\nHost: web.test\r\n";
    let mut http = Http::connect(proxy.address);
    http.send(&format!(
        "{head}\r\n{head}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{head}\r\n"
    ));
    assert_eq!(http.answer().unwrap().header("connection"), None);
    assert_eq!(http.answer().unwrap().header("connection"), Some("close"));
    assert!(http.is_closed());
    assert_eq!(app.count(), 0);
}

/// A byte now and then keeps every timeout for a body that stands still from coming.
#[test]
fn a_dripping_body_is_cut_off_and_a_slow_one_is_not() {
    let (mut proxy, app) = proxy_and_app(|app| {
        app.limits.header_timeout_ms = 300;
        app.limits.body_rate = 1_000;
    });
    let drip = |bytes: usize, every: Duration| {
        let mut http = Http::connect(proxy.address);
        http.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n");
        http.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        for _ in 0..3_000 / bytes {
            if http.stream.write_all(&vec![b'x'; bytes]).is_err() || http.stream.peek(&mut [0]).is_ok() {
                break;
            }
            std::thread::sleep(every);
        }
        http.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        http.answer().unwrap().status
    };
    let began = Instant::now();
    assert_eq!(drip(1, Duration::from_millis(20)), 408);
    assert!((250..2_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(app.count(), 0);
    // More than twice as fast as it must be.
    assert_eq!(drip(150, Duration::from_millis(50)), 200);
    let stats = proxy.control.app_with(2);
    assert_eq!((stats.rejected, stats.lost), (1, 0), "{stats:?}");
}
