//! One rollout on the page: its numbers, its failures, its pictures, its decisions.

use std::fmt::Display;

use trundle_core::reason::duration_text;

use super::canvas::{Canvas, NARROW, WIDE, picture};
use super::evidence::Evidence;
use super::markup::Markup;
use super::{cards, charts, legend, lives, story, versions};

/// `alone`: the page has no other.
pub fn draw(m: &mut Markup, evidence: &Evidence, alone: bool) {
    m.element("section", &[("class", &"rollout"), ("id", &place(evidence))], |m| {
        head(m, evidence);
        tiles(m, evidence);
        cards::draw(m, evidence);
        traffic(m, evidence);
        versions::draw(m, evidence);
        capacity(m, evidence);
        instances(m, evidence);
        story::draw(m, evidence, alone);
    });
}

/// Where it is on the page.
pub fn place(evidence: &Evidence) -> String {
    format!("rollout-{}", evidence.row.rollout)
}

/// `web: 3.1 → 3.2`
pub fn title(evidence: &Evidence) -> String {
    let from = evidence.row.from_version.as_deref().unwrap_or("nothing");
    format!("{}: {from} → {}", evidence.app, evidence.row.to_version)
}

fn head(m: &mut Markup, evidence: &Evidence) {
    let row = &evidence.row;
    m.element("header", &[], |m| {
        m.words("h1", &[], title(evidence));
        let tone = match row.state.as_str() {
            "succeeded" => "good",
            "failed" => "bad",
            "running" => "open",
            _ => "warn",
        };
        m.words("span", &[("class", &format!("outcome {tone}"))], row.state.replace('_', " "));
    });
    m.element("p", &[("class", &"muted")], |m| {
        m.text(format!("Rollout {}, {} by {}, ", row.rollout, row.kind, row.by));
        if let Some(at) = &row.started_at {
            m.words("time", &[("datetime", at)], readable(at));
        }
        m.text(format!(", {}", if evidence.timeline.ended_ms.is_some() { "took " } else { "open for " }));
        m.text(duration_text(row.duration_ms));
    });
    if let Some(cause) = &row.cause {
        m.words("p", &[], format!("Cause: {cause}"));
    }
}

/// `2026-11-23 12:00:01 UTC` of RFC 3339.
fn readable(at: &str) -> String {
    let (day, time) = at.split_once('T').unwrap_or((at, ""));
    format!("{day} {} UTC", time.get(..8).unwrap_or_default())
}

fn tiles(m: &mut Markup, evidence: &Evidence) {
    let row = &evidence.row;
    m.element("dl", &[("class", &"tiles")], |m| {
        match &row.requests {
            Some(requests) => {
                tile(m, "requests", "", requests.total, "in this rollout");
                let tone = if requests.lost == 0 { "good" } else { "bad" };
                tile(m, "lost", tone, requests.lost, "by Trundle");
                let tone = |n: u64| if n == 0 { "" } else { "bad" };
                tile(m, "crashed", tone(requests.crashed), requests.crashed, "with the app");
                tile(m, "cut", tone(requests.cut), requests.cut, "past the drain time");
                tile(m, "app errors", "", requests.app_errors, "the app's own 5xx");
            }
            None if evidence.samples.is_none() => tile(m, "requests", "", "–", "a worker takes none"),
            None => tile(m, "requests", "", "–", "nobody counted them"),
        }
        let last = evidence.timeline.levels.last();
        if let (Some(lowest), Some(highest), Some(last)) = (row.lowest_available, row.highest_total, last) {
            let (floor, ceiling) = evidence.bounds(last);
            let tone = if lowest >= floor { "good" } else { "bad" };
            tile(m, "lowest available", tone, lowest, format!("floor {floor}"));
            let tone = if highest <= ceiling { "good" } else { "bad" };
            tile(m, "highest alive", tone, highest, format!("ceiling {ceiling}"));
        }
        if !row.peak_mix.is_empty() {
            let mix: Vec<_> =
                row.peak_mix.iter().map(|(version, n)| format!("{n}\u{a0}×\u{a0}{version}")).collect();
            m.element("div", &[("class", &"tile")], |m| {
                m.words("dt", &[], "peak mix");
                m.words("dd", &[("class", &"long")], mix.join(" + "));
            });
        }
    });
}

fn tile(m: &mut Markup, name: &str, tone: &str, value: impl Display, about: impl Display) {
    m.element("div", &[("class", &format!("tile {tone}"))], |m| {
        m.words("dt", &[], name);
        m.element("dd", &[], |m| {
            m.text(value);
            m.words("small", &[], about);
        });
    });
}

/// The picture in both widths.
fn both(
    m: &mut Markup,
    evidence: &Evidence,
    (id, title, words): (&str, &str, &str),
    draw: impl Fn(&mut Markup, &Canvas) -> f64,
) {
    for canvas in [WIDE, NARROW] {
        let mut inside = Markup::default();
        let height = draw(&mut inside, &canvas);
        let size = if canvas.narrow { "n" } else { "w" };
        let id = format!("r{}-{id}-{size}", evidence.row.rollout);
        m.add(&picture(&canvas, height, &id, (title, words), &inside));
    }
}

pub(super) fn card(m: &mut Markup, title: &'static str, inside: impl FnOnce(&mut Markup)) {
    m.element("div", &[("class", &"card")], |m| {
        m.words("h2", &[], title);
        inside(m);
    });
}

fn traffic(m: &mut Markup, evidence: &Evidence) {
    let Some(samples) = &evidence.samples else { return };
    card(m, "Requests a second, by version", |m| {
        if charts::traffic_rates(evidence, &WIDE).is_none() {
            m.words(
                "p",
                &[("class", &"muted")],
                if samples.is_empty() {
                    "The traffic of this rollout was not noted over time, so there is no picture of it."
                } else {
                    "No request was answered in this time."
                },
            );
            return;
        }
        legend::traffic(m, evidence);
        let words = super::requests_words(evidence);
        both(m, evidence, ("traffic", "Requests a second, by version", &words), |m, canvas| {
            charts::traffic_rates(evidence, canvas)
                .map_or(0.0, |rates| charts::traffic(m, evidence, canvas, &rates, 0.0))
        });
        let last = samples.last().map_or(0, |sample| sample.at_ms);
        // A little is always missing at the edge.
        if last + 2_000 < evidence.timeline.until_ms.min(evidence.timeline.ended_ms.unwrap_or(u64::MAX)) {
            m.words("p", &[("class", &"muted")], "The traffic after that was not noted.");
        }
    });
}

fn capacity(m: &mut Markup, evidence: &Evidence) {
    card(m, "Available instances", |m| {
        legend::capacity(m, evidence);
        let words = charts::capacity_words(evidence);
        both(m, evidence, ("capacity", "Available instances over time", &words), |m, canvas| {
            charts::capacity(m, evidence, canvas, 0.0)
        });
    });
}

fn instances(m: &mut Markup, evidence: &Evidence) {
    card(m, "Each instance", |m| {
        legend::stages(m, evidence);
        let lives = &evidence.timeline.lives;
        let words = format!(
            "{} instances, each a bar from its start to its end; the decisions below tell the same.",
            lives.len()
        );
        both(m, evidence, ("lives", "Each instance over time", &words), |m, canvas| {
            lives::rows(m, evidence, canvas, 4.0)
        });
        if lives.len() > lives::MOST_DRAWN {
            let more = lives.len() - lives::MOST_DRAWN;
            m.words(
                "p",
                &[("class", &"muted")],
                format!("{more} more are not drawn; the decisions below have them."),
            );
        }
    });
}
