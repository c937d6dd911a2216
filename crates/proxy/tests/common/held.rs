//! A holder and its proxy as real processes: the test binary itself, started again for one of two `helper_*` tests, which each
//! file that uses this has.
#![allow(dead_code)]

use std::ffi::OsString;
use std::fs::File;
use std::process::{Child, Command, Stdio};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use trundle_proxy::{HolderConfig, ProxyConfig, Table};

use crate::common::*;

pub const STATE_DIR: &str = "TRUNDLE_TEST_STATE_DIR";

pub fn helper(name: &str) -> Vec<OsString> {
    ["--exact", name, "--nocapture", "--test-threads=1"].map(OsString::from).to_vec()
}

/// The body of a test `helper_proxy`: nothing, unless a holder has started it.
pub fn be_a_proxy() {
    if let (Ok(dir), Ok(_)) = (std::env::var(STATE_DIR), std::env::var("TRUNDLE_HOLDER_FD")) {
        trundle_proxy::run_proxy(ProxyConfig { state_dir: dir.into(), workers: 2 }).unwrap();
    }
}

/// The body of a test `helper_holder`: nothing, unless a test has started it.
pub fn be_a_holder() {
    if let Ok(dir) = std::env::var(STATE_DIR) {
        let program = std::env::current_exe().unwrap();
        trundle_proxy::run_holder(HolderConfig {
            state_dir: dir.into(),
            program,
            args: helper("helper_proxy"),
        })
        .unwrap();
    }
}

pub struct Holder {
    pub child: Child,
    pub control: Control,
    pub dir: tempfile::TempDir,
    pub table: Table,
}

impl Holder {
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change)
    }

    pub fn start_in(dir: tempfile::TempDir, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(helper("helper_holder"))
            .env(STATE_DIR, dir.path())
            .env("TRUNDLE_STATE_DIR", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        change(&mut command);
        let child = command.spawn().unwrap();
        let control = Control::connect(dir.path());
        Self { child, control, dir, table: Table::default() }
    }

    pub fn serve(&mut self, upstream: &Upstream) -> std::net::SocketAddr {
        let address = free_address();
        self.serve_on(address, upstream);
        address
    }

    pub fn serve_on(&mut self, address: std::net::SocketAddr, upstream: &Upstream) {
        let mut app = app(address);
        app.endpoints = vec![routed("a", upstream.address)];
        self.table = Table { protocol: 1, epoch: 1, number: 1, apps: vec![app] };
        self.control.set(&self.table);
    }

    pub fn proxy(&self) -> Pid {
        pid(self.control.pid())
    }

    /// Kills the proxy and connects to the next one.
    pub fn kill_proxy(&mut self) {
        let old = self.control.pid();
        kill_process(pid(old), Signal::KILL).unwrap();
        self.control = until("another proxy", || {
            Some(Control::connect(self.dir.path())).filter(|control| control.pid() != old)
        });
    }

    pub fn ended(&mut self) -> bool {
        until("the holder's end", || self.child.try_wait().unwrap()).success()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // All that serve or finish: each holds a lock with its pid in it.
        for number in 0..8 {
            let Ok(file) = File::open(self.dir.path().join(format!("proxy-{number}.lock"))) else { continue };
            let is_held = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err();
            let holder = std::io::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
            if let Some(holder) = holder.filter(|_| is_held) {
                let _ = kill_process(pid(holder), Signal::KILL);
            }
        }
    }
}

pub fn pid(number: u32) -> Pid {
    Pid::from_raw(number as i32).unwrap()
}

pub fn is_gone(process: Pid) -> bool {
    test_kill_process(process).is_err() || is_zombie(process)
}

pub fn is_zombie(process: Pid) -> bool {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
