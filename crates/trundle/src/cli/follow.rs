//! Follows a rollout to its end, a pause, or the end of our patience.

use std::time::Duration;

use tokio::time::Instant;
use trundle_core::ids::AppName;
use trundle_drivers::logs::printable;
use trundle_engine::view::{Line, RolloutStatus, Status};

use super::{Context, FollowArgs, Stop, print_json};
use crate::api::types::{Told, Watched};
use crate::exit::Exit;
use crate::term::{card, live::Live, report};

/// What counts as success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The new version runs.
    GoOn,
    /// The old one does.
    GoBack,
}

/// A daemon that is gone may come back: instances and proxy go on without it.
const WAIT_FOR_DAEMON: Duration = Duration::from_secs(120);
/// In plain lines.
const WAIT_TOLD_AFTER: Duration = Duration::from_secs(1);

/// After a request was accepted.
pub async fn after(
    context: &Context,
    app: &AppName,
    answer: &Told,
    follow: &FollowArgs,
    purpose: Purpose,
) -> Result<Exit, Stop> {
    if !context.json && !context.quiet {
        println!("{}", answer.says);
    }
    if follow.detach {
        if context.json {
            print_json(answer)?;
        }
        return Ok(Exit::Done);
    }
    let target = match answer.rollout {
        None if answer.unchanged => {
            if context.json {
                print_json(answer)?;
            }
            return Ok(Exit::Done);
        }
        Some(id) => Target::Rollout(id),
        None => Target::Settled,
    };
    watch(context, app, target, follow.timeout, purpose).await
}

/// `wait`
pub async fn wait(
    context: &Context,
    rollout: Option<u32>,
    app: Option<AppName>,
    timeout: Option<Duration>,
) -> Result<Exit, Stop> {
    let app = super::status::the_app(context, app).await?;
    let newest = match rollout {
        Some(id) => id,
        None => {
            let status = super::status::one(context, &app).await?;
            status.rollout.map(|r| r.id).ok_or_else(|| Stop::Error(format!("{app} never had a rollout")))?
        }
    };
    if !context.client.answers().await {
        crate::daemon::start::ensure(&context.state_dir, &context.client).await?;
    }
    let history = super::told(context.client.history(app.as_str()).await)?;
    let Some(row) = history.rollouts.iter().find(|row| row.rollout == newest) else {
        return Err(Stop::Error(format!("{app} has no rollout {newest}; see `trundle history {app}`")));
    };
    // One that ended before another began has its own outcome still.
    if history.rollouts.last().is_some_and(|last| last.rollout != newest)
        && let Some(exit) = outcome_of(&row.state, Purpose::GoOn)
    {
        if !context.json && !context.quiet {
            println!("rollout {newest} to {} {}", row.to_version, row.state.replace('_', " "));
        }
        return Ok(exit);
    }
    watch(context, &app, Target::Rollout(newest), timeout, Purpose::GoOn).await
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Rollout(u32),
    /// What is desired runs: for changes that need no rollout.
    Settled,
}

async fn watch(
    context: &Context,
    app: &AppName,
    target: Target,
    timeout: Option<Duration>,
    purpose: Purpose,
) -> Result<Exit, Stop> {
    let deadline = timeout.map(|t| Instant::now() + t);
    let mut show = Show::new(context);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut lost_at: Option<Instant> = None;
    loop {
        let since = match target {
            Target::Rollout(id) => Some(id),
            Target::Settled => None,
        };
        let Ok(mut stream) = context.client.watch(app.as_str(), since).await else {
            let lost_since = *lost_at.get_or_insert_with(|| {
                show.note(
                    "the daemon does not answer; instances and proxy go on; waiting for it to come back",
                );
                Instant::now()
            });
            let give_up =
                lost_since.elapsed() > WAIT_FOR_DAEMON || deadline.is_some_and(|d| Instant::now() >= d);
            if give_up {
                show.end();
                return still_running(context, app, "the daemon does not answer");
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(100)) => continue,
                _ = &mut interrupted => {
                    show.end();
                    return still_running(context, app, "interrupted");
                }
            }
        };
        lost_at = None;
        loop {
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let watched = tokio::select! {
                watched = stream.next() => watched,
                () = over => {
                    show.end();
                    return still_running(context, app, "the time of --timeout passed");
                }
                _ = &mut interrupted => {
                    show.end();
                    return still_running(context, app, "interrupted");
                }
            };
            match watched {
                None => break,
                Some(Watched::Line(line)) => show.line(&line)?,
                Some(Watched::Status(told)) => {
                    show.status(&told)?;
                    if let Some(end) = ended(&told.status, target, purpose) {
                        show.end();
                        return finish(context, told.status, target, end).await;
                    }
                }
            }
        }
    }
}

/// How it stands with the target; None while it is on its way.
fn ended(status: &Status, target: Target, purpose: Purpose) -> Option<Exit> {
    let wanted = if status.down { 0 } else { status.replicas };
    let Target::Rollout(id) = target else {
        return (status.available == wanted && status.live == wanted).then_some(Exit::Done);
    };
    let rollout = status.rollout.as_ref()?;
    if rollout.id > id {
        return Some(Exit::Superseded);
    }
    outcome(rollout, purpose)
}

fn outcome(rollout: &RolloutStatus, purpose: Purpose) -> Option<Exit> {
    outcome_of(&rollout.state, purpose)
}

