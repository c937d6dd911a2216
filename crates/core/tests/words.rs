//! What people read: names, numbers and sentences, as they stand in `status`, in a refusal and in a report.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use trundle_core::event::{Exit, FailureCause, PauseCause, RefusalCode, Requests};
use trundle_core::ids::{AppName, InstanceKey, RevisionNumber, RolloutId};
use trundle_core::limits::CountOrPercent;
use trundle_core::reason::{Group, Reason, duration_text};
use trundle_core::revision::{Digest, hex};
use trundle_core::settings::{AppSettings, Listen, MAX_REPLICAS, RolloutSettings};

#[test]
fn how_a_process_ended() {
    let exit = |code, signal| Exit { code, signal }.text();
    assert_eq!(exit(Some(3), None), "exited with code 3");
    assert_eq!(exit(None, Some(9)), "killed by SIGKILL");
    assert_eq!(exit(None, Some(11)), "killed by SIGSEGV");
    assert_eq!(exit(None, Some(64)), "killed by signal 64");
    assert_eq!(exit(None, None), "ended, and nobody saw how");
}

#[test]
fn why_an_instance_failed_and_which_check_said_so() {
    let table = [
        (FailureCause::Exited(Exit { code: Some(1), signal: None }), "start", "exited with code 1"),
        (
            FailureCause::Refused { code: RefusalCode::NotFound, text: "no such file".into() },
            "start",
            "no such file",
        ),
        (FailureCause::NotReady { after_ms: 5_000 }, "ready", "not ready after 5 s"),
        (FailureCause::Unstable { after_ms: 1_500 }, "ready", "turned unready after 1.5 s"),
        (FailureCause::NotLive, "live", "its liveness check failed"),
    ];
    for (cause, gate, text) in table {
        assert_eq!((cause.gate(), cause.text().as_str()), (gate, text));
    }
}

#[test]
fn why_a_rollout_stopped() {
    let table = [
        (PauseCause::Person { by: "ann".into() }, "by ann"),
        (PauseCause::Failures { failures: 1, max_failures: 1 }, "1 failure of 1 allowed"),
        (PauseCause::Failures { failures: 3, max_failures: 3 }, "3 failures of 3 allowed"),
        (PauseCause::ProgressDeadline { after_ms: 600_000 }, "no progress for 10 min"),
        (PauseCause::Step { batch: 2 }, "after batch 2, step by step"),
        (PauseCause::Skipped { count: 1 }, "1 place left out, so the wanted version does not run everywhere"),
    ];
    for (cause, text) in table {
        assert_eq!(cause.text(), text);
    }
    assert_eq!(duration_text(3_660_000), "61 min");
    assert_eq!(duration_text(7_199_000), "119 min 59 s");
    assert_eq!(duration_text(7_200_000), "2 h");
    assert_eq!(duration_text(86_399_000), "23 h 59 min");
    assert_eq!(duration_text(59_999), "59.9 s");
}

#[test]
fn names_and_numbers() {
    let key = InstanceKey { revision: RevisionNumber(2), slot: 3, attempt: 2 };
    assert_eq!(format!("{} {} {key:?}", RolloutId(7), RevisionNumber(2)), "7 2 2-3.2");
    assert_eq!(String::from(key), "2-3.2");
    assert_eq!(serde_json::to_value(key).unwrap(), "2-3.2");
    let refused = "Web".parse::<AppName>().unwrap_err();
    assert_eq!(
        refused.rule(),
        "1 to 40 of a-z, 0-9 and '-', beginning with a letter and not ending with '-'"
    );
    for text in ["2", "25%"] {
        assert_eq!(text.parse::<CountOrPercent>().unwrap().to_string(), text);
    }
    assert_eq!(hex(&[0, 10, 255]), "000aff");
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(Digest::of(b""), Digest(empty.into()));
}

