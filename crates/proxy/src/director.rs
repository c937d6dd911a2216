//! The control side: puts tables in force, proves drains, reads the counts. One thread, and never on a request's path.
//!
//! A table is in force in this order: new endpoints are opened, the pointer is switched, old endpoints are closed. So at
//! every instant a request finds an endpoint in the table it sees or in the one that has just replaced it.

mod clients;
mod drains;
mod prepare;
mod snapshots;
mod succession;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use trundle_crashpoint::crash_point;

use crate::access::{Log, Writer};
use crate::control::Reply;
use crate::counts::EndpointRow;
use crate::endpoint::{Flag, LiveEndpoint};
use crate::hold::Hold;
use crate::holding::Sockets;
use crate::open::Open;
use crate::settle::Settling;
use crate::slots::Slot;
use crate::store::{self, TableFile};
use crate::table::{App, Endpoint, EndpointState, Listen, Table};
use crate::tls::Tls;
use crate::window::Draws;
use crate::window::keys::KeyFile;
use crate::worker::{Command, Door, Shared};

use prepare::Prepared;

/// (app, id, incarnation)
type Key = (String, String, String);

pub struct Director {
    pub shared: Arc<Shared>,
    pub table: Table,
    /// Woken when an endpoint on its way out has become idle.
    pub idle: Arc<Notify>,
    state_dir: PathBuf,
    file: TableFile,
    /// Of the file, when a table of another process was last taken from it.
    followed: Option<store::Stamp>,
    sockets: Sockets,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    doors: BTreeMap<Listen, Door>,
    live: BTreeMap<Key, Arc<LiveEndpoint>>,
    /// Of each app of the table, who waits for it while nobody serves.
    holds: BTreeMap<String, Arc<Hold>>,
    /// Of each app that has an address, what its clients have open.
    pub open: BTreeMap<String, Arc<Open>>,
    /// Of each app that has one, where its access log goes.
    logs: BTreeMap<String, Arc<Log>>,
    /// There once there is something to write.
    log_writer: Option<(Writer, Receiver<()>)>,
    /// Of each app that has several versions at times, how its clients are drawn.
    draws: BTreeMap<String, Arc<Draws>>,
    keys: KeyFile,
    /// Certificates in force, by app.
    tls: BTreeMap<String, Arc<Tls>>,
    /// In no table any more, and not yet idle.
    departed: Vec<Arc<LiveEndpoint>>,
    /// Whose clients may still be on their way to others.
    settling: Settling<Key>,
    /// Whose drain has been told under the present table.
    told: BTreeSet<Key>,
    subscribers: Vec<(mpsc::Sender<Reply>, AbortHandle)>,
    /// The table was read, and told by nobody: it may lack what an older proxy did not know.
    is_from_disk: bool,
    /// Other processes that had something in flight when last looked at.
    others: Vec<Slot>,
    /// Another proxy shall take over; who asked for it.
    successor_asked_by: Option<mpsc::Sender<Reply>>,
    stopping: bool,
}

impl Director {
    pub fn new(
        state_dir: &Path,
        others: Vec<Slot>,
        shared: Arc<Shared>,
        keys: KeyFile,
        sockets: Sockets,
        workers: Vec<mpsc::UnboundedSender<Command>>,
    ) -> Self {
        Self {
            shared,
            table: Table::default(),
            idle: Arc::new(Notify::new()),
            state_dir: state_dir.to_owned(),
            file: TableFile::new(state_dir),
            followed: None,
            sockets,
            workers,
            doors: BTreeMap::new(),
            live: BTreeMap::new(),
            holds: BTreeMap::new(),
            open: BTreeMap::new(),
            logs: BTreeMap::new(),
            log_writer: None,
            draws: BTreeMap::new(),
            keys,
            tls: BTreeMap::new(),
            departed: Vec::new(),
            settling: Settling::default(),
            told: BTreeSet::new(),
            subscribers: Vec::new(),
            others,
            is_from_disk: false,
            successor_asked_by: None,
            stopping: false,
        }
    }

