//! Starting, ending and adopting real processes.

// Helpers outside of test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{SAMPLE, World, eventually, is_dead, is_gone, key, kill, sample, shell};
use trundle_core::event::{Exit, Fact, RefusalCode};
use trundle_core::revision::{Port, StopSignal};
use trundle_drivers::{Draft, DraftArtifact, Secret, prepare, still_running};

fn refused(world: &World, instance: &str) -> (RefusalCode, String) {
    world.wait(instance, "refusal", |fact| match fact {
        Fact::StartRefused { code, text } => Some((*code, text.clone())),
        _ => None,
    })
}

fn exit(code: Option<i32>, signal: Option<i32>) -> Fact {
    Fact::Exited(Exit { code, signal })
}

#[test]
fn an_instance_starts_with_nothing_of_its_parents_but_what_it_was_given() {
    let mut world = World::new();
    let revision = world.revision(2, sample(&world.cwd(), &[("SHOW_ENV", "1"), ("GREETING", "hello")]));
    world.ensure(&revision, &["2-1", "2-2"], &[]);
    world.wait_for("2-1", &Fact::Ready);
    world.wait_for("2-2", &Fact::Ready);
    let (pid, port, _) = world.started("2-1");
    assert_ne!(port, world.started("2-2").1);
    let open = |pid: u32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let mut fds: Vec<_> = fds
            .map(|fd| {
                (
                    fd.file_name().into_string().unwrap().parse::<u32>().unwrap(),
                    fd.path().read_link().unwrap(),
                )
            })
            .collect();
        fds.sort();
        fds
    };
    let child = open(pid);
    assert_eq!(child.len(), 4, "three streams and its listener: {child:?}");
    assert_eq!(child[0].1.to_str(), Some("/dev/null"));
    let shim = u32::try_from(world.record("2-1", "shim.json")["shim_pid"].as_u64().unwrap()).unwrap();
    let shim_fds = open(shim);
    assert!(shim_fds[..3].iter().all(|(_, path)| path.to_str() == Some("/dev/null")), "{shim_fds:?}");
    assert_eq!(std::fs::read_link(format!("/proc/{shim}/cwd")).unwrap().to_str(), Some("/"));
    let env = world.log("2-1").into_iter().find(|line| line.starts_with("env ")).unwrap();
    for name in
        ["PATH", "PORT", "GREETING", "TRUNDLE_APP", "TRUNDLE_VERSION", "TRUNDLE_REVISION", "TRUNDLE_INSTANCE"]
    {
        assert!(env.contains(name), "{name} in {env}");
    }
    assert!(!env.contains("CARGO"), "{env}");
    let folder = std::fs::metadata(world.instance_dir("2-1")).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    world.ensure(&revision, &["2-2"], &["2-1"]);
    world.wait_for("2-1", &Fact::Gone);
    assert!(is_gone(pid) && is_gone(shim), "no zombie either");
    assert!(!is_gone(world.started("2-2").0));
}

