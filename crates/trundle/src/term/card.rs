//! The failure card: the cause and the next command first, then everything that helps to understand it.

use std::fmt::Write;

use trundle_core::reason::duration_text;
use trundle_drivers::logs::printable;
use trundle_engine::view::{Changed, Failure, RolloutStatus, Status};

use super::{bold, dim, green, red, yellow};

/// Whether a rollout of the app stands still or went back because of something.
pub fn has_one(status: &Status) -> bool {
    let halted = |state: &str| matches!(state, "paused" | "failed" | "rolling_back");
    !status.down && status.rollout.as_ref().is_some_and(|r| halted(&r.state))
}

pub fn render(status: &Status) -> String {
    let Some(rollout) = &status.rollout else { return String::new() };
    let mut out = String::new();
    headline(&mut out, status, rollout);
    if let Some(failure) = &rollout.failure {
        about(&mut out, failure);
    }
    serving(&mut out, status);
    next(&mut out, status, rollout);
    if let Some(failure) = &rollout.failure {
        evidence(&mut out, failure);
    }
    out
}

/// What failed, what had changed and what was seen, for a report of the past.
pub fn of_the_past(failure: &Failure) -> String {
    let mut out = String::new();
    row(&mut out, "failed", &format!("{} {}", failure.instance, bold(&printable(&failure.cause))));
    about(&mut out, failure);
    evidence(&mut out, failure);
    out
}

fn row(out: &mut String, label: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "  {} {text}", dim(&format!("{label:<9}")));
}

fn headline(out: &mut String, status: &Status, rollout: &RolloutStatus) {
    let state = match rollout.state.as_str() {
        "paused" => yellow("paused"),
        "rolled_back" => yellow("rolled back"),
        "aborted" => yellow("aborted"),
        "rolling_back" => yellow("going back"),
        other => red(other),
    };
    let what = format!("{} {}", status.app, rollout.to_version);
    let _ = match &rollout.failure {
        Some(failure) => writeln!(
            out,
            "{} {} {state}: {} {}",
            red("✗"),
            bold(&what),
            failure.instance,
            bold(&printable(&failure.cause))
        ),
        None => {
            let why = rollout.reasons.iter().find_map(|r| r["text"].as_str()).unwrap_or_default();
            let why = ["paused: ", "the rollout failed "]
                .iter()
                .find_map(|said| why.strip_prefix(said))
                .unwrap_or(why);
            let sign = if rollout.state == "failed" { red("✗") } else { yellow("‖") };
            writeln!(out, "{sign} {} {state} {}", bold(&what), printable(why))
        }
    };
}

fn about(out: &mut String, failure: &Failure) {
    if let (Some(changed), Some(base)) = (&failure.changed, &failure.base_version) {
        let lines = changes(changed);
        if lines.is_empty() {
            row(out, "changed", &format!("nothing since {base}"));
        }
        for (n, line) in lines.iter().enumerate() {
            let label = if n == 0 { "changed" } else { "" };
            let since = if n == 0 { format!("  {}", dim(&format!("(since {base})"))) } else { String::new() };
            row(out, label, &format!("{line}{since}"));
        }
    }
    if let Some(true) = failure.base_shows_it_too {
        row(out, "", "the old version shows the same error now: look for a cause outside");
    }
    if failure.count > 1 {
        row(out, "failures", &failure.count.to_string());
    }
}

/// Each difference on a line.
pub fn changes(changed: &Changed) -> Vec<String> {
    changes_with(changed, bold)
}

