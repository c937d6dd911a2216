//! The plain report at the end of a rollout.

use std::fmt::Write;

use trundle_core::event::Requests;
use trundle_core::ids::AppName;
use trundle_core::reason::duration_text;
use trundle_engine::view::{HistoryRow, Line, Status};

use super::{bold, dim, green, red};

/// A few lines: what runs, what it cost.
pub fn summary(status: &Status) -> String {
    let mut out = String::new();
    let running: Vec<_> = status
        .revisions
        .iter()
        .filter(|r| r.instances > 0)
        .map(|r| format!("{} × {}", r.available, r.version))
        .collect();
    let rollout =
        status.rollout.as_ref().map(|r| format!(", rollout {} took {}", r.id, duration_text(r.duration_ms)));
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{} {} runs {}{}",
        green("✓"),
        bold(&status.app),
        running.join(" + "),
        rollout.unwrap_or_default()
    );
    if !status.listen.is_empty() {
        let _ = writeln!(out, "  {}", requests(&status.requests));
    }
    if let (Some(lowest), Some(highest)) = (status.lowest_available, status.highest_total) {
        let mix: Vec<_> = status.peak_mix.iter().map(|(version, n)| format!("{n} × {version}")).collect();
        let _ = writeln!(
            out,
            "  available never below {lowest} (floor {}), never more than {highest} live (ceiling {}), peak mix {}",
            status.floor,
            status.ceiling,
            mix.join(" + ")
        );
    }
    out
}

/// `1,000 requests: 3.1 600, 3.2 400; lost 0, crashed 0 …`
pub fn requests(r: &Requests) -> String {
    if r.total == 0 {
        return "no requests".to_owned();
    }
    let by: Vec<_> = r.by_version.iter().map(|(version, n)| format!("{version} {n}")).collect();
    let lost = if r.lost == 0 { green("lost 0") } else { red(&format!("lost {}", r.lost)) };
    format!(
        "{} requests ({}): {lost}, crashed {}, cut {}, told {}, app errors {}",
        r.total,
        by.join(", "),
        r.crashed,
        r.cut,
        r.told,
        r.app_errors
    )
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
    let _ = writeln!(out, "  {}", requests(&row.requests));
    if let (Some(lowest), Some(highest)) = (row.lowest_available, row.highest_total) {
        let mix: Vec<_> = row.peak_mix.iter().map(|(version, n)| format!("{n} × {version}")).collect();
        let mix = mix.join(" + ");
        let _ =
            writeln!(out, "  available never below {lowest}, never more than {highest} live, peak mix {mix}");
    }
    out.extend(row.failure.as_ref().map(super::card::of_the_past));
    for line in lines {
        let _ = writeln!(out, "  {}  {:<10} {}", dim(&line.at), line.kind, line.text);
    }
    out
}
