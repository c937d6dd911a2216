//! What it costs to know which version a request gets: two versions at once, with all of it switched on and with none of it, and
//! with none of it again as a control.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use trundle_proxy::{App, Field, Format, Listen, Rule, Sticky, Traffic, Wanted, WhenGone};

use super::common::{Sorted, rounds, table};
use super::{Load, Round, Subject, free, measure, trundle};

pub const NAME: &str = "128 B, 64 connections, versions";

/// Clients stay with their version, may ask for one, are looked at by rules, speak formats; files are looked for at both.
fn everything() -> (Traffic, Vec<Format>) {
    let header = |name: &str| Field::Header(name.to_owned());
    let rule = |field| Rule { field, value: Some("yes".to_owned()), to: Wanted::Newest };
    let traffic = Traffic {
        asked_in: vec![
            header("X-App-Version"),
            header("Accept-Version"),
            Field::Cookie("version".to_owned()),
        ],
        when_gone: WhenGone::Refuse,
        rules: vec![rule(header("X-Canary")), rule(Field::Cookie("tester".to_owned()))],
        sticky: Sticky::Version,
        skew_paths: vec!["/assets/*".to_owned()],
        skew_max_age_s: 3_600,
        newest: Some(2),
        window: 1,
        open: true,
        share: Some(50),
        ..Traffic::default()
    };
    let format = |name: &str, value: Option<&str>| Format {
        name: name.to_owned(),
        header: value.map(|_| "Accept".to_owned()),
        value: value.map(str::to_owned),
        deprecated_at_s: Some(1_764_547_200),
        ..Format::default()
    };
    (traffic, vec![format("v2", Some("application/vnd.shop.v2+json")), format("v1", None)])
}

fn subject(name: &'static str, dir: &Path, backend: SocketAddr, is_on: bool) -> Subject {
    let plain = free();
    let mut app = App {
        listen: vec![Listen::Http(plain)],
        endpoints: vec![trundle::endpoint(1, backend), trundle::endpoint(2, backend)],
        ..trundle::app()
    };
    if is_on {
        let (traffic, formats) = everything();
        (app.traffic, app.formats) = (Some(traffic), formats);
    }
    trundle::start(name, &dir.join(format!("state-{}", name.replace(' ', "-"))), app, plain, plain)
}

/// The cookie that a client is given.
fn cookie(subject: &Subject) -> String {
    let mut stream = TcpStream::connect(subject.plain).unwrap();
    stream.write_all(b"GET /128 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .unwrap_or_else(|| panic!("{answer}"));
    line.split(';').next().unwrap().to_owned()
}

pub fn compare(dir: &Path, backend: SocketAddr) {
    let load = Load { name: NAME, path: "/128", connections: 64, tls: false, http2: false };
    let subjects = [
        subject("all off", dir, backend, false),
        subject("all on", dir, backend, true),
        subject("all off again", dir, backend, false),
    ];
    let headers = [
        "User-Agent: bench/1".to_owned(),
        "Accept: application/json".to_owned(),
        format!("Cookie: session=0123456789abcdef; {}", cookie(&subjects[1])),
    ];
    table(
        "Which version a request gets",
        &["load", "", "CPU ÷ all off", "CPU µs a request", "req/s ÷ all off", "errors"],
    );
    let mut all: [Vec<Round>; 3] = Default::default();
    for round in 0..rounds(10) {
        let turns: Vec<usize> = if round % 2 == 0 { vec![0, 1, 2] } else { vec![2, 1, 0] };
        turns.into_iter().for_each(|at| all[at].push(measure(&subjects[at], &load, &headers)));
    }
    for (at, subject) in subjects.iter().enumerate() {
        let ratio = |of: fn(&Round) -> f64| {
            Sorted::of(all[at].iter().zip(&all[0]).map(|(one, off)| of(one) / of(off)).collect())
                .with_spread()
        };
        println!(
            "| {NAME} | {} | {} | {:.1} | {} | {:.0} |",
            subject.name,
            ratio(|round| round.cpu_us),
            Sorted::of(all[at].iter().map(|round| round.cpu_us).collect()).median(),
            ratio(|round| round.per_second),
            all[at].iter().map(|round| round.errors).sum::<f64>(),
        );
    }
}
