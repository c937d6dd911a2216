//! A canary: the value of a secret reaches the app and nothing else.

use std::fs;
use std::path::Path;

use crate::harness::{Output, Site, procs, sample};

const CANARY: &str = "canary-7f3a9c51e2";
const ENV_FILE_CANARY: &str = "canary-of-the-env-file-4b";

fn deploy(site: &Site, version: &str, secret: &str, more: &[&str]) -> Output {
    let version = format!("version={version}");
    let mut command = site.command(&[&["deploy", "--set", &version], more].concat());
    command.env("API_TOKEN", secret);
    crate::harness::Running::of(command).finish()
}

#[test]
fn a_secret_reaches_the_app_and_nothing_else() {
    let rollout = "max_surge = 1\nhealthy_deadline = \"1s\"";
    let text = sample(2, r#"START_MS = "0""#, rollout)
        .replace("[run]\n", "[run]\nsecrets = [\"API_TOKEN\"]\nenv_file = \"secret.env\"\n");
    let site = Site::with(&text);
    fs::write(site.dir().join("secret.env"), format!("FROM_FILE={ENV_FILE_CANARY}\n")).unwrap();
    deploy(&site, "1.0", CANARY, &[]).expect(0);
    for app in site.apps() {
        assert_eq!(app.env["API_TOKEN"], CANARY, "the app gets it");
        assert_eq!(app.env["FROM_FILE"], ENV_FILE_CANARY);
    }
    // A failure shows what changed: the key, not the value.
    let changed = format!("{CANARY}-changed");
    let said = deploy(&site, "2.0", &changed, &["--set", "run.env.FAIL=exit:3"]).expect(10);
    assert!(said.stdout.contains("secret API_TOKEN changed"), "{said}");
    let mut shown = vec![("the card".to_owned(), said.to_string())];
    let commands =
        ["status", "status --json", "report --json", "report", "history --json", "logs", "plan --json"];
    for command in commands {
        let said = site.run(&command.split(' ').collect::<Vec<_>>());
        shown.push((command.to_owned(), said.to_string()));
    }
    files(&site.state(), &mut shown);
    for pid in procs::pids() {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        shown.push((format!("the command line of {pid}"), String::from_utf8_lossy(&cmdline).into_owned()));
    }
    for proc in site.procs().iter().filter(|proc| proc.is_daemon() || proc.is_proxy()) {
        shown.push((format!("the environment of {:?}", proc.args), format!("{:?}", proc.env)));
    }
    assert!(shown.len() > 20, "too little was searched: {}", shown.len());
    for (place, text) in &shown {
        for canary in [CANARY, ENV_FILE_CANARY] {
            assert!(!text.contains(canary), "{canary} is in {place}");
        }
    }
    // The same secret in the same file is the same revision; a new value is a new one.
    deploy(&site, "1.0", CANARY, &["--set", "replicas=2"]).expect(0);
    // After the daemon was killed the next one can still start an instance with it.
    site.daemon().unwrap().kill9();
    let first = site.apps().remove(0);
    first.kill9();
    crate::harness::chaos::start_daemon(&site, true);
    let again = crate::harness::wait_for("the repair", 15, || {
        let apps = site.apps();
        (apps.len() == 2 && apps.iter().all(|app| app.pid != first.pid)).then_some(apps)
    });
    assert!(again.iter().all(|app| app.env["API_TOKEN"] == CANARY));
}

/// Every file of the state directory, as text.
fn files(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if let Ok(bytes) = fs::read(&path) {
            found.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}
