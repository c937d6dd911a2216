//! Who of a site is alive, read from `/proc`. A process is a pid together with the moment it started.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

#[derive(Debug, Clone)]
pub struct Proc {
    pub pid: u32,
    pub start: u64,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
}

impl Proc {
    fn arg(&self, n: usize) -> &str {
        self.args.get(n).map_or("", String::as_str)
    }

    pub fn is_daemon(&self) -> bool {
        self.arg(1) == "daemon"
    }

    /// The process that forwards, not the one that holds its sockets.
    pub fn is_proxy(&self) -> bool {
        self.arg(1) == "proxy"
    }

    /// The one that holds its sockets.
    pub fn is_holder(&self) -> bool {
        (self.arg(1), self.arg(2)) == ("shim", "proxy")
    }

    /// The name of the instance whose app this is; a shim is not an app.
    pub fn app(&self) -> Option<&str> {
        self.env.get("TRUNDLE_INSTANCE").map(String::as_str).filter(|_| self.arg(1) != "shim")
    }

    pub fn port(&self) -> Option<u16> {
        self.env.get("PORT")?.parse().ok()
    }

    pub fn lives(&self) -> bool {
        start_of(self.pid) == Some(self.start)
    }

    pub fn kill9(&self) {
        self.signal(Signal::KILL);
    }

    pub fn signal(&self, signal: Signal) {
        if self.lives() {
            let _ = kill_process(Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap(), signal);
        }
    }
}

/// Everybody that carries the label of this state directory.
pub fn of_site(state: &Path) -> Vec<Proc> {
    pids().into_iter().filter_map(read).filter(|proc| belongs(proc, state)).collect()
}

pub fn belongs(proc: &Proc, state: &Path) -> bool {
    proc.env.get("TRUNDLE_STATE_DIR").is_some_and(|dir| Path::new(dir) == state)
}

pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// None when it is dead, a zombie, or somebody else's; or just becoming another program, when its two files tell of two.
pub fn read(pid: u32) -> Option<Proc> {
    let start = start_of(pid)?;
    let list = |file: &str| -> Option<Vec<String>> {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).ok()?;
        Some(String::from_utf8_lossy(&bytes).split_terminator('\0').map(str::to_owned).collect())
    };
    let pair = |line: &String| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    let args = list("cmdline")?;
    let env = list("environ")?.iter().filter_map(pair).collect();
    (list("cmdline")? == args).then_some(Proc { pid, start, args, env })
}

/// When it started, in clock ticks; None for who is dead.
pub fn start_of(pid: u32) -> Option<u64> {
    let (state, start) = stat(pid)?;
    (!matches!(state, 'Z' | 'X' | 'x')).then_some(start)
}

/// By SIGSTOP.
pub fn is_halted(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| matches!(state, 'T' | 't'))
}

fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}
