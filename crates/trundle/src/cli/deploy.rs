//! `deploy`: from the file to a revision, and on to the rollout.

use std::io::Write as _;
use std::path::Path;

use trundle_core::revision::Template;
use trundle_core::state::{DeployRequest, Request};
use trundle_drivers::Draft;

use super::follow::{self, Purpose};
use super::{Context, FileArgs, FollowArgs, Stop, told, who};
use crate::api::client::ClientError;
use crate::api::server::{DOOR_KEYS, doors};
use crate::config::{self, ConfigError, Loaded, Secrets};
use crate::daemon::start;
use crate::exit::Exit;

/// What to do about an address that cannot be listened on.
fn door_hint(message: &str) -> &'static str {
    if message.contains("Permission denied") {
        "ports below 1024 need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit of the daemon, or another port"
    } else {
        "free it, or choose another address"
    }
}

/// What is asked besides the file.
#[derive(Debug, Clone, Copy)]
pub struct How {
    pub if_idle: bool,
    pub step: bool,
    pub force: bool,
}

pub async fn run(
    context: &Context,
    file: &FileArgs,
    follow: &FollowArgs,
    meta: &[(String, String)],
    how: How,
) -> Result<Exit, Stop> {
    let loaded = load(context, file, Secrets::Require)?;
    if !context.json && !context.quiet {
        for note in &loaded.notes {
            eprintln!("{}: {note}", crate::term::yellow("note"));
        }
    }
    for (key, address) in DOOR_KEYS.iter().zip(doors(loaded.settings.listen.as_ref())) {
        let Some(address) = address else { continue };
        if let Some(error) = start::door_is_held(&context.state_dir, &context.client, address).await {
            let message = format!("cannot listen on {address}: {error}");
            return Err(refused(context, &loaded.origin.refuse(key, message.clone(), door_hint(&message))));
        }
    }
    start::ensure(&context.state_dir, &context.client).await?;
    let seen = match context.client.status(loaded.name.as_str()).await {
        Ok(status) => Some(trundle_core::ids::RolloutId(status.rollout.map_or(0, |r| r.id))),
        // It is not known yet: whoever deploys it first is before us.
        Err(ClientError::Failed(_)) => Some(trundle_core::ids::RolloutId(0)),
        Err(error) => return Err(Stop::Error(error.to_string())),
    };
    let (name, settings) = (loaded.name.clone(), loaded.settings.clone());
    let template = prepare(context, &loaded.path, loaded.draft)?;
    let How { if_idle, step, force } = how;
    let request =
        DeployRequest { if_idle, step, force, seen_rollout: seen, ..DeployRequest::new(template, settings) };
    let mut by = who();
    for (key, value) in meta {
        by.push_str(&format!(
            " {key}={}",
            value.chars().filter(|c| !c.is_control()).take(200).collect::<String>()
        ));
    }
    let answer = told(context.client.ask(name.as_str(), by, Request::Deploy(Box::new(request))).await);
    let answer = answer.map_err(|stop| match &stop {
        // It is about a key of the file: only the daemon could know.
        Stop::Error(text) => match text.split_once(": ").filter(|(key, _)| DOOR_KEYS.contains(key)) {
            Some((key, message)) => {
                refused(context, &loaded.origin.refuse(key, message.to_owned(), door_hint(message)))
            }
            None => stop,
        },
        Stop::Code(_) | Stop::Refused(_) => stop,
    })?;
    follow::after(context, &name, &answer, follow, Purpose::GoOn).await
}

/// Reads the file; every problem is printed where it stands.
pub fn load(context: &Context, file: &FileArgs, secrets: Secrets) -> Result<Loaded, Stop> {
    config::load(&file.file, &file.sets, secrets, &|key| std::env::var_os(key))
        .map_err(|problems| refused(context, &problems))
}

/// Prints every problem.
fn refused(context: &Context, problems: &ConfigError) -> Stop {
    if context.json {
        let mut object = super::error_object("the file cannot be used", Exit::Error);
        object["problems"] = serde_json::json!(problems.problems());
        // The code says enough when nobody reads.
        let _ = writeln!(std::io::stdout(), "{object}");
    } else {
        let text = problems.rendered(super::validate::look_of_stderr());
        let _ = write!(std::io::stderr(), "{text}");
    }
    Stop::Code(Exit::Error.code())
}

/// Copies the artifact, digests the bytes and seals the secrets: what runs is what was deployed.
pub fn prepare(context: &Context, path: &Path, draft: Draft) -> Result<Template, Stop> {
    trundle_drivers::prepare(&context.state_dir, draft)
        .map_err(|error| Stop::Error(format!("{}: {}: {error}", path.display(), error.key())))
}
