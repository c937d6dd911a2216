//! From a table to what the threads look at, with the access logs that its requests are written to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::Director;
use super::prepare::Prepared;
use crate::access::{Log, Writer};
use crate::choice::Choice;
use crate::endpoint::LiveEndpoint;
use crate::hold::Hold;
use crate::maintenance::Closed;
use crate::open::Open;
use crate::routes::{Route, Secured, Snapshot};
use crate::sites::Site;
use crate::table::{App, EndpointState, Listen, Table};
use crate::trust::Trust;
use crate::window::{Draws, Reached, Serving, Window};

/// What an app keeps from one table to the next.
struct Kept {
    hold: Arc<Hold>,
    open: Arc<Open>,
    log: Option<Arc<Log>>,
    draws: Arc<Draws>,
    reached: Reached,
}

impl Director {
    pub(super) fn snapshot(&mut self, table: &Table, prepared: &Prepared) -> Snapshot {
        let routes = table.apps.iter().map(|app| {
            let hold = Arc::clone(self.holds.entry(app.app.clone()).or_default());
            let open = Arc::clone(self.open.entry(app.app.clone()).or_default());
            let log = self.logs.get(&app.app).cloned();
            let draws = Arc::clone(self.draws.entry(app.app.clone()).or_default());
            let row = prepared.app_rows[&app.app];
            let window = app.traffic.as_ref().map_or(0, |traffic| traffic.window);
            let newest = app.traffic.as_ref().and_then(|traffic| traffic.newest).unwrap_or(0);
            let reached = self.shared.counts.reached(row, window, newest);
            let route = route(app, prepared, Kept { hold: Arc::clone(&hold), open, log, draws, reached });
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
    pub(super) fn open_logs(&mut self, table: &Table) {
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
                self.logs.insert(app.app.clone(), Arc::new(Log::new(log, writer.clone())));
            }
        }
    }

    /// The threads have ended: what they said of their last requests is written, if the disk takes it in time.
    pub fn finish_logs(&mut self, bound: Duration) {
        self.shared.snapshot.store(Arc::default());
        self.logs.clear();
        if let Some((writer, written)) = self.log_writer.take() {
            drop(writer);
            let _ = written.recv_timeout(bound);
        }
    }
}

fn route(app: &App, prepared: &Prepared, kept: Kept) -> Route {
    let header = app.version_header.as_ref().and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    let with = |state| -> Vec<(Arc<LiveEndpoint>, u32)> {
        let endpoints = app.endpoints.iter().filter(|endpoint| endpoint.state == state);
        let live = endpoints.map(|endpoint| {
            let key = (app.app.clone(), endpoint.id.clone(), endpoint.incarnation.clone());
            (Arc::clone(&prepared.endpoints[&key]), endpoint.weight)
        });
        live.collect()
    };
    let routed = with(EndpointState::Routed);
    let name: Arc<str> = app.app.as_str().into();
    let window = || {
        let all = Serving { routed: &routed, kept: &with(EndpointState::Kept) };
        let formats = (&*app.formats, app.caller_header.as_deref());
        let traffic = app.traffic.clone().unwrap_or_default();
        Window::new(&name, &traffic, formats, &all, kept.reached, kept.draws)
    };
    let has_window = app.traffic.is_some() || !app.formats.is_empty();
    Route {
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
        choice: Choice::new(routed.iter().map(|(endpoint, weight)| (endpoint, *weight))),
        window: has_window.then(window),
        app: name,
    }
}
