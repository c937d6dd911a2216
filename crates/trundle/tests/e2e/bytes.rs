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
