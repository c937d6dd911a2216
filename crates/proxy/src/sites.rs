//! Which app answers a request, where several share an address: by the host first, and then by the path.
//!
//! Invariant: a request whose path could be read in two ways, of which each leads to another app, is refused. What is
//! forwarded are the bytes as they came.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, Uri};

use crate::routes::Route;
use crate::table::{App, Limits};

/// How often an escape may be escaped until nobody takes it for a path any more.
const MOST_READINGS: usize = 4;

/// What stands behind one address.
pub struct Site {
    /// The one with the most to say about itself first.
    rules: Vec<Rule>,
    /// For its connections, before anybody knows whose they are: of each bound the widest.
    pub limits: Limits,
    /// In whose name is counted what belongs to none of them.
    owner: Arc<Route>,
    has_paths: bool,
}

struct Rule {
    host: Host,
    /// Begins with a slash and ends without one; empty for all.
    path: String,
    route: Arc<Route>,
}

/// Whose host it may be, the narrowest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Exact(String),
    /// One label or more before this, which begins with a dot. The longer one is the narrower.
    Below(std::cmp::Reverse<usize>, String),
    Any,
}

/// Why nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nobody {
    /// No app has this host and path.
    Here,
    /// The path could be read in two ways.
    Ambiguous,
}

impl Site {
    /// Of these apps, which are all that have the address.
    pub fn new(first: (&App, Arc<Route>), others: Vec<(&App, Arc<Route>)>) -> Self {
        let owner = Arc::clone(&first.1);
        let apps: Vec<_> = std::iter::once(first).chain(others).collect();
        let limits = Limits::widest(apps.iter().map(|(app, _)| &app.limits));
        let mut rules: Vec<Rule> = apps
            .into_iter()
            .flat_map(|(app, route)| {
                let rules = rules(app).collect::<Vec<_>>();
                rules.into_iter().map(move |(host, path)| Rule { host, path, route: Arc::clone(&route) })
            })
            .collect();
        rules.sort_by(|a, b| (&a.host, b.path.len(), &a.path).cmp(&(&b.host, a.path.len(), &b.path)));
        let has_paths = rules.iter().any(|rule| !rule.path.is_empty());
        Self { rules, limits, owner, has_paths }
    }

    pub fn owner(&self) -> &Arc<Route> {
        &self.owner
    }

    /// Who answers. Nothing is looked at where there is nothing to choose.
    pub fn route(&self, uri: &Uri, headers: &HeaderMap) -> Result<&Arc<Route>, Nobody> {
        if let [Rule { host: Host::Any, path, route }] = &self.rules[..]
            && path.is_empty()
        {
            return Ok(route);
        }
        let host = uri.authority().map(|authority| authority.as_str());
        let host = host.or_else(|| headers.get(HOST)?.to_str().ok()).map(host_of).unwrap_or_default();
        let found = self.find(&host, uri.path());
        if self.has_paths {
            for path in readings(uri.path()) {
                if !same(found, self.find(&host, &path)) {
                    return Err(Nobody::Ambiguous);
                }
            }
        }
        found.ok_or(Nobody::Here)
    }

    /// Who has a certificate for this name; whoever has one, if nobody is named so.
    pub fn secured(&self, name: Option<&str>) -> Option<&Arc<Route>> {
        let host = name.map(host_of).unwrap_or_default();
        let has_tls = |rule: &&Rule| rule.route.secure.tls.is_some();
        let named = self.rules.iter().filter(has_tls).find(|rule| rule.host.covers(&host));
        named.or_else(|| self.rules.iter().find(has_tls)).map(|rule| &rule.route)
    }

    fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let rule = self.rules.iter().find(|rule| rule.host.covers(host) && is_below(path, &rule.path));
        rule.map(|rule| &rule.route)
    }
}

fn same(a: Option<&Arc<Route>>, b: Option<&Arc<Route>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Host {
    fn of(written: &str) -> Self {
        let written = host_of(written);
        match written.strip_prefix('*') {
            Some(below) => Self::Below(std::cmp::Reverse(below.len()), below.to_owned()),
            None => Self::Exact(written.into_owned()),
        }
    }

    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => name == host,
            Self::Below(_, below) => host.len() > below.len() && host.ends_with(below.as_str()),
        }
    }
}

