//! How processes end, are adopted, and are found again after a crash.

// Helpers outside of test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{SAMPLE, World, eventually, exit, is_dead, is_gone, key, kill, sample, shell};
use trundle_core::event::Fact;
use trundle_core::revision::StopSignal;
use trundle_drivers::{Draft, still_running};

#[test]
fn the_way_a_process_ended_is_told() {
    let mut world = World::new();
    for (n, script, expect) in [
        (1, "echo Traceback; exit 3", exit(Some(3), None)),
        (2, "kill -SEGV $$", exit(None, Some(11))),
        (3, "exit 0", exit(Some(0), None)),
    ] {
        let revision = world.revision(n, shell(&world.cwd(), script));
        let instance = format!("{n}-1");
        world.ensure(&revision, &[&instance], &[]);
        world.wait_for(&instance, &expect);
        assert!(matches!(world.facts(&instance)[0], Fact::Started { .. }), "started comes first");
    }
    assert_eq!(world.evidence("1-1").logs, ["Traceback"]);
    assert!(still_running(&world.state).is_empty());
}

#[test]
fn a_process_that_ignores_the_signal_and_leaves_orphans_is_gone_after_its_grace() {
    let mut world = World::new();
    let mut draft = sample(&world.cwd(), &[("FORK_ORPHAN", "1")]);
    draft.command = ["sh", "-c", "trap '' TERM; exec \"$0\"", SAMPLE].map(str::to_owned).into();
    let revision = world.revision(1, draft);
    world.ensure(&revision, &["1-1"], &[]);
    world.wait_for("1-1", &Fact::Ready);
    let (pid, port, _) = world.started("1-1");
    let orphans: Vec<u32> =
        world.log("1-1").iter().filter_map(|line| line.strip_prefix("orphan ")?.parse().ok()).collect();
    assert!(orphans.len() == 3 && orphans.iter().all(|pid| !is_dead(*pid)), "{orphans:?}");
    let asked = Instant::now();
    world.ensure_with(&revision, &[], &["1-1"], 400, false);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!is_gone(pid), "it has its grace");
    // Asked again: the time runs from the first word.
    world.ensure_with(&revision, &[], &["1-1"], 5000, false);
    world.wait_for("1-1", &Fact::Gone);
    let took = asked.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_millis(2000)).contains(&took), "{took:?}");
    assert!(is_gone(pid) && still_running(&world.state).is_empty());
    assert!(orphans.iter().all(|pid| is_gone(*pid)), "the one without a label too, and no zombie");
    drop(TcpListener::bind(("127.0.0.1", port)).expect("its port is free"));
    assert!(!world.facts("1-1").iter().any(|f| matches!(f, Fact::Exited(_))), "it was told to end");
}

#[test]
fn the_stop_signal_is_the_chosen_one_and_reaches_the_main_process_only() {
    let mut world = World::new();
    let script = "trap 'echo told; exit 7' USR1; (trap 'echo also told' USR1; sleep 100) & while :; do sleep 0.01; done";
    let draft = Draft { stop_signal: StopSignal::Usr1, ..shell(&world.cwd(), &format!("{script} ")) };
    let revision = world.revision(1, draft);
    world.ensure_with(&revision, &["1-1"], &[], 5000, false);
    world.started("1-1");
    std::thread::sleep(Duration::from_millis(100));
    world.ensure_with(&revision, &[], &["1-1"], 5000, false);
    world.wait_for("1-1", &Fact::Gone);
    assert_eq!(world.log("1-1"), ["told"]);
    assert_eq!(world.record("1-1", "exit.json")["code"], 7);
}

