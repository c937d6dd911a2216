//! What an app reads of its gates: a file, HTTP, and both closed before a version comes that must not see what is written behind them.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Site, sample};

/// It says at its start what it reads.
fn config() -> String {
    let text = sample(2, r#"START_MS = "0""#, "");
    let command = r#"command = ["sh", "-c", 'echo "reads $(cat "$TRUNDLE_GATES")"; exec @BIN@ sample']"#;
    let text = text.replace(r#"command = ["@BIN@", "sample"]"#, command);
    format!("{text}\n[[gates]]\nname = \"new-orders\"\nopens = \"all instances >= 4.1\"\n")
}

fn in_file(site: &Site) -> Value {
    serde_json::from_str(&fs::read_to_string(site.state().join("gates/web.json")).unwrap()).unwrap()
}

fn gate(site: &Site) -> (bool, Value) {
    let gate = site.status()["gates"][0].clone();
    assert_eq!(in_file(site), json!({ "new-orders": gate["open"] }));
    (gate["open"].as_bool().unwrap(), gate["because"].clone())
}

#[test]
fn a_gate_is_closed_before_a_version_comes_that_must_not_see_what_is_behind_it() {
    let site = Site::with(&config());
    for version in ["4.0", "4.1"] {
        site.deploy(version, &[]).expect(0);
        assert!(!gate(&site).0, "{version}");
    }
    assert_eq!(gate(&site).1, json!(["a rollback would go to 4.0"]));
    site.deploy("4.2", &[]).expect(0);
    assert_eq!(gate(&site), (true, json!([])));
    let said = site.run(&["status"]).expect(0).stdout;
    assert!(said.contains("gate new-orders is open"), "{said}");

    // A daemon that was killed leaves it as it is, and the next one knows.
    let daemon = site.daemon().unwrap();
    daemon.kill9();
    crate::harness::wait_for("its end", 5, || (!daemon.lives()).then_some(()));
    site.run(&["wait"]).expect(0);
    assert!(gate(&site).0);

    // Back to 4.0: each of its instances has read that the gate is closed.
    site.run(&["rollback", "web", "1"]).expect(0);
    assert_eq!(gate(&site).1, json!(["4.0 has instances"]));
    let status = site.status();
    let instances = status["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 2);
    for instance in instances {
        let log = site.run(&["logs", instance["id"].as_str().unwrap()]).expect(0).stdout;
        assert!(log.contains(r#"reads {"new-orders":false}"#), "{log}");
    }
    site.audit();
}
