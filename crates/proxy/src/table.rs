//! The routing table: what the proxy is told, as a numbered whole.
//!
//! These are the types on the control socket and in `STATE_DIR/proxy-table.json`. They hold addresses, weights
//! and labels, and never the reason why an endpoint is in a given state.

pub mod formats;
mod limits;
pub mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use formats::Format;
pub use limits::Limits;
pub use traffic::{Field, Mirror, Rule, Sticky, Traffic, Wanted, WhenGone};

/// The version of the control protocol and of the table. This one and the one before it are accepted.
pub const PROTOCOL: u32 = 1;

/// At most this many apps in one table.
pub const MAX_APPS: usize = 64;
/// At most this many endpoints in one table, over all apps.
pub const MAX_ENDPOINTS: usize = 1024;
/// At most this many bytes in the name of an app or a version.
pub const MAX_NAME_BYTES: usize = 100;
/// At most this many bytes in the id or the incarnation of an endpoint.
pub const MAX_ID_BYTES: usize = 72;

/// Is this a protocol that we speak: the present one or the one before it.
#[must_use]
pub fn protocol_accepted(protocol: u32) -> bool {
    (PROTOCOL.saturating_sub(1).max(1)..=PROTOCOL).contains(&protocol)
}

/// The state of the world as it should be routed. `(epoch, number)` only rises; an older table is refused and the
/// same one is acknowledged again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub protocol: u32,
    /// Rises with each new writer of tables.
    pub epoch: u64,
    /// Rises with each table of one writer.
    pub number: u64,
    #[serde(default)]
    pub apps: Vec<App>,
}

/// One app: where its clients come in, and where its requests may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    pub app: String,
    #[serde(default)]
    pub listen: Vec<Listen>,
    /// Other apps may have the same addresses: these are its hosts there, `*.` before one stands for all below it. Without any,
    /// every host that nobody else names.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The same of paths: what begins so is its own, and the longest wins.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Peers whose `X-Forwarded-*` and `Forwarded` are believed: CIDR (`10.0.0.0/8`), a single address, or `unix`.
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// The name of a response header that carries the version of the endpoint that answered, if wanted.
    #[serde(default)]
    pub version_header: Option<String>,
    #[serde(default)]
    pub limits: Limits,
    /// For its addresses with TLS.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Requests without TLS are sent to this address with it.
    #[serde(default)]
    pub redirect_to: Option<SocketAddr>,
    /// Browsers shall come with TLS only, for so many seconds (RFC 6797).
    #[serde(default)]
    pub hsts_s: Option<u64>,
    #[serde(default)]
    pub access_log: Option<AccessLog>,
    /// A folder with what an authority asks for: under `/.well-known/acme-challenge/` a file each (RFC 8555 §8.3), and `HOST.pem`
    /// for what it asks in the handshake of TLS (RFC 8737).
    #[serde(default)]
    pub challenges: Option<PathBuf>,
    /// New requests are answered with this, and reach nobody. What is in flight goes on.
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
    /// Which version a request gets, where that matters.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// What its clients speak, to know who still speaks what.
    #[serde(default)]
    pub formats: Vec<Format>,
    /// The header that says who the caller is, if it is not `User-Agent`.
    #[serde(default)]
    pub caller_header: Option<String>,
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

/// What is answered while nobody shall come in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Maintenance {
    /// HTML, at most 1 MiB; a few words without it. Read as the table comes into force.
    pub page: Option<PathBuf>,
    pub retry_after_s: Option<u64>,
}

/// Where a line for each request goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    pub file: PathBuf,
    #[serde(default)]
    pub format: AccessFormat,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessFormat {
    /// An object a line.
    #[default]
    Json,
    /// The Combined Log Format of Apache and nginx.
    Combined,
}

/// Where a certificate is: its chain and its key, as PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// An address to accept on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listen {
    Http(SocketAddr),
    /// The same behind TLS.
    Https(SocketAddr),
    /// Bytes that are no HTTP.
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Listen {
    /// The same for all that is one socket to the kernel, whatever is spoken there.
    #[must_use]
    pub fn socket(&self) -> Self {
        match self {
            Self::Http(address) | Self::Https(address) | Self::Tcp(address) => Self::Http(*address),
            Self::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) | Self::Https(address) | Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One place that a request may be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// A name people know: `web-2-3`.
    pub id: String,
    /// A token; another token is another endpoint, with an empty pool and its own count of requests in flight.
    pub incarnation: String,
    pub version: String,
    pub revision: u32,
    pub address: SocketAddr,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Share of the requests, relative to the other endpoints of the app. 0 gets none.
    pub weight: u32,
    pub state: EndpointState,
}

/// What is spoken with an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 without TLS, from the first byte.
    Http2,
    /// HTTP/2 behind TLS.
    Http2Tls,
}

