//! The two apps of the soak, and what their proxy says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::Site;

pub struct App {
    pub name: &'static str,
    pub replicas: u32,
    pub surge: u32,
    pub unavailable: u32,
    /// Its address is so many above the first port of the site.
    port: u16,
    /// Of the strict client.
    pub connections: u32,
}

pub const APPS: [App; 2] = [
    App { name: "web", replicas: 8, surge: 1, unavailable: 1, port: 0, connections: 16 },
    App { name: "api", replicas: 3, surge: 1, unavailable: 0, port: 1, connections: 6 },
];

impl App {
    pub fn file(&self) -> String {
        format!("{}.toml", self.name)
    }

    pub fn address(&self, site: &Site) -> String {
        let first = site.listen();
        let (host, port) = first.rsplit_once(':').unwrap();
        format!("{host}:{}", port.parse::<u16>().unwrap() + self.port)
    }

    pub fn ids(&self, site: &Site) -> std::path::PathBuf {
        site.dir().join(format!("ids-{}", self.name))
    }

    /// Its file, and the folder where its instances write down what they answered.
    pub fn write(&self, site: &Site) {
        fs::create_dir(self.ids(site)).unwrap();
        let text = format!(
            "name = \"{}\"\nversion = \"0\"\nreplicas = {}\n\n[run]\ncommand = [\"{}\", \"sample\"]\n\
             env = {{ START_MS = \"100\", ID_LOG = \"{}\" }}\n\n[listen]\nhttp = \"{}\"\n\n[health.ready]\nhttp = \"/ready\"\n\n\
             [rollout]\nmax_surge = {}\nmax_unavailable = {}\nmin_healthy_time = \"400ms\"\nhealthy_deadline = \"3s\"\n\
             progress_deadline = \"30s\"\n",
            self.name,
            self.replicas,
            site.bin().display(),
            self.ids(site).display(),
            self.address(site),
            self.surge,
            self.unavailable,
        );
        fs::write(site.dir().join(self.file()), text).unwrap();
    }

    pub fn floor(&self, replicas: u32) -> u32 {
        replicas.saturating_sub(self.unavailable)
    }

    pub fn ceiling(&self, replicas: u32) -> u32 {
        replicas.saturating_add(self.surge)
    }
}

/// The names that the proxy sends new requests to, by app: its table as it is on the disk.
pub fn routed(state: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let Ok(bytes) = fs::read(state.join("proxy-table.json")) else { return BTreeMap::new() };
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    let of_app = |app: &Value| {
        let routed = app["endpoints"].as_array().unwrap().iter().filter(|e| e["state"] == "routed");
        let names = routed.map(|e| e["id"].as_str().unwrap().to_owned()).collect();
        (app["app"].as_str().unwrap().to_owned(), names)
    };
    table["apps"].as_array().unwrap().iter().map(of_app).collect()
}

/// All that the proxy has counted of an app.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    pub total: u64,
    pub lost: u64,
    /// Of the lost: in flight in a proxy that was killed.
    pub proxy_killed: u64,
    pub crashed: u64,
    /// Counted, and not allowed to happen here: cut, told, rejected, errors of the app, other reasons of a loss.
    pub others: BTreeMap<String, u64>,
    pub by_version: BTreeMap<String, u64>,
    pub retried: u64,
}

impl Counted {
    /// Asked of the proxy itself, past the daemon. None: it does not answer now.
    pub fn of(site: &Site, app: &str) -> Option<Self> {
        let stats = stats(&site.state()).ok()?;
        let of_app = &stats["apps"][app];
        let number = |key: &str| of_app[key].as_u64();
        let counts = |key: &str| -> Option<BTreeMap<String, u64>> {
            Some(of_app[key].as_object()?.iter().map(|(k, n)| (k.clone(), n.as_u64().unwrap())).collect())
        };
        let mut others = counts("lost_by_reason")?;
        let proxy_killed = others.remove("proxy_killed").unwrap_or(0);
        for key in ["cut", "told", "rejected", "app_errors"] {
            others.insert(key.to_owned(), number(key)?);
        }
        others.retain(|_, n| *n > 0);
        let [total, lost, crashed, retried] = ["total", "lost", "crashed", "retried"].map(number);
        Some(Self {
            total: total?,
            lost: lost?,
            proxy_killed,
            crashed: crashed?,
            others,
            by_version: counts("by_version")?,
            retried: retried?,
        })
    }

    pub fn answered(&self) -> u64 {
        let apart = ["cut", "told", "rejected"].iter().filter_map(|key| self.others.get(*key)).sum::<u64>();
        self.total - self.lost - self.crashed - apart
    }
}

fn stats(state: &Path) -> std::io::Result<Value> {
    let stream = UnixStream::connect(state.join("proxy.sock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    (&stream).write_all(b"{\"hello\":{\"protocol\":1}}\n\"stats\"\n")?;
    for line in BufReader::new(&stream).lines() {
        let said: Value = serde_json::from_str(&line?)?;
        if let Some(stats) = said.get("stats") {
            return Ok(stats.clone());
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}