/// A reader that knows instances by other names puts them in place of ours, wherever they stand.
#[test]
fn every_name_in_a_reason_can_be_told_otherwise() {
    let group = || Group { count: 2, examples: vec!["web-1-1".into(), "web-1-2".into()] };
    let mut reasons = [
        Reason::Clear { instances: group() },
        Reason::Unready { instances: group(), instance: "web-1-1".into() },
        Reason::Retry { instance: "web-1-1".into() },
        Reason::Down,
    ];
    let names: Vec<usize> = reasons.iter_mut().map(|r| r.names_mut().len()).collect();
    assert_eq!(names, [2, 3, 1, 0]);
    reasons.iter_mut().flat_map(|r| r.names_mut()).for_each(|name| *name = "a".into());
    let told: Vec<_> = reasons.iter().map(Reason::text).collect();
    assert_eq!(
        told[..3],
        ["takes away a and 1 more", "waits for a and 1 more to be ready again", "tries again as a, as asked"]
    );
}

/// The share of a rollout is what came between two counts; counters that were reset count from 0.
#[test]
fn requests_between_two_counts() {
    let counted = |n: u64, by: &[(&str, u64)]| Requests {
        total: n,
        lost: n,
        crashed: n,
        cut: n,
        told: n,
        told_by_kind: by.iter().map(|(v, n)| ((*v).to_owned(), *n)).collect(),
        cut_by_kind: by.iter().map(|(v, n)| ((*v).to_owned(), *n)).collect(),
        held: n,
        app_errors: n,
        mixed: BTreeMap::new(),
        uses: by.iter().map(|(v, n)| ((*v).to_owned(), *n)).collect(),
        by_version: by.iter().map(|(v, n)| ((*v).to_owned(), *n)).collect(),
    };
    let before = counted(10, &[("1", 10), ("2", 4)]);
    let after = counted(15, &[("1", 10), ("2", 9), ("3", 1)]);
    let expect: BTreeMap<String, u64> = [("2".to_owned(), 5), ("3".to_owned(), 1)].into();
    let share = after.since(&before);
    assert_eq!((share.total, share.lost, share.crashed, share.held), (5, 5, 5, 5));
    assert_eq!(share.uses, expect);
    assert_eq!((&share.told_by_kind, &share.cut_by_kind), (&expect, &expect));
    assert_eq!((share.cut, share.told, share.app_errors, share.by_version), (5, 5, 5, expect));
    assert_eq!(before.since(&after), Requests::default());
}

/// The last value that is accepted, and the first that is not.
#[test]
fn limits_of_settings() {
    use CountOrPercent::{Count, Percent};
    let problems = |change: &dyn Fn(&mut AppSettings)| {
        let listen = Some(Listen::http("127.0.0.1:1"));
        let mut app = AppSettings {
            replicas: 8,
            rollout: RolloutSettings::default(),
            listen,
            fixed_port: false,
            gates: Vec::new(),
        };
        change(&mut app);
        app.problems().into_iter().map(|p| p.key).collect::<Vec<_>>()
    };
    let refused = |key| vec![key];
    assert_eq!(problems(&|s| s.replicas = MAX_REPLICAS), Vec::<&str>::new());
    assert_eq!(problems(&|s| s.replicas = MAX_REPLICAS + 1), refused("replicas"));
    assert_eq!(problems(&|s| s.rollout.max_surge = Some(Count(MAX_REPLICAS))), Vec::<&str>::new());
    assert_eq!(
        problems(&|s| s.rollout.max_surge = Some(Count(MAX_REPLICAS + 1))),
        refused("rollout.max_surge")
    );
    assert_eq!(problems(&|s| s.rollout.max_unavailable = Some(Percent(100))), Vec::<&str>::new());
    assert_eq!(problems(&|s| (s.fixed_port, s.replicas) = (true, 1)), Vec::<&str>::new());
    assert_eq!(problems(&|s| (s.fixed_port, s.replicas) = (true, 2)), refused("run.port"));
    // One instance alone may take healthy_deadline + min_healthy_time, and the progress deadline no less.
    assert_eq!(problems(&|s| s.rollout.progress_deadline_ms = 300_000), Vec::<&str>::new());
    assert_eq!(problems(&|s| s.rollout.progress_deadline_ms = 299_999), refused("rollout.progress_deadline"));
    // What a file does not say.
    let read: RolloutSettings = serde_json::from_value({
        let mut all = serde_json::to_value(RolloutSettings::default()).unwrap();
        all.as_object_mut().unwrap().remove("history_limit");
        all
    })
    .unwrap();
    assert_eq!(read.history_limit, 10);
}