    /// At the start: the table on disk, if there is one, comes into force without anybody telling.
    pub fn load(&mut self) {
        let (table, note) = self.file.read();
        note.iter().for_each(|note| log_line!("trundle proxy: {note}"));
        let Some(table) = table else { return };
        self.sockets.keep(table.apps.iter().flat_map(|app| app.listen.clone()).collect());
        // A certificate that cannot be read now must not take away what needs none.
        match self.prepare(&table, |why| {
            log_line!("trundle proxy: {why}; nobody can come in with TLS until it can be read");
            Ok(())
        }) {
            Ok(prepared) => {
                self.enforce(table, prepared);
                self.is_from_disk = true;
                let kept: Vec<EndpointRow> = self.live.values().map(|endpoint| endpoint.row).collect();
                self.shared.counts.free_endpoints_except(&kept);
            }
            Err(reason) => log_line!("trundle proxy: the last table cannot be put in force: {reason}"),
        }
        self.sockets.forget_ahead();
    }

    /// Puts a table in force; it is on disk when this returns. On a refusal nothing has changed.
    pub fn set_table(&mut self, table: Table) -> Result<(), String> {
        table.validate()?;
        if self.stopping {
            return Err("the proxy is stopping; set the table again when the next one runs".to_owned());
        }
        let (new, old) = (table.stamp(), self.table.stamp());
        if new < old {
            return Err(format!(
                "table {}.{} is older than {}.{}, which is in force",
                new.0, new.1, old.0, old.1
            ));
        }
        if new == old && old != (0, 0) {
            if table == self.table {
                self.told.clear();
                return Ok(());
            }
            if !self.is_from_disk {
                return Err(format!("table {}.{} was set before with another content", new.0, new.1));
            }
        }
        self.check_incarnations(&table)?;
        let prepared = self.prepare(&table, Err)?;
        crash_point!("proxy.table.prepared");
        if let Err(error) = self.file.write(&table) {
            self.give_up(&prepared);
            return Err(format!("the table cannot be written to the state directory: {error}"));
        }
        self.is_from_disk = false;
        self.enforce(table, prepared);
        crash_point!("proxy.table.enforced");
        Ok(())
    }

    /// An incarnation is one process at one address: whatever changes needs a new token, or a pool would mix them up.
    fn check_incarnations(&self, table: &Table) -> Result<(), String> {
        for (app, endpoint) in table.apps.iter().flat_map(|app| app.endpoints.iter().map(move |e| (app, e))) {
            let key = (app.app.clone(), endpoint.id.clone(), endpoint.incarnation.clone());
            if let Some(live) = self.live.get(&key)
                && (live.address != endpoint.address
                    || live.version != endpoint.version
                    || live.protocol != endpoint.protocol)
            {
                return Err(format!(
                    "endpoint `{}` has another address, version or protocol under the same incarnation; give it a new one",
                    endpoint.id
                ));
            }
        }
        Ok(())
    }

    /// Certificates whose files have changed are read anew, and those that could not be read before.
    pub fn renew_certificates(&mut self) {
        let missing = |app: &&App| app.tls.is_some() && !self.tls.contains_key(&app.app);
        if self
            .table
            .apps
            .iter()
            .filter(missing)
            .any(|app| app.tls.as_ref().is_some_and(|f| Tls::load(f).is_ok()))
        {
            let table = self.table.clone();
            match self.prepare(&table, |_| Ok(())) {
                Ok(prepared) => self.enforce(table, prepared),
                Err(reason) => log_line!("trundle proxy: the table cannot be put in force again: {reason}"),
            }
        }
        for (app, tls) in &self.tls {
            match tls.renew() {
                None => {}
                Some(Ok(())) => log_line!("trundle proxy: the certificate of {app} was read anew"),
                Some(Err(why)) => log_line!("trundle proxy: {why}; the one before stays in force"),
            }
        }
    }

    /// Keys that a person has put into the file count from now on.
    pub fn renew_keys(&mut self) {
        match self.keys.renewed() {
            None => {}
            Some(Ok(keys)) => {
                self.shared.keys.store(Arc::new(keys));
                log_line!("trundle proxy: the keys were read anew");
            }
            Some(Err(why)) => log_line!("trundle proxy: the keys were not read: {why}; those before stay"),
        }
    }

