//! Apps that do what no app should: they write without end, replace what is ours, eat the memory, or cling to life.

// Helpers outside of test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use support::group::Group;
use support::{SAMPLE, World, eventually, exit, is_dead, kill, sample, shell};
use trundle_core::event::{Fact, RefusalCode};
use trundle_drivers::still_running;

fn bytes_of(dir: &Path) -> u64 {
    let of_entry = |entry: fs::DirEntry| entry.metadata().map_or(0, |metadata| metadata.len());
    fs::read_dir(dir).map_or(0, |entries| entries.flatten().map(of_entry).sum())
}

/// Half of it in lines, half of it without one, as fast as a pipe takes it.
#[test]
fn a_hundred_megabytes_of_logs_cost_neither_the_disk_nor_the_shim_nor_the_app() {
    const KEPT_BYTES_MAX: u64 = 30 * 1024 * 1024;
    let mut world = World::new();
    let script = "yes 0123456789012345678901234567890123456789 | head -c 50000000; \
                  head -c 50000000 /dev/zero | tr '\\0' x; echo; echo the end; exec sleep 1000";
    let revision = world.revision(1, shell(&world.cwd(), script));
    let began = Instant::now();
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    let folder = world.instance_dir("1-1");
    // The records of the instance stand beside the log.
    let mut most = 0;
    eventually("the end of it", || {
        most = most.max(bytes_of(&folder));
        fs::read(folder.join("log")).is_ok_and(|log| log.ends_with(b"\nthe end\n"))
    });
    let took = began.elapsed();
    let shim = world.record("1-1", "shim.json")["shim_pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let peak_kib: u64 = peak.split(' ').next().unwrap().parse().unwrap();
    println!("100 MB in {took:?}, at most {most} bytes on the disk, peak of the shim {peak_kib} KiB");
    assert!(most <= KEPT_BYTES_MAX + 64 * 1024, "{most} bytes");
    assert!(most > KEPT_BYTES_MAX / 2, "{most} bytes: it was not seen at work");
    // A page of the program and of its libraries for each that was touched, and a piece of 8 KiB.
    assert!(peak_kib <= 8 * 1024, "{peak_kib} KiB");
    let lines = world.log("1-1");
    assert_eq!(lines.last().unwrap(), "the end");
    assert!(lines.iter().all(|line| line.chars().count() <= 4097), "a line without an end is cut");
}

/// Row 60 of the faults: what stands in the place of an instance's folder before it starts.
#[test]
fn a_link_in_the_place_of_an_instances_folder_is_refused_and_nothing_is_written_there() {
    let mut world = World::new();
    let outside = world.cwd().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(world.instance_dir("1-1").parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&outside, world.instance_dir("1-1")).unwrap();
    let revision = world.revision(1, sample(&world.cwd(), &[]));
    world.ensure(&revision, &["1-1"], &[]);
    let (code, text) = world.refused("1-1");
    assert!(code == RefusalCode::System && text.contains("a link is in its place"), "{text}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing was written there");
    assert!(still_running(&world.state).is_empty());
    // Its lock, too: a link to nothing would make a file there.
    fs::create_dir(world.instance_dir("1-2")).unwrap();
    std::os::unix::fs::symlink(outside.join("lock"), world.instance_dir("1-2").join("lock")).unwrap();
    world.ensure(&revision, &["1-2"], &[]);
    world.refused("1-2");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "no lock was made there");
}

/// Row 60 of the faults: the app replaces its own log, by what would make a reader wait, and by what is not its own.
#[test]
fn who_reads_a_log_neither_waits_for_a_fifo_nor_follows_a_link() {
    let mut world = World::new();
    let secret = world.cwd().join("of somebody else");
    fs::write(&secret, "nobody's business\n").unwrap();
    let log = |n: u32| world.instance_dir(&format!("{n}-1")).join("log");
    let fifo = format!("rm {0}; mkfifo {0}; exit 3", log(1).display());
    let link = format!("rm {0}; ln -s '{1}' {0}; exit 3", log(2).display(), secret.display());
    for (n, script) in [(1, fifo), (2, link)] {
        let revision = world.revision(n, shell(&world.cwd(), &script));
        let instance = format!("{n}-1");
        world.ensure(&revision, &[&instance], &[]);
        world.wait_for(&instance, &exit(Some(3), None));
        let (say, said) = std::sync::mpsc::channel();
        let mut driver = world.driver.take().unwrap();
        let (app, key) = (world.app.clone(), support::key(&instance));
        std::thread::spawn(move || {
            use trundle_engine::ports::Driver as _;
            let evidence = driver.evidence(&app, key);
            // The other side is gone only when the test has failed.
            let _ = say.send((driver, evidence));
        });
        let (driver, evidence) =
            said.recv_timeout(Duration::from_secs(20)).expect("the daemon waits for ever");
        world.driver = Some(driver);
        assert_eq!(evidence.logs, [""; 0]);
    }
}

