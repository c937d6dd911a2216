//! A simulated rollout for people: what it took against what is possible, and its steps.

use std::fmt::Write as _;

use trundle_core::reason::duration_text;
use trundle_core::state::RolloutState;
use trundle_sim::{Outcome, Step};

use super::{bold, dim, green, red};

/// So many steps are shown at the beginning and at the end.
const SHOWN: usize = 12;

pub fn render(outcome: &Outcome, to: &str) -> String {
    let mut out = String::new();
    let ended = match outcome.state {
        RolloutState::Succeeded => green("succeeds"),
        RolloutState::Paused => red("pauses"),
        RolloutState::RolledBack => red("goes back"),
        RolloutState::Running
        | RolloutState::RollingBack
        | RolloutState::Failed
        | RolloutState::Aborted
        | RolloutState::Superseded => red("fails"),
    };
    let times = outcome.duration_ms as f64 / outcome.limit_ms.max(1) as f64;
    let _ = writeln!(
        out,
        "the rollout to {} {ended} after {} ({times:.2} of the {} that physics allows)",
        bold(to),
        duration_text(outcome.duration_ms),
        duration_text(outcome.limit_ms)
    );
    let budget = outcome.budget;
    let _ =
        writeln!(out, "  available   never below {} (floor {})", outcome.lowest_available, budget.floor());
    let _ = writeln!(
        out,
        "  alive       never more than {} (ceiling {})",
        outcome.highest_total,
        budget.ceiling()
    );
    let mix: Vec<_> = outcome.peak_mix.iter().map(|(version, n)| format!("{n} × {version}")).collect();
    if !mix.is_empty() {
        let _ = writeln!(out, "  peak mix    {}", mix.join(", "));
    }
    let _ = writeln!(out, "  decisions   {}", outcome.decisions);
    let shown: Vec<&Step> = outcome.steps.iter().filter(|s| s.action != "stop").collect();
    let (first, last) = if shown.len() <= 2 * SHOWN {
        (shown.as_slice(), &[][..])
    } else {
        (&shown[..SHOWN], &shown[shown.len() - SHOWN..])
    };
    for step in first {
        line(&mut out, step);
    }
    if !last.is_empty() {
        let _ = writeln!(out, "  {}", dim(&format!("… {} more …", shown.len() - 2 * SHOWN)));
    }
    for step in last {
        line(&mut out, step);
    }
    out
}

fn line(out: &mut String, step: &Step) {
    let at = format!("{:.3} s", step.at_ms as f64 / 1000.0);
    let _ = writeln!(out, "  {at:>12}  {:<8} revision {} × {}", step.action, step.revision, step.count);
}
