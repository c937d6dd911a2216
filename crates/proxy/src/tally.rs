//! Reads the counts into what is told: the sums and their names, nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::classes::{AppCell, Kind, Lost, Mixed, VersionCell};
use crate::counts::{Counts, VersionRow};
use crate::endpoint::LiveEndpoint;
use crate::open::Open;
use crate::stats::{AppStats, EndpointStats, Stats};
use crate::table::Table;

/// Everything that was counted, with the endpoints that may have requests now.
pub fn stats<'a>(
    counts: &Counts,
    table: &Table,
    endpoints: impl Iterator<Item = &'a Arc<LiveEndpoint>>,
    open: &BTreeMap<String, Arc<Open>>,
) -> Stats {
    let mut stats = Stats { epoch: table.epoch, number: table.number, ..Stats::default() };
    for (app, row) in counts.apps() {
        let mut of_app = self::app(counts, &app, row);
        of_app.open = open.get(&app).map(|open| open.all()).unwrap_or_default();
        stats.apps.insert(app, of_app);
    }
    for endpoint in endpoints {
        if let Some(app) = stats.apps.get_mut(&*endpoint.app) {
            app.endpoints.push(EndpointStats {
                id: endpoint.id.clone(),
                incarnation: endpoint.incarnation.clone(),
                version: endpoint.version.clone(),
                in_flight: endpoint.in_flight(),
                requests: counts.requests(endpoint.row).load(Relaxed),
            });
        }
    }
    stats
}

/// Those that there are.
fn by_kind(of: impl Fn(Kind) -> u64) -> BTreeMap<String, u64> {
    let all = Kind::ALL.into_iter().map(|kind| (kind.name().to_owned(), of(kind)));
    all.filter(|(_, count)| *count > 0).collect()
}

fn app(counts: &Counts, name: &str, row: VersionRow) -> AppStats {
    let cell = |cell| counts.app_cell(row, cell).load(Relaxed);
    let mut app = AppStats {
        crashed: cell(AppCell::Crashed),
        cut: cell(AppCell::Cut),
        told: cell(AppCell::Told),
        app_errors: cell(AppCell::AppErrors),
        rejected: cell(AppCell::Rejected),
        retried: cell(AppCell::Retried),
        held: cell(AppCell::Held),
        told_by_kind: by_kind(|kind| cell(AppCell::ToldOf(kind))),
        cut_by_kind: by_kind(|kind| cell(AppCell::CutOf(kind))),
        mixed: Mixed::ALL
            .into_iter()
            .map(|what| (what.name().to_owned(), cell(AppCell::Mixed(what))))
            .filter(|(_, count)| *count > 0)
            .collect(),
        ..AppStats::default()
    };
    for reason in Lost::ALL {
        let count = cell(AppCell::Lost(reason));
        app.lost += count;
        if count > 0 {
            app.lost_by_reason.insert(reason.name().to_owned(), count);
        }
    }
    let mut answered = cell(AppCell::Forgotten);
    for (version, row) in counts.versions_of(name) {
        let answers = counts.answers(row);
        answered += answers;
        app.latency.insert(version.clone(), counts.histogram(row));
        let cell = |cell| counts.version_cell(row, cell).load(Relaxed);
        let statuses = (1..=5).map(|digit| (format!("{digit}xx"), cell(VersionCell::Status(digit))));
        app.statuses.insert(version.clone(), statuses.filter(|(_, count)| *count > 0).collect());
        app.bytes_up.insert(version.clone(), cell(VersionCell::BytesUp));
        app.bytes_down.insert(version.clone(), cell(VersionCell::BytesDown));
        app.by_version.insert(version, answers);
    }
    app.total = answered + app.rejected + app.lost + app.crashed + app.cut + app.told;
    app
}