impl Protocol {
    /// Whether a connection carries many requests at once.
    #[must_use]
    pub fn has_streams(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }
}

/// What may happen with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// Gets new requests.
    Routed,
    /// Gets only what pages of its revision load, as long as clients have such pages; then it is draining by itself.
    Kept,
    /// Gets none for now and may come back; what is in flight is left alone.
    Unready,
    /// Gets none any more; `Drained` is told once nothing is in flight.
    Draining,
    /// The drain deadline is over: what is left is closed, and counted as cut.
    Cut,
}

impl Table {
    /// The order of tables: a table with a smaller stamp never replaces one with a greater.
    #[must_use]
    pub fn stamp(&self) -> (u64, u64) {
        (self.epoch, self.number)
    }

    /// Checks everything that does not need the world outside. The error says which part is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if !protocol_accepted(self.protocol) {
            return Err(format!(
                "the table speaks protocol {}, this proxy speaks {PROTOCOL}; use the same release for both",
                self.protocol
            ));
        }
        if self.apps.len() > MAX_APPS {
            return Err(format!("{} apps in one table, at most {MAX_APPS} are possible", self.apps.len()));
        }
        let endpoints: usize = self.apps.iter().map(|app| app.endpoints.len()).sum();
        if endpoints > MAX_ENDPOINTS {
            return Err(format!("{endpoints} endpoints in one table, at most {MAX_ENDPOINTS} are possible"));
        }
        let mut names = BTreeSet::new();
        let mut listens: BTreeMap<String, Vec<&App>> = BTreeMap::new();
        for app in &self.apps {
            if !names.insert(&app.app) {
                return Err(format!("app `{}` appears twice in the table", app.app));
            }
            for listen in &app.listen {
                // With and without TLS an address is one address.
                let others = listens.entry(listen.to_string()).or_default();
                for other in others.iter() {
                    share(listen, app, other)?;
                }
                others.push(app);
            }
            app.validate()?;
        }
        Ok(())
    }
}

/// Whether two apps can have the same address.
fn share(listen: &Listen, app: &App, other: &App) -> Result<(), String> {
    if app.app == other.app || !other.listen.contains(listen) {
        return Err(format!("address {listen} appears twice in the table"));
    }
    match crate::sites::in_common(app, other) {
        None => Ok(()),
        Some(what) => Err(format!(
            "address {listen} belongs to app `{}` and to app `{}`, and both have {what}; give them different hosts or paths",
            other.app, app.app
        )),
    }
}

impl App {
    /// With nothing but a name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            app: name.to_owned(),
            listen: Vec::new(),
            hosts: Vec::new(),
            paths: Vec::new(),
            trusted_proxies: Vec::new(),
            version_header: None,
            limits: Limits::default(),
            tls: None,
            redirect_to: None,
            hsts_s: None,
            access_log: None,
            challenges: None,
            maintenance: None,
            traffic: None,
            formats: Vec::new(),
            caller_header: None,
            endpoints: Vec::new(),
        }
    }

    fn validate(&self) -> Result<(), String> {
        check_name("app", &self.app, MAX_NAME_BYTES)?;
        if let Some(name) = &self.version_header
            && http::HeaderName::from_bytes(name.as_bytes()).is_err()
        {
            return Err(format!("`{name}` (version_header of app `{}`) is not a header name", self.app));
        }
        crate::trust::Trust::parse(&self.trusted_proxies)
            .map_err(|reason| format!("trusted_proxies of app `{}`: {reason}", self.app))?;
        self.hosts.iter().try_for_each(|host| crate::sites::check_host(host))?;
        self.paths.iter().try_for_each(|path| crate::sites::check_path(path))?;
        self.limits.validate().map_err(|reason| format!("limits of app `{}`: {reason}", self.app))?;
        formats::validate(&self.formats).map_err(|reason| format!("app `{}`: {reason}", self.app))?;
        if let Some(name) = &self.caller_header {
            traffic::check_header(name).map_err(|reason| format!("app `{}`: {reason}", self.app))?;
        }
        if let Some(traffic) = &self.traffic {
            traffic.validate().map_err(|reason| format!("traffic of app `{}`: {reason}", self.app))?;
        }
        if self.tls.is_none() && self.listen.iter().any(|listen| matches!(listen, Listen::Https(_))) {
            return Err(format!("app `{}` has an address with TLS, and no certificate", self.app));
        }
        let mut ids = BTreeSet::new();
        for endpoint in &self.endpoints {
            check_name("endpoint id", &endpoint.id, MAX_ID_BYTES)?;
            check_name("incarnation", &endpoint.incarnation, MAX_ID_BYTES)?;
            check_name("version", &endpoint.version, MAX_NAME_BYTES)?;
            if http::HeaderValue::from_str(&endpoint.version).is_err() {
                return Err(format!("version {:?} cannot stand in a header", endpoint.version));
            }
            if !ids.insert((&endpoint.id, &endpoint.incarnation)) {
                return Err(format!("endpoint `{}` appears twice in app `{}`", endpoint.id, self.app));
            }
        }
        Ok(())
    }
}

