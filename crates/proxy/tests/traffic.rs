//! Requests under change: swaps, drains, cuts, deaths. The client never retries.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::*;
use trundle_proxy::EndpointState::{Cut, Draining, Unready};
use trundle_proxy::Reply;

#[test]
fn thirty_thousand_requests_over_fifty_swaps_lose_none() {
    const REQUESTS: usize = 30_000;
    let mut proxy = Proxy::start_with(|app| app.version_header = Some("X-App-Version".into()));
    let apps: Vec<Upstream> = (0..4).map(|_| Upstream::says("ok")).collect();
    let two = |n: usize| {
        let id = |k: usize| format!("web-{n}-{k}");
        vec![routed(&id(0), apps[n % 4].address), routed(&id(1), apps[(n + 1) % 4].address)]
    };
    proxy.route(two(0));
    let sent = Arc::new(AtomicUsize::new(0));
    let address = proxy.address;
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let sent = Arc::clone(&sent);
            thread::spawn(move || {
                let mut http = Http::connect(address);
                let body = vec![b'x'; 64 * 1024];
                while sent.fetch_add(1, SeqCst) < REQUESTS {
                    let n = sent.load(SeqCst);
                    let answer = if n % 50 == client { http.post("/", &body) } else { http.get("/") };
                    let answer = answer.expect("an answer to every request");
                    assert_eq!(
                        (answer.status, answer.text(), answer.header("x-app-version")),
                        (200, "ok", Some("1"))
                    );
                }
            })
        })
        .collect();
    for swap in 1..=50 {
        until("the next part of the load", || (sent.load(SeqCst) >= REQUESTS * swap / 52).then_some(()));
        let mut leaving = two(swap - 1);
        leaving.iter_mut().for_each(|endpoint| endpoint.state = Draining);
        let names: Vec<String> = leaving.iter().map(|endpoint| endpoint.id.clone()).collect();
        proxy.route(two(swap).into_iter().chain(leaving).collect());
        names.iter().for_each(|name| assert_eq!(proxy.control.await_drained(name), 0));
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    let stats = proxy.control.app_with(REQUESTS as u64);
    assert_eq!((stats.lost, stats.crashed, stats.cut, stats.rejected), (0, 0, 0, 0), "{stats:?}");
    assert_eq!((stats.total, stats.by_version["1"]), (REQUESTS as u64, REQUESTS as u64));
    assert_eq!(stats.latency["1"].count, REQUESTS as u64);
    assert_eq!(apps.iter().map(Upstream::count).sum::<usize>(), REQUESTS);
}

#[test]
fn a_post_goes_to_another_endpoint_when_the_first_cannot_be_reached() {
    let mut proxy = Proxy::start();
    let app = Upstream::start(|seen, stream| respond(stream, 200, &seen.body.len().to_string()));
    // Six that refuse: nobody listens there.
    let dead: Vec<_> = (0..6).map(|_| refusing()).collect();
    let mut endpoints: Vec<_> = (0..6).map(|n| routed(&format!("dead-{n}"), dead[n].1)).collect();
    endpoints.push(routed("alive", app.address));
    proxy.route(endpoints);
    let body = vec![7; 300_000];
    for n in 1..=20 {
        assert_eq!(Http::connect(proxy.address).post("/", &body).unwrap().text(), "300000");
        assert_eq!(app.count(), n, "each is processed exactly once");
    }
    let stats = proxy.control.app_with(20);
    assert_eq!((stats.lost, stats.total), (0, 20));
    assert!(stats.retried > 0);
}

#[test]
fn when_nobody_can_be_reached_the_answer_is_502() {
    let mut proxy = Proxy::start();
    let dead: Vec<_> = (0..3).map(|_| refusing()).collect();
    proxy.route((0..3).map(|n| routed(&format!("dead-{n}"), dead[n].1)).collect());
    let answer = get(proxy.address, "/");
    assert_eq!((answer.status, answer.text()), (502, "no instance of web could be reached\n"));
    let stats = proxy.control.app();
    assert_eq!((stats.total, stats.lost, stats.lost_by_reason["connect_failed"]), (1, 1, 1));
}

