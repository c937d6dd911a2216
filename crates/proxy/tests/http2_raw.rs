//! Clients of HTTP/2 that only make work, frame by frame; and that others are served meanwhile. Single requests that are
//! malformed stand in `tests/http/`.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "corpus/frames.rs"]
#[allow(dead_code)]
mod frames;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::*;
use frames::{Fates, field, frame, opening};

fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&opening()).unwrap();
    stream
}

fn get_frame(stream: u32) -> Vec<u8> {
    let head = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let block: Vec<u8> =
        head.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect();
    frame(1, 5, stream, &block)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &8_u32.to_be_bytes())
}

/// Asks by other connections until told to end; the longest time that an answer took.
fn others_are_served(address: SocketAddr, is_over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    let mut http = Http::connect(address);
    while !is_over.load(SeqCst) {
        let began = Instant::now();
        assert_eq!(http.get("/").map(|answer| answer.status), Some(200));
        longest = longest.max(began.elapsed());
    }
    longest
}

/// Floods until the proxy ends the connection, while another client asks.
fn check(flood: &[u8], most: usize) {
    let mut proxy = Proxy::start();
    let app = Upstream::says("ok");
    proxy.route(vec![routed("a", app.address)]);
    let (address, is_over) = (proxy.address, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let others = scope.spawn(|| others_are_served(address, &is_over));
        let mut endless = false;
        for _ in 0..3 {
            let mut stream = connect(address);
            // Whoever does not take the answers is not read any more.
            let mut answers = stream.try_clone().unwrap();
            scope.spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
            let mut sent = 0;
            while sent < most && stream.write_all(flood).is_ok() {
                sent += 1;
            }
            endless |= sent == most;
        }
        is_over.store(true, SeqCst);
        let longest = others.join().unwrap();
        assert!(!endless && longest < Duration::from_secs(2), "{endless} {longest:?}");
    });
}

#[test]
fn frames_that_bring_nothing_end_the_connection_and_hinder_nobody() {
    check(&frame(6, 0, 0, &[0; 8]).repeat(1_000), 5_000); // PING, and an answer to each
    check(&frame(4, 0, 0, &[]).repeat(1_000), 5_000); // SETTINGS, and an answer to each
    check(&frame(2, 0, 1, &[0; 5]).repeat(1_000), 5_000); // PRIORITY
    check(&frame(99, 0, 0, &[0; 100]).repeat(1_000), 5_000); // of no kind that we know
}

#[test]
fn a_head_without_end_ends_the_connection() {
    let head = frame(1, 0, 1, &field(b":method", b"GET"));
    let more = frame(9, 0, 1, &field(b"x", &[b'y'; 1_000])).repeat(10);
    let mut proxy = Proxy::start();
    let app = Upstream::says("ok");
    proxy.route(vec![routed("a", app.address)]);
    let mut stream = connect(proxy.address);
    stream.write_all(&head).unwrap();
    assert!((0..10_000).any(|_| stream.write_all(&more).is_err()), "100 MB of a head were taken");
    assert_eq!((app.count(), get(proxy.address, "/").status), (0, 200));
}

#[test]
fn streams_that_are_reset_at_once_reach_no_app() {
    let mut proxy = Proxy::start();
    let app = Upstream::says("ok");
    proxy.route(vec![routed("a", app.address)]);
    let mut stream = connect(proxy.address);
    let flood: Vec<u8> = (0..5_000).flat_map(|n| [get_frame(1 + 2 * n), reset(1 + 2 * n)].concat()).collect();
    let _ = stream.write_all(&flood);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let mut fates = Fates::default();
    fates.take(&mut bytes);
    assert!(app.count() <= 200, "{} reached the app", app.count());
    assert_eq!(get(proxy.address, "/").status, 200);
}

