//! TLS towards clients: both protocols behind it, what the app and the client are told, and certificates that change.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trundle_proxy::{App, Listen, Reply, TlsFiles};

/// Writes a new certificate with its key; answers what a client has to trust.
fn certificate(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

fn files(dir: &Path) -> TlsFiles {
    TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") }
}

struct Secured {
    proxy: Proxy,
    address: SocketAddr,
    dir: tempfile::TempDir,
    root: CertificateDer<'static>,
}

fn secured() -> Secured {
    let dir = tempfile::tempdir().unwrap();
    let (root, address) = (certificate(dir.path()), free_address());
    let proxy = Proxy::start_with(|app| {
        app.listen.push(Listen::Https(address));
        app.tls = Some(files(dir.path()));
        app.hsts_s = Some(3600);
    });
    Secured { proxy, address, dir, root }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
}

async fn handshake(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// What a client of HTTP/1.1 gets: the answer's head as it was sent, and its body.
async fn ask(address: SocketAddr, root: &CertificateDer<'static>) -> (http::response::Parts, String) {
    let stream = handshake(address, root, &[b"http/1.1"]).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head, String::from_utf8(body.to_vec()).unwrap())
}

#[test]
fn both_protocols_are_spoken_behind_tls_and_the_app_is_told() {
    let mut world = secured();
    let app = Upstream::says("ok");
    world.proxy.route(vec![routed("web-1-1", app.address)]);
    run(async {
        let (head, body) = ask(world.address, &world.root).await;
        assert_eq!((head.status.as_u16(), body.as_str()), (200, "ok"));
        assert_eq!(head.headers["strict-transport-security"], "max-age=3600");
        assert_eq!(app.last().header("x-forwarded-proto"), Some("https"));

        let stream = handshake(world.address, &world.root, &[b"h2", b"http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "the better one is agreed to");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://localhost/two").body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
    });
    let seen = app.last();
    assert_eq!((seen.target(), seen.header("host")), ("/two", Some("localhost")));
    // Without TLS nobody is told to come with it only, and the app knows.
    let plain = get(world.proxy.address, "/");
    assert_eq!((plain.status, plain.header("strict-transport-security")), (200, None));
    // The app answers before it writes down what it saw.
    until("that the app knows", || (app.last().header("x-forwarded-proto") == Some("http")).then_some(()));
    assert_eq!(world.proxy.control.app_with(3).lost, 0);
}

#[test]
fn who_comes_without_tls_is_sent_to_the_address_with_it() {
    let mut world = secured();
    world.proxy.table.apps[0].redirect_to = Some(world.address);
    let app = Upstream::says("ok");
    world.proxy.route(vec![routed("web-1-1", app.address)]);
    let port = world.address.port();
    for (host, name) in [("web.test", "web.test"), ("web.test:8080", "web.test"), ("[::1]:80", "[::1]")] {
        let request = format!("POST /a?b=c HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        let answer = raw(world.proxy.address, &request);
        let location = format!("https://{name}:{port}/a?b=c");
        assert_eq!((answer.status, answer.header("location")), (308, Some(location.as_str())));
    }
    assert_eq!(app.count(), 0);
    assert_eq!(run(ask(world.address, &world.root)).1, "ok");
}

#[test]
fn a_certificate_that_changes_is_taken_and_one_that_is_no_good_is_not() {
    let mut world = secured();
    let app = Upstream::says("ok");
    world.proxy.route(vec![routed("web-1-1", app.address)]);
    // Half written: the one before stays.
    fs::write(world.dir.path().join("cert.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(run(ask(world.address, &world.root)).1, "ok");
    let next = certificate(world.dir.path());
    until("the next certificate", || {
        run(async { handshake(world.address, &next, &[b"http/1.1"]).await.is_ok() }).then_some(())
    });
    assert_eq!(run(ask(world.address, &next)).1, "ok");
    assert!(run(handshake(world.address, &world.root, &[])).is_err(), "the old one is not shown any more");
}

#[test]
fn a_table_with_a_certificate_that_is_no_good_is_refused_and_changes_nothing() {
    let mut world = secured();
    let app = Upstream::says("ok");
    world.proxy.route(vec![routed("web-1-1", app.address)]);
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    // The key of somebody else.
    fs::copy(world.dir.path().join("key.pem"), other.path().join("key.pem")).unwrap();
    let mut table = world.proxy.table.clone();
    table.number += 1;
    for (files, words) in [
        (files(other.path()), "does not go with the certificate"),
        (TlsFiles { cert: "/nowhere".into(), ..files(other.path()) }, "/nowhere cannot be read"),
    ] {
        table.apps[0].tls = Some(files);
        let reply = world.proxy.control.ask(&trundle_proxy::Request::SetTable(table.clone()));
        let Reply::Refused { reason } = reply else { panic!("{reply:?}") };
        assert!(reason.contains(words), "{reason}");
    }
    assert_eq!(run(ask(world.address, &world.root)).1, "ok");
}

/// The files are gone when the proxy starts: what needs no certificate is served, and the rest as soon as they are there.
#[test]
fn a_proxy_that_starts_without_its_certificate_serves_what_needs_none() {
    let mut world = secured();
    let app = Upstream::says("ok");
    world.proxy.route(vec![routed("web-1-1", app.address)]);
    let files = [world.dir.path().join("cert.pem"), world.dir.path().join("aside.pem")];
    fs::rename(&files[0], &files[1]).unwrap();
    world.proxy.restart();
    until("the plain address", || Http::try_get(world.proxy.address));
    assert!(run(handshake(world.address, &world.root, &[])).is_err());
    fs::rename(&files[1], &files[0]).unwrap();
    until("the certificate", || {
        run(async { handshake(world.address, &world.root, &[b"http/1.1"]).await.is_ok() }).then_some(())
    });
    assert_eq!(run(ask(world.address, &world.root)).1, "ok");
}

#[test]
fn who_never_shakes_hands_is_closed_in_time() {
    let mut world = secured();
    world.proxy.table.apps[0].limits.header_timeout_ms = 200;
    world.proxy.route(vec![]);
    let began = Instant::now();
    let mut silent = Http::connect(world.address);
    assert!(silent.is_closed() && began.elapsed() < Duration::from_secs(5));
    let mut plain = Http::connect(world.address);
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(plain.answer().is_none_or(|answer| answer.status == 400), "no HTTP where TLS is spoken");
}

/// Two apps on one address: each shows its own certificate, and who names nobody gets the first.
#[test]
fn the_certificate_is_that_of_the_name_that_is_asked_for() {
    let (shop, blog) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let roots = [certificate(shop.path()), certificate(blog.path())];
    let address = free_address();
    let mut proxy = Proxy::start();
    let (of_shop, of_blog) = (Upstream::says("shop"), Upstream::says("blog"));
    let app = |name: &str, hosts: &[&str], dir: &Path, upstream: &Upstream| {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut app = App { app: name.to_owned(), hosts, tls: Some(files(dir)), ..App::named(name) };
        app.listen = vec![Listen::Https(address)];
        app.endpoints = vec![routed(&format!("{name}-1"), upstream.address)];
        app
    };
    proxy.table.number += 1;
    proxy.table.apps = vec![
        app("blog", &["blog.test"], blog.path(), &of_blog),
        app("shop", &["localhost"], shop.path(), &of_shop),
    ];
    proxy.control.set(&proxy.table);
    run(async {
        // The client asks for `localhost`, and trusts one of the two only.
        let (head, body) = ask(address, &roots[0]).await;
        assert_eq!((head.status.as_u16(), body.as_str()), (200, "shop"));
        assert!(handshake(address, &roots[1], &[b"http/1.1"]).await.is_err(), "that is the other's");
    });
    // Without the app of that name the other shows what it has.
    proxy.table.number += 1;
    proxy.table.apps.truncate(1);
    proxy.control.set(&proxy.table);
    run(async { assert!(handshake(address, &roots[1], &[b"http/1.1"]).await.is_ok()) });
}
