//! What is counted and what runs, as Prometheus reads it (text format 0.0.4).
//!
//! Counters are those of the proxy: they outlive its process, the daemon, and a rollout. A version's series ends when its row is
//! given to a newer one, after 256 of apps and versions.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use trundle_engine::view::Status;
use trundle_proxy::stats::bucket_top_us;
use trundle_proxy::{AppStats, Caller, Histogram, Stats};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper ends of the buckets, in seconds. A value may be counted one too high if it is within 6.25 % of an end: the
/// proxy's own buckets are so wide.
const ENDS_S: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Name, help, and where the value is.
type Family<Of, Value> = (&'static str, &'static str, fn(&Of) -> Value);
/// The same with a value for each version or kind.
type FamilyOf = (&'static str, &'static str, fn(&AppStats) -> &BTreeMap<String, u64>);

/// `stats` is missing while no proxy answers.
pub fn text(apps: &[Status], stats: Option<&Stats>) -> String {
    let mut page = Page::default();
    page.family("trundle_info", "gauge", "The release that answers.");
    page.line("trundle_info", &[("release", env!("CARGO_PKG_VERSION"))], 1);
    page.family("trundle_proxy_up", "gauge", "Whether the proxy answers.");
    page.line("trundle_proxy_up", &[], u64::from(stats.is_some()));
    running(&mut page, apps);
    if let Some(stats) = stats {
        answered(&mut page, stats);
        not_answered(&mut page, stats);
        open(&mut page, stats);
    }
    page.0
}

fn running(page: &mut Page, apps: &[Status]) {
    let gauges: [Family<Status, u64>; 6] = [
        ("trundle_replicas", "Instances that are wanted.", |app| app.replicas.into()),
        ("trundle_floor", "Fewer are never available on purpose.", |app| app.floor.into()),
        ("trundle_ceiling", "More are never alive.", |app| app.ceiling.into()),
        ("trundle_available", "Instances that serve and have for min_healthy_time.", |app| {
            app.available.into()
        }),
        ("trundle_live", "Instances that may be alive, whatever their phase.", |app| app.live.into()),
        ("trundle_maintenance", "Whether clients get the page for maintenance.", |app| {
            u64::from(app.maintenance.is_some())
        }),
    ];
    for (name, help, of) in gauges {
        page.family(name, "gauge", help);
        apps.iter().for_each(|app| page.line(name, &[("app", &app.app)], of(app)));
    }
    page.family("trundle_instances", "gauge", "Instances of a version that are alive, ready, available.");
    for app in apps {
        for of in &app.revisions {
            for (state, count) in [("live", of.instances), ("ready", of.ready), ("available", of.available)] {
                let revision = of.revision.to_string();
                let labels =
                    [("app", &*app.app), ("version", &of.version), ("revision", &revision), ("state", state)];
                page.line("trundle_instances", &labels, count.into());
            }
        }
    }
    page.family("trundle_rollout", "gauge", "The newest rollout of an app, with its state.");
    for (app, rollout) in apps.iter().filter_map(|app| Some((app, app.rollout.as_ref()?))) {
        let id = rollout.id.to_string();
        let from = rollout.from_version.as_deref().unwrap_or_default();
        let labels = [
            ("app", &*app.app),
            ("rollout", &id),
            ("from", from),
            ("to", &rollout.to_version),
            ("state", &rollout.state),
        ];
        page.line("trundle_rollout", &labels, 1);
    }
}

fn answered(page: &mut Page, stats: &Stats) {
    page.family("trundle_requests_total", "counter", "Complete answers of instances.");
    for (app, of) in &stats.apps {
        for (version, classes) in &of.statuses {
            for (class, count) in classes {
                page.line(
                    "trundle_requests_total",
                    &[("app", app), ("version", version), ("status", class)],
                    *count,
                );
            }
        }
    }
    let help = "From a request's head to the last byte of its answer.";
    page.family("trundle_request_duration_seconds", "histogram", help);
    for (app, of) in &stats.apps {
        for (version, latency) in &of.latency {
            page.histogram(
                "trundle_request_duration_seconds",
                &[("app", app), ("version", version)],
                latency,
            );
        }
    }
    let bytes: [FamilyOf; 2] = [
        ("trundle_request_bytes_total", "Bytes of bodies that went to instances.", |app| &app.bytes_up),
        ("trundle_response_bytes_total", "Bytes of bodies that went to clients.", |app| &app.bytes_down),
    ];
    for (name, help, of) in bytes {
        page.family(name, "counter", help);
        for (app, stats) in &stats.apps {
            of(stats).iter().for_each(|(version, count)| {
                page.line(name, &[("app", app), ("version", version)], *count);
            });
        }
    }
}

