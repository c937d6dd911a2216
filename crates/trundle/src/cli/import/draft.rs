//! What is going to be written, with a line for each thing that was taken over and for each that was not.

use std::fmt::Write as _;

use serde::Serialize;
use trundle_core::Millis;
use trundle_core::ids::AppName;
use trundle_core::settings::RolloutSettings;

use crate::config::duration::text as duration_text;
use crate::config::source::harmless;

/// Stands where a person must write the program. No program has this name, so `validate` refuses it with its line.
const TODO_PROGRAM: &str = "TODO-write-your-command";

/// Why limits of memory, cores and files are not taken over: not every daemon may set them.
pub const LIMITS: &str =
    "write them into [run.limits]; for memory and cpu the daemon needs control groups that it may write";

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub what: String,
    /// As it is written now.
    #[serde(rename = "as")]
    pub now: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    pub what: String,
    pub why: String,
}

/// A table of checks: `ready`, `startup` or `live`.
pub struct Check {
    pub name: &'static str,
    /// Lines of `key = value`.
    pub lines: Vec<String>,
}

pub struct Draft {
    pub name: AppName,
    pub version: String,
    pub replicas: u32,
    /// Arguments as `trundle.toml` has them: placeholders in braces. Empty: nobody knows what to run.
    pub command: Vec<String>,
    /// What a person must see to, above the command.
    pub todo: Vec<String>,
    /// Variables that hold the port, with `{port}` in them: they are given by `env`, which fills nothing in by itself.
    pub port_variables: Vec<(String, String)>,
    pub cwd: Option<String>,
    pub env: Vec<(String, String)>,
    pub env_file: Option<String>,
    pub secrets: Vec<String>,
    pub stop_signal: Option<String>,
    pub listen: Option<String>,
    pub checks: Vec<Check>,
    /// `key = value` lines of `[rollout]`; those of the times below are added by [`Draft::settle`].
    pub rollout: Vec<String>,
    pub min_healthy_ms: Millis,
    pub progress_ms: Option<Millis>,
    /// What an instance may take to start, where that is known.
    pub start_ms: Option<Millis>,
    pub kept: Vec<Kept>,
    pub dropped: Vec<Dropped>,
}

impl Draft {
    pub fn new(name: AppName) -> Self {
        Self {
            name,
            version: "1.0".to_owned(),
            replicas: 1,
            command: Vec::new(),
            todo: Vec::new(),
            port_variables: Vec::new(),
            cwd: None,
            env: Vec::new(),
            env_file: None,
            secrets: Vec::new(),
            stop_signal: None,
            listen: None,
            checks: Vec::new(),
            rollout: Vec::new(),
            min_healthy_ms: 0,
            progress_ms: None,
            start_ms: None,
            kept: Vec::new(),
            dropped: Vec::new(),
        }
    }

    pub fn keep(&mut self, what: impl Into<String>, now: impl Into<String>) {
        self.kept.push(Kept { what: harmless(&what.into()), now: harmless(&now.into()) });
    }

    pub fn drop(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.dropped.push(Dropped { what: harmless(&what.into()), why: harmless(&why.into()) });
    }

    /// A line of `[rollout]`, which is kept from `what`.
    pub fn roll(&mut self, what: impl Into<String>, line: String) {
        self.keep(what, format!("rollout.{line}"));
        self.rollout.push(line);
    }

    pub fn has_check(&self, name: &str) -> bool {
        self.checks.iter().any(|check| check.name == name)
    }

    /// The whole file. `origin` names where it comes from.
    pub fn text(&self, origin: &str) -> String {
        let mut out = format!(
            "# Made from {} by `trundle init --from`. Check it with `trundle validate`.\n\n",
            harmless(origin)
        );
        let mut line = |text: &str| {
            out.push_str(text);
            out.push('\n');
        };
        line(&format!("name = {}", quoted(self.name.as_str())));
        line(&format!("version = {}   # `--set version=…` says it from outside", quoted(&self.version)));
        line(&format!("replicas = {}", self.replicas));
        line("\n[run]");
        for todo in &self.todo {
            line(&format!("# TODO: {}", harmless(todo)));
        }
        line(&format!("command = {}", list(&self.whole_command())));
        if let Some(cwd) = &self.cwd {
            line(&format!("cwd = {}", quoted(cwd)));
        }
        if let Some(file) = &self.env_file {
            line(&format!("env_file = {}", quoted(file)));
        }
        if !self.secrets.is_empty() {
            line(&format!(
                "secrets = {}   # taken from the environment of `trundle deploy`",
                list(&self.secrets)
            ));
        }
        if let Some(signal) = &self.stop_signal {
            line(&format!("stop_signal = {}", quoted(signal)));
        }
        if !self.env.is_empty() {
            line("\n[run.env]");
            for (key, value) in &self.env {
                line(&format!("{key} = {}", quoted(value)));
            }
        }
        if let Some(address) = &self.listen {
            line("\n[listen]");
            line(&format!("http = {}", quoted(address)));
        }
        for check in self.checks.iter().chain(self.check_of_a_worker().as_ref()) {
            line(&format!("\n[health.{}]", check.name));
            check.lines.iter().for_each(|text| line(text));
        }
        line("\n[rollout]");
        self.rollout.iter().for_each(|text| line(text));
        if !self.dropped.is_empty() {
            line("\n# Not taken over:");
            for dropped in &self.dropped {
                line(&format!("# - {}: {}", dropped.what, dropped.why));
            }
        }
        out
    }

