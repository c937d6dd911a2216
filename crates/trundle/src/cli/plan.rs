//! `plan`: what deploy would do, by the same decision that would do it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use trundle_core::Millis;
use trundle_core::event::{Action, Event, Fact};
use trundle_core::ids::AppName;
use trundle_core::plan::{Assumed, plan};
use trundle_core::reason::duration_text;
use trundle_core::revision::Template;
use trundle_core::situation::{Situation, answer};
use trundle_core::state::{AppState, DeployRequest, Known, Request};
use trundle_engine::journal::{Entry, SqliteJournal, Store};
use trundle_engine::view;

use super::{Context, FileArgs, Stop, print_json};
use crate::config::Secrets;
use crate::exit::Exit;

/// When no instance of the app was ever seen to start.
const GUESSED: Assumed = Assumed { start_ms: 1_000, stop_ms: 1_000 };

/// `plan --state FILE`
pub fn for_situation(context: &Context, path: &Path) -> Result<Exit, Stop> {
    let text = std::fs::read_to_string(path).map_err(|e| Stop::Error(format!("{}: {e}", path.display())))?;
    let situation: Situation =
        serde_json::from_str(&text).map_err(|e| Stop::Error(format!("{}: {e}", path.display())))?;
    let answer = answer(&situation).map_err(|e| Stop::Error(format!("{}: {e}", path.display())))?;
    if context.json {
        print_json(&answer)?;
        return Ok(Exit::Done);
    }
    println!("floor {}, ceiling {}", answer.floor, answer.ceiling);
    for start in &answer.start {
        println!("start {} of revision {}", start.count, start.revision);
    }
    if !answer.stop.is_empty() {
        println!("stop {}", answer.stop.join(" "));
    }
    for reason in &answer.reasons {
        println!("because {}", reason.text);
    }
    Ok(Exit::Done)
}

pub async fn for_file(context: &Context, file: &FileArgs, exit_code: bool) -> Result<Exit, Stop> {
    let loaded = super::deploy::load(context, file, Secrets::Optional)?;
    let (name, settings, notes) = (loaded.name.clone(), loaded.settings.clone(), loaded.notes.clone());
    let entries = if context.state_dir.join(SqliteJournal::FILE).exists() {
        SqliteJournal::open_to_read(&context.state_dir)?.load()?
    } else {
        Vec::new()
    };
    let mut apps = trundle_engine::fold_all(&entries);
    let mut state = apps.remove(&name).map_or_else(|| AppState::new(name.clone()), |app| app.state);
    let template = template(context, loaded)?;
    let before = state.target().and_then(|t| state.revision(t)).map(|r| r.template.clone());
    let known = known(context, &name).await;
    let request = DeployRequest { known, ..DeployRequest::new(template.clone(), settings) };
    let step = state.permit(&Request::Deploy(Box::new(request))).map_err(|r| Stop::Refused(r.to_string()))?;
    let now = state.now();
    for command in &step.commands {
        state.apply(now, &Event::Commanded { by: "plan".to_owned(), command: command.clone() });
    }
    let changes = !step.commands.is_empty();
    let fixed_port = state.settings().is_some_and(|s| s.fixed_port);
    let hold_ms = state.settings().and_then(|s| s.listen.as_ref()).map_or(0, |listen| listen.hold_ms);
    let replaced = state.totals().live() > 0;
    let to = template.version.to_string();
    let from = before.as_ref().map(|t| t.version.to_string());
    let assumed = assumed(&entries, &name);
    let known = state.clone();
    let planned = plan(state, assumed);
    let budget = planned.budget;
    let mix = if replaced && step.rollout.is_some() {
        view::peak_mix(&known, &planned.peak_mix)
    } else {
        BTreeMap::new()
    };
    let differs = before.as_ref().map(|before| view::changed(before, &template));
    if context.json {
        print_json(&json!({
            "app": name, "says": step.says, "changes": changes, "to": to, "from": from,
            "max_surge": budget.surge, "max_unavailable": budget.unavailable,
            "floor": budget.floor(), "ceiling": budget.ceiling(),
            "batches": planned.batches, "peak_mix": mix, "expected_s": planned.expected_ms as f64 / 1000.0,
            "lowest_available": planned.lowest_available, "highest_total": planned.highest_total,
            "changed": differs, "notes": notes, "schema": null, "point_of_no_return": null,
        }))?;
    } else {
        println!("{}", step.says);
        let shown = differs.as_ref().map(crate::term::card::changes).unwrap_or_default();
        print!("{}", crate::term::plan::render(&planned, &mix, &shown));
        if fixed_port && replaced && step.rollout.is_some() {
            let waits = match hold_ms {
                0 => "and what comes then is refused; `hold` in [listen] lets it wait".to_owned(),
                ms => format!("what comes then waits, up to {}", duration_text(ms)),
            };
            println!(
                "{}: a fixed port serves one instance: for a moment none serves, {waits}",
                crate::term::yellow("warning")
            );
        }
        for note in &notes {
            println!("{}: {note}", crate::term::yellow("note"));
        }
    }
    Ok(if exit_code && changes { Exit::Changes } else { Exit::Done })
}

