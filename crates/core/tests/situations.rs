//! `plan --state`: a described situation, one pass of the decision. Each row is a rule.

#![allow(clippy::unwrap_used)]

use trundle_core::situation::{Situation, answer};

/// `head` are the settings; the instances are written as `1o` (revision 1, available), with `r` ready but not available,
/// `s` starting, `i` intended, `u` unready, `f` failed, `d` draining, `t` stopping, `?` unknown, `g` gone; ids are a, b, c …
fn check(head: &str, instances: &str, expect: &str) {
    let phases = |sign| match sign {
        'o' => ("ready", true),
        'r' => ("ready", false),
        's' => ("starting", false),
        'i' => ("intended", false),
        'u' => ("unready", false),
        'f' => ("failed", false),
        'd' => ("draining", false),
        't' => ("stopping", false),
        '?' => ("unknown", false),
        'g' => ("gone", false),
        other => panic!("{other}"),
    };
    let mut described = Vec::new();
    for (n, word) in instances.split_whitespace().enumerate() {
        let (revision, signs) = word.split_at(1);
        for (m, sign) in signs.chars().enumerate() {
            let id = char::from(b'a' + u8::try_from(described.len()).unwrap());
            let (phase, available) = phases(sign);
            let _ = (n, m);
            described.push(format!(
                r#"{{"id":"{id}","revision":{revision},"phase":"{phase}","available":{available}}}"#
            ));
        }
    }
    let json = format!("{{{head},\"instances\":[{}]}}", described.join(","));
    let situation: Situation = serde_json::from_str(&json).unwrap();
    let shown = match answer(&situation) {
        Err(impossible) => format!("refused: {impossible}"),
        Ok(answer) => {
            let starts: Vec<_> = answer.start.iter().map(|s| format!("{}x{}", s.count, s.revision)).collect();
            let codes: Vec<_> = answer
                .reasons
                .iter()
                .map(|r| serde_json::to_value(r).unwrap()["code"].as_str().unwrap().to_owned())
                .collect();
            assert!(!codes.is_empty());
            if std::env::var_os("SHOW").is_some() {
                println!("{instances}: {}", serde_json::to_string(&answer.reasons).unwrap());
            }
            format!(
                "{}/{} {}..{} start {} stop {}",
                answer.max_surge,
                answer.max_unavailable,
                answer.floor,
                answer.ceiling,
                starts.join(","),
                answer.stop.concat()
            )
        }
    };
    assert_eq!(shown.trim_end(), expect, "{head} {instances}");
}

#[test]
fn one_pass_of_each_rule() {
    let ten = r#""replicas":10,"max_surge":"25%","max_unavailable":2,"target":2"#;
    check(ten, "1oooooooooo", "3/2 8..13 start 3x2 stop ab");
    check(ten, "2oooooooooo", "3/2 8..13 start  stop");
    check(ten, "1oooooooo 2sssss", "3/2 8..13 start  stop");
    // An unavailable target instance never pays for stopping another.
    check(ten, "1ooooooooo 2ssss", "3/2 8..13 start  stop a");
    // A broken old one goes before a sound one, and never blocks.
    check(ten, "1oooooouoo 2oss", "3/2 8..13 start 1x2 stop ga");
    // Below the floor the proven version repairs.
    check(ten, "1ooooooo 2sssss", "3/2 8..13 start 1x1 stop");
    // Failed ones go at once; they count against the ceiling until they are gone.
    check(ten, "1oooooooo 2ffsss", "3/2 8..13 start  stop ij");
    // Everything that may be alive counts against the ceiling.
    check(ten, "1oooooooo 2ss 1dt?", "3/2 8..13 start  stop");
    check(ten, "1oooooooo 2o 1g", "3/2 8..13 start 4x2 stop a");
    // Three revisions: the oldest first.
    let third = r#""replicas":10,"max_surge":0,"max_unavailable":2,"target":3"#;
    check(third, "1oooo 2oooooo", "0/2 8..10 start  stop ab");
    check(third, "1oooo 2ooouoo", "0/2 8..10 start  stop ha");
    // Paused: only repair to the floor.
    let paused = r#""replicas":10,"max_surge":"25%","max_unavailable":2,"target":2,"paused":true"#;
    check(paused, "1oooooooooo", "3/2 8..13 start  stop");
    check(paused, "1oooooo 2of", "3/2 8..13 start 1x1 stop");
    // Batches.
    let batch = r#""replicas":10,"batch":2,"order":"stop-first","target":2"#;
    check(batch, "1oooooooooo", "0/2 8..10 start  stop ab");
    check(batch, "1oooooooo", "0/2 8..10 start 2x2 stop");
    check(batch, "1oooooooo 2os", "0/2 8..10 start  stop");
    check(batch, "1oooooooo 2oo", "0/2 8..10 start  stop ab");
    // Percentages round as in Kubernetes; both 0 after rounding leaves one.
    check(
        r#""replicas":5,"max_surge":0,"max_unavailable":"1%","target":2"#,
        "1ooooo",
        "0/1 4..5 start  stop a",
    );
    check(r#""replicas":1,"target":2"#, "1o", "1/0 1..2 start 1x2 stop");
    check(
        r#""replicas":3,"max_surge":"200%","max_unavailable":0,"target":2"#,
        "1ooo",
        "6/0 3..9 start 3x2 stop",
    );
    // Ready is not available before min_healthy_time.
    let slow = r#""replicas":2,"max_surge":1,"max_unavailable":0,"min_healthy_time_s":600,"target":2"#;
    check(slow, "1oo 2r", "1/0 2..3 start  stop");
    check(slow, "1oo 2o", "1/0 2..3 start  stop a");
    // Scale-down takes the unavailable, then the newest.
    check(r#""replicas":2,"max_surge":0,"max_unavailable":1,"target":1"#, "1oouo", "0/1 1..2 start  stop cd");
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |head: &str, part: &str| {
        let json = format!("{{{head},\"instances\":[]}}");
        let situation: Situation = serde_json::from_str(&json).unwrap();
        let text = answer(&situation).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    };
    refused(r#""replicas":2,"max_surge":0,"max_unavailable":"0%","target":1"#, "both 0");
    refused(r#""replicas":2,"max_unavailable":"101%","target":1"#, "101%");
    refused(r#""replicas":2,"batch":0,"target":1"#, "batch");
    refused(r#""replicas":2,"min_healthy_time_s":-1,"target":1"#, "min_healthy_time_s");
}
