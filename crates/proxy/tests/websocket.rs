//! WebSockets through the proxy: opened, carried in both directions, told when their instance leaves, cut at its deadline.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use trundle_proxy::EndpointState::{Cut, Draining};
use trundle_proxy::Reply;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: web.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// A frame with less than 64 KiB. Clients mask theirs, here with zeroes, so that bytes stay what they are.
fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        0..126 => bytes.push(mask | payload.len() as u8),
        _ => {
            bytes.push(mask | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
    }
    if masked {
        bytes.extend([0; 4]);
    }
    bytes.extend(payload);
    bytes
}

/// The next frame; `None` at the end of the stream.
fn next(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut exactly = |n: usize| {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let head = exactly(2)?;
    let length = match head[1] & 0x7F {
        126 => u16::from_be_bytes(exactly(2)?.try_into().unwrap()).into(),
        short => usize::from(short),
    };
    if head[1] & 0x80 != 0 {
        assert_eq!(exactly(4)?, [0; 4]);
    }
    Some((head[0] & 0x0F, exactly(length)?))
}

/// An app of WebSockets: it greets in the same packet as its answer, and says everything back.
struct Chat {
    address: SocketAddr,
    /// It got a Close.
    closed: Arc<AtomicBool>,
}

impl Chat {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, closed) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let was_closed = Arc::clone(&closed);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let closed = Arc::clone(&was_closed);
                thread::spawn(move || talk(stream.unwrap(), &closed));
            }
        });
        Self { address, closed }
    }
}

fn talk(mut stream: TcpStream, closed: &AtomicBool) {
    let head = head_of(&mut stream);
    assert!(header(&head, "upgrade").is_some_and(|value| value == "websocket"), "{head}");
    assert!(header(&head, "connection").is_some_and(|value| value == "upgrade"), "{head}");
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(&[&answer[..], &frame(TEXT, b"hello", false)].concat()).unwrap();
    while let Some((opcode, payload)) = next(&mut stream) {
        match (opcode, &*payload) {
            (CLOSE, _) => {
                closed.store(true, SeqCst);
                let _ = stream.write_all(&frame(CLOSE, &payload, false));
                return;
            }
            (_, b"die") => return,
            // A frame that comes in two halves, far apart.
            (_, b"slow") => {
                let slow = frame(TEXT, &[b's'; 1000], false);
                stream.write_all(&slow[..100]).unwrap();
                thread::sleep(Duration::from_millis(700));
                stream.write_all(&slow[100..]).unwrap();
            }
            _ if stream.write_all(&frame(TEXT, &payload, false)).is_err() => return,
            _ => {}
        }
    }
}

fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().replace("\r\n", "\n")
}

