//! Two thousand clients that keep what they are given, while shares change and everything that can be killed is killed: none of
//! them goes back, each version has its share, and nothing is lost.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::chaos::{Dice, start_daemon};
use crate::harness::procs::Proc;
use crate::harness::turns::turn;
use crate::harness::{Site, sample, wait_for};

const CLIENTS: usize = 2_000;
const THREADS: usize = 8;
const OLD: &str = "1.0";
const NEW: &str = "2.0";

fn config() -> String {
    let rollout = "batch = 4\nmax_surge = 4\n";
    format!("{}\n[traffic]\nsticky = \"version\"\n", sample(8, r#"START_MS = "0""#, rollout))
}

/// One browser.
#[derive(Default)]
struct Client {
    cookie: Option<String>,
    /// The version of its last answer.
    last: Option<String>,
}

/// A connection that several clients use in turn, as behind a proxy of theirs.
struct Line {
    address: String,
    stream: Option<TcpStream>,
}

struct Answer {
    status: u16,
    version: String,
    cookie: Option<String>,
}

impl Line {
    /// An error is a request that was lost to its client.
    fn ask(&mut self, cookie: Option<&str>) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let cookie = cookie.map(|cookie| format!("cookie: {cookie}\r\n")).unwrap_or_default();
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: web\r\n{cookie}\r\n").as_bytes())?;
        let (mut text, mut chunk) = (String::new(), [0; 4096]);
        let (head, mut left) = loop {
            let n = stream.read(&mut chunk)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            text.push_str(&String::from_utf8_lossy(&chunk[..n]));
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length: usize = header(head, "content-length").and_then(|n| n.parse().ok()).unwrap();
                break (head.to_owned(), length - body.len());
            }
        };
        while left > 0 {
            let n = stream.read(&mut chunk)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= n;
        }
        if header(&head, "connection").is_none() {
            self.stream = Some(stream);
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        let cookie = header(&head, "set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned());
        Ok(Answer { status, version: header(&head, "x-app-version").unwrap_or_default(), cookie })
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let found = head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then(|| value.to_owned())
    });
    found.map(|value| value.trim().to_owned())
}

/// Of one round in which each client asks once.
#[derive(Debug, Default)]
struct Round {
    failed: u64,
    back: Vec<String>,
    on_new: usize,
}

/// `released`: from then on an old answer after a new one is right.
fn ask_all(site: &Site, clients: &mut [Client], released: &AtomicBool) -> Round {
    let address = site.listen();
    let parts = clients.chunks_mut(CLIENTS.div_ceil(THREADS));
    let mut all = Round::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .map(|part| {
                scope.spawn(|| ask_each(part, Line { address: address.clone(), stream: None }, released))
            })
            .collect();
        for thread in threads {
            let part = thread.join().unwrap();
            all.failed += part.failed;
            all.on_new += part.on_new;
            all.back.extend(part.back);
        }
    });
    all
}

fn ask_each(clients: &mut [Client], mut line: Line, released: &AtomicBool) -> Round {
    let mut round = Round::default();
    for client in clients {
        let Ok(answer) = line.ask(client.cookie.as_deref()) else {
            round.failed += 1;
            continue;
        };
        if answer.status != 200 {
            round.failed += 1;
            continue;
        }
        let before = client.last.replace(answer.version.clone());
        if before.as_deref() == Some(NEW) && answer.version == OLD && !released.load(Ordering::SeqCst) {
            round.back.push(client.cookie.clone().unwrap_or_default());
        }
        round.on_new += usize::from(answer.version == NEW);
        client.cookie = answer.cookie.or(client.cookie.take());
    }
    round
}

fn within_two_points(clients: usize, of: usize, share: u64) {
    let points = clients as f64 * 100.0 / of as f64;
    assert!((points - share as f64).abs() < 2.0, "{points:.2} % of {of} clients, {share} % were wanted");
}

fn kill(victim: &Proc) {
    victim.kill9();
    wait_for("the end of one that was killed", 5, || (!victim.lives()).then_some(()));
}

#[test]
fn two_thousand_clients_never_go_back() {
    let _turn = turn();
    let site = Site::with(&config());
    let mut dice = Dice::new("clients");
    site.deploy(OLD, &[]).expect(0);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::default()).collect();
    let released = AtomicBool::new(false);
    let at_rest = ask_all(&site, &mut clients, &released);
    assert_eq!((at_rest.failed, at_rest.on_new), (0, 0));
    assert!(clients.iter().all(|client| client.cookie.is_none()), "nobody is given anything at rest");

    // Four of each, standing still.
    site.deploy(NEW, &["--step"]).expect(10);
    let (mut failed, mut highest) = (0, 0);
    let shares = [10, dice.below(41) + 20, 15, dice.below(20) + 65, 40, 90];
    for (round, share) in shares.into_iter().enumerate() {
        site.run(&["share", "web", &format!("{share}%")]).expect(0);
        assert_eq!(site.status()["window"]["share"], share);
        highest = highest.max(share);
        // Between two rounds nothing is in flight.
        let victims = site.procs();
        match round {
            1 | 4 => kill(victims.iter().find(|proc| proc.is_proxy()).unwrap()),
            2 => {
                kill(victims.iter().find(|proc| proc.is_daemon()).unwrap());
                start_daemon(&site, true);
            }
            _ => {}
        }
        let during = Arc::new(AtomicBool::new(false));
        // Within one, an instance of the new version dies.
        let killer = (round == 3).then(|| {
            let (victims, during) = (site.apps(), Arc::clone(&during));
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                let of_new = |proc: &&Proc| proc.app().is_some_and(|name| name.starts_with("web-2-"));
                victims.iter().find(of_new).unwrap().kill9();
                during.store(true, Ordering::SeqCst);
            })
        });
        let seen = ask_all(&site, &mut clients, &released);
        killer.into_iter().for_each(|killer| killer.join().unwrap());
        assert_eq!(seen.back, Vec::<String>::new(), "in round {round} with {share} %");
        assert!(during.load(Ordering::SeqCst) || seen.failed == 0, "{seen:?}");
        assert!(seen.failed <= THREADS as u64, "only what was in flight in the one that died: {seen:?}");
        failed += seen.failed;
        within_two_points(seen.on_new, CLIENTS, highest);
        // Who comes now for the first time is drawn by the share of now.
        let mut fresh: Vec<Client> = (0..400).map(|_| Client::default()).collect();
        let seen = ask_all(&site, &mut fresh, &released);
        within_two_points(seen.on_new, 400, share);
    }
    let window = &site.status()["window"];
    assert!(window["mixed"]["held_from_going_back"].as_u64().unwrap() > 500, "{window}");
    assert!(window["mixed"]["went_back"].is_null(), "{window}");

    // A way back releases them, and they are asked all the while.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut failed = 0;
            while !over.load(Ordering::SeqCst) {
                let seen = ask_all(&site, &mut clients, &released);
                assert_eq!(seen.back, Vec::<String>::new());
                failed += seen.failed;
            }
            failed
        });
        released.store(true, Ordering::SeqCst);
        let said = site.run(&["rollback"]);
        over.store(true, Ordering::SeqCst);
        said.expect(0);
        assert_eq!(asking.join().unwrap(), 0);
    });
    let seen = ask_all(&site, &mut clients, &released);
    assert_eq!((seen.on_new, seen.failed), (0, 0), "all are with {OLD}");
    let requests = &site.status()["requests"];
    assert_eq!(requests["lost"], 0, "{requests}");
    assert_eq!(
        requests["crashed"].as_u64().unwrap(),
        failed,
        "what the clients saw is what is counted: {requests}"
    );
    site.audit();
}
