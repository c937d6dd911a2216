//! Everything that is known of one rollout, from the files of the state directory.

use std::collections::BTreeMap;
use std::path::Path;

use trundle_core::ids::{AppName, RevisionNumber, RolloutId};
use trundle_engine::App;
use trundle_engine::journal::{Entry, JournalError, SqliteJournal, Store};
use trundle_engine::view::{self, AsOf, Failure, HistoryRow, Level, Timeline, Traffic};

use super::samples::{self, Sample};
use crate::clock::rfc3339;

pub struct Evidence {
    pub app: String,
    pub row: HistoryRow,
    pub timeline: Timeline,
    /// Oldest first.
    pub failures: Vec<Failure>,
    /// The revisions that are seen, in the order in which they are stacked: old, others, new.
    pub cast: Vec<Role>,
    /// None: a worker, which takes no requests.
    pub samples: Option<Vec<Sample>>,
}

/// One revision of the rollout.
pub struct Role {
    pub revision: RevisionNumber,
    pub version: String,
    /// With its number where the version alone is not enough.
    pub name: String,
    pub colour: &'static str,
}

/// Of the old one, of the new one, and of others.
const COLOURS: [&str; 6] = ["c0", "c1", "c2", "c3", "c4", "c5"];

/// The journal as it is now, read once for all rollouts.
pub struct Book {
    entries: Vec<Entry>,
    apps: BTreeMap<AppName, App>,
}

impl Book {
    pub fn read(state_dir: &Path) -> Result<Self, JournalError> {
        let entries = SqliteJournal::open_to_read(state_dir)?.load()?;
        let apps = trundle_engine::fold_all(&entries);
        Ok(Self { entries, apps })
    }

    /// `row`: what the daemon says of it, if one runs; it knows the requests until now. None: there is no such rollout.
    pub fn evidence(
        &self,
        state_dir: &Path,
        app: &AppName,
        rollout: RolloutId,
        row: Option<HistoryRow>,
    ) -> Option<Evidence> {
        let known = self.apps.get(app)?;
        let state = &known.state;
        let now_ms = row.is_some().then(crate::clock::wall_ms);
        let timeline = view::timeline(&self.entries, known, rollout, now_ms, rfc3339)?;
        let row = row.or_else(|| {
            let rows = view::history(known, &Traffic::default(), AsOf::LastRecord, rfc3339).rollouts;
            rows.into_iter().find(|row| row.rollout == rollout.0)
        })?;
        let record = state.rollouts().get(&rollout)?;
        let failures = record.records.iter().map(|of| view::failure(state, record, of)).collect();
        let takes_requests = state.settings().is_some_and(|s| s.listen.is_some());
        let cast = cast(&timeline, record.from, record.to, |number| state.version_of(number));
        let samples = takes_requests.then(|| samples::read(state_dir, app, rollout));
        Some(Evidence { app: app.to_string(), row, timeline, failures, cast, samples })
    }
}

fn cast(
    timeline: &Timeline,
    from: Option<RevisionNumber>,
    to: RevisionNumber,
    version: impl Fn(RevisionNumber) -> String,
) -> Vec<Role> {
    let from = from.filter(|from| *from != to);
    let mut others: Vec<RevisionNumber> = timeline.lives.iter().map(|life| life.revision).collect();
    others.sort_unstable();
    others.dedup();
    others.retain(|number| *number != to && Some(*number) != from);
    let mut colours = COLOURS[2..].iter().cycle();
    let order: Vec<(RevisionNumber, &'static str)> = from
        .map(|from| (from, COLOURS[0]))
        .into_iter()
        .chain(others.into_iter().map(|other| (other, *colours.next().unwrap_or(&COLOURS[0]))))
        .chain(std::iter::once((to, COLOURS[1])))
        .collect();
    let alike = |label: &str| order.iter().filter(|(number, _)| version(*number) == label).count() > 1;
    let role = |(revision, colour): &(RevisionNumber, &'static str)| {
        let version = version(*revision);
        let name = if alike(&version) { format!("{version} (revision {revision})") } else { version.clone() };
        Role { revision: *revision, version, name, colour }
    };
    order.iter().map(role).collect()
}

impl Evidence {
    pub fn role(&self, revision: RevisionNumber) -> Option<&Role> {
        self.cast.iter().find(|role| role.revision == revision)
    }

    /// Requests are counted by version, so of two revisions with one label the newer one lends its colour.
    pub fn colour_of(&self, version: &str) -> &'static str {
        self.cast.iter().rev().find(|role| role.version == version).map_or(COLOURS[3], |role| role.colour)
    }

    /// There was something to keep available.
    pub fn has_floor(&self) -> bool {
        self.row.lowest_available.is_some()
    }

    /// Floor and ceiling that bound when the fewest were available and the most lived; of a daemon that does not tell them,
    /// those of `last`.
    pub fn bounds(&self, last: &Level) -> (u32, u32) {
        (self.row.lowest_floor.unwrap_or(last.floor), self.row.highest_ceiling.unwrap_or(last.ceiling))
    }
}
