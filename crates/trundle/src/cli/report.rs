//! `report`: the evidence of one rollout, from the journal.

use trundle_core::ids::{AppName, RolloutId};
use trundle_engine::journal::{SqliteJournal, Store};
use trundle_engine::view::{self, Line};

use super::{Context, Stop, print_json};
use crate::exit::Exit;

pub async fn run(context: &Context, rollout: Option<u32>, app: Option<AppName>) -> Result<Exit, Stop> {
    let app = super::status::the_app(context, app).await?;
    let history = super::history::of(context, &app).await?;
    let wanted = rollout.or_else(|| history.rollouts.last().map(|r| r.rollout));
    let row = history.rollouts.iter().find(|r| Some(r.rollout) == wanted);
    let row =
        row.ok_or_else(|| Stop::Error(format!("{app} has no such rollout; see `trundle history {app}`")))?;
    let lines = timeline(context, &app, row.rollout)?;
    if context.json {
        print_json(&serde_json::json!({ "rollout": row, "timeline": lines }))?;
    } else {
        print!("{}", crate::term::report::full(&app, row, &lines));
    }
    Ok(Exit::Done)
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
