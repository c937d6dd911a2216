//! A site: a folder with a `trundle.toml`, a state directory, ports of its own, and nothing left of it at the end.

pub mod chaos;
mod command;
pub mod inject;
pub mod load;
pub mod prober;
pub mod procs;
pub mod turns;
mod watchdog;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use command::{Output, Running};
use procs::Proc;
use serde_json::Value;
use tempfile::TempDir;
use trundle_engine::audit::audit;
use trundle_engine::journal::{SqliteJournal, Store};
use watchdog::Watchdog;

const BUILT: &str = env!("CARGO_BIN_EXE_trundle");
const STATE: &str = "state";
/// Below the range of outgoing connections, apart from the daemon's default range.
const PORTS_FROM: u16 = 10_000;
pub const PORTS_EACH: u16 = 60;
const SLICES: u16 = 150;
/// The longest that a test of one site may take, in a usual run and in a full one.
const LONGEST: [Duration; 2] = [Duration::from_secs(5 * 60), Duration::from_secs(60 * 60)];

/// Raised to the numbers of the issue.
pub fn full() -> bool {
    std::env::var("TRUNDLE_E2E").is_ok_and(|v| v == "full")
}

/// `few` in a usual run, `many` in a full one.
pub fn scaled<T>(few: T, many: T) -> T {
    if full() { many } else { few }
}

/// Waits for a condition; says what it waited for when the deadline passes.
pub fn wait_for<T>(what: &str, secs: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(secs);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {secs} s in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub struct Site {
    dir: TempDir,
    first_port: u16,
    /// Keeps the slice of ports ours.
    _slice: File,
    _watchdog: Watchdog,
}

impl Site {
    pub fn new() -> Self {
        Self::for_at_most(scaled(LONGEST[0], LONGEST[1]))
    }

    /// A test that takes longer is ended.
    pub fn for_at_most(longest: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ids", "database"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let (first_port, slice) = take_slice();
        let watchdog = Watchdog::start(dir.path().join(STATE), longest);
        let site = Self { dir, first_port, _slice: slice, _watchdog: watchdog };
        // What is deployed is digested: a build in the middle of a test must not change the bytes. Copied by another
        // process, so that no child of this one can hold it open for writing.
        assert!(Command::new("cp").arg(BUILT).arg(site.bin()).status().unwrap().success());
        site
    }

    /// With `@BIN@`, `@DIR@` and `@LISTEN@` filled in.
    pub fn with(text: &str) -> Self {
        let site = Self::new();
        site.write(text);
        site
    }

    pub fn write(&self, text: &str) {
        let text = text
            .replace("@BIN@", &self.bin().display().to_string())
            .replace("@DIR@", &self.dir().display().to_string())
            .replace("@LISTEN@", &self.listen());
        fs::write(self.dir().join("trundle.toml"), text).unwrap();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn bin(&self) -> PathBuf {
        self.dir().join("trundle")
    }

    pub fn state(&self) -> PathBuf {
        self.dir().join(STATE)
    }

    pub fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.first_port)
    }

    /// A port of the site that no daemon gives to an instance.
    pub fn spare_port(&self) -> u16 {
        self.first_port + 1
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin());
        command.args(args).current_dir(self.dir()).env("TRUNDLE_STATE_DIR", self.state());
        command.env("TRUNDLE_PORTS", format!("{}-{}", self.first_port + 2, self.first_port + PORTS_EACH - 1));
        command.env("RUST_BACKTRACE", "0").env("NO_COLOR", "1").env_remove("FAIL");
        command
    }

    pub fn start(&self, args: &[&str]) -> Running {
        Running::of(self.command(args))
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.start(args).finish()
    }

    /// `deploy` of a version, with more arguments.
    pub fn deploy(&self, version: &str, more: &[&str]) -> Output {
        let version = format!("version={version}");
        self.run(&[&["deploy", "--set", &version], more].concat())
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.run(&["status", "--json"]).expect(0).json()
    }

    pub fn procs(&self) -> Vec<Proc> {
        procs::of_site(&self.state())
    }

    pub fn daemon(&self) -> Option<Proc> {
        self.procs().into_iter().find(Proc::is_daemon)
    }

    pub fn apps(&self) -> Vec<Proc> {
        self.procs().into_iter().filter(|proc| proc.app().is_some()).collect()
    }

    /// The address, the way a client reaches it.
    pub fn get(&self, path: &str) -> std::io::Result<String> {
        prober::get(self.first_port, path)
    }
}

impl Site {
    /// Every run is judged by what it left in the journal, whatever its test looked at.
    pub fn audit(&self) {
        if !self.state().join(SqliteJournal::FILE).exists() {
            return;
        }
        let entries = SqliteJournal::open_to_read(&self.state()).unwrap().load().unwrap();
        let findings: Vec<String> = audit(&entries).iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "the journal breaks invariants: {findings:#?}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.procs().is_empty() {
            if !std::thread::panicking() {
                self.audit();
            }
            return;
        }
        let before = if std::thread::panicking() {
            self.run(&["status", "--json"]).to_string()
        } else {
            String::new()
        };
        let said = self.run(&["down"]);
        let left: Vec<_> = self.procs().into_iter().map(|p| (p.pid, p.args.clone(), p.kill9())).collect();
        if std::thread::panicking() {
            eprintln!("{before}\nthe daemon said:\n{}", self.said("daemon.log"));
            return;
        }
        assert!(left.is_empty(), "left behind by `down`: {left:?}\n{said}");
        assert_eq!(said.code, 0, "{said}");
        self.audit();
    }
}

impl Site {
    pub fn said(&self, log: &str) -> String {
        fs::read_to_string(self.state().join(log)).unwrap_or_default()
    }
}

/// A range of ports that no other test of this machine has.
fn take_slice() -> (u16, File) {
    for n in 0..SLICES {
        let path = std::env::temp_dir().join(format!("trundle-e2e-ports-{n}"));
        let file = File::create(path).unwrap();
        let first = PORTS_FROM + n * PORTS_EACH;
        if file.try_lock().is_ok() && std::net::TcpListener::bind(("127.0.0.1", first)).is_ok() {
            return (first, file);
        }
    }
    panic!("no free range of ports");
}

/// `trundle.toml` of the sample app behind a listener.
pub fn sample(replicas: u32, env: &str, rollout: &str) -> String {
    format!(
        "name = \"web\"\nversion = \"3.1\"\nreplicas = {replicas}\n\n[run]\ncommand = [\"@BIN@\", \"sample\"]\n\
         env = {{ {env} }}\n\n[listen]\nhttp = \"@LISTEN@\"\n\n[health.ready]\nhttp = \"/ready\"\n\n[rollout]\n{rollout}\n"
    )
}
