//! `[[formats]]`: what an app's clients speak, until when, and whether a version may stop speaking it.
//!
//! Who uses what only the router knows; it is told with the request that is checked.

use serde::{Deserialize, Serialize};
use trundle_versions::Range;

use crate::Millis;
use crate::reason::duration_text;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    pub name: String,
    /// Which requests speak it; the first format that fits counts.
    #[serde(rename = "match", default)]
    pub matches: Match,
    /// The versions that serve it: a range.
    pub served: String,
    /// The format that comes after it.
    #[serde(default)]
    pub successor: Option<String>,
    /// Where the successor is described or found.
    #[serde(default)]
    pub link: Option<String>,
    /// Moments in seconds since 1970.
    #[serde(default)]
    pub deprecated_at_s: Option<i64>,
    #[serde(default)]
    pub sunset_s: Option<i64>,
    /// It is promised until then.
    #[serde(default)]
    pub remove_after_s: Option<i64>,
    /// Nobody may have used it for so long before a version stops serving it.
    #[serde(default = "quiet_for_ms")]
    pub quiet_for_ms: Millis,
}

/// All that is written must hold; nothing written: every request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Match {
    pub path: Option<String>,
    pub header: Option<String>,
    pub value: Option<String>,
    pub query: Option<String>,
}

/// A day: every client that comes daily has been seen by then.
pub fn quiet_for_ms() -> Millis {
    24 * 3_600_000
}

/// What the router knows of one format.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    pub format: String,
    /// It has been looked at for so long; None: it is not looked at.
    pub for_ms: Option<Millis>,
    pub callers: Vec<Caller>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub name: String,
    pub count: u64,
    /// Its last use.
    pub ago_ms: Millis,
}

/// So many callers are named.
const NAMED: usize = 5;

impl Format {
    /// Whether this version serves it. A range that is none is served by nobody; the reader of the file refuses it.
    pub fn is_served_by(&self, version: &str) -> bool {
        Range::parse(&self.served).is_ok_and(|range| range.covers(version))
    }
}

/// What is known when a version is asked for.
pub struct Asked<'a> {
    /// The version that shall run.
    pub to: &'a str,
    /// The versions that have instances now, the oldest first.
    pub running: &'a [String],
    /// None: nobody can tell.
    pub watched: Option<&'a [Watched]>,
    /// The present in seconds since 1970; None: nobody can tell.
    pub now_s: Option<i64>,
}

/// Why the version may not stop serving formats yet, a sentence each. `before` is what was said of them until now: a file that says
/// that what runs has never served one does not make it so.
pub fn objections(formats: &[Format], before: &[Format], asked: &Asked<'_>) -> Vec<String> {
    let is_served = |format: &Format| asked.running.iter().any(|version| format.is_served_by(version));
    let was_served = |format: &Format| before.iter().any(|of| of.name == format.name && is_served(of));
    let ends = |format: &&Format| !format.is_served_by(asked.to) && (is_served(format) || was_served(format));
    formats.iter().filter(ends).flat_map(|format| objections_to(format, formats, asked)).collect()
}

fn objections_to(format: &Format, all: &[Format], asked: &Asked<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let name = &format.name;
    if let Some(until) = format.remove_after_s.filter(|until| asked.now_s.is_none_or(|now| now < *until)) {
        let left = asked
            .now_s
            .map(|now| format!(", which is in {}", duration_text((until - now) as Millis * 1_000)));
        found.push(format!("{name} is promised until its remove_after{}", left.unwrap_or_default()));
    }
    if let Some(successor) = format.successor.as_ref().and_then(|name| all.iter().find(|f| f.name == *name)) {
        let without: Vec<&str> = asked
            .running
            .iter()
            .map(String::as_str)
            .filter(|version| !successor.is_served_by(version))
            .collect();
        if !without.is_empty() {
            found.push(format!(
                "its successor {} is not on every instance: {} still runs; roll a version first that serves both",
                successor.name,
                without.join(", ")
            ));
        }
    }
    found.extend(why_not_quiet(format, asked.watched));
    found
}

fn why_not_quiet(format: &Format, watched: Option<&[Watched]>) -> Option<String> {
    let (name, quiet_for_ms) = (&format.name, format.quiet_for_ms);
    if quiet_for_ms == 0 {
        return None;
    }
    let quiet_for = duration_text(quiet_for_ms);
    let Some(watched) = watched else {
        return Some(format!("nobody can tell who uses {name}: the proxy does not answer"));
    };
    let of_it = watched.iter().find(|watched| watched.format == *name);
    let mut recent: Vec<&Caller> =
        of_it.iter().flat_map(|w| &w.callers).filter(|caller| caller.ago_ms < quiet_for_ms).collect();
    recent.sort_by_key(|caller| caller.ago_ms);
    if !recent.is_empty() {
        let named = recent.iter().take(NAMED).map(|caller| {
            let times = if caller.count == 1 { "once".to_owned() } else { format!("{} times", caller.count) };
            format!("{} ({times}, last {} ago)", caller.name, duration_text(caller.ago_ms))
        });
        let named = named.collect::<Vec<_>>().join(", ");
        let more = recent.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Some(format!("{name} was used within {quiet_for} by {named}{more}"));
    }
    match of_it.and_then(|watched| watched.for_ms) {
        None => Some(format!("{name} has not been looked at yet; it must be quiet for {quiet_for}")),
        Some(for_ms) if for_ms < quiet_for_ms => Some(format!(
            "{name} has been looked at for {} only; it must be quiet for {quiet_for}",
            duration_text(for_ms)
        )),
        Some(_) => None,
    }
}
