//! What the durable store costs, apart from everything else: one append, the appends of one rollout, the journal on disk,
//! reading it again.
//!
//! `cargo bench -p trundle --bench store` prints the tables. It measures; it judges nothing. `TMPDIR` says which disk.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{App, Site, Sorted, quick, rounds, table};
use trundle_engine::journal::{Entry, SqliteJournal, Store};

const TMPFS: &str = "/dev/shm";
const START_MS: u64 = 200;

fn main() {
    let disk = std::env::temp_dir();
    println!(
        "\"disk\" is {} ({}), \"tmpfs\" is {TMPFS} ({})",
        disk.display(),
        file_system(&disk),
        file_system(Path::new(TMPFS))
    );
    let rollout = Rollout::measure(&disk);
    appends(&disk, &rollout.entries);
    rollout.tell(&disk);
    reading(&disk, &rollout.entries);
}

/// An empty folder for a journal; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(parent: &Path) -> Self {
        let dir = parent.join(format!("trundle-bench-journal-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn open(&self) -> SqliteJournal {
        SqliteJournal::open(&self.0).unwrap()
    }

    fn bytes(&self) -> f64 {
        let files = std::fs::read_dir(&self.0).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len() as f64).sum()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Real records over and over, numbered as they must be.
fn records(of: &[Entry], from: u64, count: u64) -> Vec<Entry> {
    (from..from + count)
        .map(|n| Entry { n: n + 1, ..of[usize::try_from(n).unwrap() % of.len()].clone() })
        .collect()
}

/// Microseconds of each of `times` transactions of `each` records.
fn append_us(parent: &Path, of: &[Entry], each: u64, times: u64) -> Sorted {
    let folder = Folder::new(parent);
    let mut journal = folder.open();
    let took = (0..times).map(|n| {
        let entries = records(of, n * each, each);
        let began = Instant::now();
        journal.append(&entries).unwrap();
        began.elapsed().as_secs_f64() * 1e6
    });
    Sorted::of(took.collect())
}

fn appends(disk: &Path, of: &[Entry]) {
    let times = if quick() { 20 } else { 500 };
    table(
        &format!("One append: a transaction, synced; of {times}"),
        &[
            "records",
            "disk: least / median / p99 ms",
            "disk: µs a record",
            "tmpfs: least / median / p99 ms",
            "tmpfs: µs a record",
        ],
    );
    for each in [1, 10, 100] {
        let cells = [disk, Path::new(TMPFS)].map(|parent| {
            let took = append_us(parent, of, each, times);
            let ms = |us: f64| us / 1000.0;
            format!(
                "{:.2} / {:.2} / {:.2} | {:.0}",
                ms(took.least()),
                ms(took.median()),
                ms(took.of_thousand(990)),
                took.median() / each as f64
            )
        });
        println!("| {each} | {} |", cells.join(" | "));
    }
}

/// Rollouts of 8 at 1/1, with the state on the disk and on tmpfs.
struct Rollout {
    limit_ms: f64,
    disk_ms: Sorted,
    tmpfs_ms: Sorted,
    /// Of the last rollout on the disk.
    entries: Vec<Entry>,
    /// Transactions of one rollout; those that were lost from sight are not in it.
    commits: Sorted,
}

impl Rollout {
    fn measure(disk: &Path) -> Self {
        let (mut commits, mut entries) = (Vec::new(), Vec::new());
        let [(limit_ms, disk_ms), (_, tmpfs_ms)] = [disk, Path::new(TMPFS)].map(|parent| {
            let env = format!("START_MS = \"{START_MS}\"");
            let rollout = "max_surge = 1\nmax_unavailable = 1";
            let site = Site::below(parent, "store", &App { replicas: 8, rollout, health: "", env: &env });
            site.run(&["deploy", "-q"]);
            let limit_ms = site.limit_ms(START_MS, 0);
            let mut took = Vec::new();
            for n in 0..rounds(7) {
                let (before, wal) = (read(&site), Wal::read(&site));
                took.push(site.roll(&format!("2.{n}")));
                if parent == disk {
                    commits.extend(Wal::read(&site).commits_since(&wal));
                    entries = read(&site).split_off(before.len());
                }
            }
            (limit_ms, Sorted::of(took))
        });
        Self { limit_ms, disk_ms, tmpfs_ms, entries, commits: Sorted::of(commits) }
    }

    fn tell(&self, disk: &Path) {
        let title = format!(
            "One rollout of 8 at 1/1, {START_MS} ms to ready, 0 ms to stop; medians of {}",
            self.disk_ms.0.len()
        );
        let columns = [
            "records",
            "transactions",
            "journal, KiB",
            "the same transactions alone: ms on disk",
            "÷ the rollout's time",
            "rollout ÷ limit: state on disk",
            "state on tmpfs",
        ];
        table(&title, &columns);
        let alone = Sorted::of((0..rounds(7)).map(|_| self.replay_ms(disk)).collect());
        let ratio = |ms: &Sorted| ms.median() / self.limit_ms;
        println!(
            "| {} | {:.0} | {:.1} | {:.1} | {:.1} % | {:.3} | {:.3} |",
            self.entries.len(),
            self.commits.median(),
            self.kib(disk),
            alone.median(),
            100.0 * alone.median() / self.disk_ms.median(),
            ratio(&self.disk_ms),
            ratio(&self.tmpfs_ms)
        );
    }

    /// As many transactions as the rollout had, of as many records each.
    fn replay_ms(&self, disk: &Path) -> f64 {
        let folder = Folder::new(disk);
        let mut journal = folder.open();
        let all = records(&self.entries, 0, self.entries.len() as u64);
        let transactions = self.commits.median() as usize;
        let cut = |n: usize| n * all.len() / transactions;
        let began = Instant::now();
        for n in 0..transactions {
            journal.append(&all[cut(n)..cut(n + 1)]).unwrap();
        }
        began.elapsed().as_secs_f64() * 1000.0
    }

    /// What it adds to a journal that has taken its log in.
    fn kib(&self, disk: &Path) -> f64 {
        const MANY: u64 = 200;
        let folder = Folder::new(disk);
        let each = self.entries.len() as u64;
        folder.open().append(&records(&self.entries, 0, each * MANY)).unwrap();
        folder.bytes() / MANY as f64 / 1024.0
    }
}

fn read(site: &Site) -> Vec<Entry> {
    SqliteJournal::open_to_read(&site.state_dir()).unwrap().load().unwrap()
}

/// SQLite's write-ahead log: a frame that ends a transaction has the size of the database after it.
struct Wal {
    salt: Vec<u8>,
    commits: usize,
}

impl Wal {
    fn read(site: &Site) -> Self {
        let log = std::fs::read(site.state_dir().join(format!("{}-wal", SqliteJournal::FILE))).unwrap();
        let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
        let (page, salt) = (number(8) as usize, log[16..24].to_vec());
        let frames = (32..).step_by(24 + page).take_while(|at| at + 24 + page <= log.len());
        let commits = frames.filter(|at| log[at + 8..at + 16] == salt && number(at + 4) != 0).count();
        Self { salt, commits }
    }

    /// None: the log began anew in between, and nobody can tell.
    fn commits_since(&self, before: &Self) -> Option<f64> {
        (self.salt == before.salt).then(|| (self.commits - before.commits) as f64)
    }
}

fn reading(disk: &Path, of: &[Entry]) {
    table(
        "Reading a journal, as each daemon does when it starts",
        &["records", "MiB on disk", "ms", "µs a record"],
    );
    let sizes: &[u64] = if quick() { &[1_000] } else { &[10_000, 100_000] };
    for count in sizes {
        let folder = Folder::new(disk);
        let mut journal = folder.open();
        for thousand in 0..count / 1000 {
            journal.append(&records(of, thousand * 1000, 1000)).unwrap();
        }
        drop(journal);
        let took = Sorted::of((0..rounds(5)).map(|_| load_ms(&folder, *count)).collect());
        println!(
            "| {count} | {:.1} | {:.0} | {:.2} |",
            folder.bytes() / 1024.0 / 1024.0,
            took.median(),
            took.median() * 1000.0 / *count as f64
        );
    }
}

fn load_ms(folder: &Folder, count: u64) -> f64 {
    let mut journal = folder.open();
    let began = Instant::now();
    assert_eq!(journal.load().unwrap().len() as u64, count);
    began.elapsed().as_secs_f64() * 1000.0
}

/// Of the mount that a folder is in.
fn file_system(dir: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holds = fields.filter(|fields| dir.starts_with(fields[1]));
    holds.max_by_key(|fields| fields[1].len()).map_or_else(String::new, |fields| fields[2].to_owned())
}