/// Who uses what, as the proxy says it: it needs no daemon for that. Without a proxy nobody can tell.
async fn known(context: &Context, app: &AppName) -> Known {
    let now_ms = crate::clock::wall_ms();
    let stats = async {
        let path = context.state_dir.join(trundle_proxy::SOCKET_NAME);
        let mut proxy = trundle_proxy::Client::connect(&path).await.ok()?;
        proxy.send(&trundle_proxy::Request::Stats).await.ok()?;
        match proxy.recv().await.ok()?? {
            trundle_proxy::Reply::Stats(stats) => Some(stats),
            _ => None,
        }
    };
    let of_app = |stats: trundle_proxy::Stats| {
        stats.apps.get(app.as_str()).map(|stats| crate::daemon::watched(stats, now_ms)).unwrap_or_default()
    };
    Known { watched: stats.await.map(of_app), now_s: i64::try_from(now_ms / 1_000).ok() }
}

/// Like a deploy would make it. Without a state directory nothing is left behind.
fn template(context: &Context, loaded: crate::config::Loaded) -> Result<Template, Stop> {
    if context.state_dir.exists() {
        return super::deploy::prepare(context, &loaded.path, loaded.draft);
    }
    let nowhere = std::env::temp_dir().join(format!("trundle-plan-{}", std::process::id()));
    std::fs::create_dir(&nowhere)?;
    let template = trundle_drivers::prepare(&nowhere, loaded.draft).map_err(|e| Stop::Error(e.to_string()));
    std::fs::remove_dir_all(&nowhere)?;
    template
}

/// The median of what the journal saw of this app.
fn assumed(entries: &[Entry], app: &AppName) -> Assumed {
    let (mut started, mut stopped) = (BTreeMap::new(), BTreeMap::new());
    let (mut starts, mut stops): (Vec<Millis>, Vec<Millis>) = (Vec::new(), Vec::new());
    for entry in entries.iter().filter(|e| e.app == *app) {
        match &entry.event {
            Event::Decided(Action::Start { instance, .. }) => {
                started.insert(*instance, entry.at_ms);
            }
            Event::Decided(Action::Stop { instance, .. }) => {
                stopped.insert(*instance, entry.at_ms);
            }
            Event::Observed { instance, fact: Fact::Ready } => {
                starts.extend(started.remove(instance).map(|at| entry.at_ms - at));
            }
            Event::Observed { instance, fact: Fact::Gone } => {
                stops.extend(stopped.remove(instance).map(|at| entry.at_ms - at));
            }
            _ => {}
        }
    }
    Assumed {
        start_ms: median(starts).unwrap_or(GUESSED.start_ms),
        stop_ms: median(stops).unwrap_or(GUESSED.stop_ms),
    }
}

fn median(mut values: Vec<Millis>) -> Option<Millis> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
