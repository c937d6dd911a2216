//! The control side: puts tables in force, proves drains, reads the counts. One thread, and never on a request's path.
//!
//! A table is in force in this order: new endpoints are opened, the pointer is switched, old endpoints are closed. So at
//! every instant a request finds an endpoint in the table it sees or in the one that has just replaced it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use trundle_crashpoint::crash_point;

use crate::access::{Log, Writer};
use crate::control::Reply;
use crate::counts::{EndpointRow, VersionRow};
use crate::endpoint::{Flag, LiveEndpoint, Rows};
use crate::hold::Hold;
use crate::holding::Sockets;
use crate::maintenance::Closed;
use crate::open::Open;
use crate::routes::{Route, RouteSettings, Secured, Snapshot};
use crate::settle::Settling;
use crate::sites::Site;
use crate::store::TableFile;
use crate::table::{App, EndpointState, Listen, Table};
use crate::tls::Tls;
use crate::trust::Trust;
use crate::worker::{Command, Door, Shared};

/// (app, id, incarnation)
type Key = (String, String, String);

pub struct Director {
    pub shared: Arc<Shared>,
    pub table: Table,
    /// Woken when an endpoint on its way out has become idle.
    pub idle: Arc<Notify>,
    file: TableFile,
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
    /// Certificates in force, by app.
    tls: BTreeMap<String, Arc<Tls>>,
    /// In no table any more, and not yet idle.
    departed: Vec<Arc<LiveEndpoint>>,
    /// Whose clients may still be on their way to others.
    settling: Settling<Key>,
    /// Whose drain has been told under the present table.
    told: BTreeSet<Key>,
    subscribers: Vec<(mpsc::Sender<Reply>, AbortHandle)>,
    stopping: bool,
}

/// What an app keeps from one table to the next.
struct Kept {
    hold: Arc<Hold>,
    open: Arc<Open>,
    log: Option<Arc<Log>>,
}

/// A table that can be put in force: nothing in it can fail any more.
struct Prepared {
    endpoints: BTreeMap<Key, Arc<LiveEndpoint>>,
    app_rows: BTreeMap<String, VersionRow>,
    tls: BTreeMap<String, Arc<Tls>>,
    sockets: Vec<(Door, std::os::fd::OwnedFd)>,
}

impl Director {
    pub fn new(
        state_dir: &Path,
        shared: Arc<Shared>,
        sockets: Sockets,
        workers: Vec<mpsc::UnboundedSender<Command>>,
    ) -> Self {
        Self {
            shared,
            table: Table::default(),
            idle: Arc::new(Notify::new()),
            file: TableFile::new(state_dir),
            sockets,
            workers,
            doors: BTreeMap::new(),
            live: BTreeMap::new(),
            holds: BTreeMap::new(),
            open: BTreeMap::new(),
            logs: BTreeMap::new(),
            log_writer: None,
            tls: BTreeMap::new(),
            departed: Vec::new(),
            settling: Settling::default(),
            told: BTreeSet::new(),
            subscribers: Vec::new(),
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
            Ok(prepared) => self.enforce(table, prepared),
            Err(reason) => log_line!("trundle proxy: the last table cannot be put in force: {reason}"),
        }
        let kept: Vec<EndpointRow> = self.live.values().map(|endpoint| endpoint.row).collect();
        self.shared.counts.free_endpoints_except(&kept);
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
            if table != self.table {
                return Err(format!("table {}.{} was set before with another content", new.0, new.1));
            }
            self.told.clear();
            return Ok(());
        }
        self.check_incarnations(&table)?;
        let prepared = self.prepare(&table, Err)?;
        crash_point!("proxy.table.prepared");
        if let Err(error) = self.file.write(&table) {
            self.give_up(&prepared);
            return Err(format!("the table cannot be written to the state directory: {error}"));
        }
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

    fn prepare(
        &mut self,
        table: &Table,
        no_certificate: impl Fn(String) -> Result<(), String>,
    ) -> Result<Prepared, String> {
        let mut prepared = Prepared {
            endpoints: BTreeMap::new(),
            app_rows: BTreeMap::new(),
            tls: BTreeMap::new(),
            sockets: Vec::new(),
        };
        let result = self
            .read_certificates(table, &mut prepared, no_certificate)
            .and_then(|()| self.bind_rows(table, &mut prepared))
            .and_then(|()| self.open_doors(table, &mut prepared));
        if let Err(reason) = result {
            self.give_up(&prepared);
            return Err(reason);
        }
        Ok(prepared)
    }