fn not_answered(page: &mut Page, stats: &Stats) {
    page.family(
        "trundle_requests_lost_total",
        "counter",
        "Answered by the proxy with 502, 503 or 504, or reset by it.",
    );
    for (app, of) in &stats.apps {
        of.lost_by_reason.iter().for_each(|(reason, count)| {
            page.line("trundle_requests_lost_total", &[("app", app), ("reason", reason)], *count);
        });
    }
    let counts: [Family<AppStats, u64>; 5] = [
        ("trundle_requests_crashed_total", "In flight in an instance that died by itself.", |app| {
            app.crashed
        }),
        (
            "trundle_requests_rejected_total",
            "Refused by a limit or rule of the proxy, or closed for maintenance.",
            |app| app.rejected,
        ),
        ("trundle_requests_retried_total", "Attempts beyond the first.", |app| app.retried),
        ("trundle_requests_held_total", "Requests that waited for an instance.", |app| app.held),
        ("trundle_requests_app_errors_total", "Answers of instances with 500 and more.", |app| {
            app.app_errors
        }),
    ];
    for (name, help, of) in counts {
        page.family(name, "counter", help);
        stats.apps.iter().for_each(|(app, stats)| page.line(name, &[("app", app)], of(stats)));
    }
    let name = "trundle_requests_mixed_total";
    page.family(name, "counter", "Of requests that could have met either of two versions, what came of it.");
    for (app, of) in &stats.apps {
        of.mixed.iter().for_each(|(what, count)| page.line(name, &[("app", app), ("what", what)], *count));
    }
    let (name, last) = ("trundle_format_uses_total", "trundle_format_last_use_timestamp_seconds");
    let each = |page: &mut Page, name: &str, of: fn(&Caller) -> u64| {
        for (app, stats) in &stats.apps {
            for (format, uses) in &stats.formats {
                for (caller, counted) in &uses.callers {
                    let labels = [("app", app.as_str()), ("format", format), ("caller", caller)];
                    page.line(name, &labels, of(counted));
                }
            }
        }
    };
    page.family(name, "counter", "Requests that speak a format, by who calls.");
    each(page, name, |caller| caller.count);
    page.family(last, "gauge", "The last of them, in seconds since 1970.");
    each(page, last, |caller| caller.last_s);
    let kinds: [FamilyOf; 2] = [
        ("trundle_requests_told_total", "Streams whose clients were asked to come again.", |app| {
            &app.told_by_kind
        }),
        ("trundle_requests_cut_total", "Past drain_timeout.", |app| &app.cut_by_kind),
    ];
    for (name, help, of) in kinds {
        page.family(name, "counter", help);
        for (app, stats) in &stats.apps {
            of(stats).iter().for_each(|(kind, count)| {
                page.line(name, &[("app", app), ("kind", kind)], *count);
            });
        }
    }
}

fn open(page: &mut Page, stats: &Stats) {
    page.family(
        "trundle_open",
        "gauge",
        "Connections of clients by what they speak, and streams without an end.",
    );
    for (app, of) in &stats.apps {
        of.open.iter().for_each(|(kind, count)| {
            page.line("trundle_open", &[("app", app), ("kind", kind)], *count);
        });
    }
    page.family("trundle_requests_in_flight", "gauge", "Requests that an instance has now.");
    for (app, of) in &stats.apps {
        for endpoint in &of.endpoints {
            let labels = [("app", &**app), ("version", &endpoint.version), ("instance", &endpoint.id)];
            page.line("trundle_requests_in_flight", &labels, endpoint.in_flight);
        }
    }
}

/// Writing to a text cannot fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let _ = writeln!(self.0, "{name}{} {value}", shown(labels));
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], of: &Histogram) {
        let bucket = |page: &mut Self, end: &str, count: u64| {
            page.line(&format!("{name}_bucket"), &[labels, &[("le", end)]].concat(), count);
        };
        for end_s in ENDS_S {
            let below = of
                .buckets
                .iter()
                .filter(|(bucket, _)| bucket_top_us(**bucket as usize) as f64 <= end_s * 1e6);
            bucket(self, &end_s.to_string(), below.map(|(_, count)| count).sum());
        }
        bucket(self, "+Inf", of.count);
        let _ = writeln!(self.0, "{name}_sum{} {}", shown(labels), of.sum_us as f64 / 1e6);
        self.line(&format!("{name}_count"), labels, of.count);
    }
}

fn shown(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let safe = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> =
        labels.iter().map(|(name, text)| format!("{name}=\"{}\"", safe(text))).collect();
    format!("{{{}}}", labels.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_labels_are_safe() {
        let mut page = Page::default();
        let mut of = Histogram { count: 3, sum_us: 2_000_900, ..Histogram::default() };
        for us in [400, 500, 2_000_000] {
            *of.buckets.entry(trundle_proxy::stats::bucket_of(us) as u32).or_default() += 1;
        }
        page.histogram("d", &[("v", "a\"\\\n")], &of);
        let lines: Vec<&str> = page.0.lines().collect();
        assert_eq!(lines[0], r#"d_bucket{v="a\"\\\n",le="0.001"} 2"#);
        assert_eq!(lines[10], r#"d_bucket{v="a\"\\\n",le="2.5"} 3"#);
        assert_eq!(
            lines[lines.len() - 3..].join(" "),
            "d_bucket{v=\"a\\\"\\\\\\n\",le=\"+Inf\"} 3 d_sum{v=\"a\\\"\\\\\\n\"} 2.0009 d_count{v=\"a\\\"\\\\\\n\"} 3"
        );
    }
}
