//! Requests about one app: `pause resume abort rollback scale restart`.

use trundle_core::ids::AppName;
use trundle_core::state::Request;

use super::follow::{self, Purpose};
use super::{Context, FollowArgs, Stop, print_json, told, who};
use crate::exit::Exit;

/// The named app, or the only one there is.
pub async fn the_app(context: &Context, named: Option<AppName>) -> Result<AppName, Stop> {
    if let Some(named) = named {
        return Ok(named);
    }
    let apps = super::status::all(context).await?;
    match apps.as_slice() {
        [] => Err(Stop::Error("no app was ever deployed here; `trundle deploy` does that".to_owned())),
        [one] => Ok(one.app.parse()?),
        many => {
            let names: Vec<_> = many.iter().map(|s| s.app.as_str()).collect();
            Err(Stop::Error(format!("there is more than one app; name one of {}", names.join(", "))))
        }
    }
}

/// Asks, and ends.
pub async fn now(context: &Context, app: Option<AppName>, request: Request) -> Result<Exit, Stop> {
    crate::daemon::start::ensure(&context.state_dir, &context.client).await?;
    let app = the_app(context, app).await?;
    let answer = told(context.client.ask(app.as_str(), who(), request).await)?;
    if context.json {
        print_json(&answer)?;
    } else if !context.quiet {
        println!("{}", answer.says);
    }
    Ok(Exit::Done)
}

/// Asks, and follows what comes of it.
pub async fn followed(
    context: &Context,
    app: Option<AppName>,
    request: Request,
    follow: &FollowArgs,
) -> Result<Exit, Stop> {
    crate::daemon::start::ensure(&context.state_dir, &context.client).await?;
    let app = the_app(context, app).await?;
    let purpose = match request {
        Request::Abort | Request::Rollback(_) => Purpose::GoBack,
        _ => Purpose::GoOn,
    };
    let answer = told(context.client.ask(app.as_str(), who(), request).await)?;
    follow::after(context, &app, &answer, follow, purpose).await
}
