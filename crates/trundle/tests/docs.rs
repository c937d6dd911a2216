//! What README.md and the guide say is there: every command with its flags, every link, and the two commands of the start.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TRUNDLE: &str = env!("CARGO_BIN_EXE_trundle");

#[test]
fn the_two_commands_are_there_word_for_word() {
    let readme = read(&root().join("README.md"));
    for command in ["cargo run --release -- demo", "cargo test --workspace"] {
        assert_eq!(readme.lines().filter(|line| *line == command).count(), 1, "{command}");
    }
}

#[test]
fn every_command_exists_with_its_flags() {
    let mut helps = BTreeMap::new();
    for page in pages() {
        for command in commands(&read(&page)) {
            check(&page, &command, &mut helps);
        }
    }
    assert!(helps.len() >= 10, "the pages show {} commands: {:?}", helps.len(), helps.keys());
}

#[test]
fn the_examples_are_good() {
    let examples = root().join("examples");
    let plan = ["plan", "--json", "--state", "situation.json"];
    for arguments in [&plan[..], &["validate", "-f", "worker.toml"]] {
        let output = Command::new(TRUNDLE).args(arguments).current_dir(&examples).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_relative_link_leads_somewhere() {
    let root_pages = ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
    let decisions = markdown_in(&root().join("docs/decisions"));
    for page in pages().into_iter().chain(root_pages.map(|name| root().join(name))).chain(decisions) {
        for link in links(&read(&page)) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.with_file_name("").join(path) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            let known = anchor.is_empty() || anchors(&read(&target)).iter().any(|a| a == anchor);
            assert!(known, "{}: {link} names no heading", page.display());
        }
    }
}

/// `command` is what stands after `trundle`, word by word.
fn check(page: &Path, command: &[String], helps: &mut BTreeMap<String, String>) {
    let shown = format!("{}: trundle {}", page.display(), command.join(" "));
    let subcommand = command.first().filter(|word| !word.starts_with('-')).cloned().unwrap_or_default();
    let help = helps.entry(subcommand.clone()).or_insert_with(|| help(&subcommand, &shown));
    for word in command.iter().skip(1).filter(|word| word.starts_with('-') && word.len() > 1) {
        let flag = word.split('=').next().unwrap_or_default();
        let known = help.split_whitespace().any(|h| h.trim_end_matches(',') == flag);
        assert!(known, "{shown}: {flag} is not in its --help");
    }
}

fn help(subcommand: &str, shown: &str) -> String {
    let mut arguments = vec![subcommand, "--help"];
    arguments.retain(|a| !a.is_empty());
    let output = Command::new(TRUNDLE).args(&arguments).output().unwrap();
    assert!(output.status.success(), "{shown}: there is no such command");
    String::from_utf8(output.stdout).unwrap()
}

/// Every `trundle …` in a fenced block, and every one that is a piece of code in the text.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut fence: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(language) = trimmed.strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language.to_owned()) };
            continue;
        }
        match fence.as_deref() {
            Some("sh") => found.extend(in_shell(trimmed)),
            Some("console") => found.extend(trimmed.strip_prefix("$ ").and_then(in_shell)),
            // YAML of a CI job.
            Some("yaml") => found.extend(trimmed.split_once("run: ").and_then(|(_, line)| in_shell(line))),
            // Output: the commands that it advises stand after a word.
            Some(_) => {}
            None => {
                let code = line.split('`').skip(1).step_by(2);
                found.extend(code.filter(|code| code.starts_with("trundle ")).filter_map(in_shell));
            }
        }
    }
    found
}

/// The words after `trundle`, up to a comment or the next command.
fn in_shell(line: &str) -> Option<Vec<String>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // `sudo -u trundle trundle …`: the first is a user.
    let at = (0..words.len()).find(|n| words[*n] == "trundle" && (*n == 0 || words[n - 1] != "-u"))?;
    let program =
        at == 0 || words[..at].iter().any(|w| ["sudo", "ssh"].contains(w)) || words[at - 1].contains('=');
    let end = |word: &&&str| !["|", "&&", "&", "||", ";", ">"].contains(word) && !word.starts_with('#');
    program.then(|| {
        let command = words[at + 1..].iter().take_while(end);
        command.map(|word| word.trim_end_matches(';').trim_matches(['"', '\'']).to_owned()).collect()
    })
}

/// Targets of `[text](target)` that are no addresses of the web.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

/// As forges make them of headings.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = line.trim_start_matches('#').trim().to_lowercase();
            kept.chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}

fn pages() -> Vec<PathBuf> {
    let mut pages = markdown_in(&root().join("docs/guide"));
    pages.push(root().join("README.md"));
    pages
}

fn markdown_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|e| e == "md")).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