    /// One that is in force stays, whatever has become of its files.
    fn read_certificates(
        &self,
        table: &Table,
        prepared: &mut Prepared,
        no_certificate: impl Fn(String) -> Result<(), String>,
    ) -> Result<(), String> {
        for app in &table.apps {
            let Some(files) = &app.tls else { continue };
            let tls = match self.tls.get(&app.app).filter(|tls| tls.files == *files) {
                Some(tls) => Ok(Arc::clone(tls)),
                None => Tls::load(files).map(Arc::new),
            };
            match tls {
                Ok(tls) => drop(prepared.tls.insert(app.app.clone(), tls)),
                Err(why) => no_certificate(format!("app `{}`: {why}", app.app))?,
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

    fn bind_rows(&self, table: &Table, prepared: &mut Prepared) -> Result<(), String> {
        let counts = &self.shared.counts;
        let full = || "there is no room left for more apps, versions or endpoints; remove some".to_owned();
        let old = self.live.values().chain(&self.departed);
        let mut in_use: Vec<VersionRow> = old.flat_map(|e| [e.app_row, e.version_row]).collect();
        in_use.extend(self.doors.values().map(|door| door.app_row));
        for app in &table.apps {
            let app_row = counts.bind_app(&app.app, &in_use).ok_or_else(full)?;
            in_use.push(app_row);
            prepared.app_rows.insert(app.app.clone(), app_row);
            let name: Arc<str> = app.app.as_str().into();
            for endpoint in &app.endpoints {
                let version_row =
                    counts.bind_version(&app.app, &endpoint.version, &in_use).ok_or_else(full)?;
                in_use.push(version_row);
                let key = (app.app.clone(), endpoint.id.clone(), endpoint.incarnation.clone());
                let departed =
                    || self.departed.iter().find(|e| key_of(e) == key && e.address == endpoint.address);
                let live = match self.live.get(&key).or_else(departed) {
                    Some(live) => Arc::clone(live),
                    None => {
                        let row = counts.bind_endpoint(&app.app, &endpoint.id, &endpoint.incarnation);
                        let rows = Rows {
                            counts: Arc::clone(counts),
                            app: app_row,
                            version: version_row,
                            endpoint: row.ok_or_else(full)?,
                        };
                        Arc::new(LiveEndpoint::new(Arc::clone(&name), endpoint, rows, Arc::clone(&self.idle)))
                    }
                };
                prepared.endpoints.insert(key, live);
            }
        }
        Ok(())
    }

    fn open_doors(&mut self, table: &Table, prepared: &mut Prepared) -> Result<(), String> {
        for app in &table.apps {
            for listen in &app.listen {
                // It may be another app's as well, or have been.
                let is_opened = prepared.sockets.iter().any(|(door, _)| door.listen == *listen);
                if is_opened || self.doors.contains_key(listen) {
                    continue;
                }
                let socket = self.sockets.obtain(listen)?;
                let default_host = match listen {
                    Listen::Http(address) | Listen::Https(address) | Listen::Tcp(address) => {
                        HeaderValue::from_str(&address.to_string()).ok()
                    }
                    Listen::Unix(_) => None,
                };
                let door = Door {
                    listen: listen.clone(),
                    app_row: prepared.app_rows[&app.app],
                    default_host: default_host.unwrap_or(HeaderValue::from_static("localhost")),
                    gate: Arc::default(),
                };
                prepared.sockets.push((door, socket));
            }
        }
        Ok(())
    }

    /// Takes back what was made for a table that does not come into force.
    fn give_up(&mut self, prepared: &Prepared) {
        for (door, _) in &prepared.sockets {
            if !self.doors.contains_key(&door.listen) {
                self.sockets.release(&door.listen);
            }
        }
        for (key, endpoint) in &prepared.endpoints {
            let known = self.live.contains_key(key) || self.departed.iter().any(|e| Arc::ptr_eq(e, endpoint));
            if !known {
                self.shared.counts.free_endpoint(endpoint.row);
            }
        }
    }

    fn enforce(&mut self, table: Table, prepared: Prepared) {
        let states = || {
            table.apps.iter().flat_map(|app| {
                app.endpoints
                    .iter()
                    .map(|e| ((app.app.clone(), e.id.clone(), e.incarnation.clone()), Flag::from(e.state)))
            })
        };
        // Open, switch, close.
        for (key, _) in states().filter(|(_, flag)| *flag == Flag::Routed) {
            prepared.endpoints[&key].set_flag(Flag::Routed);
        }
        let is_here = |name: &String| table.apps.iter().any(|app| app.app == *name);
        self.holds.retain(|name, _| is_here(name));
        self.open.retain(|name, open| is_here(name) || open.is_any());
        self.open_logs(&table);
        let snapshot = self.snapshot(&table, &prepared);
        self.shared.snapshot.store(Arc::new(snapshot));
        for (key, flag) in states().filter(|(_, flag)| *flag != Flag::Routed) {
            prepared.endpoints[&key].set_flag(flag);
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
        let cut: Vec<EndpointRow> =
            self.live.values().filter(|e| e.flag() == Flag::Cut).map(|e| e.row).collect();
        self.tell_workers(|| Some(Command::Refresh(cut.clone())));
        let leaving = self.live.iter().filter(|(_, endpoint)| endpoint.flag() == Flag::Draining);
        self.settling.note(leaving.filter_map(|(key, _)| Some((key, &**self.open.get(&key.0)?))));
        self.told.clear();
        self.table = table;
    }

    fn snapshot(&mut self, table: &Table, prepared: &Prepared) -> Snapshot {
        let routes = table.apps.iter().map(|app| {
            let hold = Arc::clone(self.holds.entry(app.app.clone()).or_default());
            let open = Arc::clone(self.open.entry(app.app.clone()).or_default());
            let log = self.logs.get(&app.app).cloned();
            let route = route(app, prepared, Kept { hold: Arc::clone(&hold), open, log });
            hold.note(!route.has_nobody());
            (Arc::clone(&route.app), Arc::new(route))
        });
        let apps: HashMap<Arc<str>, Arc<Route>> = routes.collect();
        let mut sites: HashMap<Listen, Vec<(&App, Arc<Route>)>> = HashMap::new();
        for app in &table.apps {
            for listen in &app.listen {
                let route = Arc::clone(&apps[app.app.as_str()]);
                sites.entry(listen.clone()).or_default().push((app, route));
            }
        }
        let sites = sites.into_iter().filter_map(|(listen, apps)| {
            let mut apps = apps.into_iter();
            Some((listen, Site::new(apps.next()?, apps.collect())))
        });
        let sites = sites.collect();
        Snapshot { apps, sites }
    }

    /// A log that cannot be written is no reason to refuse a table: the writer says so in the proxy's own log.
    fn open_logs(&mut self, table: &Table) {
        self.logs.clear();
        for app in &table.apps {
            let Some(log) = &app.access_log else { continue };
            if self.log_writer.is_none() {
                match Writer::start() {
                    Ok(writer) => self.log_writer = Some(writer),
                    Err(error) => {
                        log_line!("trundle proxy: no access log: a thread cannot be started: {error}")
                    }
                }
            }
            if let Some((writer, _)) = &self.log_writer {
                self.logs.insert(app.app.clone(), Arc::new(Log::new(&app.app, log, writer.clone())));
            }
        }
    }

    fn tell_workers(&self, command: impl Fn() -> Option<Command>) {
        for worker in &self.workers {
            if let Some(command) = command() {
                let _ = worker.send(command);
            }
        }
    }

    // --- drains -----------------------------------------------------------------------------------------------------

    /// From now on this connection hears of drains.
    pub fn subscribe(&mut self, sender: &mpsc::Sender<Reply>, task: AbortHandle) {
        if !self.subscribers.iter().any(|(known, _)| known.same_channel(sender)) {
            self.subscribers.push((sender.clone(), task));
        }
    }

    pub fn unsubscribe(&mut self, sender: &mpsc::Sender<Reply>) {
        self.subscribers.retain(|(known, _)| !known.same_channel(sender));
    }

    /// Tells the drains that are proven and were not told under this table, and forgets endpoints that are over.
    pub fn tell_drained(&mut self) {
        let leaving = |endpoint: &LiveEndpoint| matches!(endpoint.flag(), Flag::Draining | Flag::Cut);
        let was_settling = self.settling.is_any();
        let spread_of = |app: &str| {
            let app = self.table.apps.iter().find(|known| known.app == app);
            Duration::from_millis(app.map_or(0, |app| app.limits.drain_spread_ms))
        };
        for (key, endpoint) in &self.live {
            if leaving(endpoint) && !self.told.contains(key) && endpoint.in_flight() == 0 {
                let is_settled = self
                    .open
                    .get(&key.0)
                    .is_none_or(|open| self.settling.is_over(key, endpoint, open, spread_of(&key.0)));
                if !is_settled {
                    continue;
                }
                crash_point!("proxy.drained.before");
                self.told.insert(key.clone());
                let reply = Reply::Drained {
                    id: endpoint.id.clone(),
                    incarnation: endpoint.incarnation.clone(),
                    epoch: self.table.epoch,
                    number: self.table.number,
                    cut: endpoint.cut(),
                };
                // One who does not read is cut off: it connects and sends its table again.
                self.subscribers.retain(|(sender, task)| {
                    let told = sender.try_send(reply.clone()).is_ok();
                    if !told {
                        task.abort();
                    }
                    told
                });
            }
        }
        if !was_settling && self.settling.is_any() {
            // Whoever looks again from time to time has to begin with it.
            self.idle.notify_one();
        }
        let counts = &self.shared.counts;
        self.departed.retain(|endpoint| {
            let idle = endpoint.in_flight() == 0;
            if idle {
                counts.free_endpoint(endpoint.row);
            }
            !idle
        });
    }

    /// A drain is proven and not told: another look is needed soon.
    pub fn is_settling(&self) -> bool {
        self.settling.is_any()
    }

    /// What a table has still to wait for.
    pub fn waiting(&self) -> Vec<Reply> {
        let leaving = self.live.values().filter(|e| matches!(e.flag(), Flag::Draining | Flag::Cut));
        leaving
            .map(|endpoint| (endpoint, endpoint.in_flight()))
            .filter(|(_, in_flight)| *in_flight > 0)
            .map(|(endpoint, in_flight)| Reply::Waiting {
                id: endpoint.id.clone(),
                incarnation: endpoint.incarnation.clone(),
                in_flight,
            })
            .collect()
    }

    /// Every endpoint that may have requests.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<LiveEndpoint>> {
        self.live.values().chain(&self.departed)
    }

    // --- the end ------------------------------------------------------------------------------------------------------

    /// The threads have ended: what they said of their last requests is written, if the disk takes it in time.
    pub fn finish_logs(&mut self, bound: Duration) {
        self.shared.snapshot.store(Arc::default());
        self.logs.clear();
        if let Some((writer, written)) = self.log_writer.take() {
            drop(writer);
            let _ = written.recv_timeout(bound);
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

fn route(app: &App, prepared: &Prepared, kept: Kept) -> Route {
    let header = app.version_header.as_ref().and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    let settings = RouteSettings {
        app: app.app.as_str().into(),
        app_row: prepared.app_rows[&app.app],
        trust: Trust::parse(&app.trusted_proxies).unwrap_or_default(),
        version_header: header,
        limits: app.limits.clone(),
        hold: kept.hold,
        open: kept.open,
        log: kept.log,
        closed: app.maintenance.as_ref().map(Closed::of),
        challenges: app.challenges.clone(),
        secure: Secured {
            tls: prepared.tls.get(&app.app).map(|tls| Arc::clone(&tls.config)),
            redirect_to: app.redirect_to,
            hsts: app.hsts_s.and_then(|s| HeaderValue::from_str(&format!("max-age={s}")).ok()),
        },
    };
    let endpoints = app.endpoints.iter().map(|endpoint| {
        let key = (app.app.clone(), endpoint.id.clone(), endpoint.incarnation.clone());
        (Arc::clone(&prepared.endpoints[&key]), endpoint.weight, endpoint.state == EndpointState::Routed)
    });
    Route::new(settings, &endpoints.collect::<Vec<_>>())
}
