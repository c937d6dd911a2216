//! What is said about a bad configuration: the cases are in `config/bad.txt`. What a good one is read as: `config/reads.rs`.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../src/config/mod.rs"]
mod config;
// Its command line is tried from outside, on the binary.
#[allow(dead_code)]
#[path = "../src/cli/init.rs"]
mod init;
#[path = "config/reads.rs"]
mod reads;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use config::{ConfigError, Loaded, Look, Secrets};

const GOOD: &str = "name = \"web\"\nversion = \"3.1\"\n[run]\ncommand = [\"./server\"]\n";
const PLAIN: Look = Look { color: false, unicode: false };

/// A folder with what the cases speak of.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("dist")).unwrap();
    for program in ["server", "dist/app"] {
        fs::write(path(program), "#!/bin/sh\n").unwrap();
        fs::set_permissions(path(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(path("data.txt"), "").unwrap();
    fs::write(path(".env"), "A=canary\nexport B='canary two'\nA=canary three\nPORT=1\n").unwrap();
    fs::write(path("bad.env"), "A=1\ncanary\nB-C=canary\nD=\"canary\nE='x' canary\n").unwrap();
    dir
}

fn environment(name: &str) -> Option<OsString> {
    match name {
        "PATH" => Some("/usr/bin:/bin".into()),
        "SET" => Some("canary".into()),
        "EMPTY" => Some("".into()),
        "NOT_TEXT" => Some(OsString::from_vec(b"canary\xff".to_vec())),
        _ => None,
    }
}

fn load(dir: &Path, text: &str, sets: &[(&str, &str)], secrets: Secrets) -> Result<Loaded, ConfigError> {
    let path = dir.join("trundle.toml");
    fs::write(&path, text).unwrap();
    let sets: Vec<_> = sets.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    config::load(&path, &sets, secrets, &environment)
}

/// The problems as the cases write them.
fn told(error: &ConfigError, dir: &Path) -> Vec<String> {
    let line = |problem: &config::Problem| {
        let place = match problem.line {
            Some(line) if problem.file.ends_with("trundle.toml") => line.to_string(),
            Some(line) => format!("{}:{line}", problem.file),
            None => problem.file.clone(),
        };
        let key = problem.key.as_deref().unwrap_or("");
        format!("{place}:{key}: {} | {}", problem.message, problem.hint)
            .replace(&dir.display().to_string(), "DIR")
    };
    error.problems().iter().map(line).collect()
}

#[test]
fn every_bad_file_is_told_what_is_wrong_and_where() {
    let mut wrong = Vec::new();
    for block in include_str!("config/bad.txt").split("\n=== ").skip(1) {
        let dir = folder();
        let (title, rest) = block.split_once('\n').unwrap_or((block, ""));
        let rest = rest.replace("DIR\"", &format!("{}\"", dir.path().display()));
        let pick = |mark: &str| rest.lines().filter_map(|line| line.strip_prefix(mark)).collect::<Vec<_>>();
        let (sets, expected) = (pick("$ "), pick("> "));
        let text: String = rest
            .lines()
            .take_while(|line| !line.starts_with("$ ") && !line.starts_with("> "))
            .map(|line| format!("{line}\n"))
            .collect();
        let sets: Vec<_> = sets.iter().map(|set| set.split_once('=').unwrap()).collect();
        let found = match load(dir.path(), &text, &sets, Secrets::Require) {
            Ok(_) => vec!["nothing is wrong".to_owned()],
            Err(error) => {
                let rendered = error.rendered(PLAIN);
                assert!(rendered.is_ascii() || rendered.contains('…'), "{rendered}");
                assert!(!rendered.contains('\u{1b}'), "{rendered}");
                told(&error, dir.path())
            }
        };
        if found != expected {
            wrong.push(format!("=== {title}\n> {}\n", found.join("\n> ")));
        }
    }
    assert!(wrong.is_empty(), "these were told instead:\n\n{}", wrong.join("\n"));
}

#[test]
fn a_file_that_is_no_description_is_refused() {
    let dir = folder();
    let check = |bytes: &[u8], expect: &str| {
        let path = dir.path().join("trundle.toml");
        fs::write(&path, bytes).unwrap();
        let error = config::load(&path, &[], Secrets::Require, &environment).err().unwrap();
        assert_eq!(told(&error, dir.path()), [expect]);
    };
    check(b"name = \"w\"\n# \xff", "2:: DIR/trundle.toml is not UTF-8 text | save the file as UTF-8");
    let big = "#".repeat(1024 * 1024 + 1);
    let expect = "DIR/trundle.toml:: DIR/trundle.toml is larger than 1024 KiB | a description is small: is this the right file?";
    check(big.as_bytes(), expect);
    let refused = |path: &Path| config::load(path, &[], Secrets::Require, &environment).err().unwrap();
    let missing = refused(&dir.path().join("nope.toml")).rendered(PLAIN);
    assert!(missing.contains("nope.toml") && missing.contains("trundle init"), "{missing}");
    assert!(refused(dir.path()).rendered(PLAIN).contains("is a folder"));
}

#[test]
fn limits_hold() {
    let long = "a".repeat(128 * 1024 + 1);
    let many: String = (0..=1_000).map(|n| format!("A{n} = \"\"\n")).collect();
    for (text, expect) in [
        (format!("{GOOD}env = {{ A = \"{long}\" }}"), "run.env"),
        (format!("{GOOD}[run.env]\n{many}"), "run.env"),
        (GOOD.replace("./server", &format!("./server\", \"{}", &long[..4_097])), "run.command"),
        (GOOD.replace("./server", &format!("./server\"{}, \"", ", \"\"".repeat(1_000))), "run.command"),
        (GOOD.replace("./server", "./server\", \"\\u0000"), "run.command"),
    ] {
        let dir = folder();
        let error = load(dir.path(), &text, &[], Secrets::Require).err().unwrap();
        let keys: Vec<_> = error.problems().iter().filter_map(|problem| problem.key.as_deref()).collect();
        assert_eq!(keys, [expect], "{}", error.rendered(PLAIN));
        assert!(error.rendered(PLAIN).len() < 400_000);
    }
}

#[test]
fn a_problem_is_shown_beside_its_line() {
    let dir = folder();
    let text = "name = \"web\"\nversion = \"3.1\"\n\n[run]\ncommand = [\"./servr\"]\nenv = { KEY = \"canary\" }\n# \u{1b}]0;x\n";
    let error =
        load(dir.path(), &text.replace('\u{1b}', ""), &[("replicas", "x")], Secrets::Require).err().unwrap();
    let shown = error.rendered(PLAIN).replace(&dir.path().display().to_string(), "DIR");
    assert_eq!(shown.trim(), include_str!("config/shown.txt").trim(), "\n{shown}");
    let color = error.rendered(Look { color: true, unicode: true });
    assert!(color.contains('\u{1b}') && color.contains('╭'), "{color}");
    // Neither a raw escape nor one that TOML unescapes reaches the terminal.
    for text in [text.to_owned(), text.replace("./servr", "./s\\u001b[31mr")] {
        let raw = load(dir.path(), &text, &[], Secrets::Require).err().unwrap().rendered(PLAIN);
        assert!(!raw.contains('\u{1b}'), "{raw}");
    }
}
