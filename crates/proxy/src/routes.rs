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
use crate::counts::VersionRow;
use crate::endpoint::{Claim, LiveEndpoint};
use crate::hold::Hold;
use crate::maintenance::Closed;
use crate::open::Open;
use crate::sites::Site;
use crate::table::{Limits, Listen};
use crate::trust::Trust;

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
    routed: Vec<Weighted>,
    /// Sum of all weights.
    total_weight: u64,
    /// Those that may still wait for their first request. With many endpoints and few requests the draw alone would let
    /// a new one wait for long; so the next request is its first.
    new: Vec<Arc<LiveEndpoint>>,
}

struct Weighted {
    endpoint: Arc<LiveEndpoint>,
    weight: u64,
    /// Sum of the weights up to and with this one.
    up_to: u64,
}

/// What a route is made of, apart from its endpoints.
pub struct RouteSettings {
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

    fn contains(&self, endpoint: &LiveEndpoint) -> bool {
        self.rows[..self.len].contains(&Some(endpoint.row.index() as u32))
    }
}

impl Route {
    /// `endpoints` are those of the table with the weight they have there; a weight of 0 or a state other than Routed
    /// keeps an endpoint out of the choice.
    pub fn new(settings: RouteSettings, endpoints: &[(Arc<LiveEndpoint>, u32, bool)]) -> Self {
        let (mut routed, mut new) = (Vec::new(), Vec::new());
        let mut total_weight = 0;
        for (endpoint, weight, is_routed) in endpoints {
            if *is_routed && *weight > 0 {
                total_weight += u64::from(*weight);
                let endpoint = Arc::clone(endpoint);
                if endpoint.is_new() {
                    new.push(Arc::clone(&endpoint));
                }
                routed.push(Weighted { endpoint, weight: u64::from(*weight), up_to: total_weight });
            }
        }
        Self {
            app: settings.app,
            app_row: settings.app_row,
            trust: settings.trust,
            version_header: settings.version_header,
            limits: settings.limits,
            hold: settings.hold,
            secure: settings.secure,
            log: settings.log,
            closed: settings.closed,
            challenges: settings.challenges,
            open: settings.open,
            routed,
            total_weight,
            new,
        }
    }

    #[must_use]
    pub fn has_nobody(&self) -> bool {
        self.routed.is_empty()
    }

    /// Claims a place in the less loaded of two different endpoints that were drawn by weight, so that one that hangs is not
    /// drawn against itself and gets no more than others have. `None` when no endpoint is left.
    #[must_use]
    pub fn choose(&self, random: &mut Random, tried: &Tried) -> Option<Claim> {
        if self.routed.is_empty() {
            return None;
        }
        if tried.len == 0 {
            if let Some(claim) = self.new.iter().find(|e| e.greet()).and_then(LiveEndpoint::claim) {
                return Some(claim);
            }
            let first = self.at(random.below(self.total_weight));
            let second = self.another(first, random);
            if let Some(claim) = less_loaded(first, second).endpoint.claim() {
                return Some(claim);
            }
        }
        // Rare: something has failed, or a newer table is being put in force at this moment. Take the least loaded
        // of all that are left.
        let mut left: Vec<&Weighted> = self.routed.iter().filter(|w| !tried.contains(&w.endpoint)).collect();
        left.sort_by_key(|weighted| weighted.endpoint.load() / weighted.weight);
        left.into_iter().find_map(|weighted| weighted.endpoint.claim())
    }

    /// Drawn by weight among all but `first`; the same if there is no other.
    fn another(&self, first: &Weighted, random: &mut Random) -> &Weighted {
        let at = random.below(self.total_weight - first.weight);
        // What stands before it keeps its place, what stands behind it moves up.
        let is_behind = at >= first.up_to - first.weight;
        self.at(if self.routed.len() > 1 && is_behind { at + first.weight } else { at })
    }

    fn at(&self, at: u64) -> &Weighted {
        let index = if self.total_weight == self.routed.len() as u64 {
            at as usize // all weights are 1
        } else {
            self.routed.partition_point(|weighted| weighted.up_to <= at)
        };
        &self.routed[index]
    }
}