/// Its queue is full, so that the kernel drops what asks for a connection; the next packet comes a second later.
#[test]
fn who_is_slow_to_accept_is_waited_for() {
    let mut proxy = Proxy::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let fills_the_queue = TcpStream::connect(address).unwrap();
    proxy.route(vec![routed("web-1-1", address)]);
    let front = proxy.address;
    let client = thread::spawn(move || get(front, "/"));
    // By now it has asked, and was not heard.
    thread::sleep(Duration::from_millis(500));
    assert!(!client.is_finished());
    let app = Upstream::on(listener, |_, stream| respond(stream, 200, "late"));
    let answer = client.join().unwrap();
    assert_eq!((answer.status, answer.text(), app.count()), (200, "late", 1));
    assert_eq!(proxy.control.app().lost, 0);
    drop(fills_the_queue);
}

#[test]
fn no_endpoint_is_503_with_retry_after_and_a_reason() {
    let mut proxy = Proxy::start();
    let check = |proxy: &Proxy| {
        let answer = get(proxy.address, "/");
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert_eq!(answer.text(), "no instance of web is ready\n");
    };
    check(&proxy);
    let app = Upstream::says("ok");
    let idle = |state| endpoint("web-1-1", app.address, state);
    proxy.route(vec![idle(Unready)]);
    check(&proxy);
    let mut weightless = routed("web-1-1", app.address);
    weightless.weight = 0;
    proxy.route(vec![weightless]);
    check(&proxy);
    proxy.route(vec![routed("web-1-1", app.address)]);
    assert_eq!(get(proxy.address, "/").status, 200);
    let stats = proxy.control.app_with(4);
    assert_eq!((stats.lost, stats.lost_by_reason["no_endpoint"], stats.total), (3, 3, 4));
}

#[test]
fn what_may_have_been_processed_is_never_sent_again() {
    let mut proxy = Proxy::start();
    let closes = || Upstream::start(|_, _| false);
    let (first, second) = (closes(), closes());
    proxy.route(vec![routed("a", first.address), routed("b", second.address)]);
    for request in
        ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"]
    {
        let answer = raw(proxy.address, request);
        assert_eq!(
            (answer.status, answer.text()),
            (502, "an instance of web ended before it had answered\n")
        );
    }
    assert_eq!(first.count() + second.count(), 2);
    let stats = proxy.control.app();
    assert_eq!((stats.crashed, stats.lost, stats.total), (2, 0, 2), "{stats:?}");
}

#[test]
fn a_death_in_the_middle_of_an_answer_is_seen_by_the_client_and_counted() {
    let mut proxy = Proxy::start();
    let app = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").unwrap();
        false
    });
    proxy.route(vec![routed("a", app.address)]);
    assert!(Http::connect(proxy.address).get("/").is_none(), "the answer must not look whole");
    let stats = proxy.control.app_with(1);
    assert_eq!((stats.crashed, stats.by_version.get("1").copied().unwrap_or(0)), (1, 0));
}

#[test]
fn an_answer_that_is_not_http_is_lost_and_a_5xx_is_the_apps() {
    let mut proxy = Proxy::start();
    let app = Upstream::start(|seen, stream| match seen.target() {
        "/bad" => {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").unwrap();
            false
        }
        _ => respond(stream, 500, "oops"),
    });
    proxy.route(vec![routed("a", app.address)]);
    assert_eq!(get(proxy.address, "/bad").status, 502);
    assert_eq!(get(proxy.address, "/").text(), "oops");
    let stats = proxy.control.app_with(2);
    assert_eq!((stats.lost_by_reason["bad_response"], stats.app_errors, stats.by_version["1"]), (1, 1, 1));
    assert_eq!(stats.total, 2);
}

/// An app whose `/slow` answers when it is told to.
fn slow_app() -> (Upstream, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel();
    let released = std::sync::Mutex::new(released);
    let app = Upstream::start(move |seen, stream| {
        if seen.target() == "/slow" {
            let _ = released.lock().unwrap().recv();
        }
        respond(stream, 200, "done")
    });
    (app, release)
}

