//! `[[formats]]`: what clients speak, until when, and which versions serve it.

use trundle_core::formats::{Format, Match, quiet_for_ms};
use trundle_proxy as proxy;
use trundle_versions::Range;

use super::node::{Node, Value};
use super::section::Section;
use super::source::shown;
use super::value::{self, Wrong, checked_by};

pub fn read(top: &Section<'_>) -> Vec<Format> {
    let sections = top.tables("formats");
    let most = proxy::table::traffic::MOST_ENTRIES;
    if sections.len() > most {
        let message = format!("{} are too many: at most {most} are possible", sections.len());
        top.refuse("formats", message, "use fewer");
    }
    let read: Vec<_> = sections.iter().filter_map(|section| Some((section, format(section)?))).collect();
    let mut formats: Vec<Format> = Vec::new();
    for (section, format) in &read {
        if formats.iter().any(|other| other.name == format.name) {
            let message = format!("there are two formats {}", format.name);
            section.refuse("name", message, "give each its own name");
        }
        formats.push(format.clone());
    }
    for (section, format) in &read {
        let Some(successor) = &format.successor else { continue };
        if *successor == format.name || formats.iter().all(|other| other.name != *successor) {
            let message = format!("there is no other format \"{}\" that could follow", shown(successor));
            section.refuse("successor", message, "write it under a [[formats]] of its own");
        }
    }
    formats
}

fn format(section: &Section<'_>) -> Option<Format> {
    let name = section.require("name", checked_by(proxy::check_format_name));
    let served = section.require("served", served);
    let format = Format {
        name: name.clone().unwrap_or_default(),
        matches: section.table("formats.match").map(|section| matches(&section)).unwrap_or_default(),
        served: served.clone().unwrap_or_default(),
        successor: section.get("successor", value::text),
        link: section.get("link", checked_by(proxy::check_link)),
        deprecated_at_s: section.get("deprecated_at", moment),
        sunset_s: section.get("sunset", moment),
        remove_after_s: section.get("remove_after", moment),
        quiet_for_ms: section.get("quiet_for", value::duration_ms).unwrap_or_else(quiet_for_ms),
    };
    // RFC 8594 §3 with RFC 9745 §4.
    if let (Some(deprecated), Some(sunset)) = (format.deprecated_at_s, format.sunset_s)
        && sunset < deprecated
    {
        let message = "it would be gone before it is deprecated".to_owned();
        section.refuse("sunset", message, "use a later date than deprecated_at");
    }
    name.and(served).map(|_| format)
}

fn matches(section: &Section<'_>) -> Match {
    let matches = Match {
        path: section.get("path", checked_by(proxy::check_pattern)),
        header: section.get("header", checked_by(proxy::check_header)),
        value: section.get("value", value::text_up_to(200)),
        query: section.get("query", value::text_up_to(200)),
    };
    if section.has("value") && !section.has("header") {
        let message = "there is no header whose value this could be".to_owned();
        section.refuse("value", message, "write beside it: header = \"Accept\"");
    }
    matches
}

fn served(node: &Node) -> Result<String, Wrong> {
    let text = value::text(node)?;
    match Range::parse(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(Wrong::Value(
            format!("\"{}\" is no range of versions", shown(&text)),
            "write the versions that serve it: \"<4.1\", \">=4.0\" or \">=3.9 <5\"".to_owned(),
        )),
    }
}

/// A date, from its first moment in UTC, or a date with a time; in seconds since 1970.
fn moment(node: &Node) -> Result<i64, Wrong> {
    let (Value::Date(text, _) | Value::Text(text)) = &node.value else { return Err(Wrong::Type("a date")) };
    let of_time = text.parse::<jiff::Timestamp>().ok();
    let of_day = || {
        let day = text.parse::<jiff::civil::Date>().ok()?;
        Some(day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    };
    of_time.or_else(of_day).map(jiff::Timestamp::as_second).ok_or_else(|| {
        Wrong::Value(
            format!("\"{}\" is no date", shown(text)),
            "write it like 2026-12-31, or 2026-12-31T18:00:00Z".to_owned(),
        )
    })
}
