//! From a description to a template, at deploy time: the artifact is copied, the bytes are digested, the values sealed.
//!
//! Invariant: no value of `env_file` or `secrets` is in what it answers, nor in an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use trundle_core::ids::{EnvKey, VersionLabel};
use trundle_core::revision::{
    Artifact, Health, Port, Probe, Protocol, Quiet, Run, RunLimits, Sealed, SealedOrigin, StopSignal,
    Template,
};

use crate::artifact::{self, ArtifactError};
use crate::digests::{self, Digests};
use crate::layout::Layout;
use crate::placeholder::{self, BadPlaceholder};
use crate::program::{DEFAULT_PATH, absolute, find_program};
use crate::seal::{SealError, Sealer};
use crate::secret::Secret;

/// The most that a command and an environment may have together; the kernel takes about that.
const RUN_BYTES_MAX: usize = 1024 * 1024;

/// What shall run, as it was written. No `Debug`: it holds values that are not to be seen.
pub struct Draft {
    pub version: VersionLabel,
    pub command: Vec<String>,
    /// Absolute.
    pub cwd: PathBuf,
    pub env: BTreeMap<EnvKey, String>,
    /// Its content, read already. A key that is in `env` too is taken from there.
    pub env_file: Option<BTreeMap<EnvKey, String>>,
    /// Prevail over `env` and `env_file`.
    pub secrets: BTreeMap<EnvKey, Secret>,
    pub artifact: Option<DraftArtifact>,
    pub stop_signal: StopSignal,
    pub protocol: Protocol,
    pub quiet: Option<Quiet>,
    pub user: Option<String>,
    pub limits: RunLimits,
    pub port: Port,
    pub health: Health,
    pub compatible_with: Option<String>,
}

pub struct DraftArtifact {
    /// Absolute.
    pub path: PathBuf,
    pub as_written: String,
}

