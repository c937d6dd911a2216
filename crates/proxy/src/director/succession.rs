//! Who serves after this proxy, and who has served before it. While the one before finishes, both have requests in flight at
//! the same endpoints; what each may do then is told in [`crate::endpoint`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use trundle_crashpoint::crash_point;

use super::Director;
use super::prepare::Prepared;
use crate::control::Reply;
use crate::counts::EndpointRow;
use crate::endpoint::{Flag, LiveEndpoint, Rows};
use crate::slots::Slot;
use crate::table::{EndpointState, Table};
use crate::worker::Command;

impl Director {
    // --- before this one --------------------------------------------------------------------------------------------

    /// Of those that finished when last looked at, some may have ended, or died with what they had in flight.
    pub(super) fn look_at_others(&mut self) {
        let (ended, alive): (Vec<Slot>, Vec<Slot>) =
            self.others.iter().partition(|slot| !slot.is_taken(&self.state_dir));
        if ended.is_empty() {
            return;
        }
        self.others = alive;
        let counts = &self.shared.counts;
        counts.settle_killed(|slot| ended.contains(&slot));
        let kept: Vec<EndpointRow> = self.endpoints().map(|endpoint| endpoint.row).collect();
        counts.free_endpoints_except(&kept);
    }

    // --- after this one ---------------------------------------------------------------------------------------------

    /// Has the program started that shall take over. `asker` hears of it if that cannot.
    pub fn begin_upgrade(&mut self, program: PathBuf, asker: mpsc::Sender<Reply>) -> Result<(), String> {
        if self.stopping || self.successor_asked_by.is_some() {
            return Err("it stops, or another proxy is about to take over already".to_owned());
        }
        crash_point!("proxy.succeed.before");
        self.sockets.succeed(program)?;
        self.successor_asked_by = Some(asker);
        Ok(())
    }

    /// Whether this proxy can let the next one serve now.
    pub fn is_successor_ready(&mut self) -> bool {
        let Some(asker) = &self.successor_asked_by else { return false };
        match self.sockets.is_successor_ready() {
            Ok(is_ready) => is_ready,
            Err(reason) => {
                log_line!("trundle proxy: it serves on, as the next one cannot: {reason}");
                let _ = asker.try_send(Reply::KeptOn { reason });
                self.successor_asked_by = None;
                false
            }
        }
    }

    /// From here on another proxy puts tables in force and tells of drains; this one has what it has, and bounded time for it.
    pub fn yield_to_successor(&mut self, bound: Duration) {
        crash_point!("proxy.yield.before");
        self.subscribers.clear();
        self.successor_asked_by = None;
        self.stopping = true;
        self.tell_workers(|| Some(Command::Finish(bound)));
        self.sockets.yielded();
        crash_point!("proxy.yield.after");
    }

    /// Puts the table in force that the one that serves has on disk, if it is another one than ours.
    pub fn follow(&mut self) {
        let stamp = self.file.stamp();
        if stamp == self.followed {
            return;
        }
        let (Some(table), _) = self.file.read() else { return };
        let Some(prepared) = self.find_all(&table) else { return };
        self.followed = stamp;
        self.holds.retain(|name, _| table.apps.iter().any(|app| app.app == *name));
        self.open_logs(&table);
        let snapshot = self.snapshot(&table, &prepared);
        self.shared.snapshot.store(Arc::new(snapshot));
        self.live = prepared.endpoints;
        self.departed.clear();
        self.table = table;
        let cut = |endpoint: &&Arc<LiveEndpoint>| endpoint.flag() == Flag::Cut;
        self.live.values().filter(cut).for_each(|endpoint| endpoint.note_cut());
        let cut: Vec<EndpointRow> = self.live.values().filter(cut).map(|endpoint| endpoint.row).collect();
        self.tell_workers(|| Some(Command::Refresh(cut.clone())));
    }

    /// What the table needs, as the one that serves has made it. None: it has not come so far yet, and ours stays.
    fn find_all(&self, table: &Table) -> Option<Prepared> {
        let counts = &self.shared.counts;
        let mut prepared = Prepared { tls: self.tls.clone(), ..Prepared::default() };
        for app in &table.apps {
            prepared.app_rows.insert(app.app.clone(), counts.find_app(&app.app)?);
            let name: Arc<str> = app.app.as_str().into();
            for endpoint in &app.endpoints {
                let key = (app.app.clone(), endpoint.id.clone(), endpoint.incarnation.clone());
                let live = match self.live.get(&key).filter(|live| live.is_bound()) {
                    Some(live) => Arc::clone(live),
                    None => {
                        let rows = counts.find(&app.app, endpoint)?;
                        let rows = Rows {
                            counts: Arc::clone(counts),
                            app: rows.0,
                            version: rows.1,
                            endpoint: rows.2,
                        };
                        Arc::new(LiveEndpoint::new(Arc::clone(&name), endpoint, rows, Arc::clone(&self.idle)))
                    }
                };
                // It opens those before it closes others. As long as it has not, ours has nobody who is closed; and what it
                // is about to cut is cut here only once it is.
                let is_released = endpoint.state == EndpointState::Kept && live.flag() == Flag::Draining;
                if live.flag() != Flag::from(endpoint.state) && !is_released {
                    return None;
                }
                prepared.endpoints.insert(key, live);
            }
        }
        Some(prepared)
    }
}
