//! One proxy takes over from another: what is open is finished by the one before, what comes is answered by the next, and nobody
//! is refused or lost, whoever of them dies in the middle.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/held.rs"]
mod held;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::two::*;
use common::*;
use held::*;
use rustix::process::{Signal, kill_process};
use trundle_proxy::EndpointState::{Cut, Draining};
use trundle_proxy::{Format, Listen, Reply, Request, Sticky, TlsFiles, Traffic};

#[test]
fn helper_proxy() {
    be_a_proxy();
}

#[test]
fn helper_holder() {
    be_a_holder();
}

/// What a proxy of a later release might ask: a word that this holder does not know. Its answer goes into a file.
#[test]
fn helper_stranger() {
    let Ok(dir) = std::env::var(STATE_DIR) else { return };
    let holder = std::io::stdin();
    rustix::net::send(&holder, b"{\"Conquer\":\"all\"}", rustix::net::SendFlags::empty()).unwrap();
    let mut answer = [0; 1000];
    let (length, _) = rustix::net::recv(&holder, &mut answer, rustix::net::RecvFlags::empty()).unwrap();
    fs::write(Path::new(&dir).join("answer"), &answer[..length]).unwrap();
    std::process::exit(3);
}

/// A program that does this.
fn script(holder: &Holder, name: &str, does: &str) -> PathBuf {
    let script = holder.dir.path().join(name);
    let next = holder.dir.path().join("next");
    fs::write(&next, format!("#!/bin/sh\n{does}\n")).unwrap();
    fs::set_permissions(&next, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::rename(next, &script).unwrap();
    script
}

impl Holder {
    fn ask_for_upgrade(&mut self, program: &Path) {
        self.control.send(&Request::Upgrade { program: program.to_owned() });
    }

    /// Another proxy takes over; the control connection is to that one. Says which was the one before.
    fn upgrade(&mut self) -> u32 {
        let old = self.control.pid();
        self.ask_for_upgrade(&std::env::current_exe().unwrap());
        self.connect_to_another_than(old);
        old
    }

    /// A request that an instance of [`Slow`] has.
    fn ask_slowly(&mut self, address: SocketAddr) -> Http {
        let mut slow = Http::connect(address);
        slow.send("GET /slow HTTP/1.1\r\nHost: web.test\r\n\r\n");
        until("it to be there", || (self.control.app().endpoints[0].in_flight == 1).then_some(()));
        slow
    }

    fn connect_to_another_than(&mut self, old: u32) {
        self.control = until("another proxy", || {
            Some(Control::connect(self.dir.path())).filter(|control| control.pid() != old)
        });
    }

    /// The next table, with these endpoints.
    fn route(&mut self, endpoints: Vec<trundle_proxy::Endpoint>) {
        self.table.number += 1;
        self.table.apps[0].endpoints = endpoints;
        self.control.set(&self.table);
    }
}

/// An app whose `/slow` is answered when it is told to go on.
struct Slow {
    upstream: Upstream,
    go_on: Arc<AtomicBool>,
}

impl Slow {
    fn start() -> Self {
        let go_on = Arc::new(AtomicBool::new(false));
        let may = Arc::clone(&go_on);
        let upstream = Upstream::start(move |seen, stream| {
            if seen.target() == "/slow" {
                until("the word to go on", || may.load(SeqCst).then_some(()));
            }
            // In pieces, as many apps do: the connection shall not end behind an answer whose head did not say so.
            let text = format!("ok {}", seen.body.len());
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
            stream.write_all(head.as_bytes()).is_ok() && {
                thread::sleep(Duration::from_millis(3));
                stream.write_all(text.as_bytes()).is_ok()
            }
        });
        Self { upstream, go_on }
    }
}

/// A client that keeps its connection as long as it may, and never sends a request twice.
struct Asking {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Asking {
    fn begin(address: SocketAddr, pause: Duration, lost: &Arc<Mutex<Vec<String>>>) -> Self {
        let (over, answered, lost) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::clone(lost));
        let (is_over, counted): (_, Arc<AtomicU64>) = (Arc::clone(&over), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            let mut kept: Option<Http> = None;
            for n in 0.. {
                if is_over.load(SeqCst) {
                    return;
                }
                let mut http = kept.take().unwrap_or_else(|| Http::connect(address));
                match http.post(&format!("/{n}"), b"12345") {
                    Some(answer) if answer.status == 200 => {
                        counted.fetch_add(1, SeqCst);
                        let is_last = answer.header("connection") == Some("close");
                        kept = Some(http).filter(|_| !is_last);
                    }
                    other => lost.lock().unwrap().push(format!("{n}: {other:?}")),
                }
                thread::sleep(pause);
            }
        });
        Self { over, answered, thread }
    }

    fn end(self) -> u64 {
        self.over.store(true, SeqCst);
        self.thread.join().unwrap();
        self.answered.load(SeqCst)
    }
}