/// An open WebSocket, after its greeting.
fn open(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The first frame comes in the packet of the request.
    stream.write_all(&[ASK.as_bytes(), &frame(TEXT, b"early", true)].concat()).unwrap();
    let head = head_of(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(header(&head, "upgrade"), Some("websocket"), "{head}");
    assert!(
        header(&head, "sec-websocket-accept").is_some() && header(&head, "content-length").is_none(),
        "{head}"
    );
    assert_eq!(next(&mut stream), Some((TEXT, b"hello".to_vec())));
    assert_eq!(next(&mut stream), Some((TEXT, b"early".to_vec())));
    stream
}

fn echo(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(&frame(TEXT, text, true)).unwrap();
    assert_eq!(next(stream), Some((TEXT, text.to_vec())));
}

fn proxy(drain_spread_ms: u64, chats: &[&Chat]) -> Proxy {
    let mut proxy = Proxy::start_with(|app| app.limits.drain_spread_ms = drain_spread_ms);
    let named = chats.iter().enumerate().map(|(n, chat)| routed(&format!("web-1-{n}"), chat.address));
    proxy.route(named.collect());
    proxy
}

#[test]
fn what_is_said_comes_back_and_an_end_by_agreement_is_an_answer() {
    let chat = Chat::start();
    let mut proxy = proxy(0, &[&chat]);
    let mut stream = open(proxy.address);
    for length in [0, 1, 125, 126, 60_000] {
        echo(&mut stream, &vec![b'x'; length]);
    }
    stream.write_all(&frame(CLOSE, &1000u16.to_be_bytes(), true)).unwrap();
    assert_eq!(next(&mut stream), Some((CLOSE, 1000u16.to_be_bytes().to_vec())));
    assert_eq!(next(&mut stream), None);
    let stats = proxy.control.app_with(1);
    assert_eq!((stats.by_version["1"], stats.told, stats.lost, stats.crashed), (1, 0, 0, 0), "{stats:?}");
    assert!(chat.closed.load(SeqCst));
}

#[test]
fn a_drain_tells_each_of_them_and_ends_when_they_have_answered() {
    let (old, new) = (Chat::start(), Chat::start());
    let mut proxy = proxy(0, &[&old]);
    let mut streams: Vec<_> = (0..50).map(|_| open(proxy.address)).collect();
    streams.iter_mut().for_each(|stream| echo(stream, b"before"));
    proxy.route(vec![endpoint("web-1-0", old.address, Draining), routed("web-2-1", new.address)]);
    for stream in &mut streams {
        assert_eq!(next(stream), Some((CLOSE, 1012u16.to_be_bytes().to_vec())), "service restart");
    }
    assert!(
        proxy
            .control
            .try_recv(Duration::from_millis(300))
            .is_none_or(|reply| { !matches!(reply, Reply::Drained { .. }) }),
        "nobody has answered yet"
    );
    for mut stream in streams {
        stream.write_all(&frame(CLOSE, &1012u16.to_be_bytes(), true)).unwrap();
        assert_eq!(next(&mut stream), None, "the proxy closes first, as a server does");
        // And comes again.
        echo(&mut open(proxy.address), b"after");
    }
    assert_eq!(proxy.control.await_drained("web-1-0"), 0);
    assert!(old.closed.load(SeqCst), "the instance has the client's Close");
    let stats = proxy.control.app();
    assert_eq!((stats.told, stats.cut, stats.lost, stats.crashed), (50, 0, 0, 0), "{stats:?}");
}

#[test]
fn the_word_comes_between_two_frames_and_is_spread() {
    let chat = Chat::start();
    let mut proxy = proxy(1_000, &[&chat]);
    let mut slow = open(proxy.address);
    let streams: Vec<_> = (0..20).map(|_| open(proxy.address)).collect();
    slow.write_all(&frame(TEXT, b"slow", true)).unwrap();
    thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    proxy.route(vec![endpoint("web-1-0", chat.address, Draining)]);
    let told: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                assert_eq!(next(&mut stream).unwrap().0, CLOSE);
                let at = began.elapsed();
                stream.write_all(&frame(CLOSE, &[], true)).unwrap();
                at
            })
        })
        .collect();
    let mut told: Vec<Duration> = told.into_iter().map(|thread| thread.join().unwrap()).collect();
    told.sort();
    // Twenty draws of a second: that all lie within half of it happens once in 25,000.
    assert!(told[19] - told[0] > Duration::from_millis(400) && told[19] < Duration::from_secs(3), "{told:?}");
    assert_eq!(next(&mut slow), Some((TEXT, vec![b's'; 1000])), "the frame was not broken");
    assert_eq!(next(&mut slow).unwrap().0, CLOSE);
    slow.write_all(&frame(CLOSE, &[], true)).unwrap();
    proxy.control.await_drained("web-1-0");
}

#[test]
fn who_does_not_answer_is_cut_at_the_deadline_and_counted() {
    let chat = Chat::start();
    let mut proxy = proxy(0, &[&chat]);
    let mut stream = open(proxy.address);
    proxy.route(vec![endpoint("web-1-0", chat.address, Draining)]);
    assert_eq!(next(&mut stream).unwrap().0, CLOSE);
    proxy.route(vec![endpoint("web-1-0", chat.address, Cut)]);
    assert_eq!(proxy.control.await_drained("web-1-0"), 1);
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    let stats = proxy.control.app();
    assert_eq!((stats.told, stats.cut, stats.lost, stats.crashed), (0, 1, 0, 0), "{stats:?}");
}

#[test]
fn an_instance_that_dies_is_told_as_crashed() {
    let chat = Chat::start();
    let mut proxy = proxy(0, &[&chat]);
    let mut stream = open(proxy.address);
    stream.write_all(&frame(TEXT, b"die", true)).unwrap();
    assert_eq!(next(&mut stream), Some((CLOSE, 1011u16.to_be_bytes().to_vec())));
    let stats = proxy.control.app_with(1);
    assert_eq!((stats.crashed, stats.lost), (1, 0), "{stats:?}");
    // A client that goes without a word is nobody's loss.
    drop(open(proxy.address));
    until("the end of it", || proxy.control.app().endpoints.iter().all(|e| e.in_flight == 0).then_some(()));
    assert_eq!(proxy.control.app().total, 1);
}

#[test]
fn a_proxy_that_ends_tells_everybody() {
    let chat = Chat::start();
    let mut proxy = proxy(0, &[&chat]);
    let mut stream = open(proxy.address);
    proxy.control.stop();
    assert_eq!(next(&mut stream).unwrap().0, CLOSE);
    stream.write_all(&frame(CLOSE, &[], true)).unwrap();
    assert_eq!(next(&mut stream), None);
}

