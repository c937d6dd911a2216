//! What a rollout of 8, 50 and 200 local processes takes against what physics allows, and what Trundle keeps in memory for
//! each instance.
//!
//! `cargo bench -p trundle --bench rollouts` prints the tables; `-- --quick` only the smallest size. It measures; it judges
//! nothing. The app waits and does not compute while it starts: a machine with few cores would else be measured, and not
//! the rollout. How busy the machine was stands beside each number.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{App, Busy, Process, Site, Sorted, memory_mib, processes_with, quick, rounds, table};

const START_MS: u64 = 1000;
const STOP_MS: u64 = 500;

fn main() {
    let sizes: &[(u32, &str)] = &[(8, "1"), (8, "\"25%\""), (50, "\"25%\""), (200, "\"25%\"")];
    let sizes = if quick() { &sizes[..2] } else { sizes };
    let title = format!("Rollout ÷ limit: {START_MS} ms to ready, {STOP_MS} ms to stop, no load");
    table(
        &title,
        &[
            "replicas",
            "surge and unavailable",
            "limit s",
            "rollout ÷ limit: median (least–most) of n",
            "n",
            "cpu busy %",
        ],
    );
    let memory: Vec<_> = sizes.iter().map(|(replicas, each)| (*replicas, rolled(*replicas, each))).collect();
    let columns = [
        "instances",
        "daemon",
        "proxy",
        "proxy's holder",
        "shims, each",
        "sum ÷ instances",
        "one shim, resident",
        "sum, resident ÷ instances",
    ];
    table(
        "Memory in MiB, proportional (a page that n processes share counts as one n-th), after the rollouts",
        &columns,
    );
    for (replicas, memory) in memory.iter().skip(1) {
        memory.tell(*replicas);
    }
}

/// Prints the row of one size; answers with the memory that was in use then.
fn rolled(replicas: u32, each: &str) -> Memory {
    let env = format!("START_MS = \"{START_MS}\", STOP_MS = \"{STOP_MS}\"");
    let rollout = format!("max_surge = {each}\nmax_unavailable = {each}");
    let app = App { replicas, rollout: &rollout, health: "", env: &env };
    let site = Site::new(&format!("of-{replicas}"), &app);
    site.run(&["deploy", "-q"]);
    let limit_ms = site.limit_ms(START_MS, STOP_MS);
    let (mut ratios, mut busy) = (Vec::new(), Vec::new());
    for n in 0..rounds(5) {
        let cpu = Busy::begin();
        ratios.push(site.roll(&format!("2.{n}")) / limit_ms);
        busy.push(cpu.percent());
    }
    let (ratios, busy) = (Sorted::of(ratios), Sorted::of(busy));
    println!(
        "| {replicas} | {} | {:.1} | {} | {} | {:.0}–{:.0} |",
        each.trim_matches('"'),
        limit_ms / 1000.0,
        ratios.with_spread(),
        ratios.0.len(),
        busy.least(),
        busy.most()
    );
    // Probes and whatever ends after the report.
    std::thread::sleep(Duration::from_secs(2));
    Memory::of(&site)
}

/// Of one kind of process: how many, and MiB of all of them, proportional and resident.
#[derive(Default)]
struct Part {
    count: u32,
    pss: f64,
    rss: f64,
}

#[derive(Default)]
struct Memory {
    daemon: Part,
    proxy: Part,
    holder: Part,
    shims: Part,
}

impl Memory {
    fn of(site: &Site) -> Self {
        let mut memory = Self::default();
        for process in processes_with(&site.state_dir().display().to_string()) {
            let Some(part) = memory.part(&process) else { continue };
            let (pss, rss) = memory_mib(process.pid);
            part.count += 1;
            part.pss += pss;
            part.rss += rss;
        }
        memory
    }

    /// None: the app itself.
    fn part(&mut self, process: &Process) -> Option<&mut Part> {
        let word = |n: usize| process.args.get(n).map(String::as_str);
        match (word(0)?, word(1)) {
            ("daemon", _) => Some(&mut self.daemon),
            ("proxy", _) => Some(&mut self.proxy),
            ("shim", Some("proxy")) => Some(&mut self.holder),
            ("shim", _) => Some(&mut self.shims),
            _ => None,
        }
    }

    fn tell(&self, replicas: u32) {
        let Self { daemon, proxy, holder, shims } = self;
        let counts = (daemon.count, proxy.count, holder.count, shims.count);
        assert_eq!(counts, (1, 1, 1, replicas), "not all of Trundle's processes were found");
        let of = f64::from(replicas);
        let sum = |of: fn(&Part) -> f64| [daemon, proxy, holder, shims].into_iter().map(of).sum::<f64>();
        println!(
            "| {replicas} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            daemon.pss,
            proxy.pss,
            holder.pss,
            shims.pss / of,
            sum(|part| part.pss) / of,
            shims.rss / of,
            sum(|part| part.rss) / of
        );
    }
}
