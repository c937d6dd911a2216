//! A routing table in force: for each app, the endpoints that may be chosen, and the choice.
//!
//! A snapshot never changes; a new table makes a new one, and one atomic pointer is switched.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use rustls::ServerConfig;

use crate::access::Log;
use crate::choice::Choice;
use crate::counts::VersionRow;
use crate::endpoint::{Claim, LiveEndpoint};
use crate::hold::Hold;
use crate::maintenance::Closed;
use crate::open::Open;
use crate::sites::Site;
use crate::table::{Limits, Listen};
use crate::trust::Trust;
use crate::window::{How, Window, Wish};

/// Everything a worker needs to know to serve.
#[derive(Default)]
pub struct Snapshot {
    pub apps: HashMap<Arc<str>, Arc<Route>>,
    /// What stands behind each address.
    pub sites: HashMap<Listen, Site>,
}

/// One app in a snapshot.
pub struct Route {
    pub app: Arc<str>,
    pub app_row: VersionRow,
    pub trust: Trust,
    pub version_header: Option<HeaderName>,
    pub limits: Limits,
    pub hold: Arc<Hold>,
    pub secure: Secured,
    pub log: Option<Arc<Log>>,
    pub closed: Option<Closed>,
    pub challenges: Option<PathBuf>,
    pub open: Arc<Open>,
    /// Whom a request may go to that wants nobody in particular.
    pub choice: Choice,
    /// Who gets which version.
    pub window: Option<Window>,
}

/// What has to do with TLS.
#[derive(Default)]
pub struct Secured {
    /// None: it has no address with TLS, or its certificate could not be read.
    pub tls: Option<Arc<ServerConfig>>,
    pub redirect_to: Option<SocketAddr>,
    pub hsts: Option<HeaderValue>,
}

/// Endpoints that a request has already failed to reach.
#[derive(Default)]
pub struct Tried {
    rows: [Option<u32>; Self::MOST],
    len: usize,
}

impl Tried {
    /// One request tries at most this many endpoints.
    pub const MOST: usize = 8;

    pub fn add(&mut self, endpoint: &LiveEndpoint) {
        if self.len < Self::MOST {
            self.rows[self.len] = Some(endpoint.row.index() as u32);
            self.len += 1;
        }
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == Self::MOST
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn contains(&self, endpoint: &LiveEndpoint) -> bool {
        self.rows[..self.len].contains(&Some(endpoint.row.index() as u32))
    }
}

impl Route {
    #[must_use]
    pub fn has_nobody(&self) -> bool {
        self.choice.is_empty()
    }

    /// A place in the endpoint that the request shall get, and how it came there.
    #[must_use]
    pub fn choose_for(
        &self,
        wish: Option<&Wish>,
        random: &mut Random,
        tried: &Tried,
    ) -> Option<(Claim, How)> {
        match (&self.window, wish) {
            (Some(window), Some(wish)) => window.choose(wish, &self.choice, random, tried),
            _ => self.choose(random, tried).map(|claim| (claim, How::default())),
        }
    }

    /// A place in one of its endpoints, whichever; `None` when no endpoint is left.
    #[must_use]
    pub fn choose(&self, random: &mut Random, tried: &Tried) -> Option<Claim> {
        self.choice.choose(random, tried)
    }
}

/// xorshift64*: choosing an endpoint needs speed and no secrecy.
pub struct Random(u64);

impl Random {
    /// A stream that differs from all others of this machine with high probability.
    #[must_use]
    pub fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(std::process::id()) | 1)
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::counts::Counts;

    /// One without endpoints.
    pub fn named(name: &str) -> Route {
        let dir = tempfile::tempdir().unwrap();
        let counts = Counts::alone(&dir.path().join("c"));
        Route {
            hold: Arc::default(),
            secure: Secured::default(),
            log: None,
            closed: None,
            challenges: None,
            open: Arc::default(),
            choice: Choice::default(),
            window: None,
            app: name.into(),
            app_row: counts.bind_app(name, &[]).unwrap(),
            trust: Trust::default(),
            version_header: None,
            limits: Limits::default(),
        }
    }
}
