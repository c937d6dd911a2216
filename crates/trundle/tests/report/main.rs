//! The report's page: what is in it, what text from outside can do in it, and how a browser shows it.
//!
//! The journal is written here record by record, so that it holds what an attacker would put into it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod browser;
mod live;
mod world;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Runs `trundle report` on a state directory without a daemon.
fn report(state: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trundle"));
    command.arg("report").args(args).current_dir(state.parent().unwrap());
    command.env("TRUNDLE_STATE_DIR", state).env("NO_COLOR", "1");
    command.output().unwrap()
}

/// The page of the rollout that failed.
fn page(state: &Path) -> PathBuf {
    let path = state.parent().unwrap().join("report.html");
    let output = report(state, &["2", "--html", "report.html"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), path.display().to_string());
    path
}

#[test]
fn the_page_has_everything_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let state = world::bad_rollout(dir.path());
    let html = std::fs::read_to_string(page(&state)).unwrap();
    let elements = elements(&html);
    let count = |name: &str| elements.iter().filter(|(found, _)| found == name).count();
    for absent in ["script", "link", "img", "iframe", "object", "form", "base"] {
        assert_eq!(count(absent), 0, "<{absent}>");
    }
    let handles =
        |(_, attributes): &&(String, String)| attributes.contains(" on") || attributes.contains("style=");
    assert_eq!(elements.iter().find(handles), None);
    assert_eq!((count("h1"), count("style"), count("details")), (1, 1, 2), "a card and the decisions");
    for wanted in [
        "web: 1 → 2",
        "Rollout 2, deploy by ann",
        "<dd>7<small>in this rollout",
        "lowest available</dt><dd>2<small>floor 2",
        "highest alive</dt><dd>3<small>ceiling 3",
        "web-2-1 (2) not ready after 1 min: GET /ready answered 503",
        "DB_POOL 10 → 40",
        "starts 1 and takes out 0: 2 available (floor 2), 2 live (ceiling 3)",
        "paused: 1 failure of 1 allowed",
        "default-src &#39;none&#39;; style-src &#39;sha256-",
    ] {
        assert!(html.contains(wanted), "{wanted} is not in the page");
    }
    let rows = count("tr") - 1;
    let told: Value = serde_json::from_slice(&report(&state, &["2", "--json"]).stdout).unwrap();
    assert_eq!(rows, told["timeline"].as_array().unwrap().len(), "a row for each line");
    // Three pictures in two widths; the chips of the legends are pictures too.
    let charts = elements.iter().filter(|(name, attributes)| name == "svg" && attributes.contains("chart"));
    assert_eq!(charts.count(), 6);
    // Two that stay and one that fails, each in both widths.
    let bars = |class: &str| html.matches(&format!("<rect class=\"{class}\" x=")).count();
    assert_eq!((bars("available"), bars("starting")), (4, 2), "{html}");
}

#[test]
fn text_from_outside_is_inert() {
    let dir = tempfile::tempdir().unwrap();
    let state = world::bad_rollout(dir.path());
    let html = std::fs::read_to_string(page(&state)).unwrap();
    assert!(!html.contains("<script") && !html.contains("<img"), "{html}");
    // Of the log, of the probe's answer, of a version that was counted, and of who did it.
    for n in 1..=4 {
        assert!(html.contains(&format!("&lt;script&gt;alert({n})")), "text {n} is shown as what it is");
    }
    assert!(!html.contains('\u{1b}') && !html.contains('\u{202e}'));
}

#[test]
fn it_is_written_whole_and_said_where() {
    let dir = tempfile::tempdir().unwrap();
    let state = world::bad_rollout(dir.path());
    let output = report(&state, &["1", "--html", "a.html", "--svg", "a.svg", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    assert_eq!(said, serde_json::json!({ "rollout": 1, "html": at("a.html"), "svg": at("a.svg") }));
    let html = std::fs::read_to_string(dir.path().join("a.html")).unwrap();
    assert!(html.contains("was not noted over time"), "it says what is missing");
    let svg = std::fs::read_to_string(dir.path().join("a.svg")).unwrap();
    assert!(elements(&svg).len() > 20 && svg.starts_with("<svg xmlns="));
    let refused = report(&state, &["1", "--html", "no/such/folder.html"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no/such/folder.html"), "{refused:?}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing aside is left: {left:?}");
}

/// The picture is a report's, of a rollout that kept to what the README says of it, and drawn as reports are now.
#[test]
fn the_picture_in_the_readme_is_of_a_report_as_it_is_drawn_now() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let readme = std::fs::read_to_string(format!("{root}/README.md")).unwrap();
    assert!(readme.contains("never fewer than 7 serve, never more than 9 are alive](docs/img/rollout.svg)"));
    let shown = std::fs::read_to_string(format!("{root}/docs/img/rollout.svg")).unwrap();
    assert!(
        shown
            .contains("never fewer than 7 were available (floor 7), and never more than 9 alive (ceiling 9)")
    );

    let dir = tempfile::tempdir().unwrap();
    let state = world::bad_rollout(dir.path());
    assert!(report(&state, &["2", "--svg", "now.svg"]).status.success());
    let now = std::fs::read_to_string(dir.path().join("now.svg")).unwrap();
    let style = |svg: &str| svg.split_once("</style>").unwrap().0.split_once("<style>").unwrap().1.to_owned();
    assert_eq!(style(&shown), style(&now), "draw it anew: `trundle report 2 --svg docs/img/rollout.svg`");
    let named = elements(&shown).into_iter().filter_map(|(_, attributes)| {
        let (_, rest) = attributes.split_once(" class=\"")?;
        Some(rest.split_once('"')?.0.to_owned())
    });
    let named: std::collections::BTreeSet<_> = named.collect();
    assert!(named.len() > 10, "{named:?}");
    for class in named.iter().flat_map(|classes| classes.split(' ')) {
        assert!(style(&now).contains(&format!(".{class}")), "reports have no {class} any more");
    }
}

/// Every element with its attributes. Each must be closed in order, so a text that broke out would be found.
fn elements(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let body = text.trim_start_matches("<!doctype html>");
    for piece in body.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').unwrap_or_else(|| panic!("no end: {piece}"));
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed in order");
            continue;
        }
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag.trim_end_matches('/'), ""));
        assert_eq!(attributes.matches('"').count() % 2, 0, "{tag}");
        if !tag.ends_with('/') {
            open.push(name.to_owned());
        }
        found.push((name.to_owned(), format!(" {attributes}")));
    }
    assert_eq!(open, Vec::<String>::new(), "everything is closed");
    found
}
