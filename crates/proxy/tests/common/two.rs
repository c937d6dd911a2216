//! Two versions of an app behind one proxy, and a client that keeps what it is given.

use std::net::SocketAddr;

use trundle_proxy::{Endpoint, Traffic};

use super::*;

/// An app of a version, which says it: `/` and, in a while, `/slow` are pages, all else is none, and under `/assets/` it has what bears its name only.
pub fn app_of(version: &'static str) -> Upstream {
    Upstream::start(move |seen, stream| match seen.target().strip_prefix("/assets/") {
        Some(name) if !name.starts_with(version) => respond(stream, 404, "nothing here"),
        None if ["/", "/slow"].contains(&seen.target()) => {
            if seen.target() == "/slow" {
                thread::sleep(Duration::from_millis(400));
            }
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}", version.len());
            stream.write_all(format!("{head}\r\n\r\n{version}").as_bytes()).is_ok()
        }
        Some(_) | None => respond(stream, 200, version),
    })
}

pub fn of(revision: u32, version: &str, n: u32, address: SocketAddr) -> Endpoint {
    Endpoint { revision, version: version.into(), ..routed(&format!("web-{revision}-{n}"), address) }
}

/// A proxy between 3.9 (revision 1) and 4.0 (revision 2), one instance each.
pub struct Two {
    pub proxy: Proxy,
    pub old: Upstream,
    pub new: Upstream,
}

impl Two {
    pub fn with(traffic: Traffic) -> Self {
        let (old, new) = (app_of("3.9"), app_of("4.0"));
        let mut two = Self { proxy: Proxy::start(), old, new };
        two.set(Traffic { newest: Some(2), window: 1, open: true, ..traffic });
        two
    }

    pub fn set(&mut self, traffic: Traffic) {
        self.proxy.table.apps[0].traffic = Some(traffic);
        let both = vec![of(1, "3.9", 1, self.old.address), of(2, "4.0", 1, self.new.address)];
        self.proxy.route(both);
    }

    pub fn change(&mut self, change: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.proxy.table.apps[0].traffic.clone().unwrap();
        change(&mut traffic);
        self.set(traffic);
    }

    pub fn mixed(&mut self, what: &str) -> u64 {
        self.proxy.control.app().mixed.get(what).copied().unwrap_or(0)
    }
}

/// One that keeps what it is given.
pub struct Client {
    pub http: Http,
    pub cookie: Option<String>,
    pub more: String,
}

impl Client {
    pub fn of(proxy: &Proxy) -> Self {
        Self { http: Http::connect(proxy.address), cookie: None, more: String::new() }
    }

    pub fn ask(&mut self, path: &str) -> Answer {
        let cookie = self.cookie.as_ref().map(|cookie| format!("Cookie: a=b; {cookie}\r\n"));
        let cookie = cookie.unwrap_or_default();
        self.http.send(&format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n{cookie}{}\r\n", self.more));
        let answer = self.http.answer().unwrap();
        if let Some(given) = answer.header("set-cookie") {
            self.keep(given.split(';').next().unwrap());
        }
        answer
    }

    /// In the place of one of the same name.
    pub fn keep(&mut self, given: &str) {
        let name = |pair: &str| pair.split('=').next().map(str::to_owned);
        let kept = self.cookie.take().unwrap_or_default();
        let others = kept.split("; ").filter(|pair| !pair.is_empty() && name(pair) != name(given));
        self.cookie = Some(others.chain([given]).collect::<Vec<_>>().join("; "));
    }

    pub fn version(&mut self) -> String {
        self.ask("/").text().to_owned()
    }
}

pub fn asks(proxy: &Proxy, header: &str) -> Answer {
    raw(proxy.address, &format!("GET / HTTP/1.1\r\nHost: web.test\r\n{header}\r\n\r\n"))
}