/// Every host with every path that an app has; the words in which two apps on one address must differ.
fn rules(app: &App) -> impl Iterator<Item = (Host, String)> + '_ {
    let hosts: Vec<Host> = match &app.hosts[..] {
        [] => vec![Host::Any],
        hosts => hosts.iter().map(|host| Host::of(host)).collect(),
    };
    let paths: Vec<&str> = match &app.paths[..] {
        [] => vec![""],
        paths => paths.iter().map(|path| path.trim_end_matches('/')).collect(),
    };
    hosts.into_iter().flat_map(move |host| {
        paths.clone().into_iter().map(move |path| (host.clone(), path.to_owned())).collect::<Vec<_>>()
    })
}

/// What both have, so that nobody could say whose a request is.
#[must_use]
pub fn in_common(a: &App, b: &App) -> Option<String> {
    let of_b: Vec<_> = rules(b).collect();
    let (host, path) = rules(a).find(|rule| of_b.contains(rule))?;
    let host = match host {
        Host::Exact(name) => format!("host {name}"),
        Host::Below(_, below) => format!("host *{below}"),
        Host::Any => "every host".to_owned(),
    };
    Some(if path.is_empty() { host } else { format!("{host} with path {path}") })
}

/// # Errors
/// When it is no host that a request could name: the words say what it may be.
pub fn check_host(host: &str) -> Result<(), String> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let is_address = name.starts_with('[') && name.ends_with(']');
    if name.len() <= 253 && (is_address || name.split('.').all(label)) {
        return Ok(());
    }
    Err(format!("{host:?} is no host; write it like \"shop.example\" or \"*.shop.example\", without a port"))
}

/// # Errors
/// When it is no beginning of a path, or one that can be written in several ways.
pub fn check_path(path: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/".contains(&byte);
    if path.starts_with('/')
        && path.bytes().all(is_plain)
        && path.len() <= 1_024
        && readings(path).next().is_none()
    {
        return Ok(());
    }
    Err(format!(
        "{path:?} is no beginning of a path; write it like \"/api\": plain letters, no \"..\", no \"//\", no \"%\""
    ))
}

