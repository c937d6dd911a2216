//! `run.user` and `run.limits`, with real users and real control groups: what an instance may, and what it may not.
//!
//! They need root. In CI that is there; elsewhere a test says loudly that it proves nothing.

// Helpers outside of test functions may unwrap too.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::{World, eventually, exit, sample, shell};
use trundle_core::event::RefusalCode;
use trundle_core::revision::RunLimits;
use trundle_drivers::{Draft, DraftArtifact};

fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var("CI").is_err(), "in CI this must be tried as root");
    eprintln!("NOT TESTED: this needs root");
    false
}

/// A world that other users can come to.
fn open_world() -> World {
    let world = World::new();
    fs::set_permissions(world.cwd(), fs::Permissions::from_mode(0o755)).unwrap();
    world
}

fn limited(draft: Draft, limits: RunLimits) -> Draft {
    Draft { limits, ..draft }
}

#[test]
fn an_instance_runs_as_another_user_with_its_artifact_and_without_our_state() {
    if !is_root() {
        return;
    }
    let mut world = open_world();
    let dist = world.cwd().join("dist");
    fs::create_dir(&dist).unwrap();
    fs::write(dist.join("greeting"), "hello\n").unwrap();
    fs::set_permissions(dist.join("greeting"), fs::Permissions::from_mode(0o644)).unwrap();
    // What somebody left open in there.
    fs::write(world.state.join("traffic"), "secret\n").unwrap();
    fs::set_permissions(world.state.join("traffic"), fs::Permissions::from_mode(0o666)).unwrap();
    let script = format!(
        "id -u; id -g; id -G; echo $HOME $USER; cat greeting \"$PWD/greeting\"; echo again >/dev/stdout; \
         ls {state} || echo no list; cat {state}/traffic || echo no secret; touch mine || echo no write; echo end; exec sleep 1000",
        state = world.state.display()
    );
    let draft = Draft {
        user: Some("nobody".to_owned()),
        artifact: Some(DraftArtifact { path: dist, as_written: "dist".to_owned() }),
        ..shell(&world.cwd(), &script)
    };
    let revision = world.revision(1, draft);
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    let (pid, ..) = world.started("1-1");
    eventually("its last word", || world.log("1-1").last().is_some_and(|line| line == "end"));
    let said: Vec<String> = world.log("1-1").into_iter().filter(|line| !line.contains("denied")).collect();
    let nobody = fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!((nobody.uid(), nobody.gid()), (65534, 65534));
    let expected = [
        "65534",
        "65534",
        "65534",
        "/nonexistent nobody",
        "hello",
        "hello",
        "again",
        "no list",
        "no secret",
        "no write",
        "end",
    ];
    assert_eq!(said, expected, "{said:?}");
    // Nothing is open to others but the way to the artifacts.
    let open: Vec<PathBuf> = fs::read_dir(&world.state)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name() != "artifacts" && entry.metadata().unwrap().mode() & 0o077 != 0)
        .map(|entry| entry.path())
        .collect();
    assert!(open.is_empty(), "{open:?}");
    let ways = [world.state.clone(), world.state.join("artifacts")];
    let way_is_open = || ways.iter().all(|way| fs::metadata(way).unwrap().mode() & 0o077 == 0o011);
    assert!(way_is_open());
    // systemd closes the folder when it starts the unit anew; who runs already still comes to its artifact.
    fs::set_permissions(&world.state, fs::Permissions::from_mode(0o700)).unwrap();
    world.end();
    world.begin();
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    world.started("1-1");
    eventually("the way to be open again", way_is_open);
}

#[test]
fn a_user_that_is_gone_is_named() {
    let mut world = open_world();
    let mut revision = world.revision(1, sample(&world.cwd(), &[]));
    revision.template.run.user = Some("nobody-of-that-name".to_owned());
    world.ensure(&revision, &["1-1"], &[]);
    let (code, text) = world.refused("1-1");
    assert_eq!(code, RefusalCode::NotFound);
    assert!(text.contains("run.user") && text.contains("nobody-of-that-name"), "{text}");
}

