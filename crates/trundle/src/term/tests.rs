//! What the words say of a status that is written down here.

use serde_json::{Value, json};
use trundle_engine::view::Status;

use super::{card, report};

/// A rollout of a web app that stands still because an instance could not be started.
const STATUS: &str = r#"{
    "app": "web", "as_of": null, "replicas": 2, "down": false, "reasons": [], "floor": 2, "ceiling": 3,
    "revisions": [{"revision": 1, "version": "3.1", "instances": 2, "ready": 2, "available": 2}],
    "available": 2, "live": 3, "lowest_available": 2, "highest_total": 3, "peak_mix": {"3.1": 2, "3.2": 1},
    "requests": {"total": 5, "lost": 0, "crashed": 0, "cut": 0, "told": 0, "app_errors": 0, "by_version": {}},
    "latency": {}, "instances": [], "listen": ["http://127.0.0.1:80"], "allowed": ["resume", "rollback"],
    "trouble": null,
    "rollout": {
        "id": 2, "from": 1, "to": 2, "from_version": "3.1", "to_version": "3.2", "back_to": null,
        "state": "paused", "kind": "deploy", "strategy": "rolling", "by": "ann", "started_at": null,
        "ended_at": null, "duration_ms": 0, "failures": 1, "reasons": [],
        "failure": {
            "instance": "web-2-1", "revision": 2, "version": "3.2", "gate": "start",
            "cause": "could not start: it was changed", "count": 1, "after_ms": 0, "exit_code": null,
            "signal": null, "refused": "artifact_changed", "probe": null, "logs": [], "changed": null,
            "base_version": "3.1", "base_shows_it_too": null
        }
    }
}"#;

fn status(edit: impl FnOnce(&mut Value)) -> Status {
    let mut status: Value = serde_json::from_str(STATUS).unwrap();
    edit(&mut status);
    serde_json::from_value(status).unwrap()
}

/// `deploy resume …` as the card advises them.
fn advice(status: &Status) -> Vec<String> {
    let card = card::render(status);
    let lines = card.lines().filter_map(|l| l.trim().strip_prefix("next ").or(l.trim().strip_prefix("or ")));
    lines.map(|l| l.split_whitespace().nth(1).unwrap().to_owned()).collect()
}

#[test]
fn a_card_advises_only_what_is_allowed() {
    let all = ["deploy", "resume", "rollback"];
    assert_eq!(advice(&status(|_| ())), all);
    assert_eq!(advice(&status(|s| s["allowed"] = json!(["resume"]))), ["deploy", "resume"]);
    let failed = |allowed: Value| {
        status(|s| {
            s["rollout"]["state"] = "failed".into();
            s["rollout"]["back_to"] = 1.into();
            s["allowed"] = allowed;
        })
    };
    assert_eq!(advice(&failed(json!(["rollback"]))), ["deploy", "rollback"]);
    assert_eq!(advice(&failed(json!([]))), ["deploy"], "the way back failed, and there is no other");
    let back = status(|s| s["rollout"]["back_to"] = 1.into());
    assert_eq!(advice(&back), ["resume", "deploy"], "a way back is never rolled back");
    assert!(!card::has_one(&status(|s| s["down"] = true.into())), "nobody waits for an app that is down");
}

#[test]
fn of_a_start_that_was_refused_no_log_is_shown() {
    let refused = card::render(&status(|_| ()));
    assert!(refused.contains("web-2-1 could not start: it was changed"), "{refused}");
    assert!(!refused.contains("wrote"), "{refused}");
    let silent = card::render(&status(|s| s["rollout"]["failure"]["refused"] = Value::Null));
    assert!(silent.contains("it wrote nothing"), "{silent}");
    let one = card::render(&status(|s| s["rollout"]["failure"]["logs"] = json!(["boom"])));
    assert!(one.contains("the last line (trundle logs web-2-1)\n    boom\n"), "{one}");
}

#[test]
fn what_nobody_counted_is_not_given_as_a_number() {
    let known = status(|_| ());
    assert!(card::render(&known).contains("5 requests in this rollout, none lost"));
    assert!(report::summary(&known).contains("peak mix 2 × 3.1 + 1 × 3.2"));
    let unknown = status(|s| s["requests"] = Value::Null);
    assert!(card::render(&unknown).contains("requests were not counted"));
    assert!(report::summary(&unknown).contains("requests were not counted"));
    let worker = status(|s| {
        s["requests"] = Value::Null;
        s["listen"] = json!([]);
        s["peak_mix"] = json!({});
    });
    assert!(!card::render(&worker).contains("requests"), "{}", card::render(&worker));
    let summary = report::summary(&worker);
    assert!(
        summary.ends_with("never more than 3 live (ceiling 3)\n") && !summary.contains("requests"),
        "{summary}"
    );
    let first = report::summary(&status(|s| {
        s["lowest_available"] = Value::Null;
        s["highest_total"] = Value::Null;
    }));
    assert!(!first.contains("never below"), "{first}");
}

#[test]
fn the_lowest_is_told_with_the_floor_of_its_moment() {
    let told = |lowest_floor: Value, highest_ceiling: Value| {
        let scaled = status(|s| {
            s["lowest_floor"] = lowest_floor;
            s["highest_ceiling"] = highest_ceiling;
        });
        report::summary(&scaled).lines().last().unwrap().split(", peak").next().unwrap().trim().to_owned()
    };
    assert_eq!(
        told(json!(1), json!(9)),
        "available never below 2 (floor 1 then, 2 now), never more than 3 live (ceiling 9 then, 3 now)"
    );
    let same = "available never below 2 (floor 2), never more than 3 live (ceiling 3)";
    assert_eq!(told(json!(2), json!(3)), same);
    assert_eq!(told(Value::Null, Value::Null), same, "of a daemon that does not tell them");
}

#[test]
fn where_a_rollout_stands_is_one_line() {
    let stands = report::stand(&status(|s| {
        s["rollout"]["state"] = "rolling_back".into();
        s["reasons"] = json!([{"code": "x", "text": "waits for web-1-2"}]);
    }));
    assert_eq!(
        stands,
        "rollout 2 to 3.2 is rolling back: 2 × 3.1 available (floor 2), 3 live; waits for web-1-2"
    );
}