    fn enforce(&mut self, table: Table, prepared: Prepared) {
        self.open_files(&table);
        let flag_of = |app: &App, endpoint: &Endpoint, live: &LiveEndpoint| match endpoint.state {
            // Once released, for good: the proof of a drain needs that.
            EndpointState::Kept if live.flag() == Flag::Draining => Flag::Draining,
            EndpointState::Kept if self.pinned(app, endpoint.revision) == 0 => Flag::Draining,
            state => Flag::from(state),
        };
        let states: Vec<(&LiveEndpoint, Flag)> = table
            .apps
            .iter()
            .flat_map(|app| app.endpoints.iter().map(move |endpoint| (app, endpoint)))
            .map(|(app, endpoint)| {
                let key = (app.app.clone(), endpoint.id.clone(), endpoint.incarnation.clone());
                let live = &*prepared.endpoints[&key];
                (live, flag_of(app, endpoint, live))
            })
            .collect();
        // Open, switch, close.
        for (live, _) in states.iter().filter(|(_, flag)| *flag == Flag::Routed) {
            live.set_flag(Flag::Routed);
        }
        let is_here = |name: &String| table.apps.iter().any(|app| app.app == *name);
        self.holds.retain(|name, _| is_here(name));
        self.draws.retain(|name, _| is_here(name));
        self.open.retain(|name, open| is_here(name) || open.is_any());
        self.open_logs(&table);
        let snapshot = self.snapshot(&table, &prepared);
        for route in snapshot.apps.values() {
            if let Some(window) = &route.window {
                self.shared.counts.note_reached(route.app_row, &window.reached());
            }
        }
        self.shared.snapshot.store(Arc::new(snapshot));
        for (live, flag) in states.iter().filter(|(_, flag)| *flag != Flag::Routed) {
            live.set_flag(*flag);
        }
        self.tls = prepared.tls;
        let old = std::mem::replace(&mut self.live, prepared.endpoints);
        self.departed.retain(|endpoint| !self.live.contains_key(&key_of(endpoint)));
        for (_, endpoint) in old.into_iter().filter(|(key, _)| !self.live.contains_key(key)) {
            endpoint.set_flag(Flag::Removed);
            self.departed.push(endpoint);
        }

        let wanted: BTreeSet<&Listen> = table.apps.iter().flat_map(|app| &app.listen).collect();
        let left: Vec<Listen> =
            self.doors.keys().filter(|listen| !wanted.contains(listen)).cloned().collect();
        for listen in left {
            self.doors.remove(&listen);
            self.tell_workers(|| Some(Command::Leave(listen.clone())));
            // Something else may be spoken on the same socket.
            if !wanted.iter().any(|other| other.socket() == listen.socket()) {
                self.sockets.release(&listen);
            }
        }
        for (door, socket) in prepared.sockets {
            self.tell_workers(|| match socket.try_clone() {
                Ok(socket) => Some(Command::Accept(door.clone(), socket)),
                Err(error) => {
                    log_line!("trundle proxy: a thread cannot accept on {}: {error}", door.listen);
                    None
                }
            });
            self.doors.insert(door.listen.clone(), door);
        }
        self.leave();
        self.told.clear();
        self.table = table;
    }

    /// The threads look at who leaves, and those whose clients have to go elsewhere are waited for.
    fn leave(&mut self) {
        let cut: Vec<EndpointRow> =
            self.live.values().filter(|e| e.flag() == Flag::Cut).map(|e| e.row).collect();
        self.tell_workers(|| Some(Command::Refresh(cut.clone())));
        let leaving = self.live.iter().filter(|(_, endpoint)| endpoint.flag() == Flag::Draining);
        self.settling.note(leaving.filter_map(|(key, _)| Some((key, &**self.open.get(&key.0)?))));
    }

    fn tell_workers(&self, command: impl Fn() -> Option<Command>) {
        for worker in &self.workers {
            if let Some(command) = command() {
                let _ = worker.send(command);
            }
        }
    }

    /// `for_good`: the holder shall not start another proxy.
    pub fn stop(&mut self, bound: Duration, for_good: bool) {
        self.stopping = true;
        self.tell_workers(|| Some(Command::Stop(bound)));
        if for_good {
            self.sockets.ending(self.doors.keys());
        }
    }
}

fn key_of(endpoint: &LiveEndpoint) -> Key {
    (endpoint.app.to_string(), endpoint.id.clone(), endpoint.incarnation.clone())
}