#[test]
fn the_next_daemon_adopts_what_runs_and_hears_of_what_died() {
    let mut world = World::new();
    let lives = world.revision(1, sample(&world.cwd(), &[]));
    let dies = world.revision(2, sample(&world.cwd(), &[("EXIT_AFTER_MS", "300"), ("EXIT_CODE", "3")]));
    world.ensure(&lives, &["1-1"], &[]);
    world.ensure(&dies, &["2-1"], &[]);
    world.wait_for("1-1", &Fact::Ready);
    let before = world.started("1-1");
    let dying = world.started("2-1");
    world.end();
    eventually("it dies while nobody is there", || world.instance_dir("2-1").join("exit.json").exists());
    let shim = u32::try_from(world.record("2-1", "shim.json")["shim_pid"].as_u64().unwrap()).unwrap();
    eventually("and its shim", || is_dead(shim));
    world.begin();
    world.ensure(&lives, &["1-1", "1-2"], &[]);
    world.ensure(&dies, &["2-1"], &[]);
    world.wait_for("1-1", &Fact::Ready);
    assert_eq!(world.started("1-1"), before, "the same process, port and incarnation");
    assert_ne!(world.started("1-2").1, before.1, "the port of a living instance is not given again");
    world.wait_for("2-1", &exit(Some(3), None));
    assert!(!world.facts("2-1").iter().any(|f| matches!(f, Fact::Started { .. })), "not started again");
    assert!(is_gone(dying.0));
    // Killed under the eyes of a daemon that did not start it.
    kill(before.0, "KILL");
    world.wait_for("1-1", &exit(None, Some(9)));
}

#[test]
fn a_stop_goes_on_with_the_next_daemon() {
    let mut world = World::new();
    let revision = world.revision(1, shell(&world.cwd(), "trap '' TERM; while :; do sleep 0.05; done"));
    world.ensure_with(&revision, &["1-1"], &[], 300, false);
    let (pid, ..) = world.started("1-1");
    world.ensure_with(&revision, &[], &["1-1"], 60_000, false);
    world.end();
    assert!(!is_gone(pid));
    world.begin();
    world.ensure_with(&revision, &[], &["1-1", "1-9"], 100, false);
    world.wait_for("1-1", &Fact::Gone);
    world.wait_for("1-9", &Fact::Gone);
    assert!(is_gone(pid));
}

#[test]
fn a_start_that_was_cut_off_leaves_no_twin() {
    let mut world = World::new();
    let revision = world.revision(1, sample(&world.cwd(), &[]));
    // As if a daemon had died before it heard of the shim: a folder, and a process with the label.
    std::fs::create_dir_all(world.instance_dir("1-1")).unwrap();
    let mut lost = Command::new("sleep")
        .arg("1000")
        .env("TRUNDLE_INSTANCE", "web-1-1")
        .env("TRUNDLE_STATE_DIR", world.state.canonicalize().unwrap())
        .spawn()
        .unwrap();
    world.ensure(&revision, &["1-1"], &[]);
    world.wait_for("1-1", &Fact::Ready);
    let status = lost.wait().unwrap();
    assert!(!status.success(), "the lost one was killed before the new one was started");
    // A folder that a living shim has.
    std::fs::create_dir_all(world.instance_dir("1-2")).unwrap();
    let held = std::fs::File::create(world.instance_dir("1-2").join("lock")).unwrap();
    held.lock().unwrap();
    world.ensure(&revision, &["1-1", "1-2"], &[]);
    let (_, text) = world.refused("1-2");
    assert!(text.contains("has a shim already"), "{text}");
}

#[test]
fn a_shim_whose_daemon_died_while_speaking_starts_nothing() {
    use std::io::Write as _;
    let mut shim =
        Command::new(SAMPLE).arg("shim").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shim.stdin.take().unwrap().write_all(b"{\"dir\":\"/tmp\",\"env\":{\"A\":\"canary").unwrap();
    let output = shim.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("not whole") && !text.contains("canary"), "{text}");
}

