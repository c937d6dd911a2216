//! What a table needs before it can be put in force: certificates, rows for its counts, listening sockets. All of it, or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;

use super::{Director, Key, key_of};
use crate::counts::{EndpointRow, VersionRow};
use crate::endpoint::{LiveEndpoint, Rows};
use crate::table::{Listen, Table};
use crate::tls::Tls;
use crate::worker::Door;

/// A table that can be put in force: nothing in it can fail any more.
#[derive(Default)]
pub(super) struct Prepared {
    pub endpoints: BTreeMap<Key, Arc<LiveEndpoint>>,
    pub app_rows: BTreeMap<String, VersionRow>,
    pub tls: BTreeMap<String, Arc<Tls>>,
    /// Of endpoints that had none before.
    pub new_rows: Vec<EndpointRow>,
    pub sockets: Vec<(Door, std::os::fd::OwnedFd)>,
}

impl Director {
    pub(super) fn prepare(
        &mut self,
        table: &Table,
        no_certificate: impl Fn(String) -> Result<(), String>,
    ) -> Result<Prepared, String> {
        let mut prepared = Prepared::default();
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
                        let is_new = !counts.is_bound(&app.app, &endpoint.id, &endpoint.incarnation);
                        let row = counts.bind_endpoint(&app.app, &endpoint.id, &endpoint.incarnation);
                        prepared.new_rows.extend(row.filter(|_| is_new));
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
    pub(super) fn give_up(&mut self, prepared: &Prepared) {
        for (door, _) in &prepared.sockets {
            if !self.doors.contains_key(&door.listen) {
                self.sockets.release(&door.listen);
            }
        }
        prepared.new_rows.iter().for_each(|row| self.shared.counts.free_endpoint(*row));
    }
}
