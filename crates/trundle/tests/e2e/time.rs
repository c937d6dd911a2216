//! Time that nobody watched, and a wall clock that jumps: neither makes a deadline pass.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::bad_version::versions;
use crate::harness::procs::Proc;
use crate::harness::turns::turn;
use crate::harness::{Site, load, sample, wait_for};

const DEADLINES: &str =
    "max_surge = 1\nmax_unavailable = 0\nhealthy_deadline = \"3s\"\nprogress_deadline = \"3s\"";

fn of_version(site: &Site, version: &str) -> Vec<Proc> {
    site.apps().into_iter().filter(|app| app.env["TRUNDLE_VERSION"] == version).collect()
}

/// Row 10 of docs/faults.md: the daemon is stopped for longer than every deadline while an instance starts.
#[test]
fn a_daemon_that_was_stopped_past_a_deadline_blames_nobody() {
    let _turn = turn();
    let site = Site::with(&sample(2, r#"START_MS = "1000""#, DEADLINES));
    site.deploy("1.0", &[]).expect(0);
    let load = load::start_quick(&site, 4, 5);
    site.deploy("2.0", &["--detach"]).expect(0);
    wait_for("the first of the new version", 10, || (!of_version(&site, "2.0").is_empty()).then_some(()));
    let daemon = site.daemon().unwrap();
    daemon.signal(Signal::STOP);
    // The time itself is what is tested.
    std::thread::sleep(Duration::from_millis(4_500));
    assert_eq!(of_version(&site, "2.0").len(), 1, "nobody acts meanwhile");
    daemon.signal(Signal::CONT);
    site.run(&["wait"]).expect(0);
    let status = site.status();
    assert_eq!(versions(&status), [("2.0".to_owned(), 2)].into(), "{status}");
    assert_eq!(status["rollout"]["state"], "succeeded", "{status}");
    assert_eq!(status["rollout"]["failures"], 0, "{status}");
    load.finish().expect_none_lost(200);
}

/// Adds to the wall clock of one process what a file says, in seconds. No other clock is touched.
const SKEW: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int said = syscall(SYS_clock_gettime, id, at);
    const char *path = getenv("SKEW_FILE");
    if (id != CLOCK_REALTIME || !path) return said;
    int before = errno, file = open(path, O_RDONLY | O_CLOEXEC);
    char text[32] = {0};
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0) at->tv_sec += atol(text);
        close(file);
    }
    errno = before;
    return said;
}
"#;

fn skew_library(site: &Site) -> PathBuf {
    let (source, library) = (site.dir().join("skew.c"), site.dir().join("skew.so"));
    fs::write(&source, SKEW).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
    assert!(built.expect("cc, which cargo needs too").success());
    library
}

/// Row 10: the wall clock jumps by an hour, there and back, in the middle of a rollout.
#[test]
fn a_wall_clock_that_jumps_changes_nothing_but_what_is_shown() {
    let _turn = turn();
    // Each new instance waits for a timer as well: one on a clock that went back would never be due.
    let rollout = DEADLINES.replace("progress_deadline = \"3s\"", "progress_deadline = \"4s\"");
    let rollout = rollout + "\nmin_healthy_time = \"300ms\"";
    let site = Site::with(&sample(3, r#"START_MS = "300""#, &rollout));
    site.deploy("1.0", &[]).expect(0);
    let first = site.daemon().unwrap();
    first.signal(Signal::TERM);
    wait_for("its end", 10, || (!first.lives()).then_some(()));
    let skew = site.dir().join("skew");
    let jump = |seconds: i32| {
        fs::write(skew.with_extension("new"), seconds.to_string()).unwrap();
        fs::rename(skew.with_extension("new"), &skew).unwrap();
    };
    jump(0);
    let mut command = site.command(&["daemon"]);
    command.env("LD_PRELOAD", skew_library(&site)).env("SKEW_FILE", &skew);
    let mut daemon =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::spawn(move || daemon.wait());
    // A command would start one of its own, whose clock does not jump, if it were faster.
    wait_for("a daemon that answers", 10, || UnixStream::connect(site.state().join("daemon.sock")).ok());
    site.run(&["wait"]).expect(0);
    let shown = || site.status()["as_of"].as_str().unwrap().to_owned();
    let load = load::start_quick(&site, 4, 5);
    site.deploy("2.0", &["--detach"]).expect(0);
    let before = shown();
    // An hour on, then two hours back: each while the rollout is in its middle.
    for (running, seconds) in [(1, 3_600), (2, -3_600), (3, 0)] {
        wait_for("the next instance", 10, || (of_version(&site, "2.0").len() >= running).then_some(()));
        assert_eq!(site.status()["rollout"]["state"], "running");
        jump(seconds);
        let now = shown();
        assert!(seconds == 0 || (now > before) == (seconds > 0), "{before}, then {now} at {seconds}");
    }
    site.run(&["wait"]).expect(0);
    let status = site.status();
    assert_eq!(versions(&status), [("2.0".to_owned(), 3)].into(), "{status}");
    assert_eq!(status["rollout"]["failures"], 0, "{status}");
    let took = status["rollout"]["duration_ms"].as_u64().unwrap();
    assert!((300..60_000).contains(&took), "it took {took} ms on a clock that does not jump: {status}");
    site.run(&["report"]).expect(0);
    site.run(&["history"]).expect(0);
    load.finish().expect_none_lost(200);
}