/// Also those whose moment was to be after its end: it waits half a minute for what is in flight.
#[test]
fn a_proxy_that_ends_tells_everybody_in_time_however_long_the_spread() {
    let (old, new) = (Chat::start(), Chat::start());
    let mut proxy = proxy(600_000, &[&old]);
    let first = open(proxy.address);
    // This one waits for its moment already; the other one hears of the stop first.
    proxy.route(vec![endpoint("web-1-0", old.address, Draining), routed("web-2-1", new.address)]);
    let second = open(proxy.address);
    let began = Instant::now();
    proxy.control.stop();
    for mut stream in [first, second] {
        assert_eq!(next(&mut stream), Some((CLOSE, 1012u16.to_be_bytes().to_vec())));
        stream.write_all(&frame(CLOSE, &1012u16.to_be_bytes(), true)).unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "within a quarter of half a minute: {:?}",
        began.elapsed()
    );
    proxy.stop();
}

#[test]
fn nothing_else_gets_a_tunnel() {
    // An app that switches although nobody asked, and one that refuses.
    let eager = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").is_ok()
    });
    let polite = Upstream::start(|_, stream| respond(stream, 200, "no"));
    let mut proxy = Proxy::start();
    proxy.route(vec![routed("web-1-1", eager.address)]);
    assert_eq!(get(proxy.address, "/").status, 502);
    for change in [("Upgrade: WebSocket", "Upgrade: h2c"), ("GET", "POST"), ("Upgrade\r\n", "close\r\n")] {
        let asked = ASK.replacen(change.0, change.1, 1);
        let answer = raw(proxy.address, &asked);
        assert!([400, 502].contains(&answer.status), "{change:?}: {}", answer.head);
        assert!(header(&eager.last().head, "upgrade").is_none(), "{change:?}: {:?}", eager.last());
    }
    proxy.route(vec![routed("web-1-2", polite.address)]);
    let mut http = Http::connect(proxy.address);
    http.send(ASK);
    assert_eq!(http.answer().unwrap().text(), "no");
    assert_eq!(http.get("/").unwrap().text(), "no", "HTTP goes on");
    // Bytes after a refused upgrade are a request, and not more.
    http.send(&ASK.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"));
    assert_eq!(http.answer().unwrap().status, 200);
    assert!(header(&polite.last().head, "upgrade").is_none());
}

/// So that the next instance does not leave while the clients of the last one are on their way.
#[test]
fn a_drain_is_told_when_those_have_come_back_who_were_told() {
    let (old, new) = (Chat::start(), Chat::start());
    let mut proxy = proxy(400, &[&old]);
    let mut told: Vec<_> = (0..3).map(|_| open(proxy.address)).collect();
    told.iter_mut().for_each(|stream| echo(stream, b"before"));
    proxy.route(vec![endpoint("web-1-0", old.address, Draining), routed("web-2-1", new.address)]);
    for mut stream in told {
        while next(&mut stream).is_some_and(|(kind, _)| kind != CLOSE) {}
        stream.write_all(&frame(CLOSE, &1012u16.to_be_bytes(), true)).unwrap();
    }
    let is_drained = |reply: Option<Reply>| matches!(reply, Some(Reply::Drained { .. }));
    until("nothing in flight", || {
        proxy.control.app().endpoints.iter().all(|e| e.in_flight == 0).then_some(())
    });
    let mut back = vec![open(proxy.address), open(proxy.address)];
    assert!(
        !is_drained(proxy.control.try_recv(Duration::from_millis(200))),
        "one of three is still on its way"
    );
    let began = Instant::now();
    back.push(open(proxy.address));
    assert_eq!(proxy.control.await_drained("web-1-0"), 0);
    assert!(began.elapsed() < Duration::from_millis(500), "all are back: {:?}", began.elapsed());

    // Who never comes back is not waited for longer than two and a half times the spread.
    proxy.route(vec![endpoint("web-2-1", new.address, Draining), routed("web-3-1", old.address)]);
    let began = Instant::now();
    for mut stream in back {
        while next(&mut stream).is_some_and(|(kind, _)| kind != CLOSE) {}
        stream.write_all(&frame(CLOSE, &1012u16.to_be_bytes(), true)).unwrap();
    }
    assert_eq!(proxy.control.await_drained("web-2-1"), 0);
    let took = began.elapsed();
    assert!((Duration::from_millis(1_000)..Duration::from_millis(2_500)).contains(&took), "{took:?}");
}
