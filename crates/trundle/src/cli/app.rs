//! Requests about one app: `pause resume abort rollback retry skip scale restart`.

use trundle_core::ids::AppName;
use trundle_core::state::Request;

use super::follow::{self, Purpose};
use super::{Context, FollowArgs, Stop, print_json, told, who};
use crate::exit::Exit;

/// Asks, and ends.
pub async fn now(context: &Context, app: Option<AppName>, request: Request) -> Result<Exit, Stop> {
    crate::daemon::start::ensure(&context.state_dir, &context.client).await?;
    let app = super::status::the_app(context, app).await?;
    let answer = told(context.client.ask(app.as_str(), who(), request).await)?;
    if context.json {
        print_json(&follow::accepted(&answer))?;
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
    let app = super::status::the_app(context, app).await?;
    let purpose = match request {
        Request::Abort | Request::Rollback(_) => Purpose::GoBack,
        // A pause stays: what is followed is what moves in it.
        Request::Retry(_) | Request::Scale(_) => Purpose::Settle,
        _ => Purpose::GoOn,
    };
    let answer = told(context.client.ask(app.as_str(), who(), request).await)?;
    follow::after(context, &app, &answer, follow, purpose).await
}