#[test]
fn placeholders_are_filled_in() {
    let mut world = World::new();
    let mut draft = shell(&world.cwd(), "echo \"$@\"; exit 0");
    draft.command.extend(["x", "{port}|{version}|{revision}|{instance}|{{}}"].map(str::to_owned));
    let revision = world.revision(2, draft);
    world.ensure(&revision, &["2-1.3"], &[]);
    world.wait_for("2-1.3", &exit(Some(0), None));
    let port = world.started("2-1.3").1;
    assert_eq!(world.log("2-1.3"), [format!("{port}|3.2|2|web-2-1.3|{{}}")]);
}

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
fn what_cannot_be_started_is_refused_with_its_reason_once() {
    let mut world = World::new();
    let tool = world.cwd().join("tool");
    let write = |text: &str| {
        std::fs::write(&tool, text).unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("#!/no/such/interpreter\n");
    let folder = world.cwd().join("work");
    std::fs::create_dir(&folder).unwrap();
    let bad_script = Draft { command: vec![tool.to_str().unwrap().into()], ..sample(&world.cwd(), &[]) };
    let bad_script = world.revision(1, bad_script);
    world.ensure(&bad_script, &["1-1"], &[]);
    let (code, text) = refused(&world, "1-1");
    assert!(code == RefusalCode::NotFound && text.contains("interpreter"), "{text}");

    let no_folder = world.revision(2, shell(&folder, "exit 0"));
    std::fs::remove_dir(&folder).unwrap();
    world.ensure(&no_folder, &["2-1"], &[]);
    let (code, text) = refused(&world, "2-1");
    assert!(code == RefusalCode::NotFound && text.contains("/work") && text.contains("run.cwd"), "{text}");

    std::fs::remove_file(&tool).unwrap();
    world.ensure(&bad_script, &["1-1.2"], &[]);
    let (code, text) = refused(&world, "1-1.2");
    assert!(
        code == RefusalCode::NotFound && text.contains("tool") && text.contains("No such file"),
        "{text}"
    );

    // The next daemon hears the same, and nothing is tried again under that name.
    world.begin();
    write("#!/bin/sh\nexit 0\n");
    world.ensure(&bad_script, &["1-1"], &[]);
    assert!(refused(&world, "1-1").1.contains("interpreter"));
    world.ensure(&bad_script, &[], &["1-1"]);
    world.wait_for("1-1", &Fact::Gone);
}

#[test]
fn bytes_that_changed_are_never_started() {
    let mut world = World::new();
    let script = world.cwd().join("app.sh");
    std::fs::write(&script, "exec sleep 100").unwrap();
    let draft = Draft { command: vec!["sh".into(), "app.sh".into()], ..sample(&world.cwd(), &[]) };
    let revision = world.revision(1, draft);
    world.ensure(&revision, &["1-1"], &[]);
    world.started("1-1");
    std::fs::write(&script, "exec sleep 101").unwrap();
    world.ensure(&revision, &["1-1", "1-2"], &[]);
    let (code, text) = refused(&world, "1-2");
    assert_eq!(code, RefusalCode::ArtifactChanged);
    assert!(text.contains("app.sh was changed since it was deployed"), "{text}");
    assert!(!world.instance_dir("1-2").join("shim.json").exists());
    std::fs::write(&script, "exec sleep 100").unwrap();
    world.ensure(&revision, &["1-1", "1-3"], &[]);
    world.started("1-3");
}

#[test]
fn an_artifact_keeps_its_bytes_when_the_source_is_overwritten() {
    let mut world = World::new();
    let dist = world.cwd().join("dist");
    std::fs::create_dir(&dist).unwrap();
    let write = |text: &str| {
        std::fs::write(dist.join("run"), text).unwrap();
        std::fs::set_permissions(dist.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("#!/bin/sh\necho old bytes in $(pwd)\n");
    let mut draft = Draft { command: vec!["./run".into()], ..sample(&world.cwd(), &[]) };
    draft.artifact = Some(DraftArtifact { path: dist.clone(), as_written: "dist".into() });
    let folder = world.revision(1, draft);
    let mut draft = Draft { command: vec!["sh".into(), "./dist/run".into()], ..sample(&world.cwd(), &[]) };
    draft.artifact = Some(DraftArtifact { path: dist.join("run"), as_written: "dist/run".into() });
    let file = world.revision(2, draft);
    write("#!/bin/sh\necho new bytes\n");
    world.ensure(&folder, &["1-1"], &[]);
    world.ensure(&file, &["2-1"], &[]);
    for instance in ["1-1", "2-1"] {
        world.wait_for(instance, &exit(Some(0), None));
        assert!(world.log(instance)[0].starts_with("old bytes"), "{:?}", world.log(instance));
    }
    assert!(world.log("1-1")[0].contains("/artifacts/"), "run from the copy");
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
    let (_, text) = refused(&world, "1-2");
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
    // Who buries it is not ours to say: its parent is gone.
    assert!(is_dead(pid) && still_running(&world.state).is_empty());
}

#[test]
fn a_port_that_is_taken_is_refused_with_its_holder() {
    let mut world = World::new();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let revision = world.revision(1, Draft { port: Port::Fixed(port), ..sample(&world.cwd(), &[]) });
    world.ensure(&revision, &["1-1"], &[]);
    let (code, text) = refused(&world, "1-1");
    assert_eq!(code, RefusalCode::PortInUse);
    assert!(text.contains(&format!("port {port} is in use by pid {}", std::process::id())), "{text}");
    drop(stranger);
    world.ensure(&revision, &["1-1.2"], &[]);
    world.wait_for("1-1.2", &Fact::Ready);
    assert_eq!(world.started("1-1.2").1, port);
    world.ensure(&revision, &["1-1.2", "1-2"], &[]);
    assert!(refused(&world, "1-2").1.contains("in use by web-1-1.2"));
}

#[test]
fn a_secret_reaches_the_app_and_nothing_else() {
    const CANARY: &str = "canary-b1946ac9";
    let mut world = World::new();
    let mut draft = shell(&world.cwd(), "test \"$DB_PASSWORD\" = \"$EXPECTED\" && echo same; exec sleep 100");
    draft.secrets = [("DB_PASSWORD".parse().unwrap(), Secret::new(CANARY.into()))].into();
    draft.env_file = Some([("EXPECTED".parse().unwrap(), CANARY.into())].into());
    let revision = world.revision(1, draft);
    world.ensure(&revision, &["1-1"], &[]);
    world.started("1-1");
    eventually("the app saw it", || world.log("1-1") == ["same"]);
    let found = Command::new("grep").args(["-r", "-l", CANARY]).arg(&world.state).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    for process in still_running(&world.state) {
        let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap();
        assert!(!String::from_utf8_lossy(&line).contains(CANARY));
    }
    assert!(!format!("{revision:?}").contains(CANARY));
    assert!(!serde_json::to_string(&revision).unwrap().contains(CANARY));
    // With another key nothing is started, and the text holds nothing.
    std::fs::write(world.state.join("seal.key"), [9; 32]).unwrap();
    world.ensure(&revision, &["1-1", "1-2"], &[]);
    let (code, text) = refused(&world, "1-2");
    assert!(
        code == RefusalCode::Secrets && text.contains("cannot be opened") && !text.contains(CANARY),
        "{text}"
    );
}

#[test]
fn a_log_is_bounded_and_its_end_is_kept() {
    let mut world = World::new();
    let script = "yes 0123456789012345678901234567890123456789 | head -c 45000000; echo; echo the end";
    let revision = world.revision(2, shell(&world.cwd(), script));
    world.ensure(&revision, &["2-1"], &[]);
    world.wait_for("2-1", &exit(Some(0), None));
    let sizes: Vec<u64> = ["log", "log.1", "log.2"]
        .map(|name| std::fs::metadata(world.instance_dir("2-1").join(name)).unwrap().len())
        .into();
    assert!(sizes.iter().all(|size| *size <= 10 * 1024 * 1024), "{sizes:?}");
    assert!(!world.instance_dir("2-1").join("log.3").exists());
    assert_eq!(world.log("2-1").last().unwrap(), "the end");
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
        keep: &[Kept { instance: key("1-99"), probe: true }],
        victims: &[],
        stop_grace_period_ms: 1,
    };
    world.driver.as_mut().unwrap().ensure(&command);
    std::thread::sleep(Duration::from_millis(100));
    assert!(world.facts("1-99").is_empty());
}

#[test]
fn a_shim_is_small() {
    let mut world = World::new();
    let script = "yes 0123456789 | head -c 1000000; exec sleep 100";
    let revision = world.revision(1, shell(&world.cwd(), script));
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    world.started("1-1");
    eventually("it wrote its log", || {
        std::fs::metadata(world.instance_dir("1-1").join("log")).is_ok_and(|m| m.len() == 1_000_000)
    });
    let shim = world.record("1-1", "shim.json")["shim_pid"].as_u64().unwrap();
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
    let value = |text: &str, name: &str| -> u64 {
        text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap()
    };
    let (rss, hwm) = (value(&rollup, "Rss:"), value(&status, "VmHWM:"));
    println!(
        "shim: Rss {rss} KiB (VmRSS {}, peak {hwm}, anonymous {})",
        value(&status, "VmRSS:"),
        value(&rollup, "Anonymous:")
    );
    assert!(rss <= 2048, "{rss} KiB\n{rollup}");
}

#[test]
fn prepare_refuses_what_is_not_there() {
    let world = World::new();
    let draft = Draft { command: vec!["./nope".into()], ..sample(&world.cwd(), &[]) };
    let error = prepare(&world.state, draft).unwrap_err();
    assert_eq!(error.key(), "run.command");
    assert!(error.to_string().contains("/nope: No such file"), "{error}");
}
