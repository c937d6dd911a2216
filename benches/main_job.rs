//! How near a rollout is to what physics allows, how soon a ready instance gets requests, what the daemon costs at rest.
//!
//! `cargo bench -p trundle --bench main_job` prints the table. It measures; it judges nothing.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{App, Site, Sorted, field, finish, quick, rounds, table};

fn main() {
    table("The main job", &["what", "measured", "bar"]);
    for stop_ms in [0, 1500] {
        rollout_against_physics(stop_ms);
    }
    first_request();
    at_rest();
}

/// 8 replicas at 1/1 are four waves; each takes the app's own start and stop.
fn rollout_against_physics(stop_ms: u64) {
    let env = format!("START_MS = \"200\", STOP_MS = \"{stop_ms}\"");
    let app = App { replicas: 8, rollout: "max_surge = 1\nmax_unavailable = 1", health: "", env: &env };
    let site = Site::new(&format!("roll-{stop_ms}"), &app);
    site.run(&["deploy", "-q"]);
    let limit_ms = site.limit_ms(200, stop_ms);
    let ratios = Sorted::of((0..rounds(5)).map(|n| site.roll(&format!("2.{n}")) / limit_ms).collect());
    println!(
        "| rollout, 8 replicas at 1/1, 200 ms to ready, {stop_ms} ms to stop: time / limit, median (least–most) of {} \
         | {} | ≤ 1.15 |",
        ratios.0.len(),
        ratios.with_spread()
    );
}

/// From the app's own moment of being able to answer to its first request through the proxy.
fn first_request() {
    let env = "START_MS = \"100\", TIMES = \"$DIR/times\"";
    let rollout = "max_surge = 2\nmax_unavailable = 0";
    let site = Site::new("first", &App { replicas: 10, rollout, health: "", env });
    let starts = if quick() { 50 } else { 500 };
    site.run(&["deploy", "-q"]);
    let load = site.load(8, 1);
    let times = site.dir.join("times");
    while count(&times) < starts + 10 {
        site.run(&["restart", "web", "-q"]);
    }
    let tally = finish(load);
    // Revision 1 was there before the load.
    let entries = std::fs::read_dir(&times).unwrap().map(|entry| entry.unwrap());
    let took_us =
        entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with("web-1-")).map(|entry| {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let (listening, first) = text.split_once(' ').unwrap();
            (first.parse::<u64>().unwrap() - listening.parse::<u64>().unwrap()) as f64
        });
    let took_us = Sorted::of(took_us.collect());
    let ms = |of_thousand: usize| took_us.of_thousand(of_thousand) / 1000.0;
    println!(
        "| able to answer → first routed request, {} starts: p50 / p99 / max | {:.1} / {:.1} / {:.1} ms | p99 ≤ 20 ms |",
        took_us.0.len(),
        ms(500),
        ms(990),
        ms(1000)
    );
    println!("| lost meanwhile, of {} requests | {} | 0 |", tally["sent"], tally["lost"]);
}

fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Resident memory and CPU of the daemon while 8 instances run and nothing rolls.
fn at_rest() {
    let site = Site::new("rest", &App { replicas: 8, rollout: "", health: "", env: "START_MS = \"0\"" });
    site.run(&["deploy", "-q"]);
    site.run(&["deploy", "-q", "--set", "version=2"]);
    let pid = std::fs::read_to_string(site.state_dir().join("daemon.lock")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let (before, began) = (cpu_ms(&pid), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let share = (cpu_ms(&pid) - before) / began.elapsed().as_secs_f64() / 10.0;
    let rss = field(&format!("/proc/{pid}/status"), "VmRSS:") / 1024.0;
    println!("| daemon at rest, 8 instances probed each second: resident | {rss:.1} MiB | ≤ 20 MiB |");
    println!("| daemon at rest: share of one core over 10 s | {share:.2} % | no busy polling |");
}

fn cpu_ms(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime, in ticks of 10 ms.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10.0
}
