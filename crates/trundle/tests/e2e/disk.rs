//! The disk: a journal that was changed, a file system that is full, syncs that fail, a death between writing and renaming.
//! In all of it the traffic goes on, and nothing is done that is not durable.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::bad_version::versions;
use crate::harness::inject::{Strace, in_mounts_of_its_own, mount, unmount};
use crate::harness::prober::Prober;
use crate::harness::turns::turn;
use crate::harness::{Site, load, sample, wait_for};

const SURGE: &str = "max_surge = 1\nmax_unavailable = 0";

fn pids(site: &Site) -> BTreeSet<u32> {
    site.apps().into_iter().map(|app| app.pid).collect()
}

/// Ends the daemon and waits for its end.
fn end_daemon(site: &Site, signal: Signal) {
    let daemon = site.daemon().unwrap();
    daemon.signal(signal);
    wait_for("the end of the daemon", 10, || (!daemon.lives()).then_some(()));
}

fn journal_files(site: &Site) -> Vec<PathBuf> {
    ["journal.db", "journal.db-wal", "journal.db-shm", "journal.head"].map(|f| site.state().join(f)).to_vec()
}

/// Changes one byte of the last record that has the words.
fn change_a_byte(path: &PathBuf, words: &str) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(words.len()).rposition(|found| found == words.as_bytes());
    bytes[at.unwrap_or_else(|| panic!("no {words} in {}", path.display())) + 2] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Row 4 of docs/faults.md.
