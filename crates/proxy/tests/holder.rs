//! The holder keeps the sockets while the proxy dies and comes back.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/held.rs"]
mod held;

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use held::*;
use rustix::process::{Signal, kill_process};
use trundle_proxy::{HolderConfig, Listen, Request, Table};

#[test]
fn helper_proxy() {
    be_a_proxy();
}

#[test]
fn helper_holder() {
    be_a_holder();
}

#[test]
fn kill_9_of_the_proxy_refuses_nobody_and_counts_what_was_in_flight() {
    let mut holder = Holder::start();
    let app = Upstream::start(|seen, stream| {
        if seen.target() == "/hang" {
            thread::sleep(PATIENCE);
        }
        respond(stream, 200, "ok")
    });
    let address = holder.serve(&app);
    assert_eq!(get(address, "/").text(), "ok");

    let over = Arc::new(AtomicBool::new(false));
    let connects = Arc::new(AtomicU64::new(0));
    let client = {
        let (over, connects) = (Arc::clone(&over), Arc::clone(&connects));
        thread::spawn(move || {
            while !over.load(SeqCst) {
                // The kernel may reset what it had given to the dead proxy; it must never refuse.
                match TcpStream::connect(address) {
                    Ok(_) => connects.fetch_add(1, SeqCst),
                    Err(error) => panic!("refused: {error}"),
                };
                // Thousands a second, and not so many that what is measured below is the time to accept them all.
                thread::sleep(Duration::from_micros(100));
            }
        })
    };
    let (mut killed, mut slowest) = (0, Duration::ZERO);
    for round in 1..=5u64 {
        let mut hanging: Vec<Http> = (0..round).map(|_| Http::connect(address)).collect();
        hanging.iter_mut().for_each(|http| http.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n"));
        until("what hangs", || (holder.control.app().endpoints[0].in_flight == round).then_some(()));
        killed += round;
        // A proxy that dies young is started again after a pause: that is another test.
        thread::sleep(Duration::from_millis(1_050));
        kill_process(holder.proxy(), Signal::KILL).unwrap();
        let at = Instant::now();
        until("an answer", || Http::connect(address).get("/").filter(|answer| answer.text() == "ok"));
        slowest = slowest.max(at.elapsed());
        let old = holder.control.pid();
        holder.control = Control::connect(holder.dir.path());
        assert_ne!(holder.control.pid(), old);
        let stats = holder.control.app();
        assert_eq!(stats.lost_by_reason.get("proxy_killed"), Some(&killed), "round {round}: {stats:?}");
    }
    over.store(true, SeqCst);
    client.join().unwrap();
    println!("serves again after at most {slowest:?}; {} connects, none refused", connects.load(SeqCst));
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[test]
fn the_holder_never_gives_up() {
    let mut holder = Holder::start();
    let app = Upstream::says("ok");
    let address = holder.serve(&app);
    for _ in 0..6 {
        holder.kill_proxy();
    }
    assert_eq!(get(address, "/").text(), "ok");
}

#[test]
fn when_the_holder_dies_the_proxy_goes_on() {
    let mut holder = Holder::start();
    let app = Upstream::says("ok");
    let address = holder.serve(&app);
    holder.child.kill().unwrap();
    holder.child.wait().unwrap();
    assert_eq!(get(address, "/").text(), "ok");
    // New addresses are bound by the proxy itself from now on.
    let another = free_address();
    holder.table.number += 1;
    holder.table.apps[0].listen.push(Listen::Http(another));
    let table = holder.table.clone();
    holder.control.set(&table);
    assert_eq!(get(another, "/").text(), "ok");
}

#[test]
fn stop_and_sigterm_end_both_and_let_the_address_go() {
    for by_signal in [false, true] {
        let mut holder = Holder::start();
        let app = Upstream::says("ok");
        let address = holder.serve(&app);
        assert_eq!(get(address, "/").text(), "ok");
        let proxy = holder.proxy();
        if by_signal {
            kill_process(pid(holder.child.id()), Signal::TERM).unwrap();
        } else {
            holder.control.send(&Request::Stop);
        }
        assert!(holder.ended());
        assert!(is_gone(proxy), "the proxy ends first");
        assert!(TcpStream::connect(address).is_err());
    }
}

#[test]
fn a_second_holder_is_refused() {
    let holder = Holder::start();
    let dir: &Path = holder.dir.path();
    let config = HolderConfig { state_dir: dir.into(), program: "/bin/false".into(), args: vec![] };
    let error = trundle_proxy::run_holder(config).unwrap_err();
    assert!(error.to_string().contains(&format!("pid {}", holder.child.id())), "{error}");
}

#[test]
fn the_proxy_inherits_its_socket_and_nothing_else() {
    // A descriptor of the caller that is not close-on-exec in the holder's own start is not ours to give on.
    let holder = Holder::start();
    let fds = std::fs::read_dir(format!("/proc/{}/fd", holder.control.pid())).unwrap();
    let targets: Vec<String> = fds
        .map(|fd| {
            std::fs::read_link(fd.unwrap().path()).map(|to| to.display().to_string()).unwrap_or_default()
        })
        .collect();
    assert!(targets.iter().all(|to| !to.contains("proxy-holder.lock")), "{targets:?}");
}

#[test]
fn sockets_of_a_service_manager_are_used() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // What systemd does: the descriptor at number 3, and the pid of the process that gets it. A shell knows its own pid.
    let mut holder = Holder::start_with(|command| {
        let program = std::env::current_exe().unwrap();
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
        let state_dir =
            command.get_envs().find(|(name, _)| *name == STATE_DIR).unwrap().1.unwrap().to_owned();
        let mut shell = Command::new("/bin/sh");
        shell.arg0("sh").arg("-c").arg(script).arg(program).args(helper("helper_holder"));
        shell.env(STATE_DIR, state_dir).stdin(std::os::fd::OwnedFd::from(listener)).stdout(Stdio::null());
        *command = shell;
    });
    let upstream = Upstream::says("ok");
    holder.serve_on(address, &upstream);
    assert_eq!(get(address, "/").text(), "ok");
    holder.kill_proxy();
    assert_eq!(get(address, "/").text(), "ok");
    // What is spoken there may change: to the kernel it is the same socket, and nobody else could bind it.
    for number in [2, 3] {
        let mut app = app(address);
        app.listen = vec![if number == 2 { Listen::Tcp(address) } else { Listen::Http(address) }];
        app.endpoints = vec![routed("web-1-1", upstream.address)];
        holder.control.set(&Table { protocol: 1, epoch: 1, number: number + 10, apps: vec![app] });
        assert_eq!(get(address, "/").text(), "ok");
    }
}
