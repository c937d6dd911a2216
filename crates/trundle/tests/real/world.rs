//! A folder with an app from PyPI in it, deployed by the real binary; taken down at the end.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::turns::{Turn, turn};

pub const TRUNDLE: &str = env!("CARGO_BIN_EXE_trundle");

/// The next world's ports: apart from those of the e2e tests, and below the range of outgoing connections.
static PORTS_FROM: AtomicU16 = AtomicU16::new(25_000);
const PORTS_EACH: u16 = 250;

pub struct World {
    dir: tempfile::TempDir,
    ports: String,
    _turn: Turn,
}

impl World {
    /// `dist/` with the app as `app.py`; None when there is no Python here.
    pub fn of_plain_python(app: &str) -> Option<Self> {
        let turn = turn();
        let first = PORTS_FROM.fetch_add(PORTS_EACH, Ordering::Relaxed);
        let ports = format!("{first}-{}", first + PORTS_EACH - 1);
        let dir = tempfile::tempdir().unwrap();
        // nginx's workers must get through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let world = Self { dir, ports, _turn: turn };
        if !found("python3") {
            skip("python3 is not installed");
            return None;
        }
        fs::create_dir(world.path("dist")).unwrap();
        fs::write(world.path("dist/app.py"), app).unwrap();
        Some(world)
    }

    /// The same with a package of PyPI beside it; None when that cannot be had here.
    pub fn new(package: &str, app: &str) -> Option<Self> {
        let world = Self::of_plain_python(app)?;
        let pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", "dist", package];
        let output = world.command("python3").args(pip).output().unwrap();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            skip(&format!("{package} cannot be installed: {}", said.trim()));
            return None;
        }
        Some(world)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).env("TRUNDLE_STATE_DIR", self.path("state"));
        command.env("TRUNDLE_PORTS", &self.ports).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    pub fn trundle(&self, args: &[&str]) -> String {
        let output = self.command(TRUNDLE).args(args).output().unwrap();
        succeeded(&output);
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn deploy(&self, version: &str) {
        self.trundle(&["deploy", "--set", &format!("version={version}")]);
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.trundle(&["status", "--json"])).unwrap()
    }

    /// So many requests and connections are with instances: who comes later than a rollout is not told of it.
    pub fn await_in_flight(&self, wanted: u64) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.status();
            let of_instances = status["instances"].as_array().unwrap().iter();
            if of_instances.filter_map(|instance| instance["in_flight"].as_u64()).sum::<u64>() >= wanted {
                return;
            }
            assert!(Instant::now() < until, "not all {wanted} are open: {status}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.command(TRUNDLE).args(["down", "--quiet"]).status();
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

pub fn found(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn succeeded(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
}

pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "in CI this must be there: {why}");
    loudly(&format!("SKIPPED, nothing was tested here: {why}"));
}

/// Past the test harness, which keeps what a passing test prints.
pub fn loudly(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
