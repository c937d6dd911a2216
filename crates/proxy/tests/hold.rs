//! `hold`: while nobody serves, requests wait, bounded in number and in time, and none is sent twice.

#![allow(clippy::unwrap_used)]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::*;
use trundle_proxy::EndpointState::{Draining, Unready};

fn holding(hold_ms: u64, hold_requests: usize) -> Proxy {
    Proxy::start_with(|app| (app.limits.hold_ms, app.limits.hold_requests) = (hold_ms, hold_requests))
}

fn asking(proxy: &Proxy, n: usize) -> Vec<thread::JoinHandle<Option<Answer>>> {
    let address = proxy.address;
    (0..n)
        .map(|n| thread::spawn(move || Http::connect(address).post("/", format!("{n}").as_bytes())))
        .collect()
}

fn await_held(proxy: &mut Proxy, held: u64) {
    until("requests that wait", || (proxy.control.app().held == held).then_some(()));
}

/// The only instance is replaced, and the old one stops first.
#[test]
fn what_comes_while_the_only_one_is_replaced_waits_for_the_next() {
    let mut proxy = holding(10_000, 100);
    let (old, new) = (Upstream::says("old"), Upstream::says("new"));
    proxy.route(vec![routed("web-1-1", old.address)]);
    assert_eq!(get(proxy.address, "/").text(), "old");
    proxy.route(vec![endpoint("web-1-1", old.address, Draining)]);
    proxy.control.await_drained("web-1-1");
    let clients = asking(&proxy, 8);
    await_held(&mut proxy, 8);
    assert_eq!((old.count(), new.count()), (1, 0));
    // A table that brings nobody changes nothing.
    proxy.route(vec![]);
    proxy.route(vec![endpoint("web-2-1", new.address, Unready)]);
    proxy.route(vec![routed("web-2-1", new.address)]);
    for client in clients {
        let answer = client.join().unwrap().unwrap();
        assert_eq!((answer.status, answer.text()), (200, "new"));
    }
    assert_eq!((old.count(), new.count()), (1, 8));
    let stats = proxy.control.app_with(9);
    assert_eq!((stats.lost, stats.held, stats.by_version["1"]), (0, 8, 9));
    // Who finds somebody does not wait.
    assert_eq!(get(proxy.address, "/").text(), "new");
    assert_eq!(proxy.control.app_with(10).held, 8);
}

#[test]
fn it_waits_no_longer_than_it_may_and_says_when_to_come_again() {
    let mut proxy = holding(300, 100);
    proxy.route(vec![]);
    let began = Instant::now();
    let answer = get(proxy.address, "/");
    let took = began.elapsed();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(took <= Duration::from_secs(5), "{took:?}");
    // The time counts from when the last one left: it is over, and who comes now is told at once.
    let began = Instant::now();
    assert_eq!(get(proxy.address, "/").status, 503);
    assert!(began.elapsed() < Duration::from_millis(250), "{:?}", began.elapsed());
    let stats = proxy.control.app_with(2);
    assert_eq!((stats.lost, stats.lost_by_reason["no_endpoint"]), (2, 2));
}

#[test]
fn no_more_wait_than_may_and_the_others_are_told_at_once() {
    let mut proxy = holding(10_000, 3);
    proxy.route(vec![]);
    let clients = asking(&proxy, 3);
    await_held(&mut proxy, 3);
    let answer = get(proxy.address, "/");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let app = Upstream::says("ok");
    proxy.route(vec![routed("web-1-1", app.address)]);
    assert!(clients.into_iter().all(|client| client.join().unwrap().unwrap().status == 200));
    let stats = proxy.control.app_with(4);
    assert_eq!((stats.lost, stats.held), (1, 3));
}

/// It died, and the table does not know yet: not a byte was sent, so the request may wait.
#[test]
fn who_cannot_be_reached_is_waited_for_too() {
    let mut proxy = holding(10_000, 100);
    let (_socket, dead) = refusing();
    proxy.route(vec![routed("web-1-1", dead)]);
    let clients = asking(&proxy, 4);
    await_held(&mut proxy, 4);
    let app = Upstream::says("ok");
    proxy.route(vec![routed("web-2-1", app.address)]);
    assert!(clients.into_iter().all(|client| client.join().unwrap().unwrap().status == 200));
    assert_eq!((app.count(), proxy.control.app_with(4).lost), (4, 0));
}

#[test]
fn a_client_that_leaves_gives_its_place_back() {
    let mut proxy = holding(10_000, 1);
    proxy.route(vec![]);
    let mut gone = Http::connect(proxy.address);
    gone.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    await_held(&mut proxy, 1);
    drop(gone);
    // Its place is free as soon as its end was seen: until then the next is told at once.
    let next = until("a place", || {
        let address = proxy.address;
        let client = thread::spawn(move || get(address, "/"));
        let held = Instant::now() + Duration::from_millis(300);
        while Instant::now() < held && !client.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
        (!client.is_finished()).then_some(client)
    });
    let app = Upstream::says("ok");
    proxy.route(vec![routed("web-1-1", app.address)]);
    assert_eq!(next.join().unwrap().status, 200);
    assert_eq!(app.count(), 1, "the one who left is not sent");
}
