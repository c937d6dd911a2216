//! Several apps on one address: by host, by path, by certificate, and while one of them comes or goes.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::*;
use trundle_proxy::{App, Maintenance, Request};

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}

/// An app on the proxy's address, with one instance that says its name.
fn app_on(proxy: &Proxy, name: &'static str, hosts: &[&str], paths: &[&str]) -> (App, Upstream) {
    let upstream =
        Upstream::start(move |seen, stream| respond(stream, 200, &format!("{name} {}", seen.target())));
    let mut app = app(proxy.address);
    (app.app, app.hosts, app.paths) = (name.to_owned(), texts(hosts), texts(paths));
    app.endpoints = vec![routed(&format!("{name}-1"), upstream.address)];
    (app, upstream)
}

fn set(proxy: &mut Proxy, apps: Vec<App>) {
    proxy.table.number += 1;
    proxy.table.apps = apps;
    proxy.control.set(&proxy.table);
}

fn ask(http: &mut Http, host: &str, path: &str) -> (u16, String) {
    http.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let answer = http.answer().unwrap();
    (answer.status, answer.text().trim_end().to_owned())
}

#[test]
fn host_and_path_say_whose_a_request_is() {
    let mut proxy = Proxy::start();
    let (api, api_instance) = app_on(&proxy, "api", &[], &["/api"]);
    let (shop, _shop) = app_on(&proxy, "shop", &["shop.test", "*.shop.test"], &[]);
    let (web, _web) = app_on(&proxy, "web", &[], &[]);
    set(&mut proxy, vec![api.clone(), shop.clone(), web]);
    // One connection may carry requests to all of them.
    let mut http = Http::connect(proxy.address);
    for (host, path, says) in [
        ("any.test", "/", "web /"),
        ("any.test", "/api/v1?x=1", "api /api/v1?x=1"),
        ("shop.test", "/api", "shop /api"),
        ("EU.Shop.Test:80", "/x", "shop /x"),
        ("any.test", "/apis", "web /apis"),
        ("any.test", "/api/%2e%2e/api/x", "api /api/%2e%2e/api/x"),
    ] {
        assert_eq!(ask(&mut http, host, path), (200, says.to_owned()), "{host}{path}");
    }
    let before = api_instance.count();
    for path in ["/api/../x", "/api/%2e%2e/x", "/%61pi", "//api", "/api;/x"] {
        assert_eq!(ask(&mut Http::connect(proxy.address), "any.test", path).0, 400, "{path}");
    }
    assert_eq!(api_instance.count(), before, "what is ambiguous reaches nobody");
    // Without one for all others.
    set(&mut proxy, vec![api, shop]);
    assert_eq!(ask(&mut http, "any.test", "/"), (404, "no app has this host and path".to_owned()));
    assert_eq!(ask(&mut http, "any.test", "/api").0, 200, "the connection goes on");
    let stats = proxy.control.stats();
    assert_eq!(
        (stats.apps["api"].rejected, stats.apps["api"].lost, stats.apps["shop"].total),
        (6, 0, 2),
        "{stats:?}"
    );
}

#[test]
fn two_apps_that_want_the_same_are_refused() {
    let mut proxy = Proxy::start();
    let (one, _one) = app_on(&proxy, "one", &["a.test"], &[]);
    let (two, _two) = app_on(&proxy, "two", &["b.test", "A.test"], &[]);
    proxy.table.number += 1;
    proxy.table.apps = vec![one, two];
    match proxy.control.ask(&Request::SetTable(proxy.table.clone())) {
        trundle_proxy::Reply::Refused { reason, .. } => {
            assert!(reason.contains("both have host a.test"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

/// The first of them has the address: when it goes, or another comes before it, nobody's requests are lost.
#[test]
fn apps_come_and_go_and_the_others_lose_nothing() {
    let mut proxy = Proxy::start();
    let (web, _web) = app_on(&proxy, "web", &[], &[]);
    let (first, _first) = app_on(&proxy, "first", &["first.test"], &[]);
    set(&mut proxy, vec![web.clone()]);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (stop, address) = (Arc::clone(&stop), proxy.address);
            std::thread::spawn(move || {
                let mut http = Http::connect(address);
                let mut answered = 0;
                while !stop.load(SeqCst) {
                    // Half of them come anew each time.
                    if n % 2 == 0 {
                        http = Http::connect(address);
                    }
                    http.send("GET /w HTTP/1.1\r\nHost: any.test\r\n\r\n");
                    let answer = http.answer().expect("an answer");
                    assert_eq!((answer.status, answer.text()), (200, "web /w"));
                    if answer.head.contains("connection: close") {
                        http = Http::connect(address);
                    }
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for _ in 0..10 {
        set(&mut proxy, vec![first.clone(), web.clone()]);
        assert_eq!(ask(&mut Http::connect(proxy.address), "first.test", "/").1, "first /");
        set(&mut proxy, vec![web.clone()]);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    stop.store(true, SeqCst);
    let answered: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(answered > 100, "{answered}");
    let stats = proxy.control.app();
    assert_eq!((stats.lost, stats.rejected), (0, 0), "{stats:?}");
}

/// Also where the answer is the proxy's own and the connection would go on.
#[test]
fn a_head_with_two_ends_is_the_last_of_its_connection_whoever_answers() {
    let mut proxy = Proxy::start();
    let (mut shop, _shop) = app_on(&proxy, "shop", &["shop.test"], &[]);
    let challenges = tempfile::tempdir().unwrap();
    std::fs::write(challenges.path().join("token"), "token.thumb").unwrap();
    shop.challenges = Some(challenges.path().to_owned());
    // A line that ends in LF alone, which others take for a part of the one before, or for the end.
    let two_ends = "X: y\nZ: z\r\n\r\n";
    let address = proxy.address;
    let answered = |host: &str, path: &str, status: u16| {
        let mut http = Http::connect(address);
        http.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(http.answer().unwrap().status, status, "{host}{path}");
        http.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{two_ends}"));
        let answer = http.answer().unwrap();
        assert_eq!(
            (answer.status, answer.header("connection")),
            (status, Some("close")),
            "{host}{path}: {}",
            answer.head
        );
        assert!(http.is_closed());
    };
    set(&mut proxy, vec![shop.clone()]);
    answered("other.test", "/", 404);
    answered("shop.test", "/.well-known/acme-challenge/token", 200);
    shop.maintenance = Some(Maintenance::default());
    set(&mut proxy, vec![shop]);
    answered("shop.test", "/", 503);
}
