//! The keys of the JSON that scripts read.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Site, procs, sample, wait_for};

#[track_caller]
fn expect_keys(value: &Value, keys: &str) {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    for key in keys.split_whitespace() {
        assert!(object.contains_key(key), "{key} is absent in {value}");
    }
}

fn site() -> Site {
    let site = Site::with(&sample(2, r#"START_MS = "50""#, "max_surge = 1\nhealthy_deadline = \"1s\""));
    site.deploy("1.0", &[]).expect(0);
    site
}

#[test]
fn status() {
    let site = site();
    let first = site.status();
    assert!(
        first["lowest_available"].is_null() && first["highest_total"].is_null(),
        "an app's first: {first}"
    );
    site.deploy("2.0", &["--set", "run.env.FAIL=not_found"]).expect(10);
    let status = site.status();
    expect_keys(
        &status,
        "app replicas revisions rollout floor ceiling lowest_available highest_total requests instances",
    );
    expect_keys(&status["revisions"][0], "revision version instances ready available");
    expect_keys(&status["rollout"], "id from to state strategy started_at reasons failure");
    expect_keys(&status["rollout"]["failure"], "instance gate exit_code signal probe logs changed");
    expect_keys(&status["rollout"]["failure"]["probe"], "request status body");
    expect_keys(&status["rollout"]["failure"]["changed"], "env");
    expect_keys(&status["requests"], "total lost crashed cut told app_errors by_version");
    expect_keys(&status["instances"][0], "id revision phase address pid in_flight");
    let reason = &status["rollout"]["reasons"][0];
    expect_keys(reason, "code gate instance text");
    assert_eq!(
        (&reason["code"], &reason["instance"]),
        (&"gate_failed".into(), &"web-2-1".into()),
        "{reason}"
    );
    assert_eq!(status["rollout"]["failure"]["probe"]["status"], 404);
    assert_eq!((&status["rollout"]["from"], &status["rollout"]["to"]), (&1.into(), &2.into()));
    assert_eq!(status["rollout"]["strategy"], "rolling");
    assert!(status["rollout"]["started_at"].as_str().unwrap().ends_with('Z'));
    assert!(status["instances"][0]["address"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn plan() {
    let site = site();
    let plan = site.run(&["plan", "--set", "version=2.0", "--json"]).expect(0).json();
    expect_keys(
        &plan,
        "max_surge max_unavailable floor ceiling batches peak_mix expected_s schema point_of_no_return",
    );
    assert!(plan["batches"].as_array().is_some_and(|batches| batches.iter().all(Value::is_array)), "{plan}");
    expect_keys(&plan["peak_mix"], "1.0 2.0");
    assert!(plan["expected_s"].as_f64().is_some_and(|s| s > 0.0), "{plan}");
    site.run(&["down"]).expect(0);
}

#[test]
fn plan_of_a_described_state() {
    let site = Site::new();
    let instances: Vec<_> = ('a'..='j')
        .map(|id| serde_json::json!({"id": id, "revision": 1, "phase": "ready", "available": true}))
        .collect();
    let state = serde_json::json!({"replicas": 10, "max_surge": "25%", "max_unavailable": 2, "batch": null,
        "order": null, "min_healthy_time_s": 0, "target": 2, "paused": false, "instances": instances});
    std::fs::write(site.dir().join("state.json"), state.to_string()).unwrap();
    let plan = site.run(&["plan", "--state", "state.json", "--json"]).expect(0).json();
    for (key, value) in [("max_surge", 3), ("max_unavailable", 2), ("floor", 8), ("ceiling", 13)] {
        assert_eq!(plan[key], value, "{plan}");
    }
    assert_eq!(plan["start"], serde_json::json!([{"revision": 2, "count": 3}]), "{plan}");
    assert_eq!(plan["stop"], serde_json::json!(["a", "b"]), "{plan}");
    assert!(plan["reasons"].is_array(), "{plan}");
    let refused = state
        .to_string()
        .replace("\"25%\"", "0")
        .replace(":2,\"min", ":0,\"min")
        .replace("\"max_unavailable\":2", "\"max_unavailable\":0");
    std::fs::write(site.dir().join("state.json"), refused).unwrap();
    let said = site.run(&["plan", "--state", "state.json", "--json"]).expect(1);
    assert!(said.to_string().contains('0'), "{said}");
}

#[test]
fn deploy_prints_one_object_a_line() {
    let site = site();
    let lines = site.deploy("2.0", &["--json"]).expect(0).json_lines();
    for line in &lines {
        expect_keys(line, "at type");
    }
    let last = lines.last().unwrap();
    assert_eq!((&last["type"], &last["exit_code"]), (&"result".into(), &0.into()), "{last}");
    assert!(lines.iter().any(|line| line["type"] == "start"), "what happened is told");
    for command in [&["history", "--json"][..], &["report", "--json"], &["logs", "--json"]] {
        assert_eq!(site.run(command).expect(0).stdout.lines().count(), 1, "{command:?} prints one object");
    }
}

#[test]
fn watching_prints_one_object_a_line() {
    let site = site();
    let watching = site.start(&["status", "web", "--watch", "--json"]);
    site.deploy("2.0", &[]).expect(0);
    procs::read(watching.pid()).unwrap().signal(rustix::process::Signal::TERM);
    let lines = watching.finish().json_lines();
    assert!(lines.len() > 5, "{lines:?}");
    for line in &lines {
        expect_keys(line, "at type");
    }
    assert!(
        lines.iter().any(|line| line["type"] == "status" && line["status"]["replicas"] == 2),
        "{lines:?}"
    );
}

#[test]
fn no_app_and_several_apps_are_one_object_too() {
    let site = Site::with(&sample(1, r#"START_MS = "0""#, ""));
    assert_eq!(site.status(), serde_json::json!({ "apps": [] }));
    assert_eq!(site.run(&["init", "--json"]).expect(1).json()["type"], "error", "the file is there already");
    site.deploy("1.0", &[]).expect(0);
    assert_eq!(site.status()["app"], "web", "one app is itself");
    site.deploy(
        "1.0",
        &["--set", "name=api", "--set", &format!("listen.http=127.0.0.1:{}", site.spare_port())],
    )
    .expect(0);
    let both = site.status();
    let names: Vec<_> = both["apps"].as_array().unwrap().iter().map(|app| app["app"].clone()).collect();
    assert_eq!(names, ["api", "web"], "{both}");
    assert_eq!(site.run(&["status", "web", "--json"]).expect(0).json()["app"], "web");
    let logs = site.run(&["logs", "--json"]).expect(0);
    assert_eq!(logs.stdout.lines().count(), 1, "{logs}");
    let line = &logs.json()["lines"][0];
    expect_keys(line, "instance text");
    assert!(line["text"].as_str().unwrap().contains("listening"), "{line}");
}

#[test]
fn every_line_of_a_deploy_has_a_moment_and_a_type_however_it_ends() {
    let site = site();
    for (args, code, last) in [
        (&["deploy", "--json", "--set", "version=1.0"][..], 0, "result"),
        (&["deploy", "--json", "--set", "version=2.0", "--detach"], 0, "accepted"),
        (&["deploy", "--json", "--set", "replicas=none"], 1, "error"),
        (&["deploy", "--json", "-f", "nowhere.toml"], 1, "error"),
        (&["deploy", "--json", "--set", "version=3.0", "--if-idle"], 0, "result"),
    ] {
        if args.contains(&"--if-idle") {
            site.run(&["wait"]).expect(0);
        }
        let lines = site.run(args).expect(code).json_lines();
        for line in &lines {
            expect_keys(line, "at type");
        }
        let end = lines.last().unwrap();
        assert_eq!(end["type"], last, "{args:?}: {end}");
        if last != "accepted" {
            assert_eq!(end["exit_code"], code, "{end}");
        }
    }
}

/// `deploy` alone tells as it goes.
#[test]
fn other_commands_print_one_object_also_when_they_follow_or_fail() {
    let site = site();
    for (args, code, kind) in [
        (&["restart", "web", "--json"][..], 0, "result"),
        (&["wait", "--json"], 0, "result"),
        (&["resume", "--json"], 13, "error"),
        (&["rollback", "web", "99", "--json"], 1, "error"),
        (&["restart", "web", "--detach", "--json"], 0, "accepted"),
        (&["wait", "99", "--json"], 1, "error"),
    ] {
        let said = site.run(args).expect(code);
        assert_eq!(said.stdout.lines().count(), 1, "{args:?}: {said}");
        assert_eq!(said.json()["type"], kind, "{args:?}: {said}");
        expect_keys(&said.json(), "at");
    }
    site.run(&["wait"]).expect(0);
}

#[test]
fn what_nobody_can_tell_is_null_and_what_is_left_is_left_from_now() {
    let site = site();
    site.deploy(
        "2.0",
        &["--detach", "--set", "run.env.START_MS=60000", "--set", "rollout.healthy_deadline=90s"],
    )
    .expect(0);
    let left = |status: &Value| {
        let reasons = status["reasons"].as_array().unwrap();
        reasons.iter().find(|r| r["code"] == "starting").map(|r| r["left_ms"].as_u64().unwrap())
    };
    let first = wait_for("a wait", 10, || Some(site.status()).filter(|status| left(status).is_some()));
    // Nothing happens meanwhile but time.
    std::thread::sleep(Duration::from_millis(1_500));
    let second = site.status();
    let took = |status: &Value| status["rollout"]["duration_ms"].as_u64().unwrap();
    assert!(took(&second) >= took(&first) + 1_500, "{first}\n{second}");
    assert!(left(&second).unwrap() + 1_500 <= left(&first).unwrap(), "{first}\n{second}");
    assert!(second["as_of"].as_str() > first["as_of"].as_str());
    assert_eq!(second["requests"]["total"], 0);
    let daemon = site.daemon().unwrap();
    daemon.kill9();
    wait_for("its end", 5, || (!daemon.lives()).then_some(()));
    let (offline, again) = (site.status(), site.status());
    assert!(offline["requests"].is_null(), "nobody can tell: {offline}");
    assert_eq!(offline["as_of"], again["as_of"], "that of the last record");
    assert!(offline["as_of"].as_str() < second["as_of"].as_str(), "{offline}");
}