/// In small letters, without a port and without the dot at the end.
fn host_of(host: &str) -> Cow<'_, str> {
    let name = match host.rfind(']') {
        Some(end) => &host[..=end],
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

/// `/api` covers `/api` and `/api/x`, and not `/apis`.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What else somebody may take the path for: escapes, backslashes, empty and dotted segments, parameters of segments. Most
/// paths have nothing of that.
fn readings(path: &str) -> impl Iterator<Item = String> + use<> {
    let is_plain = !path.contains(['%', '\\', ';'])
        && !path.contains("//")
        && !path.split('/').any(|segment| segment == "." || segment == "..");
    let mut found: Vec<String> = Vec::new();
    if !is_plain {
        let mut bytes = path.as_bytes().to_vec();
        for _ in 0..MOST_READINGS {
            for slashes in [false, true] {
                for parameters in [false, true] {
                    found.push(resolved(&String::from_utf8_lossy(&bytes), slashes, parameters));
                }
            }
            let next = unescaped(&bytes);
            if next == bytes {
                break;
            }
            bytes = next;
        }
    }
    found.into_iter()
}

fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Without dotted segments; with `slashes`, empty segments go too and a backslash is a slash; with `parameters`, what follows
/// a semicolon goes.
fn resolved(path: &str, slashes: bool, parameters: bool) -> String {
    let path: Cow<'_, str> = if slashes { path.replace('\\', "/").into() } else { path.into() };
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        let segment = if parameters { segment.split(';').next().unwrap_or_default() } else { segment };
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            "" if slashes => {}
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::tests::named;

    fn site(apps: &[(&str, &[&str], &[&str])]) -> Site {
        let text = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let apps: Vec<App> = apps
            .iter()
            .map(|(name, hosts, paths)| App { hosts: text(hosts), paths: text(paths), ..App::named(name) })
            .collect();
        let mut apps = apps.iter().map(|app| (app, Arc::new(named(&app.app))));
        Site::new(apps.next().unwrap(), apps.collect())
    }

    fn check(site: &Site, host: &str, path: &str, expect: Result<&str, Nobody>) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        let found = site.route(&path.parse().unwrap(), &headers);
        assert_eq!(found.map(|route| route.app.to_string()), expect.map(str::to_owned), "{host}{path}");
    }

    #[test]
    fn the_narrowest_rule_wins() {
        let site = site(&[
            ("rest", &[], &[]),
            ("api", &[], &["/api"]),
            ("shop", &["Shop.Example"], &[]),
            ("cart", &["shop.example"], &["/cart/", "/api/cart"]),
            ("below", &["*.example"], &[]),
            ("deeper", &["*.eu.example"], &[]),
        ]);
        for (host, path, app) in [
            ("other", "/", "rest"),
            ("other", "/api", "api"),
            ("other", "/api/", "api"),
            ("other", "/apis", "rest"),
            ("SHOP.example:8080", "/", "shop"),
            ("shop.example.", "/api", "shop"),
            ("shop.example", "/cart", "cart"),
            ("shop.example", "/cart/1?x=/..", "cart"),
            ("shop.example", "/api/cart/2", "cart"),
            ("a.example", "/cart", "below"),
            ("a.eu.example", "/", "deeper"),
            ("eu.example", "/", "below"),
            ("example", "/", "rest"),
            ("[::1]:80", "/", "rest"),
        ] {
            check(&site, host, path, Ok(app));
        }
    }

    #[test]
    fn who_is_not_named_is_not_answered() {
        let site = site(&[("web", &["a.example"], &["/x"])]);
        check(&site, "a.example", "/x", Ok("web"));
        check(&site, "b.example", "/x", Err(Nobody::Here));
        check(&site, "a.example", "/y", Err(Nobody::Here));
        check(&site, "", "/x", Err(Nobody::Here));
    }

    #[test]
    fn a_path_that_leads_to_two_apps_is_refused() {
        let site = site(&[("rest", &[], &[]), ("api", &[], &["/api"]), ("admin", &[], &["/admin"])]);
        for path in [
            "/api/../admin",
            "/api/%2e%2e/admin",
            "/api/%2E./admin",
            "/api/..%2fadmin",
            "/api/%252e%252e/admin",
            "/api/..;/admin",
            "/api\\..\\admin",
            "/api/%5c../%5cadmin/../../admin",
            "//admin",
            "/./admin",
            "/%61dmin",
            "/admin;x=1",
            "/admin%2fusers",
            "/x/..//admin",
        ] {
            check(&site, "h", path, Err(Nobody::Ambiguous));
        }
        for (path, app) in [
            ("/api/../api/x", "api"),
            ("/api/a%20b", "api"),
            ("/api//x", "api"),
            ("/api/x;v=1", "api"),
            ("/a%2fb", "rest"),
            ("/100%", "rest"),
            ("/x/../y", "rest"),
        ] {
            check(&site, "h", path, Ok(app));
        }
    }

    #[test]
    fn where_there_is_nothing_to_choose_every_path_is_good() {
        check(&site(&[("web", &[], &[])]), "h", "/a/../%2e%2e//b", Ok("web"));
        let hosts = site(&[("web", &["a"], &[]), ("other", &["b"], &[])]);
        check(&hosts, "b", "/a/../%2e%2e//b", Ok("other"));
    }

    #[test]
    fn what_two_apps_have_in_common_is_named() {
        let app = |hosts: &[&str], paths: &[&str]| App {
            hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
            paths: paths.iter().map(|p| (*p).to_owned()).collect(),
            ..App::named("web")
        };
        let of = |a: &App, b: &App| in_common(a, b);
        assert_eq!(of(&app(&[], &[]), &app(&[], &[])).unwrap(), "every host");
        assert_eq!(
            of(&app(&["a", "b"], &["/x"]), &app(&["B"], &["/y", "/x/"])).unwrap(),
            "host b with path /x"
        );
        assert_eq!(of(&app(&["a"], &[]), &app(&[], &[])), None);
        assert_eq!(of(&app(&["*.a"], &[]), &app(&["x.a"], &[])), None);
    }

    #[test]
    fn hosts_and_paths_are_checked() {
        for good in ["a", "shop.example", "*.shop.example", "my_app", "[::1]", "10.0.0.1"] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
        for bad in ["", "*", "a b", "a..b", "http://a", "a:80", "a/b", "*.*.a", "é"] {
            assert!(check_host(bad).is_err(), "{bad}");
        }
        for good in ["/", "/api", "/api/v1/", "/~me"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in ["", "api", "/a//b", "/a/../b", "/%61", "/a?b", "/a b", "/a;b", "/a\\b"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
