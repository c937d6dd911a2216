//! `status`: from the daemon, or from the journal when none runs.

use std::time::Duration;

use trundle_core::ids::AppName;
use trundle_engine::journal::{SqliteJournal, Store};
use trundle_engine::view::{self, AsOf, Status, Traffic};

use super::{Context, Stop, print_json, told};
use crate::api::client::ClientError;
use crate::exit::Exit;
use crate::term::{card, table};

pub async fn run(context: &Context, app: Option<AppName>, watch: bool) -> Result<Exit, Stop> {
    if watch {
        return follow(context, app).await;
    }
    let shown = match app {
        Some(app) => vec![one(context, &app).await?],
        None => all(context).await?,
    };
    if context.json {
        match shown.as_slice() {
            [one] => print_json(one)?,
            other => print_json(&serde_json::json!({ "apps": other }))?,
        }
        return Ok(Exit::Done);
    }
    if shown.is_empty() {
        println!("no app was ever deployed here; `trundle deploy` does that");
    }
    for status in &shown {
        print!("{}", table::render(status));
        if card::has_one(status) {
            print!("{}", card::render(status));
        }
    }
    Ok(Exit::Done)
}

/// The named app, or the only one there is.
pub async fn the_app(context: &Context, named: Option<AppName>) -> Result<AppName, Stop> {
    if let Some(named) = named {
        return Ok(named);
    }
    let apps = all(context).await?;
    match apps.as_slice() {
        [] => Err(Stop::Error("no app was ever deployed here; `trundle deploy` does that".to_owned())),
        [one] => Ok(one.app.parse()?),
        many => {
            let names: Vec<_> = many.iter().map(|s| s.app.as_str()).collect();
            Err(Stop::Error(format!("there is more than one app; name one of {}", names.join(", "))))
        }
    }
}

/// Every app.
pub async fn all(context: &Context) -> Result<Vec<Status>, Stop> {
    let said = context.client.statuses().await;
    let is_unanswered = matches!(&said, Err(ClientError::Unreachable { .. } | ClientError::Broken { .. }));
    // Where none is there, or it died with the question in its hands, the journal knows.
    if !is_unanswered || context.client.answers().await {
        return told(said);
    }
    let apps = offline(context)?;
    let status = |app| view::status(app, &Traffic::default(), AsOf::LastRecord, crate::clock::rfc3339);
    Ok(apps.values().map(status).collect())
}

pub async fn one(context: &Context, app: &AppName) -> Result<Status, Stop> {
    let found = all(context).await?.into_iter().find(|s| s.app == app.as_str());
    found.ok_or_else(|| Stop::Error(format!("there is no app called {app}; `trundle status` lists them")))
}

/// What the journal says, without a daemon.
pub fn offline(context: &Context) -> Result<std::collections::BTreeMap<AppName, trundle_engine::App>, Stop> {
    if !context.state_dir.join(SqliteJournal::FILE).exists() {
        return Ok(std::collections::BTreeMap::new());
    }
    let entries = SqliteJournal::open_to_read(&context.state_dir)?.load()?;
    if !context.quiet {
        eprintln!("{}: no daemon runs; this is what the journal says", crate::term::yellow("note"));
    }
    Ok(trundle_engine::fold_all(&entries))
}

async fn follow(context: &Context, app: Option<AppName>) -> Result<Exit, Stop> {
    let app = the_app(context, app).await?;
    let mut stream = told(context.client.watch(app.as_str(), None).await)?;
    while let Some(watched) = stream.next().await {
        if context.json {
            print_json(&watched)?;
            continue;
        }
        if let crate::api::types::Watched::Status(told) = watched {
            if context.live {
                // Home and clear: the picture stands still.
                print!("\x1b[H\x1b[2J");
            }
            print!("{}", table::render(&told.status));
        }
    }
    // The daemon ended: whoever watches is told, and may try again.
    tokio::time::sleep(Duration::from_millis(10)).await;
    Err(Stop::Error("the daemon ended; instances and proxy go on".to_owned()))
}
