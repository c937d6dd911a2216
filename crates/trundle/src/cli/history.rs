//! `history`: revisions and rollouts.

use trundle_core::ids::AppName;
use trundle_engine::view::{self, AsOf, History, Traffic};

use super::{Context, Stop, print_json, told};
use crate::exit::Exit;
use crate::term::history;

pub async fn run(context: &Context, app: Option<AppName>) -> Result<Exit, Stop> {
    let app = super::status::the_app(context, app).await?;
    let found = of(context, &app).await?;
    if context.json {
        print_json(&found)?;
    } else {
        print!("{}", history::render(&found));
    }
    Ok(Exit::Done)
}

pub async fn of(context: &Context, app: &AppName) -> Result<History, Stop> {
    if context.client.answers().await {
        return told(context.client.history(app.as_str()).await);
    }
    let apps = super::status::offline(context)?;
    let known = apps.get(app).ok_or_else(|| Stop::Error(format!("there is no app called {app}")))?;
    Ok(view::history(known, &Traffic::default(), AsOf::LastRecord, crate::clock::rfc3339))
}
