//! `deploy`: from the file to a revision, and on to the rollout.

use std::io::Write as _;

use trundle_core::revision::Template;
use trundle_core::state::{DeployRequest, Request};

use super::follow::{self, Purpose};
use super::{Context, FileArgs, FollowArgs, Stop, told, who};
use crate::api::client::ClientError;
use crate::config::{self, Loaded, Secrets};
use crate::exit::Exit;

pub async fn run(
    context: &Context,
    file: &FileArgs,
    follow: &FollowArgs,
    meta: &[(String, String)],
    if_idle: bool,
) -> Result<Exit, Stop> {
    let loaded = load(context, file, Secrets::Require)?;
    if !context.json && !context.quiet {
        for note in &loaded.notes {
            eprintln!("{}: {note}", crate::term::yellow("note"));
        }
    }
    crate::daemon::start::ensure(&context.state_dir, &context.client).await?;
    let seen = match context.client.status(loaded.name.as_str()).await {
        Ok(status) => Some(trundle_core::ids::RolloutId(status.rollout.map_or(0, |r| r.id))),
        // It is not known yet: whoever deploys it first is before us.
        Err(ClientError::Failed(_)) => Some(trundle_core::ids::RolloutId(0)),
        Err(error) => return Err(Stop::Error(error.to_string())),
    };
    let (name, settings) = (loaded.name.clone(), loaded.settings.clone());
    let path = loaded.path.display().to_string();
    let template = prepare(context, loaded)?;
    let request = DeployRequest { template, settings, if_idle, seen_rollout: seen };
    let mut by = who();
    for (key, value) in meta {
        by.push_str(&format!(
            " {key}={}",
            value.chars().filter(|c| !c.is_control()).take(200).collect::<String>()
        ));
    }
    let answer = told(context.client.ask(name.as_str(), by, Request::Deploy(Box::new(request))).await);
    let answer = answer.map_err(|stop| match stop {
        // It is about a key of the file: only the daemon could know.
        Stop::Error(text) if text.starts_with("listen.") => Stop::Error(format!("{path}: {text}")),
        other => other,
    })?;
    follow::after(context, &name, &answer, follow, Purpose::GoOn).await
}

/// Reads the file; every problem is printed where it stands.
pub fn load(context: &Context, file: &FileArgs, secrets: Secrets) -> Result<Loaded, Stop> {
    config::load(&file.file, &file.sets, secrets, &|key| std::env::var_os(key)).map_err(|problems| {
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
    })
}

/// Copies the artifact, digests the bytes and seals the secrets: what runs is what was deployed.
pub fn prepare(context: &Context, loaded: Loaded) -> Result<Template, Stop> {
    let path = loaded.path.display().to_string();
    trundle_drivers::prepare(&context.state_dir, loaded.draft)
        .map_err(|error| Stop::Error(format!("{path}: {}: {error}", error.key())))
}
