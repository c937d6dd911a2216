//! Where what happens is shown while a command follows: live bars, plain lines, or JSON lines.

use std::time::Duration;

use tokio::time::Instant;
use trundle_drivers::logs::printable;
use trundle_engine::view::{Line, Status};

use super::{Context, Stop, print_json};
use crate::api::types::StatusLine;
use crate::term::live::Live;

/// In plain lines a wait is told when it lasts for so long.
const WAIT_TOLD_AFTER: Duration = Duration::from_secs(1);

pub enum Show {
    Live(Box<Live>),
    Plain {
        quiet_since: Instant,
        last_wait: String,
        last_trouble: String,
    },
    Json,
    /// Only how it ends is told.
    Quiet,
}

impl Show {
    pub fn new(context: &Context) -> Self {
        match (context.json, context.quiet, context.live) {
            (true, ..) if context.streams => Self::Json,
            (true, ..) | (_, true, _) => Self::Quiet,
            (.., true) => Self::Live(Box::default()),
            (.., false) => Self::Plain {
                quiet_since: Instant::now(),
                last_wait: String::new(),
                last_trouble: String::new(),
            },
        }
    }

    /// Where a rollout that began earlier stands: what led there was told to others.
    pub fn stand(&self, status: &Status) {
        if let Self::Plain { .. } = self
            && let Some(at) = &status.as_of
        {
            println!("{}  {}", time_of(at), printable(&crate::term::report::stand(status)));
        }
    }

    pub fn line(&mut self, line: &Line) -> Result<(), Stop> {
        match self {
            Self::Json => print_json(line)?,
            Self::Plain { quiet_since, .. } => {
                *quiet_since = Instant::now();
                println!("{}  {}", time_of(&line.at), printable(&line.text));
            }
            Self::Live(live) => live.line(line),
            Self::Quiet => {}
        }
        Ok(())
    }

    pub fn status(&mut self, told: &StatusLine) -> Result<(), Stop> {
        match self {
            Self::Json => print_json(told)?,
            Self::Plain { quiet_since, last_wait, last_trouble } => {
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

    pub fn note(&mut self, text: &str) {
        match self {
            Self::Json | Self::Quiet => {}
            Self::Plain { .. } => eprintln!("{text}"),
            Self::Live(live) => live.note(text),
        }
    }

    pub fn end(&mut self) {
        if let Self::Live(live) = self {
            live.end();
        }
    }
}

/// `12:00:01.234` of RFC 3339.
fn time_of(at: &str) -> &str {
    at.split_once('T').map_or(at, |(_, time)| time.trim_end_matches('Z'))
}
