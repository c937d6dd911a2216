//! Kept connections that the app closes at the very moment at which the next request comes.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::*;

/// What an app did.
#[derive(Default)]
struct Log {
    /// How often, by id.
    processed: BTreeMap<usize, usize>,
    /// When it last closed a connection, a byte of another request had come on it.
    had_come: bool,
}

/// An app that answers one request on each connection, keeps it, and closes it without a word when it is time.
struct ClosingApp {
    address: SocketAddr,
    log: Arc<Mutex<Log>>,
    close_at: Arc<Mutex<Option<Instant>>>,
    closed: mpsc::Receiver<()>,
}

impl ClosingApp {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (log, close_at) = (Arc::<Mutex<Log>>::default(), Arc::<Mutex<Option<Instant>>>::default());
        let (tell_closed, closed) = mpsc::channel();
        let app = Self { address, log: Arc::clone(&log), close_at: Arc::clone(&close_at), closed };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                let (head, body) = Reader::default().message(&mut stream, true).unwrap();
                let id = header(&head, "x-id").unwrap().parse().unwrap();
                assert_eq!(body, body_of(id).as_bytes());
                *log.lock().unwrap().processed.entry(id).or_default() += 1;
                respond(&mut stream, 200, "ok");
                while close_at.lock().unwrap().take_if(|at| *at <= Instant::now()).is_none() {
                    std::hint::spin_loop();
                }
                // What had come can still be read; what comes from now on is answered with a reset.
                stream.shutdown(Shutdown::Both).unwrap();
                log.lock().unwrap().had_come = matches!(stream.read(&mut [0; 1]), Ok(1));
                tell_closed.send(()).unwrap();
            }
        });
        app
    }
}

/// Short and in one piece, or in several.
fn body_of(id: usize) -> String {
    format!("{id} ").repeat(if id.is_multiple_of(2) { 10 } else { 8_000 })
}

fn post(http: &mut Http, id: usize) {
    let body = body_of(id);
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\nContent-Length: {}\r\n\r\n", body.len());
    http.send(&(head + &body));
}

#[test]
fn a_request_that_meets_a_closing_connection_is_answered_by_another_try_unless_a_byte_had_come() {
    let mut proxy = Proxy::start();
    let app = ClosingApp::start();
    proxy.route(vec![routed("a", app.address)]);
    let mut http = Http::connect(proxy.address);
    post(&mut http, 0);
    assert_eq!(http.answer().unwrap().status, 200);
    let mut lost = 0;
    for n in 1..=2000 {
        let now = Instant::now();
        *app.close_at.lock().unwrap() = Some(now + Duration::from_micros(200));
        // The request walks over the moments around the close.
        let send_at = now + Duration::from_micros(n as u64 % 200);
        while Instant::now() < send_at {
            std::hint::spin_loop();
        }
        post(&mut http, n);
        let answer = http.answer().expect("an answer");
        app.closed.recv().unwrap();
        let log = app.log.lock().unwrap();
        let processed = log.processed.get(&n).copied().unwrap_or(0);
        match answer.status {
            200 => assert_eq!(processed, 1, "request {n}"),
            502 => {
                assert!(log.had_come, "request {n} was given up, and the app had not a byte of it");
                assert_eq!(processed, 0, "request {n}");
                lost += 1;
            }
            other => panic!("{other}"),
        }
        drop(log);
        if answer.status == 502 {
            http = Http::connect(proxy.address);
            post(&mut http, 10_000 + n); // for the next connection that is kept
            assert_eq!(http.answer().unwrap().status, 200);
        }
    }
    let stats = proxy.control.app_with(2001 + lost);
    assert_eq!((stats.crashed, stats.lost), (lost, 0), "{stats:?}");
}
