//! A connection to an app that ends at each byte of its answer, in order or by a reset, and one of a client that ends at each byte of
//! its request. Nothing is sent twice, and nothing that is not whole looks whole.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use common::*;

/// Ways to say how long an answer is, on connections that are not used again: each ends here by plan. Where only its end says so, an end in order is whole at any byte behind the head.
const ANSWERS: [&str; 3] = [
    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    InOrder,
    Reset,
}

fn end(stream: &TcpStream, end: End) {
    match end {
        End::InOrder => stream.shutdown(Shutdown::Both).unwrap(),
        // With no time to linger a close is a reset, here at the end of the handler.
        End::Reset => rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap(),
    }
}

/// An app whose answer to `/ANSWER/BYTES/END` ends there.
fn app() -> Upstream {
    Upstream::start(|seen, stream| {
        let parts: Vec<&str> = seen.target().split('/').collect();
        let [_, answer, bytes, how] = parts[..] else { return respond(stream, 200, "other") };
        let answer = ANSWERS[answer.parse::<usize>().unwrap()].as_bytes();
        stream.write_all(&answer[..bytes.parse::<usize>().unwrap()]).unwrap();
        end(stream, if how == "reset" { End::Reset } else { End::InOrder });
        false
    })
}

#[test]
fn an_answer_that_ends_at_any_byte_is_asked_for_once_and_never_looks_whole() {
    let mut proxy = Proxy::start();
    let (first, second) = (app(), app());
    proxy.route(vec![routed("a", first.address), routed("b", second.address)]);
    let (mut tried, mut whole, mut refused, mut broken) = (0, 0, 0, 0);
    for (number, answer) in ANSWERS.iter().enumerate() {
        let head = answer.find("\r\n\r\n").unwrap() + 4;
        for bytes in 0..=answer.len() {
            for how in [End::InOrder, End::Reset] {
                tried += 1;
                let path = format!("/{number}/{bytes}/{}", if how == End::Reset { "reset" } else { "end" });
                let case = format!("{path}: {:?}", &answer[..bytes]);
                let body = match Http::connect(proxy.address).post(&path, b"once") {
                    Some(answer) if answer.status == 502 => {
                        refused += 1;
                        assert!(bytes < head || how == End::Reset, "{case}");
                        continue;
                    }
                    Some(answer) => answer.text().to_owned(),
                    None => {
                        broken += 1;
                        assert!(bytes >= head, "{case}: not a word");
                        continue;
                    }
                };
                whole += 1;
                let by_its_end = number == 2 && how == End::InOrder;
                let expected = if by_its_end { &answer[head..bytes] } else { "hello" };
                assert!(bytes >= head && body == expected, "{case}: {body:?} was said to be whole");
                assert!(by_its_end || number != 2, "{case}: a reset is no end");
            }
        }
    }
    println!("{tried} ends: {whole} whole, {refused} refused with 502, {broken} broken off");
    assert!(whole > 0 && refused > 0 && broken > 0);
    assert_eq!(first.count() + second.count(), tried, "each was sent once");
    let stats = proxy.control.app_with(tried as u64);
    let counted: u64 = stats.by_version.values().sum();
    assert_eq!((counted, stats.crashed + stats.lost), (whole, refused + broken), "{stats:?}");
}

#[test]
fn a_request_that_ends_at_any_byte_reaches_no_app() {
    let mut proxy = Proxy::start();
    let upstream = Upstream::says("ok");
    proxy.route(vec![routed("a", upstream.address)]);
    let requests = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nonce",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonce\r\n0\r\n\r\n",
    ];
    for request in requests {
        for bytes in 0..request.len() {
            for how in [End::InOrder, End::Reset] {
                let mut stream = TcpStream::connect(proxy.address).unwrap();
                stream.write_all(&request.as_bytes()[..bytes]).unwrap();
                end(&stream, how);
            }
        }
    }
    // Behind all of them, and on a connection that none of them has spoilt.
    for _ in 0..10 {
        assert_eq!(get(proxy.address, "/").text(), "ok");
    }
    until("the end of the others", || {
        proxy.control.app().endpoints.iter().all(|endpoint| endpoint.in_flight == 0).then_some(())
    });
    assert_eq!(upstream.count(), 10, "what is not whole is no request");
    let stats = proxy.control.app();
    assert_eq!((stats.lost, stats.crashed), (0, 0), "{stats:?}");
}