/// Another user's process with the label of an instance is none of it, and holds up nothing.
#[test]
fn a_label_of_somebody_else_is_a_lie() {
    use std::os::unix::process::CommandExt as _;
    if !is_root() {
        return;
    }
    let mut world = open_world();
    let revision = world.revision(1, shell(&world.cwd(), "exec sleep 1000"));
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    world.started("1-1");
    let mut liar = std::process::Command::new("sleep");
    liar.arg("100").uid(65534).gid(65534).env("TRUNDLE_INSTANCE", "web-1-1");
    let mut liar = liar.env("TRUNDLE_STATE_DIR", world.state.canonicalize().unwrap()).spawn().unwrap();
    world.ensure_with(&revision, &[], &["1-1"], 100, false);
    world.wait_for("1-1", &trundle_core::event::Fact::Gone);
    assert!(liar.try_wait().unwrap().is_none(), "it was killed as if it were the instance's");
    liar.kill().unwrap();
    liar.wait().unwrap();
}

#[test]
fn open_files_are_limited() {
    let mut world = World::new();
    let limits = RunLimits { open_files: Some(123), ..RunLimits::default() };
    let script = "ulimit -n; ulimit -Hn; exec sleep 1000";
    let revision = world.revision(1, limited(shell(&world.cwd(), script), limits));
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    eventually("both numbers", || world.log("1-1") == ["123", "123"]);
}

/// The folder of its group, wherever the controller has it.
fn group_of(world: &World, controller: &str, instance: &str) -> Option<PathBuf> {
    let name = format!("-web-{instance}");
    find(Path::new("/sys/fs/cgroup").join(controller).as_path(), &name, world)
}

fn find(folder: &Path, name: &str, world: &World) -> Option<PathBuf> {
    let mine = sha2_of(world);
    fs::read_dir(folder).ok()?.flatten().filter(|entry| entry.path().is_dir()).find_map(|entry| {
        let found = entry.file_name().to_string_lossy().into_owned();
        let is_it = found == format!("trundle-{mine}{name}");
        if is_it { Some(entry.path()) } else { find(&entry.path(), name, world) }
    })
}

fn sha2_of(world: &World) -> String {
    let state = world.state.canonicalize().unwrap();
    trundle_core::revision::Digest::of(state.to_str().unwrap().as_bytes()).0[..8].to_owned()
}

#[test]
fn memory_beyond_its_limit_ends_it_and_it_is_said_of_what() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let limits = RunLimits { memory_bytes: Some(32 << 20), ..RunLimits::default() };
    // It keeps all that it reads, as there is no line in it.
    let revision = world.revision(1, limited(shell(&world.cwd(), "sleep 0.5; exec tail /dev/zero"), limits));
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    world.started("1-1");
    let group = group_of(&world, "memory", "1-1").expect("a group of its own");
    assert_eq!(
        fs::read_to_string(group.join("memory.limit_in_bytes")).unwrap().trim(),
        (32 << 20).to_string()
    );
    world.wait_for("1-1", &exit(None, Some(9)));
    let record = world.record("1-1", "exit.json");
    assert_eq!(record["oom_killed"], true, "{record}");
    assert!(world.log("1-1").iter().any(|line| line.contains("out of memory")), "{:?}", world.log("1-1"));
    eventually("the end of the group", || !group.exists());
}

#[test]
fn a_core_beyond_its_limit_is_not_given() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let limits = RunLimits { cpu_millis: Some(200), ..RunLimits::default() };
    let revision = world.revision(1, limited(shell(&world.cwd(), "while :; do :; done"), limits));
    world.ensure_with(&revision, &["1-1"], &[], 100, false);
    let (pid, ..) = world.started("1-1");
    let used = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
    };
    let (before, began) = (used(), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let share = (used() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("a fifth of a core: {share:.3}");
    assert!(share > 0.05 && share < 0.3, "{share}");
    let group = group_of(&world, "cpu", "1-1").expect("a group of its own");
    // Also when its shim is killed: then the daemon clears up.
    let shim = world.record("1-1", "shim.json")["shim_pid"].as_u64().unwrap();
    support::kill(u32::try_from(shim).unwrap(), "KILL");
    eventually("the end of the group", || !group.exists());
}
