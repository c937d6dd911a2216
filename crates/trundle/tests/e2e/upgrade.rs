//! Another build takes the place of the one that runs, in the middle of a rollout.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use rustix::process::Signal;

use crate::bad_version::versions;
use crate::harness::chaos::start_daemon;
use crate::harness::prober::Prober;
use crate::harness::procs::Proc;
use crate::harness::turns::turn;
use crate::harness::{Site, load, sample, wait_for};

/// An app of a file of its own: what runs must not change with the daemon's binary.
fn site() -> Site {
    let rollout = "max_surge = 1\nmax_unavailable = 0";
    let site = Site::with(&sample(4, r#"START_MS = "300""#, rollout).replace("@BIN@", "@DIR@/app"));
    copy(&site, "app");
    site
}

/// By another process, so that no child of this one can hold it open for writing.
fn copy(site: &Site, to: &str) {
    assert!(Command::new("cp").arg(site.bin()).arg(site.dir().join(to)).status().unwrap().success());
}

/// As a package manager does: another file under the same name. Its last bytes are its own.
pub fn install_another_build(site: &Site, n: u32) {
    copy(site, "next");
    let next = site.dir().join("next");
    OpenOptions::new().append(true).open(&next).unwrap().write_all(&n.to_le_bytes()).unwrap();
    fs::rename(next, site.bin()).unwrap();
}

fn inode(proc: &Proc) -> u64 {
    fs::metadata(format!("/proc/{}/exe", proc.pid)).unwrap().ino()
}

fn pids(site: &Site) -> BTreeMap<String, u32> {
    site.apps().iter().map(|app| (app.app().unwrap().to_owned(), app.pid)).collect()
}

/// Rows 11 and 35 of docs/faults.md.
#[test]
fn the_daemon_is_upgraded_at_each_step_of_a_rollout() {
    let _turn = turn();
    let site = site();
    site.deploy("1.0", &[]).expect(0);
    let load = load::start(&site, 16, 10);
    let prober = Prober::start(&site);
    site.deploy("2.0", &["--detach"]).expect(0);
    for n in 1..=4 {
        let new = || site.apps().iter().filter(|app| app.env["TRUNDLE_VERSION"] == "2.0").count();
        wait_for("the next instance", 20, || (new() >= n).then_some(()));
        assert_eq!(site.status()["rollout"]["state"], "running", "in its middle");
        let (old, before) = (site.daemon().unwrap(), pids(&site));
        let old_build = inode(&old);
        install_another_build(&site, n as u32);
        old.signal(Signal::TERM);
        wait_for("the end of the old daemon", 10, || (!old.lives()).then_some(()));
        // The rollout went on until it ended: at most the old one that was leaving is gone, and one more has come.
        let after = pids(&site);
        let gone: Vec<&String> =
            before.iter().filter(|(app, pid)| after.get(*app) != Some(pid)).map(|(app, _)| app).collect();
        let is_of_rollout = gone.len() <= 1 && gone.iter().all(|app| app.starts_with("web-1-"));
        assert!(is_of_rollout, "what runs does not end with the daemon: {before:?}, then {after:?}");
        start_daemon(&site, n % 2 == 0);
        let next = wait_for("the new daemon", 10, || site.daemon());
        assert_ne!(inode(&next), old_build, "another build");
        // And the proxy with it, while those before finish what they have.
        wait_for("the proxy of this build", 10, || {
            site.procs().iter().any(|proc| proc.is_proxy() && inode(proc) == inode(&next)).then_some(())
        });
    }
    site.run(&["wait"]).expect(0);
    let status = site.status();
    assert_eq!(versions(&status), [("2.0".to_owned(), 4)].into(), "{status}");
    assert_eq!(status["rollout"]["id"], 2, "{status}");
    let seen = prober.finish();
    load.finish().expect_none_lost(100);
    // No twins: each instance was one process from its start to its end.
    assert!(seen.lowest_serving >= 4 && seen.highest_alive <= 5 && seen.twins.is_empty(), "{seen:?}");
}

/// Row 11: the file is replaced, nothing was restarted yet, and what a running process starts must be found all the same.
#[test]
fn a_replaced_binary_hinders_nobody_who_runs() {
    let site = site();
    site.deploy("1.0", &[]).expect(0);
    install_another_build(&site, 1);
    let answers = || site.get("/").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
    let of = |is: fn(&Proc) -> bool| wait_for("it", 10, || site.procs().into_iter().find(is));
    // The holder starts another proxy, and the daemon another holder.
    of(Proc::is_proxy).kill9();
    wait_for("an answer by another proxy", 10, || answers().then_some(()));
    let holder = |proc: &Proc| proc.args.get(1..3).is_some_and(|args| args == ["shim", "proxy"]);
    of(holder).kill9();
    of(Proc::is_proxy).kill9();
    wait_for("an answer by another holder's proxy", 20, || answers().then_some(()));
    // And the daemon starts instances.
    site.deploy("2.0", &[]).expect(0);
    assert_eq!(versions(&site.status()), [("2.0".to_owned(), 4)].into());
}