/// The same where `strong` makes stand out what counts most in it.
pub fn changes_with(changed: &Changed, strong: fn(&str) -> String) -> Vec<String> {
    let mut lines = Vec::new();
    let show =
        |value: &Option<String>| value.as_ref().map_or_else(|| "(not set)".to_owned(), |v| printable(v));
    for (key, [old, new]) in &changed.env {
        lines.push(format!("{key} {} → {}", show(old), strong(&show(new))));
    }
    for (key, word) in &changed.env_file {
        lines.push(format!("{key} {word} in env_file"));
    }
    for (key, word) in &changed.secrets {
        lines.push(format!("secret {key} {word}"));
    }
    if let Some([old, new]) = &changed.command {
        lines.push(format!("command {} → {}", printable(old), printable(new)));
    }
    if let Some([old, new]) = &changed.cwd {
        lines.push(format!("cwd {} → {}", printable(old), printable(new)));
    }
    if let Some([old, new]) = &changed.artifact {
        lines.push(format!("artifact {} → {}", show(old), show(new)));
    }
    lines.extend(changed.bytes.iter().map(|path| format!("bytes of {}", printable(path))));
    lines.extend(changed.other.iter().cloned());
    if let Some([old, new]) = &changed.version {
        lines.push(format!("version {old} → {new}"));
    }
    lines
}

fn serving(out: &mut String, status: &Status) {
    let mix = super::report::serving(status).unwrap_or_else(|| red("nothing"));
    let requests = match &status.requests {
        // A worker takes none.
        None if status.listen.is_empty() => String::new(),
        None => ", requests were not counted".to_owned(),
        Some(requests) => {
            let lost = requests.lost;
            let lost = if lost == 0 { green("none lost") } else { red(&format!("{lost} lost")) };
            format!(", {} requests in this rollout, {lost}", requests.total)
        }
    };
    row(out, "serving", &format!("{mix} (floor {}){requests}", status.floor));
}

fn next(out: &mut String, status: &Status, rollout: &RolloutStatus) {
    let commands: &[(&str, &str)] = match rollout.state.as_str() {
        "paused" if rollout.back_to.is_some() => {
            &[("resume", "goes on going back"), ("deploy", "with a fix")]
        }
        "paused" if rollout.failure.is_some() => &[
            ("deploy", "after a fix of the file or the code: goes on from here"),
            ("resume", "after a fix outside: the same version again"),
            ("rollback", "back to the version that worked"),
        ],
        "paused" => &[("resume", "goes on from here"), ("abort", "goes back")],
        "failed" => &[
            ("deploy", "with a fix, or of the version that worked"),
            ("rollback", "back to an earlier version"),
        ],
        _ => &[("deploy", "with a fix")],
    };
    // Nothing is advised that would be refused, such as a rollback where there is nothing to go back to.
    let may = |word: &str| word == "deploy" || status.allowed.iter().any(|allowed| allowed == word);
    for (n, (word, why)) in commands.iter().filter(|(word, _)| may(word)).enumerate() {
        let app = if *word == "deploy" { String::new() } else { format!(" {}", status.app) };
        let command = format!("trundle {word}{app}");
        row(out, if n == 0 { "next" } else { "or" }, &format!("{:<26} {}", bold(&command), dim(why)));
    }
}

fn evidence(out: &mut String, failure: &Failure) {
    if let Some(probe) = &failure.probe {
        let status = probe.status.map(|s| s.to_string());
        let answer = status.or_else(|| probe.error.clone()).unwrap_or_else(|| "no answer".to_owned());
        row(out, "probe", &format!("{} → {}", printable(&probe.request), printable(&answer)));
        for line in probe.body.iter().flat_map(|b| b.lines()).take(5) {
            row(out, "", &printable(line));
        }
    }
    let ended = match (failure.exit_code, failure.signal) {
        (Some(code), _) => Some(format!("exit code {code}")),
        (_, Some(signal)) => Some(format!("signal {signal}")),
        _ => None,
    };
    if let Some(ended) = ended {
        row(out, "ended", &format!("{ended}, {} after its start", duration_text(failure.after_ms)));
    }
    if failure.logs.is_empty() {
        // Of one that never ran there is nothing to say.
        if failure.refused.is_none() {
            row(out, "log", "it wrote nothing");
        }
    } else {
        row(
            out,
            "log",
            &format!("the last {} (trundle logs {})", lines(failure.logs.len()), failure.instance),
        );
        for line in &failure.logs {
            let _ = writeln!(out, "    {}", printable(line));
        }
    }
}

fn lines(n: usize) -> String {
    if n == 1 { "line".to_owned() } else { format!("{n} lines") }
}