#[test]
fn a_drain_is_told_when_the_last_answer_is_with_the_client_and_not_before() {
    let mut proxy = Proxy::start();
    let (old, release) = slow_app();
    let new = Upstream::says("new");
    proxy.route(vec![routed("old", old.address)]);
    let address = proxy.address;
    let client = thread::spawn(move || get(address, "/slow").status);
    until("the slow request", || (old.count() == 1).then_some(()));

    proxy.route(vec![endpoint("old", old.address, Draining), routed("new", new.address)]);
    let waiting = proxy.control.recv();
    assert!(matches!(&waiting, Reply::Waiting { id, in_flight: 1, .. } if id == "old"), "{waiting:?}");
    assert_eq!(proxy.control.try_recv(Duration::from_millis(100)), None, "nothing is drained yet");
    for _ in 0..20 {
        assert_eq!(get(address, "/").text(), "new");
    }
    release.send(()).unwrap();
    assert_eq!(proxy.control.await_drained("old"), 0);
    assert_eq!(client.join().unwrap(), 200);

    // The same table again: acknowledged again, and the drain told again.
    let table = proxy.table.clone();
    proxy.control.set(&table);
    assert_eq!(proxy.control.await_drained("old"), 0);
}

#[test]
fn an_unready_endpoint_keeps_its_requests_and_may_come_back() {
    let mut proxy = Proxy::start();
    let (app, release) = slow_app();
    proxy.route(vec![routed("a", app.address)]);
    let address = proxy.address;
    let client = thread::spawn(move || get(address, "/slow").status);
    until("the slow request", || (app.count() == 1).then_some(()));
    proxy.route(vec![endpoint("a", app.address, Unready)]);
    assert_eq!(get(address, "/").status, 503);
    proxy.route(vec![routed("a", app.address)]);
    assert_eq!(get(address, "/").status, 200);
    release.send(()).unwrap();
    assert_eq!(client.join().unwrap(), 200);
}

#[test]
fn past_the_deadline_what_is_left_is_cut_and_counted() {
    let mut proxy = Proxy::start();
    let blocked = Arc::new(AtomicBool::new(false));
    let is_blocked = Arc::clone(&blocked);
    let (waiting, _never) = slow_app();
    let streaming = Upstream::start(move |_, stream| {
        // More than all buffers hold: the client does not read it.
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
        is_blocked.store(true, SeqCst);
        stream.set_write_timeout(None).unwrap();
        while stream.write_all(b"x").is_ok() {}
        false
    });
    proxy.route(vec![routed("a", waiting.address)]);
    let address = proxy.address;
    let client = thread::spawn(move || get(address, "/slow"));
    until("the first request", || (waiting.count() == 1).then_some(()));
    proxy.route(vec![endpoint("a", waiting.address, Draining), routed("b", streaming.address)]);
    let mut reader = Http::connect(address);
    reader.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    until("full buffers", || blocked.load(SeqCst).then_some(()));

    proxy.route(vec![endpoint("a", waiting.address, Cut), endpoint("b", streaming.address, Cut)]);
    assert_eq!(proxy.control.await_drained("a"), 1);
    assert_eq!(proxy.control.await_drained("b"), 1);
    let answer = client.join().unwrap();
    assert_eq!(
        (answer.status, answer.text()),
        (502, "an instance of web was stopped before it had answered\n")
    );
    let stats = proxy.control.app_with(2);
    assert_eq!((stats.cut, stats.crashed, stats.lost, stats.total), (2, 0, 0, 2), "{stats:?}");
}

