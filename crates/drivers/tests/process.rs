//! Starting real processes, and refusing to.

// Helpers outside of test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{World, eventually, exit, is_gone, sample, shell};
use trundle_core::event::{Fact, RefusalCode};
use trundle_core::revision::Port;
use trundle_drivers::{Draft, DraftArtifact, Secret, prepare, still_running};

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
        let target = |fd: &std::fs::DirEntry| fd.path().read_link().ok(); // none: closed since
        let mut fds: Vec<_> = fds
            .filter_map(|fd| {
                Some((fd.file_name().into_string().unwrap().parse::<u32>().unwrap(), target(&fd)?))
            })
            .collect();
        fds.sort();
        fds
    };
    // A check that is under way is a connection too, so what was inherited is what is there at every look.
    let mut inherited = open(pid);
    eventually("no more than what it was given at every look", || {
        let now = open(pid);
        inherited.retain(|fd| now.contains(fd));
        inherited.len() <= 4
    });
    assert_eq!(inherited.len(), 4, "three streams and its listener: {inherited:?}");
    assert_eq!(inherited[0].1.to_str(), Some("/dev/null"));
    let shim = u32::try_from(world.record("2-1", "shim.json")["shim_pid"].as_u64().unwrap()).unwrap();
    let shim_fds = open(shim);
    assert!(shim_fds[..3].iter().all(|(_, path)| path.to_str() == Some("/dev/null")), "{shim_fds:?}");
    assert_eq!(std::fs::read_link(format!("/proc/{shim}/cwd")).unwrap().to_str(), Some("/"));
    let mut env = String::new();
    eventually("its environment in the log", || {
        env = world.log("2-1").into_iter().find(|line| line.starts_with("env ")).unwrap_or_default();
        !env.is_empty()
    });
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
    let (code, text) = world.refused("1-1");
    assert!(code == RefusalCode::NotFound && text.contains("interpreter"), "{text}");

    let no_folder = world.revision(2, shell(&folder, "exit 0"));
    std::fs::remove_dir(&folder).unwrap();
    world.ensure(&no_folder, &["2-1"], &[]);
    let (code, text) = world.refused("2-1");
    assert!(code == RefusalCode::NotFound && text.contains("/work") && text.contains("run.cwd"), "{text}");

    std::fs::remove_file(&tool).unwrap();
    world.ensure(&bad_script, &["1-1.2"], &[]);
    let (code, text) = world.refused("1-1.2");
    assert!(
        code == RefusalCode::NotFound && text.contains("tool") && text.contains("No such file"),
        "{text}"
    );

    // The next daemon hears the same, and nothing is tried again under that name.
    world.begin();
    write("#!/bin/sh\nexit 0\n");
    world.ensure(&bad_script, &["1-1"], &[]);
    assert!(world.refused("1-1").1.contains("interpreter"));
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
    let (code, text) = world.refused("1-2");
    assert_eq!(code, RefusalCode::ArtifactChanged);
    assert!(text.contains("app.sh was changed since it was deployed"), "{text}");
    assert!(!world.instance_dir("1-2").join("shim.json").exists());
    std::fs::write(&script, "exec sleep 100").unwrap();
    world.ensure(&revision, &["1-1", "1-3"], &[]);
    world.started("1-3");
}

#[test]
fn an_app_that_replaces_its_own_files_still_starts_again_as_deployed() {
    let mut world = World::new();
    let dist = world.cwd().join("dist");
    std::fs::create_dir(&dist).unwrap();
    let script = "cat code; echo other > new; mv -f new code; echo cache > cache; echo done; exec sleep 100";
    std::fs::write(dist.join("app.sh"), script).unwrap();
    std::fs::write(dist.join("code"), "deployed\n").unwrap();
    let artifact = Some(DraftArtifact { path: dist, as_written: "dist".into() });
    let command = vec!["sh".into(), "app.sh".into()];
    let revision = world.revision(1, Draft { command, artifact, ..sample(&world.cwd(), &[]) });
    for instance in ["1-1", "1-2"] {
        world.ensure(&revision, &[instance], &[]);
        eventually("it has replaced it", || world.log(instance).iter().any(|line| line == "done"));
        assert_eq!(world.log(instance), ["deployed", "done"]);
        world.ensure(&revision, &[], &[instance]);
        world.wait_for(instance, &Fact::Gone);
    }
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
fn a_port_that_is_taken_is_refused_with_its_holder() {
    let mut world = World::new();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let revision = world.revision(1, Draft { port: Port::Fixed(port), ..sample(&world.cwd(), &[]) });
    world.ensure(&revision, &["1-1"], &[]);
    let (code, text) = world.refused("1-1");
    assert_eq!(code, RefusalCode::PortInUse);
    assert!(text.contains(&format!("port {port} is in use by pid {}", std::process::id())), "{text}");
    drop(stranger);
    world.ensure(&revision, &["1-1.2"], &[]);
    world.wait_for("1-1.2", &Fact::Ready);
    assert_eq!(world.started("1-1.2").1, port);
    world.ensure(&revision, &["1-1.2", "1-2"], &[]);
    assert!(world.refused("1-2").1.contains("in use by web-1-1.2"));
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
    let (code, text) = world.refused("1-2");
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
fn a_shim_is_small() {
    const OWN_KIB_MAX: u64 = 768;
    const RSS_KIB_MAX: u64 = 4_096;
    let mut world = World::new();
    let script = "yes 0123456789 | head -c 1000000; exec sleep 100";
    let revision = world.revision(1, shell(&world.cwd(), script));
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    world.started("1-1");
    eventually("it wrote its log", || {
        std::fs::metadata(world.instance_dir("1-1").join("log")).is_ok_and(|m| m.len() == 1_000_000)
    });
    let shim = world.record("1-1", "shim.json")["shim_pid"].as_u64().unwrap();
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{shim}/{file}")).unwrap();
    let value = |text: &str, name: &str| -> u64 {
        text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap()
    };
    // At rest: it gives back what its start touched once it has been quiet. What is its own for each instance is what was
    // relocated, its heap and its stack. How many pages of its file the kernel maps around those it runs is the kernel's
    // choice and the file system's (2.0 MiB on one machine, more than 2.3 on another, with the same binary), and all shims
    // share them: that bar only shows that it gave them back at all, since the start touches 6.5 MiB.
    let sizes = || {
        let (rollup, status) = (read("smaps_rollup"), read("status"));
        (value(&rollup, "Anonymous:"), value(&rollup, "Rss:"), value(&status, "VmHWM:"))
    };
    let until = Instant::now() + Duration::from_secs(20);
    let mut found = sizes();
    while (found.0 > OWN_KIB_MAX || found.1 > RSS_KIB_MAX) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
        found = sizes();
    }
    let (own, rss, peak) = found;
    println!("shim: its own {own} KiB, Rss {rss} KiB, peak {peak} KiB");
    assert!(own <= OWN_KIB_MAX && rss <= RSS_KIB_MAX, "own {own} KiB, Rss {rss} KiB\n{}", read("smaps"));
}

#[test]
fn prepare_refuses_what_is_not_there() {
    let world = World::new();
    let draft = Draft { command: vec!["./nope".into()], ..sample(&world.cwd(), &[]) };
    let error = prepare(&world.state, draft).unwrap_err();
    assert_eq!(error.key(), "run.command");
    assert!(error.to_string().contains("/nope: No such file"), "{error}");
}
