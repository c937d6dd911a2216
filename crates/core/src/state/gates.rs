//! `[[gates]]`: flags that an app reads before it writes what only newer versions understand. A gate is open as long as every
//! instance that lives, and every one that a rollback would bring, is of a version that it is open for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use trundle_versions::Range;

use crate::ids::RevisionNumber;

use super::AppState;

/// As it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub name: String,
    /// The versions that understand what is written behind it: a range.
    pub versions: String,
}

/// As it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateState {
    pub name: String,
    pub versions: String,
    pub open: bool,
    /// Why it is closed, a sentence each.
    pub because: Vec<String>,
}

impl AppState {
    /// Closed from the moment at which a version is wanted that does not qualify, which is before it is started.
    pub fn gates(&self) -> Vec<GateState> {
        let gates = self.settings.iter().flat_map(|settings| &settings.gates);
        gates.map(|gate| self.gate(gate)).collect()
    }

    fn gate(&self, gate: &Gate) -> GateState {
        let range = Range::parse(&gate.versions).unwrap_or_else(|_| Range::nothing());
        let lacks = |revision: &RevisionNumber| !range.covers(&self.version_of(*revision));
        let live =
            self.books.iter().filter(|(_, book)| book.counts().live() > 0).map(|(revision, _)| *revision);
        let live: Vec<RevisionNumber> = live.collect();
        let mut because = BTreeSet::new();
        for revision in live.iter().filter(|revision| lacks(revision)) {
            because.insert(format!("{} has instances", self.version_of(*revision)));
        }
        if let Some(target) = self.target.filter(|target| lacks(target) && !live.contains(target)) {
            because.insert(format!("{} is on its way", self.version_of(target)));
        }
        let ways_back =
            [self.rollback_target(), self.open_rollout().and(self.base), self.way_back(self.base)];
        for way_back in ways_back.into_iter().flatten().filter(|way_back| lacks(way_back)) {
            because.insert(format!("a rollback would go to {}", self.version_of(way_back)));
        }
        if live.is_empty() && because.is_empty() {
            because.insert("no instance runs".to_owned());
        }
        let (name, versions) = (gate.name.clone(), gate.versions.clone());
        GateState { name, versions, open: because.is_empty(), because: because.into_iter().collect() }
    }
}