#[test]
fn twenty_upgrades_lose_nothing() {
    let app = Slow::start();
    let mut holder = Holder::start();
    let address = holder.serve(&app.upstream);
    let lost = Arc::default();
    // From hardly any pause to more than an upgrade takes.
    let clients: Vec<Asking> =
        [0, 1, 5, 30, 250].map(|ms| Asking::begin(address, Duration::from_millis(ms), &lost)).into();
    // An upload that goes on over all of them.
    let mut upload = Http::connect(address);
    upload.send("POST /upload HTTP/1.1\r\nHost: web.test\r\nContent-Length: 200000\r\n\r\n");
    let mut before = BTreeSet::new();
    for round in 0..20 {
        upload.stream.write_all(&[b'x'; 10_000]).unwrap();
        // Time for each client to have asked.
        thread::sleep(Duration::from_millis(150));
        assert!(before.insert(holder.upgrade()), "another process each time");
        until("requests by the next one", || {
            (holder.control.app().endpoints[0].requests > 0 || round == 0).then_some(())
        });
        // The first holds the upload. Of the others one at a time may still have a connection that waits.
        let alive = before.iter().filter(|old| !is_gone(pid(**old))).count();
        if alive == 7 {
            until("one before to end", || {
                (before.iter().filter(|old| !is_gone(pid(**old))).count() < 7).then_some(())
            });
        }
    }
    let uploaded = upload.answer().expect("the upload's answer");
    assert_eq!((uploaded.status, uploaded.text()), (200, "ok 200000"));
    let answered: Vec<u64> = clients.into_iter().map(Asking::end).collect();
    assert_eq!(*lost.lock().unwrap(), Vec::<String>::new());
    assert!(answered.iter().all(|answered| *answered > 10), "{answered:?}");
    let total = answered.iter().sum::<u64>() + 1;
    println!("20 upgrades, {total} requests, lost 0");
    let stats = holder.control.app_with(total);
    assert_eq!((stats.lost, stats.crashed, stats.cut, stats.told), (0, 0, 0, 0), "{stats:?}");
    until("the ones before to end", || before.iter().all(|old| is_gone(pid(*old))).then_some(()));
}

#[test]
fn a_connection_that_waits_is_told_with_its_next_answer() {
    let app = Upstream::says("ok");
    let mut holder = Holder::start();
    let address = holder.serve(&app);
    let mut http = Http::connect(address);
    assert_eq!(http.get("/").unwrap().header("connection"), None);
    let old = holder.upgrade();
    // Half a head is no reason to close.
    http.send("GET /a HTTP/1.1\r\nHo");
    thread::sleep(Duration::from_millis(100));
    http.send("st: web.test\r\n\r\n");
    let last = http.answer().expect("an answer by the proxy before");
    assert_eq!((last.text(), last.header("connection")), ("ok", Some("close")));
    assert!(http.is_closed());
    until("its end", || is_gone(pid(old)).then_some(()));
    assert_eq!(holder.control.app_with(2).lost, 0);
}

/// The proof of a drain counts what the proxy before has, and that goes by the tables of the next one.
#[test]
fn a_drain_waits_for_what_the_one_before_has_and_cuts_it_there() {
    let (app, other) = (Slow::start(), Upstream::says("other"));
    let mut holder = Holder::start();
    let address = holder.serve(&app.upstream);
    let mut kept = Http::connect(address);
    assert_eq!(kept.get("/").unwrap().text(), "ok 0");
    for cut in [false, true] {
        app.go_on.store(false, SeqCst);
        holder.route(vec![routed("a", app.upstream.address)]);
        let mut slow = holder.ask_slowly(address);
        holder.upgrade();
        holder.control.set(&holder.table.clone());
        let in_flight = holder.control.app().endpoints[0].in_flight;
        assert_eq!(in_flight, 1, "the next one sees it");
        holder.route(vec![endpoint("a", app.upstream.address, Draining), routed("b", other.address)]);
        let told = holder.control.try_recv(Duration::from_millis(300));
        assert!(matches!(told, None | Some(Reply::Waiting { .. })), "{told:?}");
        // A connection that the one before still has goes where the new table says.
        if !cut {
            assert_eq!(kept.get("/").unwrap().text(), "other");
        }
        if cut {
            holder.route(vec![endpoint("a", app.upstream.address, Cut), routed("b", other.address)]);
            assert_eq!(slow.answer().unwrap().status, 502);
        } else {
            app.go_on.store(true, SeqCst);
            assert_eq!(slow.answer().unwrap().text(), "ok 0");
        }
        assert_eq!(holder.control.await_drained("a"), u64::from(cut));
        holder.control.drained.clear();
    }
    let stats = holder.control.app_with(4);
    assert_eq!((stats.lost, stats.cut), (0, 1), "{stats:?}");
}

