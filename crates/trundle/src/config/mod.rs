//! `trundle.toml`: from the file and the flags to what shall run and how it shall roll.
//!
//! It reads the file system and the given environment, and changes nothing. It must never show a value of a secret
//! or of `env_file`. Code map: [`source`] text, [`node`] the tree, [`sets`] the flags over it, [`section`] and
//! [`value`] typed reading, one file for each table, [`findings`] what was found on the way.

mod app;
pub mod duration;
mod env_file;
mod environment;
mod findings;
mod formats;
mod gates;
mod health;
mod keys;
mod listen;
mod node;
mod problem;
mod program;
mod rollout;
mod run;
pub mod schema;
mod section;
mod sets;
mod similar;
pub mod source;
mod syntax;
mod traffic;
mod value;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use trundle_core::ids::AppName;
use trundle_core::settings::AppSettings;
use trundle_drivers::prepare::Draft;
// As people read a path, and as the driver will.
use trundle_drivers::program::absolute;

use findings::Findings;
use section::Section;
use source::{Source, Unreadable};

pub use duration::parse as parse_duration;
pub use listen::proxy_limits;
pub use problem::{ConfigError, Look, Problem};

/// A configuration that can be deployed. No `Debug`: the draft holds values that are not to be seen.
pub struct Loaded {
    /// Absolute.
    pub path: PathBuf,
    pub name: AppName,
    pub settings: AppSettings,
    pub draft: Draft,
    /// What is not wrong, but good to know.
    pub notes: Vec<String>,
    pub origin: Origin,
}

/// What was read, to be able to point at a place of it later.
pub struct Origin {
    source: Source,
    tree: node::Table,
}

impl Origin {
    /// For what only the machine can say of a key: with its place, as any other problem.
    pub fn refuse(&self, key: &str, message: String, hint: &str) -> ConfigError {
        let findings = Findings::new(&self.source);
        findings.refuse(&findings::place_of(&self.tree, key), key, message, hint);
        findings.refused()
    }
}

/// What a secret that is not in the environment means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// A problem: it is about to be deployed.
    Require,
    /// A note; the draft is then without it.
    Optional,
}

/// Reads and judges everything; `sets` are the `--set` flags, `env` answers for the caller's environment.
/// The error holds every problem, not only the first.
pub fn load(
    path: &Path,
    sets: &[(String, String)],
    secrets: Secrets,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Loaded, ConfigError> {
    let source = Source::read(path).map_err(|unreadable| no_file(path, unreadable))?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/"));
    let findings = Findings::new(&source);
    let (parsed, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        syntax::report(&errors, &findings, |byte| source.line_column(byte).0);
        return Err(findings.refused());
    }
    let mut tree = node::of_file(parsed.get_ref());
    sets::apply(&mut tree, sets, &findings);
    let app = app::read(&Section::top(&tree, &findings), folder, secrets, env);
    for problem in app.settings.problems() {
        findings.refuse_setting(&tree, problem);
    }
    let app::App { name, settings, draft } = app;
    let ((name, draft), notes) = findings.finish(name.zip(draft))?;
    Ok(Loaded { path, name, settings, draft, notes, origin: Origin { source, tree } })
}

fn no_file(path: &Path, unreadable: Unreadable) -> ConfigError {
    let hint = unreadable.hint.unwrap_or("`trundle init` writes one; `-f FILE` names another");
    let problem = Problem {
        file: path.display().to_string(),
        line: unreadable.line,
        column: None,
        key: None,
        message: unreadable.message,
        hint: hint.to_owned(),
        span: None,
    };
    ConfigError::new(path.display().to_string(), String::new(), vec![problem])
}
