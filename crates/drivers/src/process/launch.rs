//! What exactly is run: program, arguments, folder and environment of one instance.
//!
//! Invariant: the environment is made, not inherited, and what is run was compared with what was deployed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use trundle_core::event::RefusalCode;
use trundle_core::revision::Run;

use super::Context;
use super::instance::Job;
use crate::digests;
use crate::health::Surroundings;
use crate::placeholder::{self, Values};
use crate::procfs::{INSTANCE_KEY, STATE_DIR_KEY};
use crate::program::{DEFAULT_PATH, find_program};
use crate::seal::Sealer;
use crate::shim::record::Refusal;
use crate::user::{self, RunAs, UserError};
use crate::{artifact, prepare};

/// All that an app gets of the daemon's own environment.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TMPDIR", "USER"];

pub(super) struct Launch {
    pub program: PathBuf,
    pub argv: Vec<String>,
    pub cwd: PathBuf,
    pub env: BTreeMap<String, String>,
    pub run_as: Option<RunAs>,
}

impl Launch {
    pub fn new(job: &Job, port: u16) -> Result<Self, Refusal> {
        let Job { context, app, key, revision, .. } = job;
        let (key, run) = (*key, &revision.template.run);
        if let Some(artifact) = &run.artifact {
            let put_back = artifact::verify(&context.layout, artifact)?;
            if put_back > 0 {
                let (name, path) = (key.name(app), artifact.path.escape_debug());
                log_line!(
                    "trundle: {put_back} changed entries in the copy of {path} are as deployed again, for {name}"
                );
            }
        }
        let (command, cwd) = place(context, run);
        if !cwd.is_dir() {
            let text = format!("the folder {} is not there: create it, or correct run.cwd", cwd.display());
            return Err(Refusal::new(RefusalCode::NotFound, text));
        }
        let run_as = job.run_as().map_err(|error| unknown_user(&error))?;
        if let Some(artifact) = run.artifact.as_ref().filter(|_| run_as.is_some()) {
            user::open_way_to(&context.layout, artifact)
                .map_err(|error| Refusal::system("cannot let run.user come to the artifact", error))?;
        }
        if run_as.is_some() && context.layout.gates(app).exists() {
            user::open_way_to_gates(&context.layout)
                .map_err(|error| Refusal::system("cannot let run.user come to TRUNDLE_GATES", error))?;
        }
        let env = environment(job, port, run_as.as_ref())?;
        let values = Values::new(app, key, &revision.template.version, port);
        let argv: Result<Vec<String>, _> =
            command.iter().map(|arg| placeholder::fill(arg, &values)).collect();
        let argv = argv.map_err(|error| Refusal::new(RefusalCode::NotFound, error.to_string()))?;
        let path_variable = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let program = match &run.artifact {
            Some(_) => find_program(argv.first().map_or("", String::as_str), &cwd, path_variable)?,
            None => digests::verify(run, &cwd, path_variable, &context.digests)?,
        };
        Ok(Self { program, argv, cwd, env, run_as })
    }
}

/// The command before placeholders, and the folder.
fn place(context: &Context, run: &Run) -> (Vec<String>, PathBuf) {
    let cwd = Path::new(&run.cwd);
    match &run.artifact {
        Some(artifact) => prepare::located(&context.layout, artifact, &run.command, cwd),
        None => (run.command.clone(), cwd.to_owned()),
    }
}

/// For a probe that is a command.
pub(super) fn surroundings(job: &Job, port: u16) -> Result<Surroundings, String> {
    let (_, cwd) = place(&job.context, &job.revision.template.run);
    let run_as = job.run_as().map_err(|error| unknown_user(&error).text)?;
    let env = environment(job, port, run_as.as_ref());
    Ok(Surroundings { cwd, env: env.map_err(|refusal| refusal.text)?, run_as })
}

fn unknown_user(error: &UserError) -> Refusal {
    Refusal::new(RefusalCode::NotFound, format!("run.user: {error}"))
}

/// Where an instance reads which gates are open.
const GATES_KEY: &str = "TRUNDLE_GATES";

fn environment(job: &Job, port: u16, run_as: Option<&RunAs>) -> Result<BTreeMap<String, String>, Refusal> {
    let Job { context, app, key, revision, .. } = job;
    let run = &revision.template.run;
    let inherited = INHERITED.iter().filter_map(|name| Some((name.to_string(), std::env::var(name).ok()?)));
    let mut env: BTreeMap<String, String> = inherited.collect();
    env.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
    if let Some(run_as) = run_as {
        env.insert("HOME".to_owned(), run_as.home.clone());
        env.insert("USER".to_owned(), run_as.name.clone());
    }
    env.extend(run.env.iter().map(|(key, value)| (key.to_string(), value.clone())));
    if let Some(sealed) = &run.sealed {
        let values = Sealer::open(&context.layout).and_then(|sealer| sealer.open_values(sealed));
        env.extend(values.map_err(|error| Refusal::new(RefusalCode::Secrets, error.to_string()))?);
    }
    let own = [
        ("TRUNDLE_APP", app.to_string()),
        ("TRUNDLE_VERSION", revision.template.version.to_string()),
        ("TRUNDLE_REVISION", key.revision.to_string()),
        (INSTANCE_KEY, key.name(app)),
        (STATE_DIR_KEY, context.state_dir.clone()),
        (GATES_KEY, context.layout.gates(app).to_string_lossy().into_owned()),
        ("PORT", port.to_string()),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    Ok(env)
}
