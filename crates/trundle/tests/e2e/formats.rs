//! `examples/formats` as its readers run it: two clients, each strict about one format, through the versions of a shop.

use std::fs;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

use crate::harness::turns::turn;
use crate::harness::{Site, wait_for};

/// The files of the example, on an address of this test.
fn shop() -> Site {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/formats");
    let text = fs::read_to_string(folder.join("trundle.toml")).unwrap();
    let site = Site::with(&text.replace("127.0.0.1:8080", "@LISTEN@"));
    for name in ["shop.py", "client.py"] {
        fs::copy(folder.join(name), site.dir().join(name)).unwrap();
    }
    site
}

/// A client that asks until it is told to stop.
struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Client {
    fn start(site: &Site, kind: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["client.py", kind, &site.listen()]).current_dir(site.dir());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        Self { child, stdin }
    }

    fn finish(mut self) -> Value {
        drop(self.stdin.take());
        let said = std::io::read_to_string(self.child.stdout.take().unwrap()).unwrap();
        self.child.wait().unwrap();
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said:?}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn await_answer_of(site: &Site, version: &str) {
    let header = format!("x-app-version: {version}");
    wait_for("an answer of the new version", 20, || {
        let answer = site.get("/order/7").ok()?.to_ascii_lowercase();
        answer.contains(&header).then_some(())
    });
}

#[test]
fn a_format_is_replaced_without_a_client_noticing() {
    let _turn = turn();
    let site = shop();
    site.run(&["deploy"]).expect(0);
    let old = Client::start(&site, "old");
    let rolls = site.start(&["deploy", "--set", "version=4.0"]);
    await_answer_of(&site, "4.0");
    // Who speaks the new format comes when the first of 4.0 is there, beside 3.9.
    let new = Client::start(&site, "new");
    rolls.finish().expect(0);
    wait_for("both to be seen", 10, || {
        let formats = site.status()["formats"].clone();
        let asked = |at: usize| formats[at]["callers"][0]["count"].as_u64().unwrap_or(0) > 50;
        (asked(0) && asked(1)).then_some(())
    });
    let new = new.finish();
    assert_eq!((&new["errors"], &new["lost"]), (&0.into(), &0.into()), "{new}");

    // 4.1 speaks the new one only.
    let refused = site.run(&["deploy", "--set", "version=4.1"]).expect(13);
    let said = "stops serving what clients speak: order-v1 was used within 3 s by shop-old/1 (";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    let planned = site.run(&["plan", "--set", "version=4.1"]).expect(13);
    assert!(planned.stderr.contains(said), "{}", planned.stderr);
    let shown = site.run(&["status"]).expect(0).stdout;
    assert!(shown.contains("order-v1 is used by shop-old/1 ("), "{shown}");
    let old = old.finish();
    assert_eq!((&old["errors"], &old["lost"]), (&0.into(), &0.into()), "{old}");
    assert!(old["versions"]["3.9"].as_u64() > Some(0) && old["versions"]["4.0"].as_u64() > Some(0), "{old}");

    // Once it has been quiet it may come.
    let new = Client::start(&site, "new");
    wait_for("the old format to be quiet", 20, || {
        (site.run(&["plan", "--set", "version=4.1"]).code == 0).then_some(())
    });
    site.run(&["deploy", "--set", "version=4.1"]).expect(0);
    let new = new.finish();
    assert_eq!((&new["errors"], &new["lost"]), (&0.into(), &0.into()), "{new}");
    assert!(new["versions"]["4.1"].as_u64() > Some(0), "{new}");
    site.audit();
}

/// The example proves something: a 4.0 that has forgotten the old format is seen at once.
#[test]
fn a_version_that_forgets_the_old_format_breaks_the_old_client() {
    let _turn = turn();
    let site = shop();
    site.run(&["deploy"]).expect(0);
    let old = Client::start(&site, "old");
    site.run(&["deploy", "--set", "version=4.0", "--set", "run.env.FORGETS=old"]).expect(0);
    await_answer_of(&site, "4.0");
    let old = old.finish();
    assert!(old["errors"].as_u64() > Some(0), "{old}");
    assert_eq!(old["lost"], 0, "{old}");
}

/// 3.9 to 4.1: nobody would speak the new format when the old one goes. Forced, it is written down.
#[test]
fn a_format_goes_only_when_its_successor_is_everywhere() {
    let site = shop();
    site.run(&["deploy"]).expect(0);
    let refused = site.run(&["deploy", "--set", "version=4.1"]).expect(13).stderr;
    let said = "its successor order-v2 is not on every instance: 3.9 still runs; roll a version first that serves both";
    assert!(refused.contains(said), "{refused}");
    site.run(&["deploy", "--set", "version=4.1", "--force"]).expect(0);
    let report = site.run(&["report"]).expect(0).stdout;
    assert!(report.contains("although its successor order-v2"), "{report}");
}

/// Two versions stand side by side, and what the old client is answered is what the new version would have said.
#[test]
fn the_new_version_is_asked_what_the_old_one_answers() {
    let site = shop();
    let text = fs::read_to_string(site.dir().join("trundle.toml")).unwrap();
    site.write(&format!("{text}\n[traffic.mirror]\nto = \"newest\"\n[rollout]\nbatch = 2\n"));
    site.run(&["deploy"]).expect(0);
    site.run(&["deploy", "--set", "version=4.0", "--step"]).expect(10);
    site.run(&["share", "shop", "0"]).expect(0);
    let old = Client::start(&site, "old");
    let compared = wait_for("comparisons", 20, || {
        let said = site.run(&["mirrored", "--json"]).expect(0).json();
        let all = said["mirrored"].as_array().unwrap().clone();
        (all.len() > 20).then_some(all)
    });
    let side = |one: &Value, side: &str| one[side]["version"].clone();
    assert!(compared.iter().all(|one| side(one, "live") == "3.9" && side(one, "mirrored") == "4.0"));
    assert!(compared.iter().all(|one| one["same"] == true), "{compared:?}");
    let said = site.run(&["mirrored"]).expect(0).stdout;
    assert!(said.starts_with("0 of the last "), "{said}");
    let old = old.finish();
    assert_eq!(
        (&old["errors"], &old["lost"], &old["versions"]["4.0"]),
        (&0.into(), &0.into(), &Value::Null),
        "{old}"
    );
}