#[test]
fn a_client_that_goes_away_is_in_no_class_and_frees_the_endpoint() {
    let mut proxy = Proxy::start();
    let (app, _never) = slow_app();
    proxy.route(vec![routed("a", app.address)]);
    let mut waits = Http::connect(proxy.address);
    waits.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut uploads = Http::connect(proxy.address);
    uploads.send("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
    until("both", || (proxy.control.app().endpoints[0].in_flight == 2).then_some(()));
    waits.stream.shutdown(Shutdown::Both).unwrap();
    uploads.stream.shutdown(Shutdown::Both).unwrap();
    proxy.route(vec![endpoint("a", app.address, Draining)]);
    assert_eq!(proxy.control.await_drained("a"), 0);
    let stats = proxy.control.app();
    assert_eq!((stats.total, stats.lost, stats.crashed), (0, 0, 0), "{stats:?}");
}

#[test]
fn a_waiting_connection_that_the_app_has_closed_is_not_used() {
    let mut proxy = Proxy::start();
    // Each connection is closed right after its answer, without saying so.
    let app = Upstream::start(|_, stream| {
        respond(stream, 200, "ok");
        stream.shutdown(Shutdown::Both).unwrap();
        false
    });
    proxy.route(vec![routed("a", app.address)]);
    let mut http = Http::connect(proxy.address);
    for n in 0..300 {
        // Before this count rises the FIN is with the proxy's kernel; its event loop may not have seen it.
        until("the close", || (app.seen.lock().unwrap().len() == n).then_some(()));
        assert_eq!(http.post("/", b"x").expect("an answer").status, 200, "request {n}");
    }
    assert_eq!(app.count(), 300);
}

#[test]
fn an_early_answer_leaves_no_dirty_connection_behind() {
    let mut proxy = Proxy::start();
    // Answers 413 after the head, without reading the body, and would take the rest of it for another request.
    let app = Upstream::says("never used");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let early = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = Reader::default();
            let head = reader.head(&mut stream).unwrap();
            respond(&mut stream, if head.starts_with("POST") { 413 } else { 200 }, "early");
            kept.push(stream);
        }
    });
    drop(app);
    proxy.route(vec![routed("a", early)]);
    let mut http = Http::connect(proxy.address);
    http.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(http.answer().unwrap().status, 413);
    assert_eq!(get(proxy.address, "/").text(), "early");
    let stats = proxy.control.app_with(2);
    assert_eq!((stats.total, stats.crashed), (2, 0), "{stats:?}");
}

#[test]
fn a_late_answer_is_504() {
    let mut proxy = Proxy::start_with(|app| app.limits.response_timeout_ms = 100);
    let (app, _never) = slow_app();
    proxy.route(vec![routed("a", app.address)]);
    let answer = get(proxy.address, "/slow");
    assert_eq!((answer.status, answer.text()), (504, "an instance of web did not answer in time\n"));
    let stats = proxy.control.app();
    assert_eq!((stats.lost, stats.lost_by_reason["response_timeout"]), (1, 1));
    assert_eq!(stats.endpoints[0].in_flight, 0);
}

#[test]
fn answers_of_every_framing_arrive_whole_on_one_connection() {
    let mut proxy = Proxy::start();
    let app = Upstream::start(|seen, stream| {
        let (answer, goes_on): (&[u8], bool) = match seen.target() {
            "/head" => (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", true),
            "/204" => (b"HTTP/1.1 204 No Content\r\n\r\n", true),
            "/304" => (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\netag: \"x\"\r\n\r\n", true),
            "/chunked" => {
                (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", true)
            }
            "/hints" => {
                (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", true)
            }
            "/to-the-end" => (b"HTTP/1.0 200 OK\r\n\r\nabc", false),
            "/switch" => {
                (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc", false)
            }
            other => panic!("{other}"),
        };
        stream.write_all(answer).unwrap();
        goes_on
    });
    proxy.route(vec![routed("a", app.address)]);
    let mut http = Http::connect(proxy.address);
    for _ in 0..3 {
        http.send("HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = http.head().unwrap();
        assert_eq!(header(&head, "content-length"), Some("1000"));
        assert_eq!(http.get("/204").unwrap().status, 204);
        http.send("GET /304 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(header(&http.head().unwrap(), "etag"), Some("\"x\""));
        for path in ["/chunked", "/hints", "/to-the-end"] {
            assert_eq!(http.get(path).unwrap().text(), "abc", "{path}");
        }
    }
    assert_eq!(http.get("/switch").unwrap().status, 502);
    let stats = proxy.control.app_with(19);
    assert_eq!(
        (stats.by_version["1"], stats.lost_by_reason["bad_response"], stats.crashed),
        (18, 1, 0),
        "{stats:?}"
    );
}