/// Load is requests in flight per weight; a/x < b/y is compared as a*y < b*x.
fn less_loaded<'a>(first: &'a Weighted, second: &'a Weighted) -> &'a Weighted {
    let of_first = u128::from(first.endpoint.load()) * u128::from(second.weight);
    let of_second = u128::from(second.endpoint.load()) * u128::from(first.weight);
    if of_second < of_first { second } else { first }
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
    use crate::endpoint::Flag;
    use crate::endpoint::tests::endpoint;

    fn route(weights: &[u32]) -> (tempfile::TempDir, Route, Vec<Arc<LiveEndpoint>>) {
        let dir = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::alone(&dir.path().join("c")));
        let endpoints = weights.iter().enumerate().map(|(n, weight)| {
            let endpoint = endpoint(&counts, &format!("web-1-{n}"), "127.0.0.1:1");
            endpoint.set_flag(Flag::Routed);
            (endpoint, *weight, true)
        });
        let settings = settings("web", &counts);
        let endpoints: Vec<_> = endpoints.collect();
        let route = Route::new(settings, &endpoints);
        (dir, route, endpoints.into_iter().map(|(endpoint, ..)| endpoint).collect())
    }

    /// One without endpoints.
    pub fn named(name: &str) -> Route {
        let dir = tempfile::tempdir().unwrap();
        let counts = Counts::alone(&dir.path().join("c"));
        Route::new(settings(name, &counts), &[])
    }

    fn settings(name: &str, counts: &Counts) -> RouteSettings {
        RouteSettings {
            hold: Arc::default(),
            secure: Secured::default(),
            log: None,
            closed: None,
            challenges: None,
            open: Arc::default(),
            app: name.into(),
            app_row: counts.bind_app(name, &[]).unwrap(),
            trust: Trust::default(),
            version_header: None,
            limits: Limits::default(),
        }
    }

    #[test]
    fn weights_hold_when_nothing_is_busy_and_zero_gets_none() {
        let (_dir, route, _) = route(&[1, 9, 0]);
        let mut random = Random::new();
        let mut hits = [0u32; 3];
        for _ in 0..10_000 {
            let claim = route.choose(&mut random, &Tried::default()).unwrap();
            hits[claim.endpoint().id.as_bytes()[6] as usize - usize::from(b'0')] += 1;
        }
        assert_eq!(hits[2], 0);
        assert!((700..1300).contains(&hits[0]), "{hits:?}");
    }

    #[test]
    fn a_new_endpoint_gets_the_next_request() {
        let (_dir, route, endpoints) = route(&[1; 50]);
        let mut random = Random::new();
        let claims: Vec<_> = (0..50).map(|_| route.choose(&mut random, &Tried::default()).unwrap()).collect();
        assert!(endpoints.iter().all(|e| e.in_flight() == 1), "each got its first before any got a second");
        drop(claims);
    }

    #[test]
    fn load_is_spread_by_weight() {
        let (_dir, route, endpoints) = route(&[1, 1, 2]);
        let mut random = Random::new();
        let claims: Vec<_> =
            (0..400).map(|_| route.choose(&mut random, &Tried::default()).unwrap()).collect();
        let loads: Vec<u64> = endpoints.iter().map(|e| e.in_flight()).collect();
        assert!((80..=120).contains(&loads[0]) && (170..=230).contains(&loads[2]), "{loads:?}");
        drop(claims);
        assert!(endpoints.iter().all(|e| e.in_flight() == 0));
    }

    /// Each request that it got more would wait for it: that it is drawn twice must not make it the less loaded of the two.
    #[test]
    fn one_that_hangs_gets_no_more_than_others_have() {
        for weights in [&[1, 1, 1, 1][..], &[3, 1, 2]] {
            let (_dir, route, endpoints) = route(weights);
            let mut random = Random::new();
            drop(weights.iter().map(|_| route.choose(&mut random, &Tried::default())).collect::<Vec<_>>());
            let held: Vec<_> = (0..4).map(|_| endpoints[0].claim().unwrap()).collect();
            for _ in 0..1000 {
                let claim = route.choose(&mut random, &Tried::default()).unwrap();
                assert_ne!(claim.endpoint().id, endpoints[0].id, "{weights:?}");
            }
            drop(held);
        }
    }

    #[test]
    fn tried_and_unrouted_endpoints_are_passed_over() {
        let (_dir, route, endpoints) = route(&[1, 1, 1]);
        let mut random = Random::new();
        let mut tried = Tried::default();
        tried.add(&endpoints[0]);
        endpoints[1].set_flag(Flag::Draining);
        for _ in 0..100 {
            assert_eq!(route.choose(&mut random, &tried).unwrap().endpoint().id, "web-1-2");
        }
        endpoints[2].set_flag(Flag::Cut);
        assert!(route.choose(&mut random, &tried).is_none());
    }
}
