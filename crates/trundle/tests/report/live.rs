//! A real rollout: its traffic is noted, also when its daemon is killed and another one goes on, and the page has it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const BIN: &str = env!("CARGO_BIN_EXE_trundle");

/// A state directory with a daemon that is ours to kill.
struct Site {
    dir: tempfile::TempDir,
    address: String,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let file = format!(
            "name = \"web\"\nversion = \"1\"\nreplicas = 2\n[run]\ncommand = [\"{BIN}\", \"sample\"]\n\
             env = {{ START_MS = \"0\" }}\n[listen]\nhttp = \"{address}\"\n[health.ready]\nhttp = \"/ready\"\n"
        );
        fs::write(dir.path().join("trundle.toml"), file).unwrap();
        Self { dir, address }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command.args(args).current_dir(self.dir.path()).env("TRUNDLE_STATE_DIR", self.state());
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) {
        assert!(self.command(args).status().unwrap().success(), "{args:?}");
    }

    fn daemon(&self) -> Child {
        self.command(&["daemon", "--ports", "19100-19199"]).spawn().unwrap()
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn ask(&self) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }

    fn samples(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.state().join("traffic/web/2.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Asks until there are so many samples.
    fn ask_until(&self, samples: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.samples().len() < samples {
            assert!(Instant::now() < deadline, "{:?}", self.samples());
            self.ask();
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).status();
    }
}

fn answers(state: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::os::unix::net::UnixStream::connect(state.join("daemon.sock")).is_err() {
        assert!(Instant::now() < deadline, "no daemon");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_traffic_of_a_rollout_is_noted_across_the_death_of_its_daemon() {
    let site = Site::new();
    let mut daemon = site.daemon();
    answers(&site.state());
    site.run(&["deploy"]);
    site.run(&["deploy", "--detach", "--set", "version=2", "--set", "run.env.START_MS=1500"]);
    site.ask_until(2);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let before = site.samples().len();
    let mut daemon = site.daemon();
    answers(&site.state());
    site.ask_until(before + 4);
    site.run(&["wait", "2"]);
    site.ask();
    let html = site.dir.path().join("report.html");
    site.run(&["report", "2", "--html", "report.html"]);
    let html = fs::read_to_string(html).unwrap();
    assert!(html.contains("answered by 1</title>"), "both versions are drawn");
    let totals: Vec<_> = site.samples().iter().map(|sample| sample["total"].as_u64().unwrap()).collect();
    assert!(totals.is_sorted() && totals.last() > totals.first(), "{totals:?}");
    site.run(&["down"]);
    daemon.wait().unwrap();
}
