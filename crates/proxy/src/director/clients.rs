//! What is remembered of clients beside their requests: who has which page open, so that somebody is kept for it, and who has used
//! which format.

use std::collections::BTreeSet;

use crate::endpoint::Flag;
use crate::stats::Stats;
use crate::table::{App, EndpointState, Table};
use crate::window::now_s;
use crate::window::pins::{FILE, Pins};
use crate::window::uses::{self, Uses};

use super::Director;

impl Director {
    /// Without a file of who has which page nobody is kept.
    pub(super) fn open_files(&self, table: &Table) {
        let is_wanted = |app: &App| app.traffic.as_ref().is_some_and(|traffic| traffic.skew_max_age_s > 0);
        self.open_uses(table);
        if self.shared.pins.get().is_some() || !table.apps.iter().any(is_wanted) {
            return;
        }
        match Pins::open(&self.state_dir.join(FILE)) {
            Ok(pins) => drop(self.shared.pins.set(pins)),
            Err(error) => {
                log_line!("trundle proxy: nobody is kept for the pages of clients: {FILE}: {error}");
            }
        }
    }

    /// Without a file nobody can say who uses what, and no format is quiet.
    fn open_uses(&self, table: &Table) {
        if self.shared.uses.get().is_none() && table.apps.iter().any(|app| !app.formats.is_empty()) {
            match Uses::open(&self.state_dir.join(uses::FILE)) {
                Ok(uses) => drop(self.shared.uses.set(uses)),
                Err(error) => {
                    log_line!("trundle proxy: who uses which format is not counted: {}: {error}", uses::FILE);
                }
            }
        }
        let Some(uses) = self.shared.uses.get() else { return };
        for app in &table.apps {
            app.formats.iter().for_each(|format| uses.watch(&app.app, &format.name, now_s()));
        }
    }

    /// How many clients have a page of the revision.
    pub fn pinned(&self, app: &App, revision: u32) -> u64 {
        let max_age_s = app.traffic.as_ref().map_or(0, |traffic| traffic.skew_max_age_s);
        let pins = self.shared.pins.get().filter(|_| max_age_s > 0);
        pins.map_or(0, |pins| pins.count(&app.app, revision, now_s().saturating_sub(max_age_s)))
    }

    /// Of each revision in the table.
    pub fn tell_clients(&self, stats: &mut Stats) {
        for app in &self.table.apps {
            let Some(of_app) = stats.apps.get_mut(&app.app) else { continue };
            let revisions: BTreeSet<u32> = app.endpoints.iter().map(|endpoint| endpoint.revision).collect();
            let pinned = revisions.into_iter().map(|revision| (revision, self.pinned(app, revision)));
            if let Some(uses) = self.shared.uses.get() {
                let names = app.formats.iter().map(|format| format.name.as_str());
                of_app.formats = uses.of_app(&app.app, names).into_iter().collect();
            }
            of_app.pinned = pinned.filter(|(_, count)| *count > 0).collect();
        }
    }

    /// Those whose last page is closed or too old drain from now on, and for good: the proof of a drain needs that.
    pub fn release_kept(&mut self) {
        let mut is_any = false;
        for app in &self.table.apps {
            for endpoint in app.endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Kept) {
                let key = (app.app.clone(), endpoint.id.clone(), endpoint.incarnation.clone());
                let live = self.live.get(&key).filter(|live| live.flag() == Flag::Routed);
                if let Some(live) = live.filter(|_| self.pinned(app, endpoint.revision) == 0) {
                    live.set_flag(Flag::Draining);
                    is_any = true;
                }
            }
        }
        if is_any {
            self.leave();
            self.tell_drained();
        }
    }
}
