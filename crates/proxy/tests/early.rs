//! Answers that come before the request is whole: from an app that does not read bodies, and from the proxy itself.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use trundle_proxy::EndpointState::Draining;

/// An app that reads a head, waits until there is more, and is done with the connection: closing it is a reset.
fn hasty_app(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0; 1]);
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]); // one by one, so that none of the body is read
                }
                if let Ok(1) = stream.peek(&mut byte) {
                    let _ = stream.write_all(answer);
                }
            });
        }
    });
    address
}

fn upload(address: SocketAddr, bytes: usize) -> Option<Answer> {
    Http::connect(address).post("/", &vec![b'x'; bytes])
}

#[test]
fn an_app_that_does_not_read_bodies_loses_no_answer() {
    let mut proxy = Proxy::start();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhasty";
    proxy.route(vec![routed("a", hasty_app(answer))]);
    for n in 0..500 {
        let answer = upload(proxy.address, 256 * 1024).unwrap_or_else(|| panic!("request {n} has no answer"));
        assert_eq!((answer.status, answer.text()), (200, "hasty"), "request {n}");
    }
    let stats = proxy.control.app_with(500);
    assert_eq!((stats.by_version["1"], stats.crashed, stats.lost), (500, 0, 0), "{stats:?}");
}

#[test]
fn an_answer_that_ends_with_a_reset_is_not_taken_for_whole() {
    let mut proxy = Proxy::start();
    // Only the end of the connection would say that this is all.
    proxy.route(vec![routed("a", hasty_app(b"HTTP/1.1 200 OK\r\n\r\nperhaps not all"))]);
    for n in 0..200 {
        let answer = upload(proxy.address, 256 * 1024);
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 502), "request {n}: {answer:?}");
    }
    let stats = proxy.control.app_with(200);
    assert_eq!(stats.crashed, 200, "{stats:?}");
}

const MUCH: usize = 10 << 20;

#[test]
fn a_client_that_sends_all_before_it_reads_gets_the_early_answer() {
    let mut proxy = Proxy::start_with(|app| app.limits.body_bytes = Some(MUCH as u64));
    let check = |proxy: &Proxy, bytes: usize, status: u16| {
        for _ in 0..10 {
            let mut http = Http::connect(proxy.address);
            let answer = http.post("/", &vec![b'x'; bytes]).expect("an answer");
            assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
            assert!(http.is_closed());
        }
    };
    check(&proxy, MUCH, 503);
    proxy.route(vec![routed("a", hasty_app(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"))]);
    check(&proxy, MUCH, 403);
    check(&proxy, MUCH + 1, 413);
    // A head that is too long is an answer of this kind too.
    let mut http = Http::connect(proxy.address);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(MUCH));
    http.stream.write_all(head.as_bytes()).expect("the proxy reads on");
    assert_eq!(http.answer().expect("an answer").status, 431);
}

/// A client that was refused, and neither sends nor closes.
fn refused(address: SocketAddr) -> Http {
    let mut http = Http::connect(address);
    http.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf");
    assert_eq!(http.answer().unwrap().status, 413);
    http
}

#[test]
fn a_client_that_is_silent_after_its_answer_gives_its_place_up() {
    let mut proxy = Proxy::start_with(|app| {
        app.limits.body_bytes = Some(10);
        app.limits.idle_timeout_ms = 300;
        app.limits.max_connections = 1;
    });
    let app = Upstream::says("ok");
    proxy.route(vec![routed("a", app.address)]);
    let silent = refused(proxy.address);
    assert_eq!(get(proxy.address, "/").text(), "ok");
    drop(silent);
}

#[test]
fn waiting_for_a_client_to_close_holds_up_neither_a_drain_nor_the_end() {
    let mut proxy = Proxy::start();
    let early = hasty_app(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
    proxy.route(vec![routed("a", early)]);
    let mut http = Http::connect(proxy.address);
    http.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    http.send("half");
    assert_eq!(http.answer().unwrap().status, 403);
    let began = Instant::now();
    proxy.route(vec![endpoint("a", early, Draining)]);
    assert_eq!(proxy.control.await_drained("a"), 0);
    proxy.stop();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let mut rest = Vec::new();
    assert_eq!(http.stream.read_to_end(&mut rest).ok(), Some(0));
    assert!(TcpStream::connect(proxy.address).is_err());
}

/// Nobody may wait for the answer to be taken before the rest of the request goes up: neither would ever end.
#[test]
fn a_request_goes_up_though_nothing_of_its_long_answer_is_taken() {
    let mut proxy = Proxy::start_with(|app| app.limits.idle_timeout_ms = 20_000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.route(vec![routed("a", listener.local_addr().unwrap())]);
    let app = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut head, mut byte) = (Vec::new(), [0; 1]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let mut answering = stream.try_clone().unwrap();
        let answer = thread::spawn(move || {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n");
            answering.write_all(head.as_bytes()).unwrap();
            answering.write_all(&vec![b'y'; MUCH - 1]).unwrap();
        });
        let mut body = vec![0; 2 * MUCH];
        stream.read_exact(&mut body).unwrap();
        answer.join().unwrap();
        // Whoever has said all of it has no use for the rest of the request.
        stream.write_all(b"y").unwrap();
        body.iter().all(|byte| *byte == b'x')
    });
    let mut http = Http::connect(proxy.address);
    http.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 2 * MUCH));
    http.stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    http.stream.write_all(&vec![b'x'; 2 * MUCH]).expect("all of it goes up");
    let answer = http.answer().expect("an answer");
    assert_eq!((answer.status, answer.body.len()), (200, MUCH));
    assert!(app.join().unwrap());
    let stats = proxy.control.app_with(1);
    assert_eq!((stats.by_version["1"], stats.crashed, stats.lost), (1, 0, 0), "{stats:?}");
}
