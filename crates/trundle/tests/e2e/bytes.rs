//! What runs is what was deployed: the program is overwritten in the middle of a rollout, and an old instance dies.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::procs::Proc;
use crate::harness::{Site, sample, wait_for};

/// A server that answers with the word it was written with.
fn write_script(path: &Path, word: &str) {
    let text = format!(
        "#!/usr/bin/env python3\nimport http.server, os\nclass H(http.server.BaseHTTPRequestHandler):\n\
         \x20   protocol_version = 'HTTP/1.1'\n\
         \x20   def do_GET(self):\n        body = b'{word}'\n        self.send_response(200)\n\
         \x20       self.send_header('Content-Length', str(len(body)))\n        self.end_headers()\n\
         \x20       self.wfile.write(body)\n    def log_message(self, *a): pass\n\
         http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
    );
    // Into its place by a rename, as a build does: what runs keeps its file.
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(fresh, path).unwrap();
}

fn text(run: &str) -> String {
    let rollout = "max_surge = 1\nmax_unavailable = 0\nmin_healthy_time = \"3s\"\nhealthy_deadline = \"20s\"";
    sample(2, "", rollout).replace("command = [\"@BIN@\", \"sample\"]", run)
}

/// 3.1 runs; the program is overwritten and 3.2 begins to roll; then an instance of 3.1 is killed, while none of 3.2 has
/// proven itself: it must be replaced by one of 3.1.
fn kill_one_of_31(site: &Site, script: &Path) -> Value {
    write_script(script, "three-one");
    site.deploy("3.1", &[]).expect(0);
    write_script(script, "three-two");
    site.deploy("3.2", &["--detach"]).expect(0);
    wait_for("one of 3.2 to serve", 20, || {
        site.apps().iter().any(|app| says(app).as_deref() == Some("three-two")).then_some(())
    });
    site.run(&["pause"]).expect(0);
    let apps = site.apps();
    let victim = apps.iter().find(|app| app.env["TRUNDLE_VERSION"] == "3.1").unwrap();
    victim.kill9();
    wait_for("the loss to be seen, and an answer to it", 20, || {
        let status = site.status();
        let name = victim.app().unwrap();
        let instances = status["instances"].as_array().unwrap();
        let back =
            instances.iter().filter(|i| i["revision"] == 1 && i["id"] != name && i["phase"] == "ready");
        let told = refused(site).is_some();
        (told || back.count() == 2).then_some(status)
    })
}

/// The line that tells that a start was refused because the bytes are others.
fn refused(site: &Site) -> Option<String> {
    let report = site.run(&["report", "--json"]).expect(0).json();
    let texts = report["timeline"].as_array()?.iter().filter_map(|line| line["text"].as_str());
    texts.filter(|text| text.contains("(3.1) could not start")).map(str::to_owned).next()
}

