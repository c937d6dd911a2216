//! Endpoints of which any may be chosen, and the choice: by weight, then by load.

use std::sync::Arc;

use crate::endpoint::{Claim, Flag, LiveEndpoint};
use crate::routes::{Random, Tried};

/// Those that get requests, of an app or of one version of it.
#[derive(Default)]
pub struct Choice {
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

impl Choice {
    /// A weight of 0 keeps an endpoint out of the choice.
    pub fn new<'a>(endpoints: impl IntoIterator<Item = (&'a Arc<LiveEndpoint>, u32)>) -> Self {
        let mut choice = Self::default();
        for (endpoint, weight) in endpoints.into_iter().filter(|(_, weight)| *weight > 0) {
            choice.total_weight += u64::from(weight);
            if endpoint.is_new() {
                choice.new.push(Arc::clone(endpoint));
            }
            let (endpoint, up_to) = (Arc::clone(endpoint), choice.total_weight);
            choice.routed.push(Weighted { endpoint, weight: u64::from(weight), up_to });
        }
        choice
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routed.is_empty()
    }

    #[must_use]
    pub fn weight(&self) -> u64 {
        self.total_weight
    }

    /// One of them by weight, and no place in it: for what nobody waits for.
    #[must_use]
    pub fn any(&self, random: &mut Random) -> Option<Arc<LiveEndpoint>> {
        if self.routed.is_empty() {
            return None;
        }
        let endpoint = &self.at(random.below(self.total_weight)).endpoint;
        (endpoint.flag() == Flag::Routed).then(|| Arc::clone(endpoint))
    }

    /// A place in the one of this name, as long as it gets requests.
    #[must_use]
    pub fn claim(&self, name_hash: u64) -> Option<Claim> {
        self.routed.iter().find(|weighted| weighted.endpoint.name_hash == name_hash)?.endpoint.claim()
    }

    /// Claims a place in the less loaded of two different endpoints that were drawn by weight, so that one that hangs is not
    /// drawn against itself and gets no more than others have. `None` when no endpoint is left.
    #[must_use]
    pub fn choose(&self, random: &mut Random, tried: &Tried) -> Option<Claim> {
        if self.routed.is_empty() {
            return None;
        }
        if tried.len() == 0 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Counts;
    use crate::endpoint::tests::endpoint;

    fn choice(weights: &[u32]) -> (tempfile::TempDir, Choice, Vec<Arc<LiveEndpoint>>) {
        let dir = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::alone(&dir.path().join("c")));
        let endpoints = weights.iter().enumerate().map(|(n, _)| {
            let endpoint = endpoint(&counts, &format!("web-1-{n}"), "127.0.0.1:1");
            endpoint.set_flag(Flag::Routed);
            endpoint
        });
        let endpoints: Vec<_> = endpoints.collect();
        let choice = Choice::new(endpoints.iter().zip(weights.iter().copied()));
        (dir, choice, endpoints)
    }

    #[test]
    fn weights_hold_when_nothing_is_busy_and_zero_gets_none() {
        let (_dir, choice, _) = choice(&[1, 9, 0]);
        let mut random = Random::new();
        let mut hits = [0u32; 3];
        for _ in 0..10_000 {
            let claim = choice.choose(&mut random, &Tried::default()).unwrap();
            hits[claim.endpoint().id.as_bytes()[6] as usize - usize::from(b'0')] += 1;
        }
        assert_eq!(hits[2], 0);
        assert!((700..1300).contains(&hits[0]), "{hits:?}");
    }

    #[test]
    fn a_new_endpoint_gets_the_next_request() {
        let (_dir, choice, endpoints) = choice(&[1; 50]);
        let mut random = Random::new();
        let claims: Vec<_> =
            (0..50).map(|_| choice.choose(&mut random, &Tried::default()).unwrap()).collect();
        assert!(endpoints.iter().all(|e| e.in_flight() == 1), "each got its first before any got a second");
        drop(claims);
    }

    #[test]
    fn load_is_spread_by_weight() {
        let (_dir, choice, endpoints) = choice(&[1, 1, 2]);
        let mut random = Random::new();
        let claims: Vec<_> =
            (0..400).map(|_| choice.choose(&mut random, &Tried::default()).unwrap()).collect();
        let loads: Vec<u64> = endpoints.iter().map(|e| e.in_flight()).collect();
        assert!((80..=120).contains(&loads[0]) && (170..=230).contains(&loads[2]), "{loads:?}");
        drop(claims);
        assert!(endpoints.iter().all(|e| e.in_flight() == 0));
    }

    /// Each request that it got more would wait for it: that it is drawn twice must not make it the less loaded of the two.
    #[test]
    fn one_that_hangs_gets_no_more_than_others_have() {
        for weights in [&[1, 1, 1, 1][..], &[3, 1, 2]] {
            let (_dir, choice, endpoints) = choice(weights);
            let mut random = Random::new();
            drop(weights.iter().map(|_| choice.choose(&mut random, &Tried::default())).collect::<Vec<_>>());
            let held: Vec<_> = (0..4).map(|_| endpoints[0].claim().unwrap()).collect();
            for _ in 0..1000 {
                let claim = choice.choose(&mut random, &Tried::default()).unwrap();
                assert_ne!(claim.endpoint().id, endpoints[0].id, "{weights:?}");
            }
            drop(held);
        }
    }

    #[test]
    fn tried_and_unrouted_endpoints_are_passed_over() {
        let (_dir, choice, endpoints) = choice(&[1, 1, 1]);
        let mut random = Random::new();
        let mut tried = Tried::default();
        tried.add(&endpoints[0]);
        endpoints[1].set_flag(Flag::Draining);
        for _ in 0..100 {
            assert_eq!(choice.choose(&mut random, &tried).unwrap().endpoint().id, "web-1-2");
        }
        endpoints[2].set_flag(Flag::Cut);
        assert!(choice.choose(&mut random, &tried).is_none());
    }
}
