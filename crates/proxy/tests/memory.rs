//! What clients that mean ill cost: the resident memory of a real proxy process under floods, and whether others are served meanwhile.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/held.rs"]
mod held;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use held::{Holder, be_a_holder, be_a_proxy};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Resource;
use trundle_proxy::{App, Table};

#[test]
fn helper_proxy() {
    be_a_proxy();
}

#[test]
fn helper_holder() {
    be_a_holder();
}

struct World {
    holder: Holder,
    address: SocketAddr,
    quiet_kib: u64,
}

impl World {
    fn new(upstream: &Upstream, change: impl FnOnce(&mut App)) -> Self {
        // Two thousand connections between them, and this process has one end of each.
        let mut files = rustix::process::getrlimit(Resource::Nofile);
        files.current = files.maximum;
        rustix::process::setrlimit(Resource::Nofile, files).unwrap();
        let mut holder = Holder::start();
        let address = free_address();
        let mut app = app(address);
        app.endpoints = vec![routed("a", upstream.address)];
        change(&mut app);
        holder.table = Table { protocol: trundle_proxy::PROTOCOL, epoch: 1, number: 1, apps: vec![app] };
        holder.control.set(&holder.table);
        for _ in 0..50 {
            assert_eq!(get(address, "/").status, 200);
        }
        let quiet_kib = resident_kib(&holder);
        Self { holder, address, quiet_kib }
    }

    /// More than when it was quiet.
    fn more_kib(&self) -> u64 {
        resident_kib(&self.holder).saturating_sub(self.quiet_kib)
    }

    /// Told, and held to a bound.
    fn expect_at_most(&self, what: &str, kib: u64, bound_kib: u64) {
        println!("{what}: {kib} KiB more than the {} of a quiet proxy, bound {bound_kib}", self.quiet_kib);
        assert!(kib <= bound_kib, "{what}: {kib} KiB more, at most {bound_kib} are allowed");
    }
}

fn resident_kib(holder: &Holder) -> u64 {
    let pid = holder.proxy().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn five_hundred_that_drip_are_sent_away_and_nobody_waits_for_them() {
    const DRIPPING: usize = 500;
    let upstream = Upstream::says("ok");
    let world = World::new(&upstream, |app| app.limits.header_timeout_ms = 2_000);
    let connect = |_| {
        let mut stream = TcpStream::connect(world.address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        stream
    };
    let began = Instant::now();
    let mut dripping: Vec<TcpStream> = (0..DRIPPING).map(connect).collect();
    let (mut most, mut times) = (0, Vec::new());
    while !dripping.is_empty() {
        dripping.retain_mut(|stream| stream.write_all(b"X: y\r\n").is_ok());
        let asked = Instant::now();
        assert_eq!(get(world.address, "/").status, 200);
        times.push(asked.elapsed());
        most = most.max(world.more_kib());
        assert!(began.elapsed() < PATIENCE, "{} still drip", dripping.len());
    }
    times.sort();
    let nine_of_ten = times[times.len() * 9 / 10];
    println!(
        "{} others: nine of ten within {nine_of_ten:?}, the slowest in {:?}",
        times.len(),
        times.last().unwrap()
    );
    assert!(nine_of_ten < Duration::from_millis(500), "{times:?}");
    world.expect_at_most("500 that drip", most, 24 * 1024);
}

#[test]
fn lines_of_a_megabyte_are_refused_and_not_kept() {
    let upstream = Upstream::says("ok");
    let world = World::new(&upstream, |_| {});
    let line = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let mut most = 0;
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(world.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(line.as_bytes());
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 431");
        most = most.max(world.more_kib());
        open.push(stream);
    }
    world.expect_at_most("100 lines of 1 MiB", most, 24 * 1024);
}

#[test]
fn uploads_that_nobody_reads_stay_with_their_clients() {
    let (hold, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        // Accepts and never reads, until the test is over.
        let kept: Vec<_> = listener.incoming().take(20).collect();
        let _ = wait.lock().unwrap().recv();
        drop(kept);
    });
    let upstream = Upstream::says("ok");
    let mut world = World::new(&upstream, |_| {});
    world.holder.table.number += 1;
    world.holder.table.apps[0].endpoints = vec![routed("deaf", deaf)];
    world.holder.control.set(&world.holder.table);
    let piece = vec![7; 1 << 20];
    let mut sent: u64 = 0;
    let mut most = 0;
    let mut uploads = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(world.address).unwrap();
        stream.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        loop {
            match stream.write(&piece) {
                Ok(count) => sent += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        most = most.max(world.more_kib());
        uploads.push(stream);
    }
    println!("{} MiB of 20 GB are in buffers, those of the kernel among them", sent >> 20);
    world.expect_at_most("20 uploads that nobody reads", most, 20 * 1024);
    drop(hold);
}

#[test]
fn a_thousand_answers_that_nobody_takes_stay_where_they_are() {
    let upstream = Upstream::start(|seen, stream| {
        let text = if seen.target() == "/" { "ok".to_owned() } else { "x".repeat(1 << 20) };
        respond(stream, 200, &text)
    });
    let world = World::new(&upstream, |app| app.limits.idle_timeout_ms = 60_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let most = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for n in 0..1_000 {
            sender.ready().await.unwrap();
            let uri = format!("http://{}/{n}", world.address);
            let request = http::Request::get(uri).body(Empty::new()).unwrap();
            answers.push(tokio::spawn(sender.send_request(request)));
        }
        let mut heads = Vec::new();
        for answer in answers {
            let head = answer.await.unwrap().unwrap();
            assert_eq!(head.status(), 200);
            heads.push(head);
        }
        // Their heads are here, and not a byte of their bodies may come.
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.more_kib()
    });
    assert_eq!(upstream.count(), 1_050, "each has its answer at the app");
    world.expect_at_most("1,000 answers of 1 MiB that nobody takes", most, 96 * 1024);
}