/// Row 63 of the faults. What is left of this app changes its process and its session all the time; it has the label, and
/// the shim that could have found it below itself is dead.
#[test]
fn gone_is_said_only_when_nothing_is_left_in_any_session() {
    let mut world = World::new();
    let hop = world.cwd().join("hop.sh");
    fs::write(&hop, format!("trap '' TERM HUP\nsleep 0.01\nsetsid sh {} &\n", hop.display())).unwrap();
    let four = format!("setsid sh {} & ", hop.display()).repeat(4);
    let revision = world.revision(1, shell(&world.cwd(), &format!("{four} exec sleep 1000")));
    for (instance, kills_shim) in [("1-1", false), ("1-2", true)] {
        world.ensure_with(&revision, &[instance], &[], 200, false);
        let (pid, ..) = world.started(instance);
        let session = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3)?.parse::<u32>().ok())
        };
        let shim = u32::try_from(world.record(instance, "shim.json")["shim_pid"].as_u64().unwrap()).unwrap();
        let hopping = |world: &World| {
            let running = still_running(&world.state);
            running.iter().any(|r| r.pid != pid && r.pid != shim && session(r.pid) != session(pid))
        };
        eventually("it hops", || hopping(&world));
        if kills_shim {
            kill(shim, "KILL");
            eventually("the shim is dead", || is_dead(shim));
        }
        world.ensure_with(&revision, &[], &[instance], 200, false);
        world.wait_for(instance, &Fact::Gone);
        let left = still_running(&world.state);
        assert!(left.is_empty(), "gone, it says, and yet: {left:?}");
        assert!(is_dead(pid));
        // Nor does any come back.
        std::thread::sleep(Duration::from_millis(200));
        assert!(still_running(&world.state).is_empty());
    }
}

/// Row 26 of the faults. Once by the kernel's log, and once by the count of the group, where the log cannot be read.
#[test]
fn a_process_that_the_kernel_killed_for_memory_is_told_from_one_that_somebody_killed() {
    let Some(group) = Group::new("shim") else { return };
    let mut world = World::new();
    let enter = format!("echo $$ > {} && exec {SAMPLE} shim \"$@\"", group.procs().display());
    let unread = format!("mount --bind /dev/null /dev/kmsg && {enter}");
    let read = ["/bin/sh", "-c", &enter, "sh"].map(str::to_owned).to_vec();
    let unread = ["/usr/bin/unshare", "-m", "sh", "-c", &unread, "sh"].map(str::to_owned).to_vec();
    let eats = world.revision(1, shell(&world.cwd(), "echo hungry; exec tail /dev/zero"));
    let sleeps = world.revision(2, shell(&world.cwd(), "exec sleep 1000"));
    for (n, (how, shim)) in (1..).zip([("the kernel's log", read), ("the count", unread)]) {
        world.shim = shim;
        world.begin();
        let (eater, sleeper) = (format!("1-{n}"), format!("2-{n}"));
        // Not by checks: this one never listens.
        world.ensure_with(&eats, &[&eater], &[], 100, false);
        world.wait_for(&eater, &exit(None, Some(9)));
        assert_eq!(
            world.record(&eater, "exit.json")["oom_killed"],
            true,
            "by {how}: {:?}",
            world.log(&eater)
        );
        let told = ["hungry", "trundle: the kernel killed this process: out of memory"];
        assert_eq!(world.evidence(&eater).logs, told, "by {how}");

        // In the same group, which has a kill in its books by now.
        world.ensure_with(&sleeps, &[&sleeper], &[], 100, false);
        kill(world.started(&sleeper).0, "KILL");
        world.wait_for(&sleeper, &exit(None, Some(9)));
        assert_eq!(world.record(&sleeper, "exit.json")["oom_killed"], false, "by {how}");
        assert!(world.evidence(&sleeper).logs.is_empty());
    }
    // Its processes leave the group before the group goes.
    drop(world);
}
