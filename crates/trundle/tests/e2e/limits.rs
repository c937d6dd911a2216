//! An app that runs as another user and within limits, from its file to its processes. Needs root, which CI is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::bad_version::versions;
use crate::harness::turns::turn;
use crate::harness::{Site, load, sample};

const LIMITS: &str = "[run]\nuser = \"nobody\"\nartifact = \"@DIR@/dist\"\nlimits = { memory = \"256MiB\", cpu = 2, open_files = 4096 }\n";

fn site() -> Option<Site> {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "in CI this must be tried as root");
        eprintln!("NOT TESTED: run.user needs root");
        return None;
    }
    let rollout = "max_surge = 1\nmax_unavailable = 0";
    let site = Site::with(&sample(2, r#"START_MS = "50""#, rollout).replace("[run]\n", LIMITS));
    // Another user comes to the program and, through the copy, to the artifact.
    fs::set_permissions(site.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(site.bin(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(site.dir().join("dist")).unwrap();
    fs::write(site.dir().join("dist/file"), "for all to read").unwrap();
    fs::set_permissions(site.dir().join("dist/file"), fs::Permissions::from_mode(0o644)).unwrap();
    Some(site)
}

/// Below the state directory nothing is open to others, but the way to the artifacts and what stands there.
fn open_to_others(state: &Path) -> Vec<String> {
    let entries = fs::read_dir(state).unwrap().flatten();
    let open = entries.filter(|entry| {
        let mode = entry.metadata().unwrap().mode();
        entry.file_name() != "artifacts" && mode & 0o077 != 0 && !entry.file_type().unwrap().is_symlink()
    });
    open.map(|entry| format!("{:o} {:?}", entry.metadata().unwrap().mode(), entry.file_name())).collect()
}

#[test]
fn an_app_of_another_user_rolls_and_sees_nothing_of_ours() {
    let _turn = turn();
    let Some(site) = site() else { return };
    site.deploy("1.0", &[]).expect(0);
    let load = load::start(&site, 8, 10);
    site.deploy("2.0", &[]).expect(0);
    load.finish().expect_none_lost(20);
    assert_eq!(versions(&site.status()), [("2.0".to_owned(), 2)].into());
    for app in site.apps() {
        let proc = Path::new("/proc").join(app.pid.to_string());
        assert_eq!(fs::metadata(&proc).unwrap().uid(), 65534, "{app:?}");
        let limits = fs::read_to_string(proc.join("limits")).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert!(files.split_whitespace().filter(|word| *word == "4096").count() == 2, "{files}");
        assert_eq!(app.env["USER"], "nobody");
        let groups = fs::read_to_string(proc.join("cgroup")).unwrap();
        assert!(groups.contains("trundle-"), "{groups}");
    }
    // What was written since the last start, too.
    site.run(&["status"]).expect(0);
    site.run(&["logs", "web"]).expect(0);
    let open = open_to_others(&site.state());
    assert!(open.is_empty(), "{open:?}");
    // A change of them is a change of the app, and is named where a failure is told.
    let other = ["--set", "run.limits.memory=\"300MiB\"", "--set", "run.env.FAIL=exit:3"];
    let failed = site.deploy("2.1", &other).expect(10);
    assert!(failed.stdout.contains("limits"), "{failed}");
    site.run(&["down"]).expect(0);
    let left = find("/sys/fs/cgroup", &site);
    assert!(left.is_empty(), "groups that stayed: {left:?}");
}

fn find(root: &str, site: &Site) -> Vec<String> {
    let state = site.state().canonicalize().unwrap();
    let digest = trundle_core::revision::Digest::of(state.to_str().unwrap().as_bytes()).0;
    let prefix = format!("trundle-{}-", &digest[..8]);
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    found.push(entry.path().display().to_string());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}
