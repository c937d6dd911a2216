//! Completions and manual pages: shells and `man` take them, and every command is in them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::process::{Command, Output};

fn trundle(arguments: &[&str]) -> Output {
    // As in the build of a package: no home, no state.
    let mut command = Command::new(env!("CARGO_BIN_EXE_trundle"));
    command.args(arguments).env_clear().output().unwrap()
}

fn text(arguments: &[&str]) -> String {
    let output = trundle(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = text(&["--help"]);
    let list = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap().to_owned();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_shell_gets_every_command() {
    let commands = commands();
    assert!(commands.len() > 20, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command.as_str()), "{command} for {shell}");
        }
    }
    assert_eq!(trundle(&["completions", "csh"]).status.code(), Some(2));
}

#[test]
fn bash_completes_commands_and_flags() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("trundle.bash");
    fs::write(&script, text(&["completions", "bash"])).unwrap();
    let bash = |line: &str| {
        let output =
            Command::new("bash").args(["--norc", "-c", line]).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    bash("bash -n trundle.bash");
    let complete = |words: &str, at: usize, before: &str, word: &str| {
        bash(&format!(
            ". ./trundle.bash; COMP_WORDS=({words}); COMP_CWORD={at}; _trundle trundle '{word}' {before}; echo \"${{COMPREPLY[@]}}\""
        ))
    };
    assert_eq!(complete("trundle dep", 1, "trundle", "dep").trim(), "deploy");
    assert_eq!(complete("trundle deploy --if", 2, "deploy", "--if").trim(), "--if-idle");
}

#[test]
fn every_command_has_a_page() {
    let main = text(&["man"]);
    assert!(main.contains(".SH \"EXIT STATUS\"\n.TP\n0\n"), "{main}");
    assert!(main.contains(".TH trundle 1") && main.contains(".SH NAME"), "{main}");
    let dir = tempfile::tempdir().unwrap();
    let told = text(&["man", "--dir", dir.path().join("man1").to_str().unwrap()]);
    let commands = commands();
    assert!(told.starts_with(&format!("wrote {} pages", commands.len() + 1)), "{told}");
    for command in &commands {
        let page = fs::read_to_string(dir.path().join(format!("man1/trundle-{command}.1"))).unwrap();
        for part in [&format!(".TH trundle-{command} 1"), ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            assert!(page.contains(part), "{part} in {command}");
        }
        assert!(main.contains(&format!("trundle\\-{}", command.replace('-', "\\-"))), "{command} in {main}");
    }
    let daemon = fs::read_to_string(dir.path().join("man1/trundle-daemon.1")).unwrap();
    assert!(
        daemon.contains("\\-\\-ports") && !daemon.contains("\\-\\-detach"),
        "what is hidden stays hidden"
    );
    let refused = trundle(&["man", "--dir", "/dev/null/x"]);
    assert_eq!(refused.status.code(), Some(1));
}
