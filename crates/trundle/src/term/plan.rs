//! `plan` as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use trundle_core::plan::{Plan, StepAction};
use trundle_core::reason::duration_text;

use super::{bold, dim};

/// Batches that are printed one by one; more are counted.
const SHOWN: usize = 20;

pub fn render(plan: &Plan, mix: &BTreeMap<String, u32>, changes: &[String]) -> String {
    let mut out = String::new();
    let budget = plan.budget;
    for change in changes {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  changes {change}");
    }
    let _ = writeln!(
        out,
        "  {}, surge {}, unavailable {}: never fewer than {} available, never more than {} live",
        if budget.desired == 1 { "1 replica".to_owned() } else { format!("{} replicas", budget.desired) },
        budget.surge,
        budget.unavailable,
        bold(&budget.floor().to_string()),
        bold(&budget.ceiling().to_string())
    );
    for (n, batch) in plan.batches.iter().enumerate().take(SHOWN) {
        let steps: Vec<_> = batch
            .iter()
            .map(|step| {
                let word = match step.action {
                    StepAction::Start => "start",
                    StepAction::Stop => "stop",
                };
                format!("{word} {} of revision {}", step.count, step.revision)
            })
            .collect();
        let _ = writeln!(out, "  {:>3}. {}", n + 1, steps.join(", "));
    }
    if plan.batches.len() > SHOWN {
        let _ = writeln!(out, "  … and {} more", plan.batches.len() - SHOWN);
    }
    if !mix.is_empty() {
        let mix: Vec<_> = mix.iter().map(|(version, n)| format!("{n} × {version}")).collect();
        let _ = writeln!(out, "  both versions serve side by side, at most mixed {}", mix.join(" + "));
    }
    let _ = writeln!(out, "  expected {} {}", duration_text(plan.expected_ms), dim("(if all goes well)"));
    out
}
