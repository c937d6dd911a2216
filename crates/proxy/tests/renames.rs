//! A real proxy that dies between writing its table aside and renaming it: the table that was in force is the one that
//! the next proxy serves.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::*;
use trundle_proxy::{PROTOCOL, ProxyConfig, Request, Table};

const STATE_DIR: &str = "TRUNDLE_TEST_STATE_DIR";

/// Nothing, unless a test has started it.
#[test]
fn helper_proxy() {
    if let Ok(dir) = std::env::var(STATE_DIR) {
        trundle_proxy::run_proxy(ProxyConfig { state_dir: dir.into(), workers: 2 }).unwrap();
    }
}

/// A proxy as a process; killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> (Killed, Control) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "helper_proxy", "--nocapture", "--test-threads=1"]).env(STATE_DIR, dir);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    (Killed(child), Control::connect(dir))
}

/// It must be there in CI; elsewhere a test says loudly that it proves nothing.
fn strace_is_here() -> bool {
    let probe = Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).output();
    if probe.as_ref().is_ok_and(|said| said.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "strace is needed in CI: {probe:?}");
    eprintln!("NOT TESTED: strace cannot be had here: {probe:?}");
    false
}

/// Its next rename kills it. Returns when every thread is traced.
fn kill_at_rename(pid: u32) -> Killed {
    let inject = "inject=rename,renameat,renameat2:error=EIO:signal=KILL";
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-e",
        "trace=rename,renameat,renameat2",
        "-e",
        inject,
        "-p",
        &pid.to_string(),
    ]);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let strace = Killed(quiet.spawn().unwrap());
    until("strace to attach", || {
        let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let traced =
            |status: String| status.lines().any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"));
        let all = tasks.all(|task| fs::read_to_string(task.path().join("status")).is_ok_and(traced));
        all.then_some(())
    });
    strace
}

/// Row 6 of docs/faults.md.
#[test]
fn a_proxy_that_dies_before_it_renames_its_table_serves_the_one_before() {
    if !strace_is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Upstream::says("old"), Upstream::says("new"));
    let address = free_address();
    let table = |number, upstream: &Upstream| {
        let mut app = app(address);
        app.endpoints = vec![routed(&format!("e{number}"), upstream.address)];
        Table { protocol: PROTOCOL, epoch: 1, number, apps: vec![app] }
    };
    let (mut proxy, mut control) = start(dir.path());
    control.set(&table(1, &old));
    assert_eq!(get(address, "/").text(), "old");
    let path = dir.path().join("proxy-table.json");
    let before = fs::read(&path).unwrap();

    let strace = kill_at_rename(proxy.0.id());
    control.send(&Request::SetTable(table(2, &new)));
    let ended = until("its death", || proxy.0.try_wait().unwrap());
    assert_eq!(ended.signal(), Some(9), "{ended}");
    drop(strace);
    let aside = fs::read_to_string(path.with_extension("json.new")).unwrap();
    assert!(aside.contains("\"e2\""), "the new table was written aside: {aside}");
    assert_eq!(fs::read(&path).unwrap(), before, "and the old one is as it was");

    let (_next, mut control) = start(dir.path());
    until("the old table", || get_now(address).filter(|text| text == "old"));
    assert_eq!(control.stats().number, 1, "nobody told it");
    control.set(&table(2, &new));
    assert_eq!(get(address, "/").text(), "new");
}

/// None while the door is not open.
fn get_now(address: std::net::SocketAddr) -> Option<String> {
    std::net::TcpStream::connect(address).ok()?;
    Some(get(address, "/").text().to_owned())
}
