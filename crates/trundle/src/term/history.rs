//! `history` as text.

use std::fmt::Write;

use trundle_core::reason::duration_text;
use trundle_engine::view::History;

use super::{bold, dim};

pub fn render(history: &History) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", bold(&history.app));
    for row in &history.rollouts {
        let _ = writeln!(
            out,
            "  rollout {:<3} {:>10} → {:<10} {:<12} {:>9}  lost {:<4} {}  {}",
            row.rollout,
            row.from_version.as_deref().unwrap_or("-"),
            row.to_version,
            row.state,
            duration_text(row.duration_ms),
            row.requests.as_ref().map_or_else(|| "-".to_owned(), |r| r.lost.to_string()),
            dim(row.started_at.as_deref().unwrap_or("-")),
            row.by
        );
    }
    for revision in &history.revisions {
        let marks =
            [(revision.current, "current"), (revision.succeeded, "succeeded"), (revision.bad, "judged bad")];
        let marks: Vec<_> = marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| *mark).collect();
        let _ = writeln!(
            out,
            "  revision {:<3} {:<12} {}  {}",
            revision.revision,
            revision.version,
            dim(revision.added_at.as_deref().unwrap_or("-")),
            marks.join(", ")
        );
    }
    out
}
