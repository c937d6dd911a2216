//! What is remembered of clients beside their requests: who has which page open, so that somebody is kept for it, and who has used
//! which format.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::control::Reply;
use crate::endpoint::{Flag, LiveEndpoint};
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
        let formats =
            || table.apps.iter().flat_map(|app| app.formats.iter().map(|f| (app.app.as_str(), f.key())));
        uses.keep_only(&formats().collect::<Vec<_>>());
        formats().for_each(|(app, format)| uses.watch(app, &format, now_s()));
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
                let names = app.formats.iter().map(|format| (format.name.as_str(), format.key()));
                of_app.formats = uses.of_app(&app.app, names).into_iter().collect();
            }
            of_app.pinned = pinned.filter(|(_, count)| *count > 0).collect();
        }
    }

    /// Those whose last page is closed or too old drain from now on, and for good: the proof of a drain needs that.
    pub fn release_kept(&mut self) {
        let released: Vec<_> = self
            .kept()
            .filter(|(_, live)| live.flag() == Flag::Routed)
            .filter(|(app, live)| self.pinned(app, live.revision) == 0)
            .map(|(_, live)| Arc::clone(live))
            .collect();
        if released.is_empty() {
            return;
        }
        for live in &released {
            live.set_flag(Flag::Draining);
            self.tell(&released_reply(live));
        }
        self.leave();
        self.tell_drained();
    }

    /// Kept in the table, and draining by now: for who has just told it.
    pub fn released(&self) -> Vec<Reply> {
        let draining = self.kept().filter(|(_, live)| live.flag() == Flag::Draining);
        draining.map(|(_, live)| released_reply(live)).collect()
    }

    fn kept(&self) -> impl Iterator<Item = (&App, &Arc<LiveEndpoint>)> {
        self.table.apps.iter().flat_map(move |app| {
            let kept = app.endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::Kept);
            kept.filter_map(move |endpoint| {
                let key = (app.app.clone(), endpoint.id.clone(), endpoint.incarnation.clone());
                Some((app, self.live.get(&key)?))
            })
        })
    }
}

fn released_reply(live: &LiveEndpoint) -> Reply {
    Reply::Released { id: live.id.clone(), incarnation: live.incarnation.clone() }
}
