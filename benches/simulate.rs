//! What a rollout costs as it grows, in memory and in time: all of the engine, and a journal that forgets. What a durable one
//! costs is measured apart, in `store.rs`.
//!
//! `cargo bench -p trundle-sim --bench simulate` prints the table; `-- --quick` up to 10,000 instances. It measures; it
//! judges nothing.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use trundle_core::limits::CountOrPercent;
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_sim::{Disk, Setup, Sim, Spread};

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    println!("\nThe engine alone, in a world of numbers\n");
    println!(
        "| replicas | surge/unavailable | to ready | start-up s | rollout s | decisions | µs per decision | events | µs per event | peak MiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let quarter = CountOrPercent::Percent(25);
    let one = CountOrPercent::Count(1);
    let same = Spread::Always(1_000);
    let differs = Spread::Between(500, 1_500);
    let sizes = [1_000, 10_000, 100_000, 1_000_000];
    let most = if quick { 10_000 } else { u32::MAX };
    for replicas in sizes.into_iter().filter(|n| *n <= most) {
        for (text, start) in [("1s", same), ("0.5s..1.5s", differs)] {
            row(replicas, ("25 %/25 %", quarter), text, start);
        }
    }
    for replicas in [100, 1_000, 10_000, 100_000].into_iter().filter(|n| *n <= most) {
        row(replicas, ("1/1", one), "1s", same);
    }
}

fn row(replicas: u32, (bounds, each): (&str, CountOrPercent), text: &str, start: Spread) {
    let rollout = RolloutSettings {
        max_surge: Some(each),
        max_unavailable: Some(each),
        progress_deadline_ms: 3_600_000,
        ..RolloutSettings::default()
    };
    let listen = Listen::http("127.0.0.1:1");
    let mut setup = Setup::new(AppSettings {
        replicas,
        rollout,
        listen: Some(listen),
        fixed_port: false,
        gates: Vec::new(),
    });
    setup.start = start;
    let mut sim = Sim::new(setup, Disk::that_forgets());
    sim.start_daemon().unwrap();
    let began = Instant::now();
    sim.deploy("1").unwrap().unwrap();
    assert!(sim.run(u64::MAX));
    let up_s = began.elapsed().as_secs_f64();
    sim.reset_marks();
    let began = Instant::now();
    sim.deploy("2").unwrap().unwrap();
    assert!(sim.run(u64::MAX));
    let rolled_s = began.elapsed().as_secs_f64();
    let decisions = sim.decisions();
    let each_us = rolled_s * 1e6 / decisions as f64;
    let events = sim.events();
    let event_us = rolled_s * 1e6 / events as f64;
    let mib = peak_kib() / 1024;
    println!(
        "| {replicas} | {bounds} | {text} | {up_s:.2} | {rolled_s:.2} | {decisions} | {each_us:.2} | {events} | {event_us:.2} | \
         {mib} |"
    );
}

/// The most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
