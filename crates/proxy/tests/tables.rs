//! Tables and the control socket: order, refusals, the file on disk, the end.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use common::*;
use trundle_proxy::EndpointState::Draining;
use trundle_proxy::{Listen, Maintenance, ProxyConfig, ProxyError, Reply, Request, SOCKET_NAME};

fn refused(reply: &Reply) -> &str {
    match reply {
        Reply::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_proxy_serves_from_its_last_table_with_nobody_to_tell_it() {
    let mut proxy = Proxy::start();
    let app = Upstream::says("ok");
    proxy.route(vec![routed("a", app.address)]);
    assert_eq!(get(proxy.address, "/").text(), "ok");
    let version_1 = proxy.control.app_with(1).by_version["1"];
    proxy.restart();
    assert_eq!(get(proxy.address, "/").text(), "ok");
    let stats = proxy.control.stats();
    assert_eq!((stats.epoch, stats.number), proxy.table.stamp());
    let counts = proxy.control.app_with(2);
    assert_eq!(counts.by_version["1"], version_1 + 1, "counts go on");

    proxy.stop();
    let path = proxy.dir.path().join("proxy-table.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    proxy.restart();
    assert_eq!(proxy.control.stats().number, 0, "a torn file is no table");
    let table = proxy.table.clone();
    proxy.control.set(&table);
    assert_eq!(get(proxy.address, "/").text(), "ok");
}

#[test]
fn an_older_table_is_refused_and_the_same_one_acknowledged_again() {
    let mut proxy = Proxy::start();
    let app = Upstream::says("ok");
    proxy.route(vec![routed("a", app.address)]);
    let table = proxy.table.clone();
    proxy.control.set(&table);

    let mut other = table.clone();
    other.apps[0].endpoints.clear();
    assert!(refused(&proxy.control.ask(&Request::SetTable(other.clone()))).contains("another content"));
    other.number -= 1;
    assert!(refused(&proxy.control.ask(&Request::SetTable(other.clone()))).contains("older"));
    other.number = 0;
    other.epoch += 1;
    proxy.control.set(&other);
    assert!(refused(&proxy.control.ask(&Request::SetTable(table))).contains("older"));
    assert_eq!(get(proxy.address, "/").status, 503);

    let mut stranger = other.clone();
    stranger.protocol = 99;
    assert!(refused(&proxy.control.ask(&Request::SetTable(stranger))).contains("protocol 99"));
    assert!(refused(&proxy.control.ask(&Request::Hello { protocol: 99 })).contains("protocol"));
}

/// What an older proxy did not know is not in the table that it has left on the disk.
#[test]
fn a_table_that_was_only_read_may_be_told_once_with_more_in_it() {
    let mut proxy = Proxy::start();
    let app = Upstream::says("ok");
    proxy.route(vec![routed("a", app.address)]);
    proxy.restart();
    let mut more = proxy.table.clone();
    more.apps[0].version_header = Some("x-app-version".to_owned());
    proxy.control.set(&more);
    assert_eq!(get(proxy.address, "/").header("x-app-version"), Some("1"));
    let less = proxy.table.clone();
    assert!(refused(&proxy.control.ask(&Request::SetTable(less))).contains("another content"));
}

#[test]
fn a_table_with_an_address_that_is_taken_changes_nothing() {
    let mut proxy = Proxy::start();
    let (old, new) = (Upstream::says("old"), Upstream::says("new"));
    proxy.route(vec![routed("a", old.address)]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = free_address();
    let mut table = proxy.table.clone();
    table.number += 1;
    table.apps[0].listen.push(Listen::Http(free));
    table.apps[0].listen.push(Listen::Http(taken.local_addr().unwrap()));
    table.apps[0].endpoints = vec![routed("b", new.address)];
    let reply = proxy.control.ask(&Request::SetTable(table.clone()));
    let reason = refused(&reply);
    assert!(
        reason.contains(&taken.local_addr().unwrap().to_string()) && reason.contains("in use"),
        "{reason}"
    );
    assert_eq!(get(proxy.address, "/").text(), "old");
    assert!(std::net::TcpStream::connect(free).is_err(), "what was bound for it is free again");

    drop(taken);
    proxy.control.set(&table);
    assert_eq!(get(free, "/").text(), "new");
    table.number += 1;
    table.apps[0].listen.truncate(1);
    proxy.control.set(&table);
    proxy.table = table;
    until("the address to be free", || std::net::TcpStream::connect(free).is_err().then_some(()));
    assert_eq!(get(proxy.address, "/").text(), "new");
}

#[test]
fn an_incarnation_never_changes_its_address() {
    let mut proxy = Proxy::start();
    let (first, second) = (Upstream::says("first"), Upstream::says("second"));
    proxy.route(vec![routed("a", first.address)]);
    let mut http = Http::connect(proxy.address);
    assert_eq!(http.get("/").unwrap().text(), "first");
    let mut table = proxy.table.clone();
    table.number += 1;
    table.apps[0].endpoints[0].address = second.address;
    assert!(refused(&proxy.control.ask(&Request::SetTable(table.clone()))).contains("incarnation"));
    table.apps[0].endpoints[0].incarnation = "another".into();
    proxy.control.set(&table);
    proxy.table = table;
    assert_eq!(http.get("/").unwrap().text(), "second");
}

#[test]
fn a_drain_is_told_after_a_restart_too() {
    let mut proxy = Proxy::start();
    let app = Upstream::says("ok");
    proxy.route(vec![endpoint("a", app.address, Draining)]);
    assert_eq!(proxy.control.await_drained("a"), 0);
    proxy.restart();
    let table = proxy.table.clone();
    proxy.control.set(&table);
    assert_eq!(proxy.control.await_drained("a"), 0);
}

#[test]
fn one_proxy_per_state_directory_and_a_private_socket() {
    let proxy = Proxy::start();
    let path = proxy.dir.path().join(SOCKET_NAME);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = trundle_proxy::run_proxy(ProxyConfig { state_dir: proxy.dir.path().into(), workers: 1 });
    let error = second.unwrap_err();
    assert!(matches!(error, ProxyError::AlreadyRunning { pid: Some(_), .. }), "{error}");
    assert!(path.exists(), "the living one's socket is not stolen");
}

/// Its client has just connected, and would not try again as on a connection that it has used.
#[test]
fn who_has_just_connected_is_answered_though_the_proxy_ends() {
    let mut proxy = Proxy::start();
    let app = Upstream::says("done");
    proxy.route(vec![routed("a", app.address)]);
    let address = proxy.address;
    let mut new = Http::connect(address);
    thread::sleep(Duration::from_millis(50)); // it is accepted
    proxy.control.send(&Request::Stop);
    until("new clients to be refused", || std::net::TcpStream::connect(address).is_err().then_some(()));
    new.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = new.answer().unwrap();
    assert_eq!((answer.text(), answer.header("connection")), ("done", Some("close")));
    proxy.stop();
}

#[test]
fn what_is_in_flight_at_the_end_is_finished() {
    let mut proxy = Proxy::start();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let app = Upstream::start(move |_, stream| {
        released.lock().unwrap().recv().unwrap();
        respond(stream, 200, "done")
    });
    proxy.route(vec![routed("a", app.address)]);
    let address = proxy.address;
    let mut waits = Http::connect(address);
    waits.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the request", || (app.count() == 1).then_some(()));
    proxy.control.send(&Request::Stop);
    until("new clients to be refused", || std::net::TcpStream::connect(address).is_err().then_some(()));
    release.send(()).unwrap();
    let answer = waits.answer().unwrap();
    assert_eq!(answer.text(), "done");
    thread::scope(|scope| scope.spawn(|| assert!(waits.is_closed())).join().unwrap());
    proxy.stop();
}

#[test]
fn while_an_app_is_closed_the_page_is_answered_and_what_is_in_flight_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    std::fs::write(&page, "<h1>back at ten</h1>").unwrap();
    let mut proxy = Proxy::start();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let app = Upstream::start(move |seen, stream| {
        if seen.target() == "/slow" {
            wait.lock().unwrap().recv().unwrap();
        }
        respond(stream, 200, "in")
    });
    proxy.route(vec![routed("a", app.address)]);
    let address = proxy.address;
    let slow = thread::spawn(move || get(address, "/slow"));
    until("it is in flight", || (proxy.control.app().endpoints[0].in_flight == 1).then_some(()));
    let mut waits = Http::connect(address);
    assert_eq!(waits.get("/").unwrap().text(), "in");
    proxy.table.apps[0].maintenance = Some(Maintenance { page: Some(page), retry_after_s: Some(120) });
    proxy.route(vec![routed("a", app.address)]);
    let before = app.count();
    for _ in 0..2 {
        let answer = waits.get("/").unwrap();
        assert_eq!((answer.status, answer.text()), (503, "<h1>back at ten</h1>"));
        for header in ["retry-after: 120", "content-type: text/html", "cache-control: no-store"] {
            assert!(answer.head.contains(header), "{header} in {}", answer.head);
        }
    }
    assert_eq!(app.count(), before, "it reaches nobody");
    // With a body that nobody reads, and by the next process.
    assert_eq!(Http::connect(address).post("/", &[0; 100_000]).unwrap().status, 503);
    go.send(()).unwrap();
    assert_eq!(slow.join().unwrap().text(), "in");
    proxy.restart();
    assert_eq!(get(address, "/").status, 503);
    proxy.table.apps[0].maintenance = None;
    proxy.route(vec![routed("a", app.address)]);
    assert_eq!(get(address, "/").text(), "in");
    let stats = proxy.control.app();
    assert_eq!((stats.lost, stats.rejected), (0, 4), "{stats:?}");
}
