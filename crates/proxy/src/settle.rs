//! Before a drain is told: those that were asked to come again have come, or have had their time. So the next instance does not
//! leave while the streams of the last one are still on their way, and no storm meets the rest.
//!
//! It only ever makes a drain that is proven wait, and never one whose deadline is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::endpoint::{Flag, LiveEndpoint};
use crate::open::Open;

/// A browser's EventSource comes again after 3 to 5 s: with a spread of 2 s that is the time they have.
const SPREADS: u32 = 5;
const PER_SPREADS: u32 = 2;

#[derive(Debug, Default)]
pub struct Settling<K>(BTreeMap<K, Leaving>);

#[derive(Debug)]
struct Leaving {
    /// Streams of the app that there had been when it began to leave.
    streams_before: u64,
    /// Nothing is in flight any more since then.
    empty_since: Option<Instant>,
    is_over: bool,
}

impl<K: Ord + Clone> Settling<K> {
    /// A table is in force: these leave.
    pub fn note<'a>(&mut self, leaving: impl Iterator<Item = (&'a K, &'a Open)>)
    where
        K: 'a,
    {
        let mut now = BTreeMap::new();
        for (key, open) in leaving {
            let known = self.0.remove(key);
            let new = || Leaving { streams_before: open.streams(), empty_since: None, is_over: false };
            now.insert(key.clone(), known.unwrap_or_else(new));
        }
        self.0 = now;
    }

    /// Whether its clients are back, or have had their time. Of one with nothing in flight.
    pub fn is_over(&mut self, key: &K, endpoint: &LiveEndpoint, open: &Open, spread: Duration) -> bool {
        let told = endpoint.told();
        let Some(leaving) = self.0.get_mut(key).filter(|_| told > 0 && endpoint.flag() == Flag::Draining)
        else {
            return true;
        };
        let since = *leaving.empty_since.get_or_insert_with(Instant::now);
        let have_come = open.streams().saturating_sub(leaving.streams_before);
        leaving.is_over = have_come >= told || since.elapsed() >= spread * SPREADS / PER_SPREADS;
        leaving.is_over
    }

    /// Somebody is waited for, so that another look is needed soon.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.values().any(|leaving| leaving.empty_since.is_some() && !leaving.is_over)
    }
}
