//! Bad input: exit 1, the file, the line and what to do; nothing is started and nothing left behind.

use std::fs;
use std::net::TcpListener;

use crate::harness::{Output, Site, sample};

/// `edit` of a good file; `tells`: the place first, then the words.
struct Bad {
    edit: (&'static str, &'static str),
    tells: &'static [&'static str],
}

const fn bad(from: &'static str, to: &'static str, tells: &'static [&'static str]) -> Bad {
    Bad { edit: (from, to), tells }
}

/// The line numbers are those of `sample`, which has `[run]` on line 5 and `[rollout]` on line 15.
const TABLE: [Bad; 12] = [
    bad(
        "replicas = 2",
        "replicsa = 2",
        &["trundle.toml:3:1", "unknown key `replicsa`", "did you mean `replicas`?"],
    ),
    bad("replicas = 2", "replicas = \"two\"", &["trundle.toml:3:12", "found a text", "replicas = 8"]),
    bad("max_surge = 1", "max_surge = 0", &["trundle.toml:17", "both 0", "at least 1"]),
    bad("max_unavailable = 0", "max_unavailable = \"150%\"", &["trundle.toml:17", "150%", "help:"]),
    bad("\"@BIN@\", \"sample\"", "\"./not-there\"", &["trundle.toml:6", "./not-there", "build it first"]),
    bad("\"web\"", "\"../web\"", &["trundle.toml:1:8", "app name \"../web\" is refused", "help: 1 to 40 of"]),
    bad("\"web\"", "\"we\\nb\"", &["trundle.toml:1:8", "app name \"we\\nb\" is refused", "help: 1 to 40 of"]),
    bad("\"3.1\"", "\"3.1\\n\"", &["trundle.toml:2:11", "version", "help:"]),
    bad(
        "max_unavailable = 0",
        "max_unavailable = 0\nhealthy_deadline = \"5m\"\nprogress_deadline = \"1m\"",
        &["trundle.toml:19", "progress_deadline is 60 s", "help: raise it"],
    ),
    bad("[run]", "[run]\nenv_file = \"no.env\"", &["trundle.toml:6", "no.env", "help: create it"]),
    bad(
        "[run]",
        "[run]\nsecrets = [\"NOT_SET_AT_ALL\"]",
        &["trundle.toml:6", "NOT_SET_AT_ALL", "help: set it in"],
    ),
    bad("[run]", "[run]\nport = 99999", &["trundle.toml:6", "99999", "help:"]),
];

fn good() -> String {
    sample(2, r#"START_MS = "0""#, "max_surge = 1\nmax_unavailable = 0")
}

#[track_caller]
fn expect_nothing_started(site: &Site, said: &Output) {
    assert_eq!(said.code, 1, "{said}");
    assert!(site.procs().is_empty(), "{:?}\n{said}", site.procs());
    assert!(!site.state().exists(), "a state directory was made\n{said}");
}

#[test]
fn each_slip_is_told_with_its_place_and_its_remedy() {
    let site = Site::new();
    for bad in &TABLE {
        let (from, to) = bad.edit;
        let text = good().replacen(from, to, 1);
        assert_ne!(text, good(), "the case does not change the file: {to}");
        site.write(&text);
        for command in ["deploy", "plan", "validate"] {
            // Only a deploy needs the secrets.
            if command != "deploy" && to.contains("secrets") {
                continue;
            }
            let said = site.run(&[command]);
            expect_nothing_started(&site, &said);
            for needle in bad.tells {
                assert!(said.stderr.contains(needle), "{command}: {needle:?} is not in\n{said}");
            }
        }
        let json = site.run(&["deploy", "--json"]).expect(1).json();
        let problem = &json["problems"][0];
        assert!(problem["line"].is_u64() && problem["hint"].is_string(), "{json}");
    }
}

#[test]
fn no_file_at_all() {
    let site = Site::new();
    let said = site.run(&["deploy"]);
    expect_nothing_started(&site, &said);
    assert!(said.stderr.contains("trundle.toml") && said.stderr.contains("trundle init"), "{said}");
}

#[test]
fn a_wrong_flag_is_wrong_usage() {
    let site = Site::with(&good());
    assert_eq!(site.run(&["deploy", "--no-such-flag"]).code, 2);
    assert_eq!(site.run(&["deploy", "--timeout", "soon"]).code, 2);
    assert_eq!(site.run(&["deploy", "--set", "version"]).code, 2);
    assert!(site.procs().is_empty() && !site.state().exists());
}

#[test]
fn a_listen_address_that_a_stranger_has() {
    let site = Site::with(&good());
    let _stranger = TcpListener::bind(site.listen()).unwrap();
    let text = fs::read_to_string(site.dir().join("trundle.toml")).unwrap();
    let line = 1 + text.lines().position(|line| line.starts_with("http = \"127")).unwrap();
    let refused = || {
        let said = site.run(&["deploy", "--timeout", "10s"]).expect(1);
        assert!(said.stderr.contains(&site.listen()), "the address is named:\n{said}");
        assert!(said.stderr.contains(&format!("trundle.toml:{line}:")), "the line is named:\n{said}");
        assert!(said.stderr.contains("help: free it"), "{said}");
    };
    refused();
    assert!(site.procs().is_empty(), "no daemon stays behind: {:?}", site.procs());
    // A daemon that runs already says the same.
    site.run(&["pause"]).expect(1);
    assert!(site.daemon().is_some());
    refused();
    assert!(site.apps().is_empty(), "no instance: {:?}", site.apps());
}

#[test]
fn a_state_directory_that_is_none() {
    let site = Site::with(&good());
    fs::write(site.dir().join("file"), "").unwrap();
    let place = site.dir().join("file").display().to_string();
    let said = site.run(&["deploy", "--state-dir", &place]);
    expect_nothing_started(&site, &said);
    assert!(said.stderr.contains(&place) && said.stderr.contains("--state-dir"), "{said}");
    let said = site.run(&["daemon", "--state-dir", &place]);
    expect_nothing_started(&site, &said);
    assert!(said.stderr.contains(&place) && said.stderr.contains("--state-dir"), "{said}");
}

#[test]
fn a_socket_path_that_is_too_long() {
    let site = Site::with(&good());
    let place = site.dir().join("d".repeat(100)).display().to_string();
    let said = site.run(&["deploy", "--state-dir", &place]);
    expect_nothing_started(&site, &said);
    assert!(said.stderr.contains(&place) && said.stderr.contains("107"), "{said}");
    assert!(said.stderr.contains("shorter --state-dir"), "{said}");
    assert!(!site.dir().join("d".repeat(100)).exists());
}