/// Why a description cannot run. [`Self::key`] names the place in the file.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("{0}")]
    Program(String),
    #[error("the folder {} is not there: create it, or correct run.cwd", .0.display())]
    Cwd(PathBuf),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(
        "the artifact {0} is a file, but the command does not name it: write it there as it is written here"
    )]
    ArtifactUnused(String),
    #[error("{placeholder}")]
    Placeholder { key: &'static str, placeholder: BadPlaceholder },
    #[error(transparent)]
    Secrets(#[from] SealError),
    #[error("{what} holds a NUL byte, which no program can be given: remove it")]
    Nul { key: &'static str, what: String },
    #[error("the command and the environment have more than {} KiB: put big values into a file", RUN_BYTES_MAX / 1024)]
    TooBig,
    #[error("{problem}")]
    Probe { key: &'static str, problem: String },
}

impl PrepareError {
    /// The key in `trundle.toml` under which the trouble stands.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Program(_) => "run.command",
            Self::Cwd(_) => "run.cwd",
            Self::Artifact(_) | Self::ArtifactUnused(_) => "run.artifact",
            Self::Placeholder { key, .. } | Self::Nul { key, .. } | Self::Probe { key, .. } => key,
            Self::Secrets(_) => "run.secrets",
            Self::TooBig => "run.env",
        }
    }
}

/// Blocking. The same draft with the same bytes and values gives the same template, however often.
pub fn prepare(state_dir: &Path, mut draft: Draft) -> Result<Template, PrepareError> {
    let state_dir = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
    let layout = Layout::new(&state_dir);
    check_texts(&draft)?;
    check_health(&draft.health)?;
    if !draft.cwd.is_dir() {
        return Err(PrepareError::Cwd(draft.cwd));
    }
    let values = hidden_values(&mut draft);
    let path_variable = path_variable(&draft.env, &values);
    let artifact = import(&layout, &mut draft)?;
    let bytes = match &artifact {
        Some(artifact) => {
            let (command, cwd) = located(&layout, artifact, &draft.command, &draft.cwd);
            let name = command.first().map_or("", String::as_str);
            find_program(name, &cwd, &path_variable).map_err(|why| PrepareError::Program(why.to_string()))?;
            BTreeMap::new()
        }
        None => digests::in_place(&draft.command, &draft.cwd, &path_variable, &Digests::default())
            .map_err(|refusal| PrepareError::Program(refusal.text))?,
    };
    let run = Run {
        command: draft.command,
        cwd: draft.cwd.to_string_lossy().into_owned(),
        env: draft.env,
        sealed: sealed(&layout, &values)?,
        artifact,
        bytes,
        stop_signal: draft.stop_signal,
        protocol: draft.protocol,
        quiet: draft.quiet,
        user: draft.user,
        limits: draft.limits,
        port: draft.port,
    };
    Ok(Template {
        version: draft.version,
        run,
        health: draft.health,
        compatible_with: draft.compatible_with,
        restarts: 0,
    })
}

/// The command and the folder to run it in, with the artifact's copy in place of the artifact.
pub(crate) fn located(
    layout: &Layout,
    artifact: &Artifact,
    command: &[String],
    cwd: &Path,
) -> (Vec<String>, PathBuf) {
    let copy = artifact::copy_of(layout, artifact);
    if artifact.is_folder {
        return (command.to_vec(), copy);
    }
    // A brace in the path of the copy must not be read as a placeholder later.
    let place = copy.to_string_lossy().replace('{', "{{").replace('}', "}}");
    let swap = |arg: &String| if *arg == artifact.path { place.clone() } else { arg.clone() };
    (command.iter().map(swap).collect(), cwd.to_owned())
}

fn import(layout: &Layout, draft: &mut Draft) -> Result<Option<Artifact>, PrepareError> {
    let Some(wanted) = &draft.artifact else { return Ok(None) };
    let artifact = artifact::import(layout, &wanted.path, wanted.as_written.clone())?;
    if !artifact.is_folder {
        // However the command names the file, from here on it is named in one way.
        let is_it = |arg: &str| {
            arg == artifact.path || absolute(&draft.cwd, arg) == absolute(&draft.cwd, &wanted.path)
        };
        let mut named = false;
        for arg in &mut draft.command {
            if !arg.is_empty() && is_it(arg) {
                arg.clone_from(&artifact.path);
                named = true;
            }
        }
        if !named {
            return Err(PrepareError::ArtifactUnused(artifact.path));
        }
    }
    Ok(Some(artifact))
}

fn check_texts(draft: &Draft) -> Result<(), PrepareError> {
    if draft.command.first().is_none_or(String::is_empty) {
        return Err(PrepareError::Program("the command is empty: name a program".to_owned()));
    }
    for arg in &draft.command {
        check_argument("run.command", arg)?;
    }
    let env_file = draft.env_file.iter().flatten().map(|(key, value)| ("run.env_file", key, value.as_str()));
    let secrets = draft.secrets.iter().map(|(key, value)| ("run.secrets", key, value.expose()));
    let mut size: usize = draft.command.iter().map(String::len).sum();
    for (place, key, value) in
        draft.env.iter().map(|(key, value)| ("run.env", key, value.as_str())).chain(env_file).chain(secrets)
    {
        size += key.as_str().len() + value.len();
        if value.contains('\0') {
            return Err(PrepareError::Nul { key: place, what: format!("the value of {key}") });
        }
    }
    if size > RUN_BYTES_MAX { Err(PrepareError::TooBig) } else { Ok(()) }
}

fn check_argument(key: &'static str, arg: &str) -> Result<(), PrepareError> {
    if arg.contains('\0') {
        return Err(PrepareError::Nul { key, what: "an argument".to_owned() });
    }
    placeholder::check(arg).map(|_| ()).map_err(|placeholder| PrepareError::Placeholder { key, placeholder })
}

fn check_health(health: &Health) -> Result<(), PrepareError> {
    let checks = [
        ("health.startup", health.startup.as_ref()),
        ("health.ready", Some(&health.ready)),
        ("health.live", health.live.as_ref()),
    ];
    for (key, check) in checks.into_iter().filter_map(|(key, check)| Some((key, check?))) {
        match &check.probe {
            Probe::Tcp | Probe::Grpc(_) => {}
            Probe::Exec(command) if command.first().is_none_or(String::is_empty) => {
                return Err(PrepareError::Probe {
                    key,
                    problem: "the command of the check is empty".to_owned(),
                });
            }
            Probe::Exec(command) => command.iter().try_for_each(|arg| check_argument(key, arg))?,
            Probe::Http(http) => {
                crate::health::check_request(http).map_err(|problem| PrepareError::Probe { key, problem })?;
            }
        }
    }
    Ok(())
}

/// The values that are sealed. A key that stands in several places is left in one only.
fn hidden_values(draft: &mut Draft) -> BTreeMap<EnvKey, (SealedOrigin, Secret)> {
    let mut values = BTreeMap::new();
    for (key, value) in draft.env_file.take().into_iter().flatten() {
        if !draft.env.contains_key(&key) {
            values.insert(key, (SealedOrigin::EnvFile, Secret::new(value)));
        }
    }
    for (key, secret) in &draft.secrets {
        draft.env.remove(key);
        values.insert(key.clone(), (SealedOrigin::Secret, secret.clone()));
    }
    values
}

fn sealed(
    layout: &Layout,
    values: &BTreeMap<EnvKey, (SealedOrigin, Secret)>,
) -> Result<Option<Sealed>, PrepareError> {
    if values.is_empty() {
        return Ok(None);
    }
    Ok(Some(Sealer::open(layout)?.seal(values)?))
}

fn path_variable(
    env: &BTreeMap<EnvKey, String>,
    hidden: &BTreeMap<EnvKey, (SealedOrigin, Secret)>,
) -> String {
    let hidden = hidden
        .iter()
        .find(|(key, _)| key.as_str() == "PATH")
        .map(|(_, (_, value))| value.expose().to_owned());
    let plain = || env.iter().find(|(key, _)| key.as_str() == "PATH").map(|(_, value)| value.clone());
    hidden.or_else(plain).or_else(|| std::env::var("PATH").ok()).unwrap_or_else(|| DEFAULT_PATH.to_owned())
}