/// The word that a process answers with.
fn says(app: &Proc) -> Option<String> {
    let answer = crate::harness::prober::get(app.port()?, "/").ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// Never the bytes of one version under the name of the other.
fn expect_true_names(site: &Site) {
    for app in site.apps() {
        let Some(word) = says(&app) else { continue };
        let wanted = if app.env["TRUNDLE_VERSION"] == "3.1" { "three-one" } else { "three-two" };
        assert_eq!(word, wanted, "{:?} of {}", app.app(), app.env["TRUNDLE_VERSION"]);
    }
}

#[test]
fn in_place_the_changed_bytes_are_refused() {
    let site = Site::with(&text("command = [\"./app\"]"));
    kill_one_of_31(&site, &site.dir().join("app"));
    expect_true_names(&site);
    let told = refused(&site).unwrap();
    assert!(told.contains("artifact_changed") && told.contains("/app"), "{told}");
    let status = wait_for("status to say so", 5, || {
        Some(site.status()).filter(|status| status["reasons"].to_string().contains("artifact_changed"))
    });
    let shown = site.run(&["status"]).expect(0);
    assert!(shown.stdout.contains("cannot be started"), "people are told too: {status}\n{shown}");
    // The new version is whole: the rollout goes on to its end.
    site.run(&["resume"]).expect(0);
    expect_true_names(&site);
    assert_eq!(crate::bad_version::versions(&site.status()), [("3.2".to_owned(), 2)].into());
}

#[test]
fn a_script_as_an_argument_is_digested_too() {
    let site = Site::with(&text("command = [\"python3\", \"app.py\"]"));
    kill_one_of_31(&site, &site.dir().join("app.py"));
    expect_true_names(&site);
    let told = refused(&site).unwrap();
    assert!(told.contains("artifact_changed") && told.contains("app.py"), "{told}");
}

#[test]
fn with_an_artifact_the_old_bytes_come_back() {
    let site = Site::with(&text("command = [\"./app\"]\nartifact = \"dist\""));
    fs::create_dir(site.dir().join("dist")).unwrap();
    let status = kill_one_of_31(&site, &site.dir().join("dist/app"));
    expect_true_names(&site);
    assert_eq!(refused(&site), None);
    let old = site.apps().into_iter().filter(|app| says(app).as_deref() == Some("three-one")).count();
    assert_eq!(old, 2, "3.1's own bytes serve again: {status}");
    site.run(&["resume"]).expect(0);
    site.run(&["rollback"]).expect(0);
    expect_true_names(&site);
    assert_eq!(crate::bad_version::versions(&site.status()), [("3.1".to_owned(), 2)].into());
}

#[test]
fn the_same_label_with_new_bytes_is_a_new_revision() {
    let site = Site::with(&text("command = [\"./app\"]"));
    write_script(&site.dir().join("app"), "three-one");
    site.deploy("3.1", &[]).expect(0);
    site.run(&["plan", "--exit-code"]).expect(0);
    write_script(&site.dir().join("app"), "three-two");
    site.run(&["plan", "--exit-code"]).expect(20);
    site.deploy("3.1", &[]).expect(0);
    assert_eq!(site.status()["rollout"]["to"], 2);
    assert!(site.apps().iter().all(|app| says(app).as_deref() == Some("three-two")));
}

#[test]
fn what_no_version_needs_is_removed_and_what_one_may_go_back_to_stays() {
    let site = Site::with(&text("command = [\"./app\"]\nartifact = \"dist\"\nsecrets = [\"KEY\"]"));
    fs::create_dir(site.dir().join("dist")).unwrap();
    let script = site.dir().join("dist/app");
    let deploy = |version: &str, word: &str| {
        write_script(&script, word);
        let set = format!("version={version}");
        let quick = ["--set", "rollout.min_healthy_time=0s", "--set", "rollout.history_limit=1"];
        let mut command = site.command(&[&["deploy", "--set", &set], &quick[..]].concat());
        command.env("KEY", word);
        crate::harness::Running::of(command).finish().expect(0);
    };
    let stored = |folder: &str| {
        let entries = fs::read_dir(site.state().join(folder)).unwrap().flatten();
        entries.map(|entry| entry.path()).collect::<std::collections::BTreeSet<_>>()
    };
    deploy("3.1", "one");
    let oldest: Vec<_> = ["artifacts", "sealed"].iter().flat_map(|folder| stored(folder)).collect();
    assert_eq!(oldest.len(), 2);
    deploy("3.2", "two");
    deploy("3.3", "three");
    // Another plan than the running version, made a moment ago: nobody names it, and it is young.
    write_script(&script, "four");
    site.run(&["plan", "--set", "version=3.4", "--set", "run.secrets=[]"]).expect(0);
    let before = stored("artifacts");
    assert_eq!(before.len(), 4);
    // All others were last deployed two hours ago.
    let young: Vec<_> = before.iter().filter(|path| holds(path, "four")).cloned().collect();
    assert_eq!(young.len(), 1);
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for path in before.iter().chain(&stored("sealed")).filter(|path| !young.contains(path)) {
        fs::File::open(path).unwrap().set_modified(past).unwrap();
    }
    let daemon = site.daemon().unwrap();
    daemon.kill9();
    wait_for("its end", 5, || (!daemon.lives()).then_some(()));
    site.run(&["wait", "--timeout", "1ms"]);
    wait_for("the end of what 3.1 was", 20, || oldest.iter().all(|path| !path.exists()).then_some(()));
    assert_eq!(stored("artifacts").len(), 3, "two versions and the young one");
    assert_eq!(stored("sealed").len(), 2);
    site.run(&["rollback"]).expect(0);
    assert!(site.apps().iter().all(|app| says(app).as_deref() == Some("two")));
}

/// Whether the copy of `app` answers with this word.
fn holds(artifact: &Path, word: &str) -> bool {
    fs::read_to_string(artifact.join("tree/app")).is_ok_and(|text| text.contains(word))
}
