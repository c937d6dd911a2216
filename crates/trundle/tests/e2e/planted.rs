//! Ten planted failures: the exit code is right, the cause stands on the card's first screen, nothing is lost, and the old
//! version serves on.

use std::net::TcpListener;

use crate::harness::{Output, Site, load, sample};

/// Within the first lines of the card, so that nobody has to scroll.
const FIRST_LINES: usize = 12;

const ROLLOUT: &str =
    "max_surge = 1\nmax_unavailable = 0\nhealthy_deadline = \"1500ms\"\nprogress_deadline = \"30s\"";

struct Planted {
    /// What is set for the bad version.
    set: &'static str,
    rollout: &'static str,
    /// Each of them must be on the first lines.
    tells: &'static [&'static str],
    /// Somewhere on the card.
    shows: &'static [&'static str],
}

const fn planted(
    set: &'static str,
    tells: &'static [&'static str],
    shows: &'static [&'static str],
) -> Planted {
    Planted { set, rollout: "", tells, shows }
}

/// Deploys a good version, then the bad one under load.
#[track_caller]
fn check(planted: &Planted) -> Output {
    let site = Site::with(&sample(2, r#"START_MS = "50""#, &format!("{ROLLOUT}\n{}", planted.rollout)));
    site.deploy("1.0", &[]).expect(0);
    let load = load::start_quick(&site, 4, 10);

    let said = site.deploy("2.0", &["--set", planted.set]).expect(10);

    let tally = load.finish();
    assert!(tally.sent() >= 20, "too few requests to prove anything: {tally:?}");
    let card = said.card();
    let first = card.iter().take(FIRST_LINES).copied().collect::<Vec<_>>().join("\n");
    println!("{first}\n");
    for needle in planted.tells {
        assert!(
            first.contains(needle),
            "{needle:?} is not on the first {FIRST_LINES} lines of\n{}",
            card.join("\n")
        );
    }
    for needle in planted.shows {
        assert!(card.join("\n").contains(needle), "{needle:?} is not on the card\n{}", card.join("\n"));
    }
    assert!(first.contains("next"), "no next step on the first lines:\n{first}");
    let status = site.status();
    assert_eq!(status["requests"]["lost"], 0, "{status}");
    // What was in an instance when it died by itself is counted apart, and the client saw no other failure.
    assert_eq!(status["requests"]["crashed"], tally.lost(), "{tally:?}\n{status}");
    assert_eq!(crate::bad_version::versions(&status), [("1.0".to_owned(), 2)].into(), "{status}");
    assert!(site.get("/").unwrap().contains("1.0 0"), "the old version serves");
    said
}

#[test]
fn a_missing_variable() {
    check(&planted(
        "run.env.FAIL=needs:CURRENCY",
        &[
            "exit code 1",
            "FAIL (not set) → needs:CURRENCY",
            "FATAL: the environment variable CURRENCY is not set",
        ],
        &["web-2-1"],
    ));
}

#[test]
fn an_exit_with_a_traceback() {
    check(&planted(
        "run.env.FAIL=traceback:3",
        &["exit code 3", "KeyError: 'CURRENCY'"],
        &["Traceback", "line 3"],
    ));
}

#[test]
fn an_end_at_once_without_a_word() {
    check(&planted("run.env.FAIL=exit:0", &["exit code 0"], &["it wrote nothing"]));
}

#[test]
fn a_segmentation_fault() {
    check(&planted("run.env.FAIL=segv", &["SIGSEGV"], &["about to read a page"]));
}

#[test]
fn an_app_that_hangs() {
    check(&planted(
        "run.env.FAIL=hang",
        &["not ready after 1.5 s", "GET /ready timed out after 1 s"],
        &["listening on"],
    ));
}

#[test]
fn a_wrong_path() {
    check(&planted("run.env.FAIL=not_found", &["GET /ready answered 404", "no such page"], &[]));
}

#[test]
fn one_that_is_slow_past_the_deadline() {
    check(&planted("run.env.START_MS=20000", &["not ready after 1.5 s", "START_MS 50 → 20000"], &[]));
}

#[test]
fn one_that_dies_two_seconds_after_it_was_ready() {
    check(&Planted {
        rollout: "min_healthy_time = \"3s\"",
        ..planted(
            "run.env.FAIL=exit_after:2000:7",
            &["exit code 7", "FATAL: lost my mind after 2000 ms"],
            &["listening on"],
        )
    });
}

#[test]
fn a_dependency_that_refuses() {
    check(&planted(
        "run.env.FAIL=dependency:127.0.0.1:1",
        &["exit code 1", "FATAL: cannot reach the cache at 127.0.0.1:1", "refused"],
        &[],
    ));
}

/// A fixed port means stop-first: the port is free for the moment, and a stranger takes it.
#[test]
fn a_port_that_a_stranger_took() {
    let site = Site::new();
    let port = site.spare_port();
    let text = sample(1, r#"START_MS = "50""#, "").replace("[run]\n", &format!("[run]\nport = {port}\n"));
    site.write(&text);
    let stranger = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let said = site.deploy("1.0", &["--timeout", "20s"]);
    let all = said.to_string();
    println!("exit {}\n{all}", said.code);
    assert_eq!(said.code, 10, "{said}");
    let first = said.card().into_iter().take(FIRST_LINES).collect::<Vec<_>>().join("\n");
    assert!(first.contains(&port.to_string()), "the port is named:\n{first}");
    // With the port free the same version comes up.
    drop(stranger);
    site.run(&["resume"]).expect(0);
    assert!(site.get("/").unwrap().contains("1.0 0"));
}