fn outcome_of(state: &str, purpose: Purpose) -> Option<Exit> {
    let went_back = if purpose == Purpose::GoBack { Exit::Done } else { Exit::RolledBack };
    match state {
        "succeeded" => Some(Exit::Done),
        "paused" => Some(Exit::Paused),
        "rolled_back" | "aborted" => Some(went_back),
        "failed" => Some(Exit::Failed),
        "superseded" => Some(Exit::Superseded),
        _ => None,
    }
}

async fn finish(context: &Context, seen: Status, target: Target, exit: Exit) -> Result<Exit, Stop> {
    // The last word is asked for anew: it has the final counts. A daemon that is gone by now changes no outcome.
    let status = context.client.status(&seen.app).await.unwrap_or(seen);
    if context.json {
        print_json(
            &serde_json::json!({ "at": crate::clock::rfc3339(crate::clock::wall_ms()), "type": "result",
            "exit_code": exit.code(), "status": status }),
        )?;
        return Ok(exit);
    }
    if exit == Exit::Superseded {
        let newer = status.rollout.as_ref();
        let (id, to, by) =
            newer.map_or((0, String::new(), String::new()), |r| (r.id, r.to_version.clone(), r.by.clone()));
        let was = match target {
            Target::Rollout(was) => was.to_string(),
            Target::Settled => String::new(),
        };
        eprintln!(
            "rollout {was} was superseded by rollout {id} to {to}, begun by {by}; follow that one with `trundle wait {id}`"
        );
        return Ok(exit);
    }
    if matches!(exit, Exit::Paused | Exit::RolledBack | Exit::Failed) {
        print!("{}", card::render(&status));
    }
    if !context.quiet && matches!(exit, Exit::Done | Exit::RolledBack) {
        print!("{}", report::summary(&status));
    }
    Ok(exit)
}

fn still_running(context: &Context, app: &AppName, why: &str) -> Result<Exit, Stop> {
    let says = format!(
        "{why}; the rollout goes on: follow it with `trundle wait --app {app}`, look with `trundle status {app}`"
    );
    if context.json {
        print_json(
            &serde_json::json!({ "at": crate::clock::rfc3339(crate::clock::wall_ms()), "type": "result",
            "exit_code": Exit::StillRunning.code(), "text": says }),
        )?;
    } else {
        eprintln!("{says}");
    }
    Ok(Exit::StillRunning)
}

/// Where what happens is shown: live bars, plain lines, or JSON lines.
enum Show {
    Live(Box<Live>),
    /// `last`: of the lines shown, so that a reconnected stream repeats none.
    Plain {
        last: u64,
        quiet_since: Instant,
        last_wait: String,
        last_trouble: String,
    },
    Json {
        last: u64,
    },
    Quiet,
}

impl Show {
    fn new(context: &Context) -> Self {
        match (context.json, context.quiet, context.live) {
            (true, ..) => Self::Json { last: 0 },
            (_, true, _) => Self::Quiet,
            (.., true) => Self::Live(Box::default()),
            (.., false) => Self::Plain {
                last: 0,
                quiet_since: Instant::now(),
                last_wait: String::new(),
                last_trouble: String::new(),
            },
        }
    }

    fn line(&mut self, line: &Line) -> Result<(), Stop> {
        match self {
            Self::Json { last } if line.n > *last => {
                *last = line.n;
                print_json(line)?;
            }
            Self::Plain { last, quiet_since, .. } if line.n > *last => {
                *last = line.n;
                *quiet_since = Instant::now();
                println!("{}  {}", time_of(&line.at), printable(&line.text));
            }
            Self::Live(live) => live.line(line),
            Self::Json { .. } | Self::Plain { .. } | Self::Quiet => {}
        }
        Ok(())
    }

    fn status(&mut self, told: &crate::api::types::StatusLine) -> Result<(), Stop> {
        match self {
            Self::Json { .. } => print_json(told)?,
            Self::Plain { quiet_since, last_wait, last_trouble, .. } => {
                if let Some(trouble) = told.status.trouble.as_ref().filter(|t| *t != last_trouble) {
                    println!(
                        "{}  {}: {}",
                        time_of(&told.at),
                        crate::term::red("trouble"),
                        printable(trouble)
                    );
                }
                told.status.trouble.clone().unwrap_or_default().clone_into(last_trouble);
                // A wait is told once it lasts, and once for each thing that is waited for.
                let first = told.status.reasons.first();
                let code = first.and_then(|r| r["code"].as_str()).unwrap_or_default();
                let open = told.status.rollout.as_ref().is_some_and(|r| r.ended_at.is_none());
                if open && quiet_since.elapsed() >= WAIT_TOLD_AFTER && code != last_wait.as_str() {
                    let text = first.and_then(|r| r["text"].as_str()).unwrap_or_default();
                    println!("{}  … {}", time_of(&told.at), printable(text));
                    code.clone_into(last_wait);
                }
                if quiet_since.elapsed() < WAIT_TOLD_AFTER {
                    last_wait.clear();
                }
            }
            Self::Live(live) => live.status(&told.status),
            Self::Quiet => {}
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        match self {
            Self::Json { .. } | Self::Quiet => {}
            Self::Plain { .. } => eprintln!("{text}"),
            Self::Live(live) => live.note(text),
        }
    }

    fn end(&mut self) {
        if let Self::Live(live) = self {
            live.end();
        }
    }
}

/// `12:00:01.234` of RFC 3339.
fn time_of(at: &str) -> &str {
    at.split_once('T').map_or(at, |(_, time)| time.trim_end_matches('Z'))
}