#[test]
fn what_the_one_before_had_when_it_was_killed_is_counted_once_and_holds_up_no_drain() {
    let app = Slow::start();
    let mut holder = Holder::start();
    let address = holder.serve(&app.upstream);
    let mut slow: Vec<Http> = (0..3).map(|_| Http::connect(address)).collect();
    slow.iter_mut().for_each(|http| http.send("GET /slow HTTP/1.1\r\nHost: web.test\r\n\r\n"));
    until("them to be there", || (holder.control.app().endpoints[0].in_flight == 3).then_some(()));
    let old = holder.upgrade();
    holder.control.set(&holder.table.clone());
    holder.route(vec![endpoint("a", app.upstream.address, Draining)]);
    kill_process(pid(old), Signal::KILL).unwrap();
    assert_eq!(holder.control.await_drained("a"), 0);
    let stats = holder.control.app_with(3);
    assert_eq!(stats.lost_by_reason.get("proxy_killed"), Some(&3), "{stats:?}");
    app.go_on.store(true, SeqCst);
}

#[test]
fn what_cannot_take_over_changes_nothing_and_says_why() {
    let app = Upstream::says("ok");
    let mut holder = Holder::start();
    let address = holder.serve(&app);
    let serving = holder.control.pid();
    let kept_on = |holder: &mut Holder, program: &str| {
        holder.ask_for_upgrade(Path::new(program));
        loop {
            match holder.control.recv() {
                Reply::KeptOn { reason } => break reason,
                Reply::Waiting { .. } | Reply::Drained { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let reason = kept_on(&mut holder, "/nowhere/trundle");
    assert!(reason.contains("/nowhere/trundle"), "{reason}");
    let reason = kept_on(&mut holder, "/bin/false");
    assert!(reason.contains("exit status: 1"), "{reason}");
    // It would take away what works.
    let us = std::env::current_exe().unwrap().display().to_string();
    let broken = holder.dir.path().join("proxy-table.json");
    let table = fs::read(&broken).unwrap();
    fs::write(&broken, &table[..table.len() / 2]).unwrap();
    let reason = kept_on(&mut holder, &us);
    assert!(reason.contains("proxy-table.json") && reason.contains("cannot be used"), "{reason}");
    fs::write(&broken, table).unwrap();
    let cert = rcgen::generate_simple_self_signed(["web.test".to_owned()]).unwrap();
    let files = ["cert.pem", "key.pem"].map(|name| holder.dir.path().join(name));
    fs::write(&files[0], cert.cert.pem()).unwrap();
    fs::write(&files[1], cert.signing_key.serialize_pem()).unwrap();
    holder.table.apps[0].listen.push(Listen::Https(free_address()));
    holder.table.apps[0].tls = Some(TlsFiles { cert: files[0].clone(), key: files[1].clone() });
    holder.table.number += 1;
    holder.control.set(&holder.table.clone());
    fs::remove_file(&files[1]).unwrap();
    let reason = kept_on(&mut holder, &us);
    assert!(reason.contains("key.pem"), "{reason}");
    assert_eq!((holder.control.pid(), get(address, "/").text()), (serving, "ok"));
    // And when there is nothing in its way any more, it can.
    fs::write(&files[1], cert.signing_key.serialize_pem()).unwrap();
    assert_eq!(holder.upgrade(), serving);
    assert_eq!(get(address, "/").text(), "ok");
}

/// One that never says whether it could serve is in nobody's way.
#[test]
fn a_successor_that_hangs_does_not_serve_in_the_place_of_one_that_died() {
    let app = Upstream::says("ok");
    let mut holder = Holder::start();
    let address = holder.serve(&app);
    let script = script(&holder, "hangs", "exec sleep 25 2>/dev/null");
    let old = holder.control.pid();
    holder.ask_for_upgrade(&script);
    let hanging = until("it", || {
        let threads = fs::read_dir(format!("/proc/{}/task", holder.child.id())).unwrap().flatten();
        let children = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap());
        let children: String = children.collect();
        children.split_whitespace().filter_map(|child| child.parse().ok()).find(|child| *child != old)
    });
    kill_process(pid(old), Signal::KILL).unwrap();
    holder.connect_to_another_than(old);
    assert_eq!(get(address, "/").text(), "ok");
    until("its end", || is_gone(pid(hanging)).then_some(()));
    // And the next one can.
    holder.upgrade();
    assert_eq!(get(address, "/").text(), "ok");
}

/// It could serve when it took over, and cannot be started any more: what served before does.
#[test]
fn a_program_that_does_not_start_again_gives_way_to_the_one_before() {
    let us = std::env::current_exe().unwrap().display().to_string();
    for what in ["ends at once", "is gone"] {
        let app = Upstream::says("ok");
        let mut holder = Holder::start();
        let address = holder.serve(&app);
        let next = script(&holder, "next-release", &format!("exec {us} \"$@\""));
        let first = holder.control.pid();
        holder.ask_for_upgrade(&next);
        holder.connect_to_another_than(first);
        assert_eq!(get(address, "/").text(), "ok");
        // Longer than what counts as a young death, which its own is not to be.
        thread::sleep(Duration::from_millis(1_100));
        match what {
            "is gone" => fs::remove_file(&next).unwrap(),
            _ => drop(script(&holder, "next-release", "exit 1")),
        }
        let serving = holder.control.pid();
        kill_process(pid(serving), Signal::KILL).unwrap();
        // Who connects meanwhile waits.
        assert_eq!(get(address, "/").text(), "ok", "{what}");
        holder.connect_to_another_than(serving);
        // And it stays so: the next death brings no other program back.
        holder.kill_proxy();
        assert_eq!(get(address, "/").text(), "ok", "{what}");
    }
}

#[test]
fn a_word_of_a_later_release_is_answered_and_changes_nothing() {
    let us = std::env::current_exe().unwrap().display().to_string();
    let app = Upstream::says("ok");
    let mut holder = Holder::start();
    let address = holder.serve(&app);
    let serving = holder.control.pid();
    let later = script(&holder, "later", &format!("exec {us} --exact helper_stranger --nocapture"));
    holder.ask_for_upgrade(&later);
    let reason = loop {
        match holder.control.recv() {
            Reply::KeptOn { reason } => break reason,
            Reply::Waiting { .. } | Reply::Drained { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    let answer = fs::read_to_string(holder.dir.path().join("answer")).unwrap();
    assert!(answer.contains("older release"), "{answer}");
    assert!(reason.contains("exit status: 3"), "{reason}");
    assert_eq!((holder.control.pid(), get(address, "/").text()), (serving, "ok"));
}

/// When nothing is left that serves, what finishes does not go on for an hour.
#[test]
fn with_the_holder_dead_a_stop_still_ends_the_ones_before() {
    let app = Slow::start();
    let mut holder = Holder::start();
    let address = holder.serve(&app.upstream);
    let mut slow = holder.ask_slowly(address);
    let old = holder.upgrade();
    holder.child.kill().unwrap();
    holder.child.wait().unwrap();
    // A connection that waits ends at once when it is told to stop, and not after its ten seconds.
    let mut waiting = Http::connect(address);
    assert_eq!(waiting.get("/").unwrap().status, 200);
    holder.control.stop();
    app.go_on.store(true, SeqCst);
    assert_eq!(slow.answer().unwrap().text(), "ok 0");
    until("the end of all", || (is_gone(pid(old)) && !trundle_proxy::runs(holder.dir.path())).then_some(()));
}

#[test]
fn a_stop_ends_the_ones_before_too() {
    let app = Slow::start();
    let mut holder = Holder::start();
    let address = holder.serve(&app.upstream);
    let mut slow = holder.ask_slowly(address);
    let old = holder.upgrade();
    holder.control.stop();
    until("the word to end", || TcpStream::connect(address).is_err().then_some(()));
    assert!(trundle_proxy::runs(holder.dir.path()), "what is in flight is waited for");
    app.go_on.store(true, SeqCst);
    assert_eq!(slow.answer().unwrap().text(), "ok 0");
    assert!(holder.ended());
    assert!(is_gone(pid(old)) && !trundle_proxy::runs(holder.dir.path()));
}

/// Each place of an upgrade, and who dies there.
const PLACES: [(&str, Who); 8] = [
    ("proxy.succeed.before", Who::Serving),
    ("holder.proxy.before", Who::Holder),
    ("holder.proxy.after", Who::Holder),
    ("proxy.successor.ready.before", Who::Successor),
    ("proxy.successor.ready.after", Who::Successor),
    ("proxy.yield.before", Who::Serving),
    ("proxy.yield.after", Who::Serving),
    ("holder.yielded", Who::Holder),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Serving,
    Successor,
    Holder,
}

#[test]
fn whoever_dies_in_an_upgrade_nobody_is_refused_and_nothing_more_than_its_own_is_lost() {
    for (place, who) in PLACES {
        let dir = tempfile::tempdir().unwrap();
        let points = dir.path().join(trundle_crashpoint::FOLDER);
        fs::create_dir(&points).unwrap();
        let mut holder = Holder::start_in(dir, |_| {});
        let app = Upstream::says("ok");
        let address = holder.serve(&app);
        let lost = Arc::default();
        // They wait most of the time, so that hardly one is in the hands of a proxy that dies.
        let clients: Vec<Asking> =
            [3, 20, 50].map(|ms| Asking::begin(address, Duration::from_millis(ms), &lost)).into();
        until("requests", || (holder.control.app().total > 20).then_some(()));
        let hits = fs::read_to_string(points.join(trundle_crashpoint::HITS)).unwrap_or_default();
        let hit = hits.lines().filter(|line| line.split(' ').next() == Some(place)).count() + 1;
        fs::write(points.join(trundle_crashpoint::AT), format!("{place} {hit}")).unwrap();
        let old = holder.control.pid();
        holder.ask_for_upgrade(&std::env::current_exe().unwrap());
        let is_hit = || {
            let hits = fs::read_to_string(points.join(trundle_crashpoint::HITS)).unwrap();
            (hits.lines().filter(|line| line.split(' ').next() == Some(place)).count() == hit).then_some(())
        };
        until(place, is_hit);
        // Somebody serves, and can be told.
        let before: u64 = clients.iter().map(|client| client.answered.load(SeqCst)).sum();
        until("more answers", || {
            let now: u64 = clients.iter().map(|client| client.answered.load(SeqCst)).sum();
            (now > before + 30).then_some(())
        });
        if who == Who::Serving {
            holder.connect_to_another_than(old);
        } else {
            holder.control = until("a proxy that can be told", || {
                let mut control = Control::connect(holder.dir.path());
                let next = control.try_ask(&Request::Stats)?;
                matches!(next, Reply::Stats(_)).then_some(control)
            });
        }
        holder.table.number += 1;
        holder.control.set(&holder.table.clone());
        let answered: u64 = clients.into_iter().map(Asking::end).sum();
        let lost = lost.lock().unwrap();
        // One each may have been in its hands.
        let most = if who == Who::Serving { 3 } else { 0 };
        assert!(lost.len() <= most, "{place}: {lost:?}");
        println!("{place}: answered {answered}, lost {}", lost.len());
        let stats = until("the counts", || Some(holder.control.app()).filter(|s| s.total >= answered));
        assert!(stats.lost <= most as u64, "{place}: {stats:?}");
    }
}

/// What clients keep is good with the next proxy and after a kill, and who uses which format is known there.
#[test]
fn versions_of_clients_outlive_upgrades_and_a_kill() {
    let (old, new) = (app_of("3.9"), app_of("4.0"));
    let mut holder = Holder::start();
    let address = holder.serve(&old);
    let both = || vec![of(1, "3.9", 1, old.address), of(2, "4.0", 1, new.address)];
    let traffic = |share| Traffic {
        sticky: Sticky::Version,
        share: Some(share),
        newest: Some(2),
        window: 1,
        open: true,
        ..Traffic::default()
    };
    holder.table.apps[0].formats = vec![Format { name: "v1".to_owned(), ..Format::default() }];
    holder.table.apps[0].traffic = Some(traffic(100));
    holder.route(both());
    let mut client =
        Client { http: Http::connect(address), cookie: None, more: "User-Agent: ios\r\n".to_owned() };
    assert_eq!(client.version(), "4.0");
    holder.table.apps[0].traffic = Some(traffic(0));
    holder.route(both());
    for (round, kills) in [false, true, false].into_iter().enumerate() {
        if kills {
            // A client has its answer a moment before that counts.
            holder.control.app_with(3);
            holder.kill_proxy();
        } else {
            holder.upgrade();
        }
        client.http = Http::connect(address);
        assert_eq!(client.version(), "4.0", "round {round}");
        let mut stranger = Client { http: Http::connect(address), cookie: None, more: String::new() };
        assert_eq!(stranger.version(), "3.9", "round {round}");
    }
    let counts = holder.control.app_with(7);
    assert_eq!((counts.lost, counts.formats["v1"].callers["ios"].count), (0, 4));
}
