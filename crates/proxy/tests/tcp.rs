//! Addresses that carry bytes and no HTTP: both directions, drains, instances that cannot be reached, and waiting for one.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::*;
use trundle_proxy::{EndpointState, Listen, Reply};

/// Says its name to whoever comes, then sends back what it gets, and `bye` when the client has said all.
fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 64 * 1024];
                stream.write_all(name.as_bytes())?;
                loop {
                    match stream.read(&mut bytes)? {
                        0 => return stream.write_all(b"bye"),
                        n => stream.write_all(&bytes[..n])?,
                    }
                }
            });
        }
    });
    address
}

fn proxy(hold_ms: u64) -> Proxy {
    Proxy::start_with(|app| {
        app.listen = vec![Listen::Tcp(match app.listen[0] {
            Listen::Http(address) => address,
            _ => unreachable!(),
        })];
        app.limits.hold_ms = hold_ms;
    })
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read(stream: &mut TcpStream, count: usize) -> String {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Closed, and how: an end is no reset.
fn end_of(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).map(|_| rest)
}

#[test]
fn bytes_go_both_ways_and_half_a_close_too() {
    let mut proxy = proxy(0);
    proxy.route(vec![routed("a", echo("a:"))]);
    let mut client = connect(&proxy);
    assert_eq!(read(&mut client, 2), "a:", "the instance may speak first");
    assert_eq!(proxy.control.app().open["tcp"], 1);
    let sent: String = "0123456789".repeat(200_000);
    let (mut writer, text) = (client.try_clone().unwrap(), sent.clone());
    let writing = std::thread::spawn(move || {
        writer.write_all(text.as_bytes()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let got = end_of(&mut client).unwrap();
    writing.join().unwrap();
    assert!(got.len() == sent.len() + 3 && got.starts_with(&sent) && got.ends_with("bye"), "{}", got.len());
    let stats = proxy.control.app_with(1);
    assert_eq!((stats.by_version["1"], stats.lost, stats.crashed), (1, 0, 0));
    assert_eq!((stats.bytes_up["1"], stats.bytes_down["1"]), (2_000_000, 2_000_005));
    assert!(stats.statuses["1"].is_empty());
}

#[test]
fn a_drain_waits_for_the_last_connection_and_new_ones_go_elsewhere() {
    let mut proxy = proxy(0);
    let (a, b) = (echo("a:"), echo("b:"));
    proxy.route(vec![routed("a", a)]);
    let (mut stays, mut is_cut) = (connect(&proxy), connect(&proxy));
    assert_eq!((read(&mut stays, 2), read(&mut is_cut, 2)), ("a:".into(), "a:".into()));
    proxy.route(vec![endpoint("a", a, EndpointState::Draining), routed("b", b)]);
    assert_eq!(read(&mut connect(&proxy), 2), "b:");
    stays.write_all(b"still").unwrap();
    assert_eq!(read(&mut stays, 5), "still");
    stays.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut stays).unwrap(), "bye");
    while let Some(reply) = proxy.control.try_recv(Duration::from_millis(100)) {
        assert!(matches!(reply, Reply::Waiting { .. }), "one is still there: {reply:?}");
    }
    proxy.route(vec![endpoint("a", a, EndpointState::Cut), routed("b", b)]);
    assert_eq!(proxy.control.await_drained("a"), 1);
    assert_eq!(end_of(&mut is_cut).unwrap_or_default(), "");
    let stats = proxy.control.app();
    assert_eq!((stats.cut, stats.cut_by_kind["tcp"], stats.lost), (1, 1, 0), "{stats:?}");
}

#[test]
fn who_cannot_be_reached_is_passed_over_and_nobody_is_counted() {
    let mut proxy = proxy(0);
    let (_socket, refuses) = refusing();
    proxy.route(vec![routed("dead", refuses), routed("b", echo("b:"))]);
    for _ in 0..10 {
        assert_eq!(read(&mut connect(&proxy), 2), "b:");
    }
    proxy.route(vec![routed("dead", refuses)]);
    assert_eq!(end_of(&mut connect(&proxy)).unwrap(), "");
    proxy.route(vec![]);
    assert_eq!(end_of(&mut connect(&proxy)).unwrap(), "");
    let stats = until("the counts", || Some(proxy.control.app()).filter(|stats| stats.lost == 2));
    assert_eq!((stats.lost_by_reason["connect_failed"], stats.lost_by_reason["no_endpoint"]), (1, 1));
    assert!(stats.retried > 0, "{stats:?}");
}

#[test]
fn a_client_waits_while_its_instance_is_replaced() {
    let mut proxy = proxy(10_000);
    proxy.route(vec![]);
    let mut client = connect(&proxy);
    client.write_all(b"early").unwrap();
    until("one that waits", || (proxy.control.app().held == 1).then_some(()));
    proxy.route(vec![routed("a", echo("a:"))]);
    assert_eq!(read(&mut client, 7), "a:early");
    assert_eq!(proxy.control.app().lost, 0);
}

#[test]
fn an_instance_that_breaks_off_is_told_from_one_that_ends() {
    let mut proxy = proxy(0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.route(vec![routed("a", listener.local_addr().unwrap())]);
    let mut client = connect(&proxy);
    let (instance, _) = listener.accept().unwrap();
    client.write_all(b"unread").unwrap();
    until("its bytes", || (instance.peek(&mut [0; 6]).unwrap() == 6).then_some(()));
    // What is unread makes it a reset.
    drop(instance);
    assert_eq!(end_of(&mut client).unwrap_or_default(), "");
    until("the count", || (proxy.control.app().crashed == 1).then_some(()));
    let client = connect(&proxy);
    drop(listener.accept().unwrap());
    assert_eq!(end_of(&mut { client }).unwrap(), "");
    until("the count", || (proxy.control.app().by_version["1"] == 1).then_some(()));
}
