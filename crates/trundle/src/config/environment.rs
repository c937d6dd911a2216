//! The environment of what runs: `run.env`, `run.env_file` and `run.secrets`.
//!
//! It must never put a value of `env_file` or of a secret into a message or a note.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use trundle_core::ids::EnvKey;
use trundle_drivers::Secret;
use trundle_drivers::program::DEFAULT_PATH;

use super::Secrets;
use super::env_file;
use super::findings::Findings;
use super::problem::Problem;
use super::section::Section;
use super::source::Source;
use super::value::{self, Wrong, refused};

const KEYS_MAX: usize = 1_000;
const VALUE_BYTES_MAX: usize = 128 * 1024;
/// Set by Trundle for each instance, over whatever is written.
const OWN: [&str; 6] =
    ["PORT", "TRUNDLE_APP", "TRUNDLE_VERSION", "TRUNDLE_REVISION", "TRUNDLE_INSTANCE", "TRUNDLE_STATE_DIR"];

/// No `Debug`: it holds values that are not to be seen.
pub struct Environment {
    pub env: BTreeMap<EnvKey, String>,
    pub env_file: Option<BTreeMap<EnvKey, String>>,
    pub secrets: BTreeMap<EnvKey, Secret>,
    /// What PATH will say to the program.
    pub path_variable: String,
}

pub type Caller<'a> = &'a dyn Fn(&str) -> Option<OsString>;

pub fn read(section: &Section<'_>, folder: &Path, secrets: Secrets, caller: Caller<'_>) -> Environment {
    let env = section.get("env", value::text_table(key)).unwrap_or_default();
    for (key, value) in &env {
        if value.len() > VALUE_BYTES_MAX {
            let message = format!("the value of {key} has {} bytes", value.len());
            section.refuse(
                "env",
                message,
                format!("at most {} KiB are possible: put it into a file", VALUE_BYTES_MAX / 1024),
            );
        }
    }
    let env_file = section
        .get("env_file", value::text_up_to(super::run::PATH_BYTES_MAX))
        .map(|path| read_env_file(section, &super::absolute(folder, &path)));
    let names = section.get("secrets", value::texts).unwrap_or_default();
    let secrets = read_secrets(section, &names, secrets, caller);
    let count = env.len() + env_file.as_ref().map_or(0, BTreeMap::len) + names.len();
    if count > KEYS_MAX {
        let message = format!("{count} environment variables are too many: at most {KEYS_MAX} are possible");
        section.refuse("env", message, "put them into a file that the program reads");
    }
    let env_file_keys = env_file.iter().flatten().map(|(key, _)| key);
    for own in env.keys().chain(env_file_keys).chain(secrets.keys()).filter(|key| OWN.contains(&key.as_str()))
    {
        section
            .findings
            .note(format!("{own} in the environment has no effect: Trundle sets it for each instance"));
    }
    let path_variable = path_variable(&env, env_file.as_ref(), &names, caller);
    Environment { env, env_file, secrets, path_variable }
}

fn key(name: &str) -> Result<EnvKey, Wrong> {
    name.parse().map_err(|bad| Wrong::Value(refused(&bad), bad.rule().to_owned()))
}

/// The same order as for what runs: secrets, `env`, `env_file`, the caller's own.
fn path_variable(
    env: &BTreeMap<EnvKey, String>,
    env_file: Option<&BTreeMap<EnvKey, String>>,
    secrets: &[String],
    caller: Caller<'_>,
) -> String {
    let in_table = |table: &BTreeMap<EnvKey, String>| {
        table.iter().find(|(key, _)| key.as_str() == "PATH").map(|(_, value)| value.clone())
    };
    let own = || caller("PATH").and_then(|path| path.into_string().ok());
    let written = if secrets.iter().any(|name| name == "PATH") {
        None
    } else {
        in_table(env).or_else(|| in_table(env_file?))
    };
    written.or_else(own).unwrap_or_else(|| DEFAULT_PATH.to_owned())
}

fn read_env_file(section: &Section<'_>, path: &Path) -> BTreeMap<EnvKey, String> {
    let source = match Source::read(path) {
        Ok(source) => source,
        Err(unreadable) => {
            let hint = unreadable.hint.unwrap_or("create it, or correct run.env_file");
            section.refuse("env_file", unreadable.message, hint);
            return BTreeMap::new();
        }
    };
    let file = env_file::parse(&source.text, VALUE_BYTES_MAX);
    for bad in file.bad {
        section.findings.push(in_env_file(path, bad));
    }
    for (key, line) in &file.again {
        section
            .findings
            .note(format!("{}:{line}: {key} is written again; the last one counts", path.display()));
    }
    file.values
}

/// No span: a line of this file is never shown.
fn in_env_file(path: &Path, bad: env_file::BadLine) -> Problem {
    Problem {
        file: path.display().to_string(),
        line: Some(bad.line),
        column: None,
        key: Some("run.env_file".to_owned()),
        message: bad.message.to_owned(),
        hint: bad.hint,
        span: None,
    }
}

fn read_secrets(
    section: &Section<'_>,
    names: &[String],
    wanted: Secrets,
    caller: Caller<'_>,
) -> BTreeMap<EnvKey, Secret> {
    let mut secrets = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        let refuse = |message: String, hint: String| section.refuse_item("secrets", index, message, hint);
        let key: EnvKey = match name.parse() {
            Ok(key) => key,
            // Not shown: a value may have slipped into the list.
            Err(bad) => {
                let bad: trundle_core::ids::BadName = bad;
                refuse("this is not the name of an environment variable".to_owned(), bad.rule().to_owned());
                continue;
            }
        };
        match (caller(name).map(OsString::into_string), wanted) {
            (None, Secrets::Require) => {
                let hint = format!("set it in the environment of `trundle deploy`: {key}=… trundle deploy");
                refuse(format!("the secret {key} is not set"), hint);
            }
            (None, Secrets::Optional) => note_missing(section.findings, &key),
            (Some(Err(_)), _) => refuse(
                format!("the secret {key} is not UTF-8 text"),
                "encode it, with base64 for example".to_owned(),
            ),
            (Some(Ok(value)), _) if value.len() > VALUE_BYTES_MAX => {
                refuse(
                    format!("the secret {key} is too long"),
                    format!("at most {} KiB are possible", VALUE_BYTES_MAX / 1024),
                );
            }
            (Some(Ok(value)), _) => {
                if value.is_empty() {
                    section.findings.note(format!("the secret {key} is set, but empty"));
                }
                secrets.insert(key, Secret::new(value));
            }
        }
    }
    secrets
}

fn note_missing(findings: &Findings<'_>, key: &EnvKey) {
    findings
        .note(format!("the secret {key} is not set here: `trundle deploy` will need it in its environment"));
}
