//! `[rollout]`: how a new revision replaces the old one. Whether the values fit together is core's to say.

use trundle_core::limits::CountOrPercent;
use trundle_core::settings::{MAX_REPLICAS, RolloutSettings};

use super::section::Section;
use super::value::{self, Wrong};

pub fn read(section: Option<&Section<'_>>) -> RolloutSettings {
    let mut settings = RolloutSettings::default();
    let Some(section) = section else { return settings };
    section.get("strategy", |node| match value::text(node)?.as_str() {
        "rolling" => Ok(()),
        _ => Err(Wrong::Value(
            "this strategy is not known".to_owned(),
            "\"rolling\" is the only one".to_owned(),
        )),
    });
    settings.max_surge = section.get("max_surge", value::count_or_percent);
    settings.max_unavailable = section.get("max_unavailable", value::count_or_percent);
    // A batch that was refused is still a batch to those who look for one.
    let batch = section.get("batch", value::whole(0, MAX_REPLICAS));
    settings.batch = batch.or(section.has("batch").then_some(1));
    settings.order = section.get("order", value::choice);
    let durations = [
        ("delay", &mut settings.delay_ms),
        ("bake_time", &mut settings.bake_time_ms),
        ("min_healthy_time", &mut settings.min_healthy_time_ms),
        ("healthy_deadline", &mut settings.healthy_deadline_ms),
        ("progress_deadline", &mut settings.progress_deadline_ms),
        ("drain_timeout", &mut settings.drain_timeout_ms),
        ("stop_grace_period", &mut settings.stop_grace_period_ms),
    ];
    for (key, field) in durations {
        if let Some(ms) = section.get(key, value::duration_ms) {
            *field = ms;
        }
    }
    if let Some(on_failure) = section.get("on_failure", value::choice) {
        settings.on_failure = on_failure;
    }
    settings.max_failures =
        section.get("max_failures", value::count_or_percent).unwrap_or(CountOrPercent::Count(1));
    if let Some(limit) = section.get("history_limit", value::whole(0, 10_000)) {
        settings.history_limit = limit;
    }
    settings
}