#[test]
fn a_shim_that_was_killed_takes_its_instance_with_it_once_a_daemon_looks() {
    let mut world = World::new();
    let revision = world.revision(1, sample(&world.cwd(), &[("FORK_ORPHAN", "1")]));
    world.ensure(&revision, &["1-1"], &[]);
    world.wait_for("1-1", &Fact::Ready);
    let (pid, ..) = world.started("1-1");
    let shim = u32::try_from(world.record("1-1", "shim.json")["shim_pid"].as_u64().unwrap()).unwrap();
    kill(shim, "TERM");
    kill(shim, "HUP");
    std::thread::sleep(Duration::from_millis(50));
    assert!(!is_gone(shim), "it ignores what a terminal sends");
    kill(shim, "KILL");
    world.wait_for("1-1", &exit(None, None));
    // The one that gave up label and session is out of reach once the shim is gone: the test ends it itself.
    for orphan in world.log("1-1").iter().filter_map(|line| line.strip_prefix("orphan ")?.parse().ok()) {
        if !is_dead(orphan) {
            kill(orphan, "KILL");
        }
    }
    // Who buries it is not ours to say: its parent is gone.
    assert!(is_dead(pid) && still_running(&world.state).is_empty());
}

#[test]
fn old_folders_are_removed_and_an_old_fence_changes_nothing() {
    use trundle_engine::ports::{Driver as _, Ensure, Fence, Kept};
    let mut world = World::new();
    let revision = world.revision(1, shell(&world.cwd(), "exit 0"));
    for n in 1..=54 {
        let instance = format!("1-{n}");
        world.ensure(&revision, &[&instance], &[]);
        world.wait_for(&instance, &exit(Some(0), None));
    }
    let left = std::fs::read_dir(world.state.join("instances/web")).unwrap().count();
    assert!((50..=52).contains(&left), "{left}");
    assert!(!world.instance_dir("1-1").exists() && world.instance_dir("1-54").exists());
    let app = world.app.clone();
    let command = Ensure {
        fence: Fence { epoch: 0, n: 1000 },
        app: &app,
        revision: &revision,
        want: 1,
        keep: &[Kept { instance: key("1-99"), probe: true, was_ready: false }],
        victims: &[],
        stop_grace_period_ms: 1,
    };
    world.driver.as_mut().unwrap().ensure(&command);
    std::thread::sleep(Duration::from_millis(100));
    assert!(world.facts("1-99").is_empty());
}

#[test]
fn a_daemon_killed_at_any_moment_of_a_start_leaves_one_instance_to_the_next() {
    use std::io::Read as _;
    let mut world = World::new();
    let revision = world.revision(1, sample(&world.cwd(), &[]));
    let file = world.cwd().join("revision.json");
    std::fs::write(&file, serde_json::to_vec(&revision).unwrap()).unwrap();
    let mut adopted = 0;
    for n in 1..=40_u32 {
        let instance = format!("1-{n}");
        world.end();
        let mut daemon = Command::new(SAMPLE)
            .args(["daemon".as_ref(), world.state.as_os_str()])
            .args([&world.ports.start().to_string(), file.to_str().unwrap(), &instance])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        daemon.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        // From before the folder is made to after the shim has answered.
        std::thread::sleep(Duration::from_micros(u64::from(n) * 2000));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        adopted += u32::from(world.instance_dir(&instance).join("shim.json").exists());
        world.begin();
        world.ensure(&revision, &[&instance], &[]);
        world.wait_for(&instance, &Fact::Ready);
        let (pid, ..) = world.started(&instance);
        let name = format!("web-{instance}");
        let shim = world.record(&instance, "shim.json")["shim_pid"].as_u64().unwrap();
        let mut running: Vec<u64> =
            still_running(&world.state).iter().filter(|r| r.instance == name).map(|r| r.pid.into()).collect();
        running.sort_unstable();
        let mut expect = [shim, u64::from(pid)];
        expect.sort_unstable();
        assert_eq!(running, expect, "killed after {} ms", 2 * n);
        world.ensure(&revision, &[], &[&instance]);
        world.wait_for(&instance, &Fact::Gone);
    }
    println!("{adopted} of 40 were adopted, the others started anew");
}
