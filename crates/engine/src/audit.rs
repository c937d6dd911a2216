//! The invariants over a journal, after the fact: what a run of any kind has left behind is judged by the same checkers
//! that judged it while it ran, and by those that need the whole of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use trundle_core::Millis;
use trundle_core::event::{Action, Event};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::invariants::{self, Violation, Witness};
use trundle_core::state::AppState;

use crate::journal::Entry;

/// The record at which an invariant is broken, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub n: u64,
    pub violation: Violation,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}: {}", self.n, self.violation)
    }
}

/// Where the books are counted anew after each record; above it only at the end.
const SCANNED_BELOW: usize = 1_000;

/// Reads all records in order; empty when everything held.
pub fn audit(entries: &[Entry]) -> Vec<Finding> {
    let mut auditor = Auditor::default();
    for entry in entries {
        auditor.read(entry);
    }
    auditor.finish(entries);
    auditor.findings
}

#[derive(Default)]
struct Auditor {
    apps: BTreeMap<AppName, AppState>,
    intended: BTreeSet<(AppName, InstanceKey)>,
    last: Option<(u64, u64, Millis)>,
    findings: Vec<Finding>,
}

impl Auditor {
    fn read(&mut self, entry: &Entry) {
        self.order(entry);
        self.intent(entry);
        let state = self.apps.entry(entry.app.clone()).or_insert_with(|| AppState::new(entry.app.clone()));
        state.advance(entry.at_ms);
        let allowed = match &entry.event {
            Event::Decided(action) => invariants::check(state, std::slice::from_ref(action)).err(),
            Event::InvariantBroken { detail, .. } => {
                Some(Violation { invariant: "recorded", detail: detail.clone() })
            }
            Event::Commanded { .. }
            | Event::Observed { .. }
            | Event::Evidence { .. }
            | Event::Counted { .. }
            | Event::Rebooted => None,
        };
        let before = Witness::new(state, entry.at_ms, &entry.event);
        state.apply(entry.at_ms, &entry.event);
        let held = before.check(&entry.event, state).err();
        let counted = (state.totals().live() as usize) < SCANNED_BELOW;
        let books = counted.then(|| invariants::scan(state).err()).flatten();
        let books = books.map(|detail| Violation { invariant: "books", detail });
        let n = entry.n;
        self.findings
            .extend([allowed, held, books].into_iter().flatten().map(|violation| Finding { n, violation }));
    }

    /// S9 and S21: numbers rise by one, epochs and time never fall.
    fn order(&mut self, entry: &Entry) {
        if let Some((n, epoch, at)) = self.last {
            if entry.n != n + 1 || entry.epoch < epoch {
                let detail = format!("({}, {}) follows ({epoch}, {n})", entry.epoch, entry.n);
                self.found(entry.n, "S9", detail);
            }
            if entry.at_ms < at {
                self.found(entry.n, "S21", format!("{} ms follows {at} ms", entry.at_ms));
            }
        }
        self.last = Some((entry.n, entry.epoch, entry.at_ms));
    }

    /// S10: nothing is told of, or done to, an instance whose start was not recorded before.
    fn intent(&mut self, entry: &Entry) {
        let Some(key) = entry.event.instance() else { return };
        let begins = matches!(entry.event, Event::Decided(Action::Start { .. }));
        let fresh = begins && self.intended.insert((entry.app.clone(), key));
        if begins && !fresh {
            self.found(entry.n, "S11", format!("{key:?} is started a second time under its name"));
        }
        if !begins && !self.intended.contains(&(entry.app.clone(), key)) {
            self.found(entry.n, "S10", format!("{key:?} is there without an intent"));
        }
    }

    /// S11: the same records give the same state, and the books are right in the end.
    fn finish(&mut self, entries: &[Entry]) {
        let again = crate::fold_all(entries);
        let n = entries.last().map_or(0, |e| e.n);
        for (name, state) in std::mem::take(&mut self.apps) {
            if let Err(detail) = invariants::scan(&state) {
                self.found(n, "books", detail);
            }
            let same = again.get(&name).is_some_and(|app| format!("{:?}", app.state) == format!("{state:?}"));
            if !same {
                self.found(n, "S11", format!("{name} is another one when it is read again"));
            }
        }
    }

    fn found(&mut self, n: u64, invariant: &'static str, detail: String) {
        self.findings.push(Finding { n, violation: Violation { invariant, detail } });
    }
}