/// As one on a slow line does: all was written for it, the proxy ends, and only then it says what it has taken.
#[test]
fn a_client_that_takes_its_answer_late_gets_the_end_of_it() {
    const BYTES: usize = 400_000;
    let mut proxy = Proxy::start();
    let app = Upstream::start(|_, stream| respond(stream, 200, &"x".repeat(BYTES)));
    proxy.route(vec![routed("a", app.address)]);
    let mut stream = connect(proxy.address);
    let window = 1_u32 << 20;
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    stream.write_all(&frame(4, 0, 0, &settings)).unwrap();
    stream.write_all(&frame(8, 0, 0, &window.to_be_bytes())).unwrap();
    stream.write_all(&get_frame(1)).unwrap();
    proxy.control.app_with(1); // it is with the kernel
    proxy.control.stop();
    std::thread::sleep(Duration::from_millis(100));
    // hyper asks with this whether its GOAWAY has come, and closes on the answer.
    let graceful = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
    stream.write_all(&frame(6, 1, 0, &graceful)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..3 {
        stream.write_all(&frame(6, 0, 0, &[0; 8])).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    let came = bytes.iter().filter(|byte| **byte == b'x').count();
    assert!(end.is_ok() && came >= BYTES, "{came} bytes of {BYTES}: {end:?}");
}

/// H2.CL: a length of none and a body. Whether the app has answered before the body comes is a matter of time.
#[test]
fn bytes_above_the_length_reach_no_app() {
    let mut proxy = Proxy::start();
    let app = Upstream::says("ok");
    proxy.route(vec![routed("a", app.address)]);
    for _ in 0..20 {
        let mut stream = connect(proxy.address);
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
            ("content-length", "0"),
        ];
        let block: Vec<u8> =
            head.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect();
        stream.write_all(&frame(1, 4, 1, &block)).unwrap();
        stream.write_all(&frame(0, 1, 1, b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")).unwrap();
        let (mut bytes, mut piece, mut fates) = (Vec::new(), [0; 4096], Fates::default());
        while fates.streams.get(&1).is_none_or(|fate| fate != "reset") {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "{fates:?}");
            bytes.extend_from_slice(&piece[..count]);
            fates.take(&mut bytes);
        }
    }
    assert_eq!(get(proxy.address, "/last").status, 200);
    let seen = app.seen.lock().unwrap();
    assert!(seen.len() <= 21);
    assert!(seen.iter().all(|request| request.target() != "/smuggled" && request.body.is_empty()));
}

/// Each is given up only when the app has it: no bound of `h2` counts that.
#[test]
fn a_client_that_gives_each_request_up_is_ended() {
    let mut proxy = Proxy::start();
    let app = Upstream::start(|request, stream| {
        if request.target() == "/" {
            // Whoever asked is gone by then.
            return stream.read(&mut [0; 1]).is_ok_and(|count| count > 0);
        }
        respond(stream, 200, "ok")
    });
    proxy.route(vec![routed("a", app.address)]);
    let mut stream = connect(proxy.address);
    let mut given_up = 0;
    for n in 0..1_000 {
        let id = 1 + 2 * n;
        if stream.write_all(&get_frame(id)).is_err() {
            break;
        }
        let deadline = Instant::now() + Duration::from_millis(500);
        while app.count() <= n as usize && Instant::now() < deadline {
            std::thread::yield_now();
        }
        if stream.write_all(&reset(id)).is_err() {
            break;
        }
        given_up += 1;
    }
    assert!((200..=210).contains(&given_up), "{given_up} were given up");
    assert_eq!(get(proxy.address, "/fine").status, 200);
}

#[test]
fn a_stream_whose_client_opens_no_window_is_reset_and_gives_its_place_up() {
    let mut proxy = Proxy::start_with(|app| app.limits.idle_timeout_ms = 300);
    let app = Upstream::start(|_, stream| respond(stream, 200, &"x".repeat(1 << 20)));
    proxy.route(vec![routed("a", app.address)]);
    let mut stream = connect(proxy.address);
    // SETTINGS_INITIAL_WINDOW_SIZE 0
    stream.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
    stream.write_all(&get_frame(1)).unwrap();
    let mut fates = Fates::default();
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while fates.streams.get(&1).is_none_or(|fate| fate != "reset") {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "{fates:?}");
        bytes.extend_from_slice(&piece[..count]);
        fates.take(&mut bytes);
    }
    until("the end of the request", || {
        (proxy.control.app().endpoints.iter().all(|endpoint| endpoint.in_flight == 0)).then_some(())
    });
}

#[test]
fn frames_without_a_byte_do_not_put_off_the_deadline_of_a_body() {
    let mut proxy = Proxy::start_with(|app| app.limits.idle_timeout_ms = 400);
    let app = Upstream::says("ok");
    proxy.route(vec![routed("a", app.address)]);
    let mut stream = connect(proxy.address);
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let block: Vec<u8> =
        head.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect();
    stream.write_all(&frame(1, 4, 1, &block)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let began = Instant::now();
    let (mut bytes, mut piece, mut fates) = (Vec::new(), [0; 4096], Fates::default());
    while !fates.streams.contains_key(&1) {
        assert!(began.elapsed() < PATIENCE, "the stream is held by nothing");
        let _ = stream.write_all(&frame(0, 0, 1, &[]));
        if let Ok(count @ 1..) = stream.read(&mut piece) {
            bytes.extend_from_slice(&piece[..count]);
            fates.take(&mut bytes);
        }
    }
    assert_eq!(fates.streams[&1], "408");
}