fn check_name(what: &str, name: &str, longest: usize) -> Result<(), String> {
    if name.is_empty() || name.len() > longest || name.chars().any(char::is_control) {
        return Err(format!("{what} {name:?} must have 1 to {longest} bytes and no control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Table), expect: &str) {
        let mut table = Table { protocol: PROTOCOL, epoch: 1, number: 1, apps: vec![App::named("web")] };
        change(&mut table);
        let got = table.validate().err().unwrap_or_default();
        assert!(got.contains(expect) && (expect.is_empty() == got.is_empty()), "{got:?} lacks {expect:?}");
    }

    #[test]
    fn a_table_is_checked_before_it_is_used() {
        check(|_| {}, "");
        check(|t| t.protocol = PROTOCOL + 1, "protocol");
        check(|t| t.apps.push(App::named("web")), "twice");
        let shared = |t: &mut Table, hosts: [&str; 2]| {
            t.apps = vec![App::named("a"), App::named("b")];
            for (app, host) in t.apps.iter_mut().zip(hosts) {
                app.listen = vec![Listen::Http("127.0.0.1:80".parse().unwrap())];
                app.hosts = vec![host.to_owned()];
            }
        };
        check(|t| shared(t, ["a.test", "b.test"]), "");
        check(|t| shared(t, ["a.test", "A.test"]), "both have host a.test");
        check(|t| shared(t, ["a.test", "b test"]), "no host");
        check(|t| t.apps[0].paths = vec!["/a/../b".into()], "no beginning of a path");
        check(|t| t.apps[0].app = "a\nb".into(), "control");
        check(|t| t.apps[0].app = "x".repeat(101), "100 bytes");
        check(|t| t.apps[0].version_header = Some("no good".into()), "header name");
        check(|t| t.apps[0].trusted_proxies = vec!["10.0.0.0/99".into()], "10.0.0.0/99");
        check(|t| t.apps[0].limits.idle_timeout_ms = 0, "idle_timeout_ms");
        check(|t| t.apps[0].limits.header_bytes = 1, "header_bytes");
        check(|t| t.apps = (0..65).map(|n| App::named(&n.to_string())).collect(), "at most 64");
    }

    #[test]
    fn the_widest_of_each_bound_is_taken() {
        let own = Limits::default();
        let other = Limits {
            headers: 50,
            body_bytes: Some(10),
            idle_timeout_ms: 90_000,
            body_rate: 10,
            ..own.clone()
        };
        let widest = Limits::widest([&own, &other].into_iter());
        assert_eq!(
            widest,
            Limits { idle_timeout_ms: 90_000, body_rate: 10, ..own.clone() },
            "no limit is wider than any"
        );
        let both = Limits::widest([&other, &Limits { body_bytes: Some(20), ..own }].into_iter());
        assert_eq!((both.body_bytes, both.headers), (Some(20), 100));
    }

    #[test]
    fn the_json_is_snake_case_and_limits_have_defaults() {
        let json = r#"{"protocol":1,"epoch":3,"number":7,"apps":[{"app":"web","listen":[{"http":"127.0.0.1:80"},
            {"unix":"/run/web.sock"}],"limits":{"headers":50},"endpoints":[{"id":"web-2-3","incarnation":"t",
            "version":"3.2","revision":2,"address":"127.0.0.1:20000","weight":1,"state":"draining"}]}]}"#;
        let table: Table = serde_json::from_str(json).unwrap();
        assert_eq!(table.apps[0].limits, Limits { headers: 50, ..Limits::default() });
        assert_eq!(table.apps[0].endpoints[0].state, EndpointState::Draining);
        assert_eq!(serde_json::from_str::<Table>(&serde_json::to_string(&table).unwrap()).unwrap(), table);
    }
}
