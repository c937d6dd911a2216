//! `plan --state`: a described situation, one pass of the decision. Each row is a rule.

#![allow(clippy::unwrap_used)]

use trundle_core::situation::{Situation, answer};

/// `head` are the settings; the instances are written as `1o` (revision 1, available), with `r` ready but not available,
/// `s` starting, `i` intended, `u` unready, `f` failed, `d` draining, `t` stopping, `?` unknown, `g` gone; ids are a, b, c …
fn situation(head: &str, instances: &str) -> Situation {
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
    for word in instances.split_whitespace() {
        let (revision, signs) = word.split_at(1);
        for sign in signs.chars() {
            let id = char::from(b'a' + u8::try_from(described.len()).unwrap());
            let (phase, available) = phases(sign);
            described.push(format!(
                r#"{{"id":"{id}","revision":{revision},"phase":"{phase}","available":{available}}}"#
            ));
        }
    }
    serde_json::from_str(&format!("{{{head},\"instances\":[{}]}}", described.join(","))).unwrap()
}

fn check(head: &str, instances: &str, expect: &str) {
    let situation = situation(head, instances);
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
    // Where the file does not say what succeeded, it is the oldest that is there.
    check(r#""replicas":2,"max_surge":1,"max_unavailable":0,"target":3"#, "2o 3s", "1/0 2..3 start 1x2 stop");
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
    // A target instance that does not serve is no part of the floor.
    check(paused, "1oooooo 2ou", "3/2 8..13 start 1x1 stop");
    // One on its way out makes the room; then the one that is kept for inspection stays.
    // Those of a version between serve too: nothing is missing to the floor of 7, and below it only what is.
    let third = r#""replicas":8,"max_surge":1,"max_unavailable":1,"target":3,"paused":true"#;
    check(third, "1ooo 2oooo", "1/1 7..9 start  stop");
    check(third, "1ooo 2ooo", "1/1 7..9 start 1x1 stop");
    let third = r#""replicas":8,"max_surge":1,"max_unavailable":1,"target":3"#;
    check(third, "1ooo 2oooo", "1/1 7..9 start 2x3 stop");
    let tight = r#""replicas":4,"max_surge":0,"max_unavailable":1,"target":2,"paused":true"#;
    check(tight, "1oo 2f 1d", "0/1 3..4 start  stop");
    check(tight, "1oo 2f 1t", "0/1 3..4 start  stop");
    check(tight, "1oo 2ff", "0/1 3..4 start  stop c");
    // Batches.
    let batch = r#""replicas":10,"batch":2,"order":"stop-first","target":2"#;
    check(batch, "1oooooooooo", "0/2 8..10 start  stop ab");
    check(batch, "1oooooooo", "0/2 8..10 start 2x2 stop");
    check(batch, "1oooooooo 2os", "0/2 8..10 start  stop");
    check(batch, "1oooooooo 2oo", "0/2 8..10 start  stop ab");
    // A batch takes its broken ones first, and no more than it is, however many could be missing.
    let wide = r#""replicas":10,"batch":2,"max_surge":0,"max_unavailable":4,"target":2"#;
    check(wide, "1oooooouooo", "0/4 6..10 start  stop ga");
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

/// Every sentence that one pass says.
fn says(head: &str, instances: &str, expect: &[&str]) {
    let answer = answer(&situation(head, instances)).unwrap();
    let said: Vec<_> = answer.reasons.iter().map(|told| told.text.as_str()).collect();
    assert_eq!(said, expect, "{head} {instances}");
}

#[test]
fn each_move_and_each_wait_is_said_with_its_numbers() {
    let ten = r#""replicas":10,"max_surge":"25%","max_unavailable":2,"target":2"#;
    says(
        ten,
        "1oooooooooo",
        &[
            "8 more to stop, but 8 are available and the floor is 8",
            "starts 3 and takes out 2: 10 available (floor 8), 10 live (ceiling 13)",
            "7 more to start, but 13 may be alive and the ceiling is 13",
        ],
    );
    says(
        ten,
        "1ooooooooo 2ssss",
        &[
            "8 more to stop, but 8 are available and the floor is 8",
            "starts 0 and takes out 1: 9 available (floor 8), 13 live (ceiling 13)",
            "6 more to start, but 13 may be alive and the ceiling is 13",
            "waits for j and 3 more to be ready (deadline in 5 min)",
            "without progress, the deadline passes in 10 min",
        ],
    );
    // The start that repairs is alive for the rollout too.
    says(
        ten,
        "1ooooooo 2sssss",
        &[
            "starts 1 of revision 1 again: 7 of 10 are left",
            "7 more to stop, but 7 are available and the floor is 8",
            "5 more to start, but 13 may be alive and the ceiling is 13",
            "waits for h and 4 more to be ready (deadline in 5 min)",
            "without progress, the deadline passes in 10 min",
        ],
    );
    says(
        ten,
        "1oooooouoo 2oss",
        &[
            "7 more to stop, but 8 are available and the floor is 8",
            "starts 1 and takes out 2: 9 available (floor 8), 12 live (ceiling 13)",
            "6 more to start, but 13 may be alive and the ceiling is 13",
            "waits for k and 1 more to be ready (deadline in 5 min)",
            "waits for g to be ready again",
            "without progress, the deadline passes in 10 min",
        ],
    );
    says(
        ten,
        "1oooooooo 2ffsss",
        &[
            "takes away i and 1 more",
            "8 more to stop, but 8 are available and the floor is 8",
            "5 more to start, but 13 may be alive and the ceiling is 13",
            "waits for k and 2 more to be ready (deadline in 5 min)",
            "2 places in back-off; the next try is in 499 ms",
            "without progress, the deadline passes in 10 min",
        ],
    );
    says(
        ten,
        "1oooooooo 2ss 1dt?",
        &[
            "8 more to stop, but 8 are available and the floor is 8",
            "8 more to start, but 13 may be alive and the ceiling is 13",
            "waits for i and 1 more to be ready (deadline in 5 min)",
            "waits for k to finish its requests (cut in 30 s)",
            "waits for l to stop",
            "1 instance may or may not be alive and count as alive",
            "without progress, the deadline passes in 10 min",
        ],
    );
    // All that are to start can start: no word of the ceiling.
    says(
        r#""replicas":2,"max_surge":2,"max_unavailable":0,"target":2"#,
        "1oo",
        &[
            "2 more to stop, but 2 are available and the floor is 2",
            "starts 2 and takes out 0: 2 available (floor 2), 2 live (ceiling 4)",
        ],
    );
    says(
        r#""replicas":2,"max_surge":0,"max_unavailable":1,"target":1"#,
        "1oouo",
        &["takes out 2: more than the 2 that are desired", "waits for c to be ready again"],
    );
    // Two that are ready or start have the time that the file says, from now on.
    says(
        r#""replicas":2,"max_surge":2,"max_unavailable":0,"min_healthy_time_s":600,"target":2"#,
        "1oo 2rs",
        &[
            "2 more to stop, but 2 are available and the floor is 2",
            "waits for d to be ready (deadline in 5 min)",
            "c must stay healthy for 10 min more",
            "without progress, the deadline passes in 20 min",
        ],
    );
    says(r#""replicas":2,"target":1"#, "1oo", &["what is wanted is what runs"]);
}

#[test]
fn a_batch_says_which_one_is_in_work_and_how_far_it_is() {
    let two = r#""replicas":10,"batch":2,"order":"stop-first","target":2"#;
    says(
        two,
        "1oooooooooo",
        &[
            "batch 1 comes first: 0 of 2 are done",
            "starts 0 and takes out 2: 10 available (floor 8), 10 live (ceiling 10)",
            "2 more to start, but 10 may be alive and the ceiling is 10",
        ],
    );
    let three = r#""replicas":10,"batch":3,"order":"stop-first","target":2"#;
    says(
        three,
        "1oo 2oooooooo",
        &[
            "batch 3 comes first: 2 of 3 are done",
            "starts 0 and takes out 1: 10 available (floor 7), 10 live (ceiling 10)",
            "1 more to start, but 10 may be alive and the ceiling is 10",
        ],
    );
    // Nothing comes after the last batch, so nothing is held back by it.
    says(
        three,
        "1o 2ooooooooo",
        &[
            "starts 0 and takes out 1: 10 available (floor 7), 10 live (ceiling 10)",
            "1 more to start, but 10 may be alive and the ceiling is 10",
        ],
    );
}

#[test]
fn many_alike_are_told_as_their_number_and_ten_examples() {
    let answer =
        answer(&situation(r#""replicas":12,"max_surge":0,"max_unavailable":12,"target":1"#, "1ffffffffffff"))
            .unwrap();
    let told = serde_json::to_value(&answer.reasons[0]).unwrap();
    assert_eq!(told["code"], "clear");
    assert_eq!(told["instances"]["count"], 12);
    let examples: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].into();
    assert_eq!(told["instances"]["examples"], serde_json::json!(examples));
}

/// What leaves of one version takes nothing from what may leave of another.
#[test]
fn a_broken_one_of_a_version_between_and_all_of_the_base_leave_at_once() {
    check(
        r#""replicas":2,"max_surge":0,"max_unavailable":2,"target":3"#,
        "1oo 2u",
        "0/2 0..2 start  stop cab",
    );
}
