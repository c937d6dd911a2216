//! Whether a rollout under load is felt: p99 in a window with a rollout against the window before it, over many pairs, beside two
//! windows in which nothing happens (A/A). The app burns no CPU at its start.
//!
//! `cargo bench -p trundle --bench windows` prints the table. It measures; it judges nothing.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{App, Busy, Site, Sorted, finish, rounds, table};

const CONNECTIONS: u32 = 16;
const PAUSE_MS: u32 = 2;
const WINDOW: Duration = Duration::from_millis(3_000);
const FULL: usize = 24;

struct Window {
    p50_us: f64,
    p99_us: f64,
    sent: u64,
    lost: u64,
}

fn main() {
    let title = format!(
        "A rollout under load: {CONNECTIONS} connections that send each {PAUSE_MS} ms, windows of {} s, 8 replicas at 1/1, 100 ms to ready",
        WINDOW.as_secs()
    );
    table(&title, &["what", "p50: median (least–most)", "p99: median (least–most)", "pairs"]);
    let app = App {
        replicas: 8,
        rollout: "max_surge = 1\nmax_unavailable = 1",
        health: "",
        env: "START_MS = \"100\"",
    };
    let site = Site::new("windows", &app);
    site.run(&["deploy", "-q"]);
    let busy = Busy::begin();
    // The first one warms up.
    window(&site, None);
    let (mut same, mut rolled) = (Vec::new(), Vec::new());
    let mut sent = 0;
    let mut lost = 0;
    for n in 0..rounds(FULL) {
        // Which of the two comes first changes, so that what drifts meets both.
        let version = format!("2.{n}");
        let (before, after) = (window(&site, None), window(&site, (n % 2 == 0).then_some(&version)));
        let (next, last) = (window(&site, None), window(&site, (n % 2 == 1).then_some(&version)));
        for one in [&before, &after, &next, &last] {
            sent += one.sent;
            lost += one.lost;
        }
        let pairs =
            if n % 2 == 0 { [(next, last), (before, after)] } else { [(before, after), (next, last)] };
        let [still, moved] = pairs;
        same.push((still.1.p50_us / still.0.p50_us, still.1.p99_us / still.0.p99_us));
        rolled.push((moved.1.p50_us / moved.0.p50_us, moved.1.p99_us / moved.0.p99_us));
    }
    for (what, pairs) in [("nothing in either (A/A)", &same), ("a rollout in the second", &rolled)] {
        let p50 = Sorted::of(pairs.iter().map(|(p50, _)| *p50).collect());
        let p99 = Sorted::of(pairs.iter().map(|(_, p99)| *p99).collect());
        println!(
            "| {what}: second ÷ first | {} | {} | {} |",
            p50.with_spread(),
            p99.with_spread(),
            pairs.len()
        );
    }
    println!("| lost, of {sent} requests | {lost} | | |");
    println!("\nThe two cores were {:.0} % busy with all of it.", busy.percent());
}

/// One window of load, with a rollout in it or without.
fn window(site: &Site, version: Option<&String>) -> Window {
    let began = Instant::now();
    let load = site.load(CONNECTIONS, PAUSE_MS);
    if let Some(version) = version {
        std::thread::sleep(Duration::from_millis(300));
        site.run(&["deploy", "-q", "--set", &format!("version={version}")]);
    }
    std::thread::sleep(WINDOW.saturating_sub(began.elapsed()));
    let tally = finish(load);
    let number = |key: &str| tally[key].as_f64().unwrap_or_else(|| panic!("{key} in {tally}"));
    Window {
        p50_us: number("p50_us"),
        p99_us: number("p99_us"),
        sent: number("sent") as u64,
        lost: number("lost") as u64,
    }
}