#[test]
fn a_changed_byte_of_the_journal_is_refused_and_what_runs_goes_on() {
    let _turn = turn();
    let site = Site::with(&sample(2, r#"START_MS = "0""#, SURGE));
    site.deploy("1.0", &[]).expect(0);
    let load = load::start_quick(&site, 4, 5);
    let before = pids(&site);
    // Ended in order, the daemon leaves all in one file: that is a copy.
    end_daemon(&site, Signal::TERM);
    let copy = site.dir().join("copy.db");
    fs::copy(site.state().join("journal.db"), &copy).unwrap();
    let refused = |what: &str| {
        for command in [&["daemon"][..], &["deploy", "--set", "version=2.0"], &["status"]] {
            let said = site.run(command).expect(1);
            assert!(said.stderr.contains("damaged at record "), "{what}, {command:?}\n{said}");
            assert!(said.stderr.contains("put a copy of the journal in their place"), "{said}");
            assert!(site.daemon().is_none(), "{command:?} left a daemon behind");
        }
    };
    // The remedy, word for word.
    let put_back = || {
        let aside = site.dir().join("aside");
        fs::create_dir_all(&aside).unwrap();
        for file in journal_files(&site) {
            let _ = fs::rename(&file, aside.join(file.file_name().unwrap()));
        }
        fs::copy(&copy, site.state().join("journal.db")).unwrap();
    };

    change_a_byte(&site.state().join("journal.db"), "\"observed\"");
    refused("in the database");
    put_back();
    site.run(&["wait"]).expect(0);
    end_daemon(&site, Signal::TERM);
    site.run(&["wait"]).expect(0);
    site.run(&["scale", "web", "3"]).expect(0);
    site.run(&["scale", "web", "2"]).expect(0);
    end_daemon(&site, Signal::KILL);
    change_a_byte(&site.state().join("journal.db-wal"), "\"configure\"");
    refused("in the log");
    assert_eq!(before.intersection(&pids(&site)).count(), 2, "the same processes run");
    put_back();
    // The copy knows less than the proxy was told since: the next daemon must still be believed.
    site.deploy("2.0", &[]).expect(0);
    assert_eq!(versions(&site.status()), [("2.0".to_owned(), 2)].into());
    assert!(site.status()["trouble"].is_null(), "{}", site.status());
    load.finish().expect_none_lost(200);
}

/// Row 5 of docs/faults.md: the file system of the state directory is full in the middle of a rollout.
#[test]
fn a_full_file_system_stops_a_rollout_and_room_lets_it_go_on() {
    let _turn = turn();
    if !in_mounts_of_its_own("disk::a_full_file_system_stops_a_rollout_and_room_lets_it_go_on") {
        return;
    }
    let site = Site::with(&sample(3, r#"START_MS = "1000""#, SURGE));
    fs::create_dir(site.state()).unwrap();
    mount(&site.state(), "24m");
    site.deploy("1.0", &[]).expect(0);
    let load = load::start_quick(&site, 8, 5);
    let prober = Prober::start(&site);
    site.deploy("2.0", &["--detach"]).expect(0);
    // Its process runs and is noted; what comes next is to be written down first.
    wait_for("an instance on its way", 10, || {
        let status = site.status();
        let mut instances = status["instances"].as_array().unwrap().iter();
        instances
            .any(|i| i["revision"] == 2 && i["phase"] == "starting" && i["pid"].is_number())
            .then_some(())
    });
    let filler = site.state().join("filler");
    // Zeros until nothing more goes in.
    let full = fs::write(&filler, vec![0; 32 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let trouble = |site: &Site| site.status()["trouble"].as_str().unwrap_or_default().to_owned();
    wait_for("trouble", 10, || trouble(&site).contains("the journal cannot be written").then_some(()));
    let stopped = pids(&site);
    let said = site.deploy("3.0", &[]).expect(1);
    assert!(said.stderr.contains("the journal cannot be written"), "{said}");
    // It is tried again once a second; nothing may come of it.
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    assert_eq!(pids(&site), stopped, "nothing starts or stops");
    assert!(!site.status()["trouble"].is_null());
    fs::remove_file(&filler).unwrap();
    site.run(&["wait"]).expect(0);
    let status = site.status();
    assert_eq!(versions(&status), [("2.0".to_owned(), 3)].into(), "{status}");
    assert!(status["trouble"].is_null(), "{status}");
    let seen = prober.finish();
    load.finish().expect_none_lost(200);
    assert!(seen.lowest_serving >= 3 && seen.highest_alive <= 4 && seen.twins.is_empty(), "{seen:?}");
    site.run(&["down"]).expect(0);
    site.audit();
    unmount(&site.state());
}

/// Row 5: a sync fails. Nobody knows what is on the disk, so nothing is written or done until a new daemon has read it.
#[test]
fn a_sync_that_fails_ends_all_doing_until_the_next_daemon() {
    if !Strace::is_here() {
        return;
    }
    let _turn = turn();
    let site = Site::with(&sample(3, r#"START_MS = "400""#, SURGE));
    site.deploy("1.0", &[]).expect(0);
    let load = load::start_quick(&site, 8, 5);
    let prober = Prober::start(&site);
    site.deploy("2.0", &["--detach"]).expect(0);
    wait_for("the middle of the rollout", 10, || versions(&site.status()).contains_key("2.0").then_some(()));
    let strace = Strace::attach(&site, &site.daemon().unwrap(), "fsync,fdatasync:error=EIO");
    let trouble = wait_for("trouble", 10, || site.status()["trouble"].as_str().map(str::to_owned));
    assert!(trouble.contains("failed to reach the disk"), "{trouble}");
    let stopped = pids(&site);
    let failed = Strace::log(&site).matches("(INJECTED)").count();
    drop(strace);
    // Syncs would succeed again: that proves nothing of the bytes before.
    for _ in 0..3 {
        let said = site.deploy("3.0", &[]).expect(1);
        assert!(said.stderr.contains("restart the daemon"), "{said}");
    }
    assert_eq!(pids(&site), stopped, "nothing starts or stops");
    assert_eq!(failed, 1, "after a sync that failed there is no other one");
    end_daemon(&site, Signal::TERM);
    site.run(&["wait"]).expect(0);
    let status = site.status();
    assert_eq!(versions(&status), [("2.0".to_owned(), 3)].into(), "{status}");
    assert!(status["trouble"].is_null(), "{status}");
    let seen = prober.finish();
    load.finish().expect_none_lost(200);
    assert!(seen.lowest_serving >= 3 && seen.highest_alive <= 4 && seen.twins.is_empty(), "{seen:?}");
}

/// Row 6 of docs/faults.md: the shim of a new instance dies before it renames its record, and the daemon before it renames
/// what it has to say about that. The app that the shim had started is without a record: the next daemon ends it.
#[test]
fn a_daemon_that_dies_before_it_renames_leaves_what_was_there() {
    if !Strace::is_here() {
        return;
    }
    let _turn = turn();
    let site = Site::with(&sample(2, r#"START_MS = "0""#, SURGE));
    site.deploy("1.0", &[]).expect(0);
    let load = load::start_quick(&site, 4, 5);
    let prober = Prober::start(&site);
    let daemon = site.daemon().unwrap();
    let strace = Strace::attach(&site, &daemon, "rename,renameat,renameat2:error=EIO:signal=KILL");
    // Whether the request still got its answer is left to chance.
    site.deploy("2.0", &["--detach"]);
    wait_for("its death at a rename", 20, || (!daemon.lives()).then_some(()));
    drop(strace);
    let log = Strace::log(&site);
    assert!(["shim.json", "refused.json"].iter().all(|file| log.contains(file)), "{log}");
    site.deploy("2.0", &[]).expect(0);
    assert_eq!(versions(&site.status()), [("2.0".to_owned(), 2)].into());
    let seen = prober.finish();
    load.finish().expect_none_lost(100);
    assert!(seen.lowest_serving >= 2 && seen.highest_alive <= 3, "{seen:?}");
    let names: BTreeSet<_> = site.apps().iter().map(|app| app.app().unwrap().to_owned()).collect();
    assert_eq!((site.apps().len(), names.len()), (2, 2), "{names:?}");
}
