//! Requests that go to another version as well: its answers are compared, and no client feels anything of it.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use common::two::*;
use common::*;
use trundle_proxy::{Comparison, Mirror, Reply, Request, Traffic, Wanted};

fn mirrored(share: u32) -> Traffic {
    let mirror = Mirror { to: Wanted::Newest, share, paths: vec!["/api*".to_owned()] };
    Traffic { share: Some(0), mirror: Some(mirror), ..Traffic::default() }
}

fn compared(two: &mut Two) -> Vec<Comparison> {
    match two.proxy.control.ask(&Request::Compared { app: "web".to_owned() }) {
        Reply::Compared(all) => all,
        other => panic!("{other:?}"),
    }
}

fn until_compared(two: &mut Two, count: usize) -> Vec<Comparison> {
    until("the comparisons", || Some(compared(two)).filter(|all| all.len() >= count))
}

#[test]
fn what_the_other_version_answers_is_compared_and_given_to_nobody() {
    let mut two = Two::with(mirrored(100));
    let mut client = Client::of(&two.proxy);
    client.more = "X-Shadow: mine\r\nAuthorization: Bearer x\r\n".to_owned();
    for n in 0..5 {
        assert_eq!(client.ask(&format!("/api/{n}?q=1")).text(), "3.9");
    }
    let all = until_compared(&mut two, 5);
    let one = all.iter().find(|one| one.target == "/api/3?q=1").unwrap();
    assert_eq!(
        (one.method.as_str(), one.live.version.as_str(), one.mirrored.version.as_str()),
        ("GET", "3.9", "4.0")
    );
    assert_eq!((one.live.status, one.mirrored.status, one.same), (Some(200), Some(200), false));
    assert_eq!((one.live.body.as_str(), one.mirrored.body.as_str()), ("3.9", "4.0"));
    assert_eq!((one.live.bytes, one.live.whole, one.mirrored.whole), (3, true, true));
    let (old, new) = (two.old.last(), two.new.last());
    assert_eq!((old.header("x-shadow"), new.header("x-shadow")), (None, Some("1")));
    assert_eq!(new.header("authorization"), Some("Bearer x"));
    // What changes something, and what is not under these paths.
    client.http.post("/api/0", b"x").unwrap();
    client.ask("/other");
    assert_eq!((two.old.count(), two.new.count()), (7, 5));
    let counts = two.proxy.control.app_with(7);
    assert_eq!(
        (counts.lost, counts.by_version.get("4.0").copied().unwrap_or(0)),
        (0, 0),
        "it counts as no answer"
    );
    assert_eq!((counts.mixed["mirrored"], counts.mixed["mirror_differs"]), (5, 5));

    // The same answers are the same.
    two.proxy.table.apps[0].endpoints[1].address = Upstream::says("3.9").address;
    two.proxy.table.apps[0].endpoints[1].incarnation = "another".to_owned();
    let endpoints = two.proxy.table.apps[0].endpoints.clone();
    two.proxy.route(endpoints);
    client.ask("/api/same");
    let all = until_compared(&mut two, 6);
    assert!(all.last().unwrap().same, "{all:?}");
    two.change(|traffic| traffic.mirror.as_mut().unwrap().share = 0);
    client.ask("/api/none");
    assert_eq!(compared(&mut two).len(), 6);
}

#[test]
fn a_version_that_hangs_delays_nobody_and_gets_a_few_only() {
    let mut two = Two::with(mirrored(100));
    let hangs = Upstream::start(|_, stream| {
        thread::sleep(Duration::from_secs(60));
        stream.write_all(b"x").is_ok()
    });
    two.proxy.route(vec![of(1, "3.9", 1, two.old.address), of(2, "4.0", 9, hangs.address)]);
    let mut client = Client::of(&two.proxy);
    let began = Instant::now();
    for n in 0..100 {
        assert_eq!(client.ask(&format!("/api/{n}")).text(), "3.9");
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // One connection is with one thread.
    assert_eq!(hangs.count(), 8);
    assert_eq!(two.mixed("mirror_skipped"), 92);
    let all = until_compared(&mut two, 8);
    assert!(all.iter().all(|one| one.mirrored.status.is_none() && !one.same && one.live.whole), "{all:?}");
    // Then others may go.
    client.ask("/api/again");
    until("one more", || (hangs.count() == 9).then_some(()));
    assert_eq!(two.proxy.control.app().lost, 0);
}
