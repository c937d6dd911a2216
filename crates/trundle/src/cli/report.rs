//! `report`: the evidence of one rollout, from the journal.

use std::path::{Path, PathBuf};

use clap::Args;
use trundle_core::ids::{AppName, RolloutId};
use trundle_engine::journal::{SqliteJournal, Store};
use trundle_engine::view::{self, HistoryRow, Line};

use super::{Context, Stop, print_json};
use crate::exit::Exit;
use crate::report::Book;

/// Where to, instead of the terminal.
#[derive(Args, Clone)]
pub struct Files {
    /// Writes it as a page of one file, with pictures, and prints the file's path
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Writes its pictures alone
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub async fn run(
    context: &Context,
    rollout: Option<u32>,
    app: Option<AppName>,
    files: &Files,
) -> Result<Exit, Stop> {
    let app = super::status::the_app(context, app).await?;
    let history = super::history::of(context, &app).await?;
    let wanted = rollout.or_else(|| history.rollouts.last().map(|r| r.rollout));
    let row = history.rollouts.iter().find(|r| Some(r.rollout) == wanted);
    let row =
        row.ok_or_else(|| Stop::Error(format!("{app} has no such rollout; see `trundle history {app}`")))?;
    if files.html.is_some() || files.svg.is_some() {
        let watched = context.client.answers().await;
        return write(context, &app, row, watched, files);
    }
    let lines = timeline(context, &app, row.rollout)?;
    if context.json {
        print_json(&serde_json::json!({ "rollout": row, "timeline": lines }))?;
    } else {
        print!("{}", crate::term::report::full(&app, row, &lines));
    }
    Ok(Exit::Done)
}

fn write(
    context: &Context,
    app: &AppName,
    row: &HistoryRow,
    watched: bool,
    files: &Files,
) -> Result<Exit, Stop> {
    let book = Book::read(&context.state_dir)?;
    let known = watched.then(|| row.clone());
    let evidence = book.evidence(&context.state_dir, app, RolloutId(row.rollout), known);
    let evidence = evidence.ok_or_else(|| {
        Stop::Error(format!("rollout {} of {app} is not in the journal of this state directory", row.rollout))
    })?;
    let html =
        files.html.as_deref().map(|path| put(path, || crate::report::page(std::slice::from_ref(&evidence))));
    let svg = files.svg.as_deref().map(|path| put(path, || crate::report::svg(&evidence)));
    let (html, svg) = (html.transpose()?, svg.transpose()?);
    if context.json {
        print_json(&serde_json::json!({ "rollout": row.rollout, "html": html, "svg": svg }))?;
    } else {
        for path in [html, svg].into_iter().flatten() {
            println!("{}", path.display());
        }
    }
    Ok(Exit::Done)
}

/// Answers where it is, from wherever one looks.
fn put(path: &Path, text: impl FnOnce() -> String) -> Result<PathBuf, Stop> {
    let path = std::path::absolute(path)
        .and_then(|whole| crate::report::write(&whole, &text()).map(|()| whole))
        .map_err(|error| Stop::Error(format!("cannot write {}: {error}", path.display())))?;
    Ok(path)
}

/// Every line of a rollout, in order.
fn timeline(context: &Context, app: &AppName, rollout: u32) -> Result<Vec<Line>, Stop> {
    let entries = SqliteJournal::open_to_read(&context.state_dir)?.load()?;
    let apps = trundle_engine::fold_all(&entries);
    let Some(known) = apps.get(app) else { return Ok(Vec::new()) };
    let first = |id: u32| known.chronicle.first_record.get(&RolloutId(id)).copied();
    let from = first(rollout).unwrap_or(0);
    let to = first(rollout + 1).unwrap_or(u64::MAX);
    let lines = entries
        .iter()
        .filter(|e| e.app == *app && (from..to).contains(&e.n))
        .filter_map(|e| view::line(e, known, crate::clock::rfc3339))
        .map(|line| Line { rollout: Some(rollout), ..line });
    Ok(lines.collect())
}
