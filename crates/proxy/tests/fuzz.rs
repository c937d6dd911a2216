//! Every target of `trundle_proxy::fuzzing` for a moment: the bytes of `tests/http/` and a few of our own, changed at random.
//! `TRUNDLE_FUZZ_S=600` runs for longer, `TRUNDLE_FUZZ_SEED=7` with other changes.

#![allow(clippy::unwrap_used)]

#[path = "corpus/case.rs"]
#[allow(dead_code)]
mod case;
mod common;
#[path = "corpus/frames.rs"]
#[allow(dead_code)]
mod frames;
#[path = "corpus/play.rs"]
#[allow(dead_code)]
mod play;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use case::{Case, Step, escape};
use trundle_proxy::fuzzing::TARGETS;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// What parsers go by.
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    ":",
    " ",
    "#",
    "\0",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    ";a=b",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "GET / HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200\r\n",
    "Host: a\r\n",
    "X-Forwarded-For: 6\n",
    "x_forwarded.ssl: on\n",
    "Connection: x-forwarded-for, host\n",
    "content_length: 1\n",
    "/8",
    "/0",
    "/129",
    "unix",
    "\n10.0.0.0/8\n",
    "fd00::/8",
    "::ffff:0:0/96",
    "[::1]",
    ":80",
    "{",
    "}",
    "[]",
    "null",
    "-1",
    "18446744073709551616",
    "\"protocol\":1",
];

const TABLE: &str = r#"{"protocol":1,"epoch":3,"number":7,"apps":[{"app":"web","listen":[{"http":"127.0.0.1:80"},{"unix":"/w"}],
"trusted_proxies":["10.0.0.0/8","unix"],"limits":{"headers":50},"endpoints":[{"id":"web-2-3","incarnation":"t","version":"3.2",
"revision":2,"address":"127.0.0.1:20000","weight":1,"state":"draining"}]}]}"#;

fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/http");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "case"));
    paths.sort();
    let mut seeds: Vec<Vec<u8>> = ["10.0.0.0/8\n::1\nunix", "web.test:80", "[::1]:8080", TABLE]
        .map(|text| text.as_bytes().to_vec())
        .to_vec();
    for path in paths {
        let case = Case::read(&path);
        seeds.extend(case.app_answers);
        let bytes = case.client.into_iter().flat_map(|step| match step {
            Step::Send(bytes) => bytes,
            Step::Wait(_) => Vec::new(),
        });
        let bytes: Vec<u8> = bytes.collect();
        if bytes.len() < 2_000 {
            seeds.push(bytes);
        }
    }
    seeds
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(12)).min(bytes.len());
    match random.below(7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 => drop(bytes.splice(at..at, random.one(WORDS).bytes())),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let part = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, part));
        }
        4 => bytes.truncate(at),
        5 => bytes.extend(random.one(seeds)),
        _ => drop(bytes.splice(at..at, [random.next() as u8])),
    }
}

/// What the environment says, for a run by hand.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Seed and time of a run.
fn settings(usual_ms: u64) -> (u64, Duration) {
    let time = number("TRUNDLE_FUZZ_S").map_or(usual_ms, |s| s * 1_000);
    (number("TRUNDLE_FUZZ_SEED").unwrap_or(1), Duration::from_millis(time))
}

#[test]
fn no_bytes_break_what_we_parse_and_rewrite() {
    let (seed, time) = settings(3_000);
    let each = time / TARGETS.len() as u32;
    let seeds = seeds();
    assert!(seeds.len() > 80);
    for (name, target) in TARGETS {
        let mut random = Random(seed);
        let check = |bytes: &[u8]| {
            if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
                panic!("{name} with the seed {seed} fails for:\n{}", escape(bytes));
            }
        };
        seeds.iter().for_each(|bytes| check(bytes));
        let (began, mut count) = (Instant::now(), 0);
        while began.elapsed() < each {
            let mut bytes = random.one(&seeds).clone();
            for _ in 0..=random.below(4) {
                change(&mut bytes, &seeds, &mut random);
            }
            check(&bytes);
            count += 1;
        }
        assert!(count > 20, "{name} is too slow: {count}");
    }
}

/// The same bytes through a real proxy: whatever it takes for a request reaches the app as a plain one.
#[test]
fn no_bytes_reach_an_app_but_as_plain_requests() {
    let mut proxy = common::Proxy::start_with(|app| {
        (app.limits.idle_timeout_ms, app.limits.response_timeout_ms) = (500, 1_000);
    });
    let app = play::App::start();
    proxy.route(vec![common::routed("a", app.address)]);
    let seeds = seeds();
    let (seed, time) = settings(2_000);
    let (mut random, began, mut count, mut taken) = (Random(seed), Instant::now(), 0, 0);
    while began.elapsed() < time {
        let mut bytes = random.one(&seeds).clone();
        for _ in 0..=random.below(4) {
            change(&mut bytes, &seeds, &mut random);
        }
        send(proxy.address, &bytes);
        for request in app.take() {
            let wrong = wrong_with(&request);
            assert!(wrong.is_none(), "{wrong:?} in\n{}\nof\n{}", escape(&request), escape(&bytes));
            taken += 1;
        }
        count += 1;
    }
    assert!(count > 50 && taken > 10, "{taken} of {count}");
    assert_eq!(common::get(proxy.address, "/").status, 200);
}

fn send(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// A request as an app wants it; the first thing that is not so.
fn wrong_with(request: &[u8]) -> Option<&'static str> {
    let end = request.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let text = String::from_utf8_lossy(&request[..end]).into_owned();
    let words: Vec<&str> = text.split("\r\n").next()?.split(' ').collect();
    if words.len() != 3 || words[2] != "HTTP/1.1" {
        return Some("its line");
    }
    if !(words[1].starts_with('/') || words == ["OPTIONS", "*", "HTTP/1.1"]) || words[1].contains('#') {
        return Some("its target");
    }
    let fields: Vec<(&str, &str)> =
        text.split("\r\n").skip(1).filter_map(|line| line.split_once(": ")).collect();
    let of = |name: &str| {
        fields.iter().filter(|(found, _)| *found == name).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    if text.split("\r\n").skip(1).any(|line| line.contains(['\r', '\n', '\0']) || !line.contains(':')) {
        return Some("a header");
    }
    if of("host").len() != 1 || of("x-forwarded-for") != ["127.0.0.1"] || of("x-forwarded-host") != of("host")
    {
        return Some("its host, or who has sent it");
    }
    if of("content-length").len() + of("transfer-encoding").len() > 1 {
        return Some("its length");
    }
    let is_alias = |name: &str| {
        let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
        name.starts_with("x_forwarded_") || ["content_length", "transfer_encoding"].contains(&name.as_str())
    };
    let ours =
        ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "content-length", "transfer-encoding"];
    fields.iter().any(|(name, _)| is_alias(name) && !ours.contains(name)).then_some("an alias")
}
