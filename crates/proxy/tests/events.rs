//! Server-Sent Events through the proxy: a drain ends them between two events, and only there.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use trundle_proxy::EndpointState::{Cut, Draining};

/// An app that streams what it is told, as chunks.
fn streaming(kind: &'static str) -> (Upstream, Sender<&'static str>) {
    let (say, said) = channel();
    let said: Arc<Mutex<Receiver<&'static str>>> = Arc::new(Mutex::new(said));
    let app = Upstream::start(move |_, stream| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // Until the test has ended, or nobody takes it any more.
        while let Ok(text) = said.lock().unwrap().recv_timeout(PATIENCE) {
            if write!(stream, "{:x}\r\n{text}\r\n", text.len()).is_err() {
                break;
            }
        }
        false
    });
    (app, say)
}

fn begin(proxy: &Proxy) -> Http {
    let mut http = Http::connect(proxy.address);
    http.send("GET /events HTTP/1.1\r\nHost: web.test\r\nAccept: text/event-stream\r\n\r\n");
    let head = http.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    http
}

/// The text of the next chunk; empty for the last one.
fn chunk(stream: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
    }
    let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
    let mut text = vec![0; size + 2];
    stream.read_exact(&mut text).ok()?;
    text.truncate(size);
    Some(String::from_utf8(text).unwrap())
}

fn proxy(app: &Upstream) -> Proxy {
    let mut proxy = Proxy::start_with(|app| app.limits.drain_spread_ms = 0);
    proxy.route(vec![routed("web-1-1", app.address)]);
    proxy
}

#[test]
fn a_drain_ends_a_stream_after_the_event_and_the_client_comes_again_elsewhere() {
    let (old, say) = streaming("text/event-stream; charset=utf-8");
    let new = Upstream::says("new");
    let mut proxy = proxy(&old);
    let mut http = begin(&proxy);
    say.send("id: 1\ndata: one\n\n").unwrap();
    assert_eq!(chunk(&mut http.stream).unwrap(), "id: 1\ndata: one\n\n");
    say.send("id: 2\ndata: t").unwrap();
    assert_eq!(chunk(&mut http.stream).unwrap(), "id: 2\ndata: t");
    proxy.route(vec![endpoint("web-1-1", old.address, Draining), routed("web-2-1", new.address)]);
    // In the middle of an event nothing is ended.
    http.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(http.stream.peek(&mut [0]).is_err(), "it was broken off");
    http.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    say.send("wo\n\n").unwrap();
    assert_eq!(chunk(&mut http.stream).unwrap(), "wo\n\n");
    assert_eq!(chunk(&mut http.stream).unwrap(), "", "a whole answer");
    assert_eq!(proxy.control.await_drained("web-1-1"), 0);
    assert_eq!(http.get("/").unwrap().text(), "new", "on the same connection");
    let stats = proxy.control.app_with(2);
    assert_eq!((stats.told, stats.cut, stats.lost, stats.crashed), (1, 0, 0, 0), "{stats:?}");
}

#[test]
fn a_quiet_stream_is_ended_at_once_and_another_kind_never() {
    let (quiet, _say) = streaming("text/event-stream");
    let mut proxy = proxy(&quiet);
    let mut http = begin(&proxy);
    proxy.route(vec![endpoint("web-1-1", quiet.address, Draining)]);
    assert_eq!(chunk(&mut http.stream).unwrap(), "");
    assert_eq!(proxy.control.await_drained("web-1-1"), 0);

    let (log, say) = streaming("text/plain");
    proxy.route(vec![routed("web-2-1", log.address)]);
    let mut http = begin(&proxy);
    say.send("a line\n\n").unwrap();
    assert_eq!(chunk(&mut http.stream).unwrap(), "a line\n\n");
    proxy.route(vec![endpoint("web-2-1", log.address, Draining)]);
    http.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(http.stream.peek(&mut [0]).is_err(), "nobody knows where that could be ended");
    http.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    proxy.route(vec![endpoint("web-2-1", log.address, Cut)]);
    assert_eq!(proxy.control.await_drained("web-2-1"), 1);
    assert_eq!(chunk(&mut http.stream), None, "cut is no whole answer");
    let stats = proxy.control.app();
    assert_eq!((stats.told, stats.cut, stats.lost), (1, 1, 0), "{stats:?}");
}
