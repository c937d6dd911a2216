//! The shape of the repository: which crate may see which, how long a file may be, and that each crate says what it knows.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may depend on whom inside the workspace. Everything else is a mistake.
const ALLOWED: &[(&str, &[&str])] = &[
    ("trundle-core", &["trundle-versions"]),
    ("trundle-crashpoint", &[]),
    ("trundle-engine", &["trundle-core", "trundle-crashpoint"]),
    ("trundle-tls", &[]),
    ("trundle-drivers", &["trundle-core", "trundle-crashpoint", "trundle-engine", "trundle-tls"]),
    ("trundle-versions", &[]),
    ("trundle-proxy", &["trundle-crashpoint", "trundle-tls", "trundle-versions"]),
    ("trundle-sim", &["trundle-core", "trundle-engine"]),
    (
        "trundle",
        &[
            "trundle-core",
            "trundle-crashpoint",
            "trundle-engine",
            "trundle-drivers",
            "trundle-proxy",
            "trundle-versions",
            "trundle-sim",
        ],
    ),
];
const SOURCE_LINES_MAX: usize = 600;
const ARCHITECTURE_LINES_MAX: usize = 200;
const DECISION_LINES_MAX: usize = 40;

#[test]
fn dependencies_point_in_one_direction() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, to)| (*name, to.iter().copied().collect())).collect();
    for (name, dependencies) in workspace() {
        let may = allowed.get(name.as_str()).unwrap_or_else(|| {
            panic!("{name} is a new crate: write into tidy.rs and ARCHITECTURE.md what it may depend on")
        });
        for to in dependencies {
            assert!(may.contains(to.as_str()), "{name} must not depend on {to}: see ARCHITECTURE.md");
        }
    }
}

#[test]
fn no_file_is_too_long() {
    for crate_dir in crates() {
        for file in files_below(&crate_dir.join("src"), "rs") {
            no_longer_than(&file, SOURCE_LINES_MAX);
        }
    }
    no_longer_than(&root().join("ARCHITECTURE.md"), ARCHITECTURE_LINES_MAX);
    for decision in files_below(&root().join("docs/decisions"), "md") {
        no_longer_than(&decision, DECISION_LINES_MAX);
    }
}

#[test]
fn every_crate_says_what_it_knows() {
    for crate_dir in crates() {
        let manifest = crate_dir.join("Cargo.toml");
        let text = read(&manifest);
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("# "),
            "{}: the first line says what the crate may know",
            manifest.display()
        );
    }
}

#[test]
fn every_file_says_what_it_is() {
    for crate_dir in crates() {
        for file in ["src", "tests"].iter().flat_map(|dir| files_below(&crate_dir.join(dir), "rs")) {
            assert!(read(&file).starts_with("//!"), "{} begins with a line of `//!`", file.display());
        }
    }
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let names = files_below(&root().join("docs/decisions"), "md");
    for (n, file) in names.iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(name.starts_with(&format!("{:03}-", n + 1)), "{name} stands at place {}", n + 1);
    }
}

/// Each crate of the workspace with its dependencies inside the workspace, those of tests and builds among them.
fn workspace() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let members: BTreeSet<String> = packages.iter().map(name).collect();
    let edges = |package: &serde_json::Value| {
        let dependencies = package["dependencies"].as_array().unwrap();
        dependencies.iter().map(name).filter(|to| members.contains(to)).collect()
    };
    packages.iter().map(|package| (name(package), edges(package))).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn crates() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("crates")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("Cargo.toml").exists()).collect()
}

/// Sorted.
fn files_below(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn no_longer_than(path: &Path, most: usize) {
    let lines = read(path).lines().count();
    assert!(lines <= most, "{} has {lines} lines, at most {most} are wanted", path.display());
}
