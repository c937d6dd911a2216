//! The plain report at the end of a rollout.

use std::collections::BTreeMap;
use std::fmt::Write;

use trundle_core::event::Requests;
use trundle_core::ids::AppName;
use trundle_core::reason::duration_text;
use trundle_engine::view::{HistoryRow, Line, RolloutStatus, Status};

use super::{bold, dim, green, red};

/// A few lines: what runs, what it cost.
pub fn summary(status: &Status) -> String {
    let mut out = runs(status, status.rollout.as_ref());
    if !status.listen.is_empty() {
        let _ = writeln!(out, "  {}", requests(status.requests.as_ref()));
    }
    if let Some(line) = status.requests.as_ref().and_then(super::window::of_requests) {
        let _ = writeln!(out, "  versions: {line}");
    }
    if let (Some(lowest), Some(highest)) = (status.lowest_available, status.highest_total) {
        let _ = writeln!(
            out,
            "  available never below {lowest} ({}), never more than {highest} live ({}){}",
            bound("floor", status.lowest_floor, status.floor),
            bound("ceiling", status.highest_ceiling, status.ceiling),
            peak(&status.peak_mix)
        );
    }
    out
}

/// Of the moment that is told, and of now if the app was scaled since: one alone would look as if it had been broken, or kept.
fn bound(name: &str, then: Option<u32>, now: u32) -> String {
    match then {
        Some(then) if then != now => format!("{name} {then} then, {now} now"),
        Some(_) | None => format!("{name} {now}"),
    }
}

/// What runs, and with a rollout how long that took.
pub fn runs(status: &Status, rollout: Option<&RolloutStatus>) -> String {
    let rollout = rollout.map(|r| format!(", rollout {} took {}", r.id, duration_text(r.duration_ms)));
    format!(
        "{} {} runs {}{}\n",
        green("✓"),
        bold(&status.app),
        serving(status).unwrap_or_else(|| "nothing".to_owned()),
        rollout.unwrap_or_default()
    )
}

/// Where a rollout that is on its way stands, in a line.
pub fn stand(status: &Status) -> String {
    let Some(rollout) = &status.rollout else { return String::new() };
    let (state, why) = (rollout.state.replace('_', " "), status.reasons.first());
    let why = why.and_then(|reason| reason["text"].as_str()).map(|text| format!("; {text}"));
    format!(
        "rollout {} to {} is {state}: {} available (floor {}), {} live{}",
        rollout.id,
        rollout.to_version,
        serving(status).unwrap_or_else(|| "nothing".to_owned()),
        status.floor,
        status.live,
        why.unwrap_or_default()
    )
}

/// `5 × 3.1 + 2 × 3.2`; None when nothing is available.
pub fn serving(status: &Status) -> Option<String> {
    let available = status.revisions.iter().filter(|r| r.available > 0);
    let each: Vec<_> = available.map(|r| format!("{} × {}", r.available, r.version)).collect();
    (!each.is_empty()).then(|| each.join(" + "))
}

/// Empty for a worker: what takes no requests is not mixed.
fn peak(mix: &BTreeMap<String, u32>) -> String {
    if mix.is_empty() {
        return String::new();
    }
    let each: Vec<_> = mix.iter().map(|(version, n)| format!("{n} × {version}")).collect();
    format!(", peak mix {}", each.join(" + "))
}

/// `1,000 requests: 3.1 600, 3.2 400; lost 0, crashed 0 …`
pub fn requests(requests: Option<&Requests>) -> String {
    let Some(r) = requests else { return "requests were not counted".to_owned() };
    // What waits was not answered yet, and is not nothing.
    if r.total == 0 && r.held == 0 {
        return "no requests".to_owned();
    }
    let by: Vec<_> = r.by_version.iter().map(|(version, n)| format!("{version} {n}")).collect();
    let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
    let lost = if r.lost == 0 { green("lost 0") } else { red(&format!("lost {}", r.lost)) };
    let held = if r.held == 0 { String::new() } else { format!(", waited {}", r.held) };
    format!(
        "{} requests{by}: {lost}, crashed {}, cut {}{}, told {}{}, app errors {}{held}",
        r.total,
        r.crashed,
        r.cut,
        kinds(&r.cut_by_kind),
        r.told,
        kinds(&r.told_by_kind),
        r.app_errors
    )
}

/// ` (2 websocket, 1 events)`; nothing where all of them were plain requests.
fn kinds(by_kind: &BTreeMap<String, u64>) -> String {
    if by_kind.keys().all(|kind| kind == "request") {
        return String::new();
    }
    let each: Vec<_> = by_kind.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    format!(" ({})", each.join(", "))
}

/// With every decision.
pub fn full(app: &AppName, row: &HistoryRow, lines: &[Line]) -> String {
    let mut out = String::new();
    let from = row.from_version.as_deref().unwrap_or("nothing");
    let _ = writeln!(
        out,
        "{} rollout {}: {from} → {}, {} after {}, by {}",
        bold(app.as_str()),
        row.rollout,
        row.to_version,
        row.state,
        duration_text(row.duration_ms),
        row.by
    );
    if let Some(cause) = &row.cause {
        let _ = writeln!(out, "  cause: {cause}");
    }
    let _ = writeln!(out, "  {}", requests(row.requests.as_ref()));
    if let (Some(lowest), Some(highest)) = (row.lowest_available, row.highest_total) {
        let peak = peak(&row.peak_mix);
        let _ = writeln!(out, "  available never below {lowest}, never more than {highest} live{peak}");
    }
    out.extend(row.failure.as_ref().map(super::card::of_the_past));
    for line in lines {
        let _ = writeln!(out, "  {}  {:<10} {}", dim(&line.at), line.kind, line.text);
    }
    out
}