    fn whole_command(&self) -> Vec<String> {
        let known = !self.command.is_empty() && self.command[0] != TODO_PROGRAM;
        let mut command = Vec::new();
        // Before a program that is not known yet, `env` would hide from `validate` that it is missing.
        if known && !self.port_variables.is_empty() {
            command.push("env".to_owned());
            command.extend(self.port_variables.iter().map(|(key, value)| format!("{key}={value}")));
        }
        command.extend(self.command.iter().cloned());
        command
    }

    /// The image alone says what is run: a person must write it. `arguments` are what follows it.
    pub fn command_is_not_known(&mut self, why: &str, arguments: Vec<String>) {
        self.todo.push(why.to_owned());
        self.command = vec![TODO_PROGRAM.to_owned()];
        self.command.extend(arguments);
        if !self.port_variables.is_empty() {
            let variables: Vec<_> =
                self.port_variables.iter().map(|(key, value)| quoted(&format!("{key}={value}"))).collect();
            self.todo.push(format!("begin it with \"env\", {}", variables.join(", ")));
        }
    }

    /// Without a port there is nothing to connect to, which is what is looked for where no check is written.
    fn check_of_a_worker(&self) -> Option<Check> {
        (self.listen.is_none() && !self.has_check("ready")).then(|| Check {
            name: "ready",
            lines: vec!["exec = [\"true\"]   # it takes no requests: started is ready".to_owned()],
        })
    }

    /// Writes deadlines that fit together: an instance's own time to get ready lies within that of the rollout.
    pub fn settle(&mut self) {
        let defaults = RolloutSettings::default();
        let min_healthy = self.min_healthy_ms;
        let mut healthy = self.start_ms.unwrap_or(0).max(defaults.healthy_deadline_ms);
        let mut progress = self.progress_ms.unwrap_or(defaults.progress_deadline_ms);
        if progress < healthy + min_healthy {
            if self.start_ms.is_none() && progress > min_healthy {
                healthy = progress - min_healthy;
            } else {
                progress = healthy + min_healthy;
                let why = "raised: one instance alone may take healthy_deadline + min_healthy_time";
                self.drop(format!("a progress deadline below {}", duration_text(progress)), why);
            }
        }
        let all = [
            ("min_healthy_time", min_healthy, defaults.min_healthy_time_ms),
            ("healthy_deadline", healthy, defaults.healthy_deadline_ms),
            ("progress_deadline", progress, defaults.progress_deadline_ms),
        ];
        let written = all.iter().filter(|(_, ms, default)| ms != default);
        self.rollout.extend(written.map(|(key, ms, _)| format!("{key} = {}", duration(*ms))));
    }
}

/// As TOML writes a text.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Writing into a String cannot fail.
            c if c.is_control() => drop(write!(out, "\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

pub fn list(texts: &[String]) -> String {
    let items: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", items.join(", "))
}

/// As TOML has a duration.
pub fn duration(ms: Millis) -> String {
    quoted(&duration_text(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_back_as_they_were() {
        for text in ["", "plain", "a\"b\\c", "two\nlines\tand\u{7f}\u{1}\r", "ü {x}"] {
            let table: toml::Table = format!("x = {}", quoted(text)).parse().unwrap();
            assert_eq!(table["x"].as_str(), Some(text));
        }
    }

    #[test]
    fn deadlines_fit_together() {
        let check = |min_healthy, progress, start, expect: &[&str]| {
            let mut draft = Draft::new("web".parse().unwrap());
            (draft.min_healthy_ms, draft.progress_ms, draft.start_ms) = (min_healthy, progress, start);
            draft.settle();
            assert_eq!(draft.rollout, expect);
        };
        check(0, None, None, &[]);
        check(10_000, Some(600_000), None, &["min_healthy_time = \"10s\""]);
        check(
            10_000,
            Some(120_000),
            None,
            &["min_healthy_time = \"10s\"", "healthy_deadline = \"110s\"", "progress_deadline = \"2m\""],
        );
        check(0, None, Some(900_000), &["healthy_deadline = \"15m\"", "progress_deadline = \"15m\""]);
        check(3_600_000, None, None, &["min_healthy_time = \"1h\"", "progress_deadline = \"65m\""]);
    }
}
