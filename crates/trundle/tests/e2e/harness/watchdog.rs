//! Nothing of a test may wait for ever: one that has not ended in its time says who waits for what, and ends the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::procs;

/// Watches until it is dropped.
pub struct Watchdog {
    _until_dropped: Sender<()>,
}

impl Watchdog {
    pub fn start(state: PathBuf, longest: Duration) -> Self {
        let (sender, dropped) = channel();
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            if dropped.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
                end_the_run(&name, &state, longest);
            }
        });
        Self { _until_dropped: sender }
    }
}

/// The harness of Rust cannot end one test: the others of this file are not run, and that is a failure too.
fn end_the_run(name: &str, state: &Path, longest: Duration) -> ! {
    eprintln!(
        "{name} has not ended after {} s. Its threads, children and the processes of its site:",
        longest.as_secs()
    );
    let me = std::process::id();
    let of_site = procs::of_site(state);
    let mut who: Vec<u32> = of_site.iter().map(|proc| proc.pid).collect();
    who.extend(procs::pids().into_iter().filter(|pid| parent(*pid) == Some(me)));
    who.extend([me]);
    who.sort_unstable();
    who.dedup();
    for pid in who {
        let args = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        eprintln!("{pid} {args}");
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let status = read("status");
            let field =
                |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim();
            eprintln!(
                "    {} {}: {}, traced by {}, in {}, system call {}",
                task.file_name().display(),
                field("Name:"),
                field("State:"),
                field("TracerPid:"),
                read("wchan"),
                read("syscall").trim(),
            );
        }
    }
    for proc in of_site {
        proc.kill9();
    }
    std::process::abort()
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
