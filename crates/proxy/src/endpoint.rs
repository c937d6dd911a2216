//! One endpoint while it lives: its state, and how many requests it has in flight.
//!
//! # Why a drain is proven
//!
//! A request that was chosen for an endpoint races with the table that takes the endpoint out. The two sides do, all
//! sequentially consistent (one total order over these operations):
//!
//! ```text
//! request:  C1 in_flight += 1     C2 read state;  not Routed → in_flight -= 1, choose again
//! drain:    D1 state = Draining   D2 read in_flight
//! ```
//!
//! Say D2 reads 0 and some request still sends to the endpoint. It sends only if C2 read Routed, so C2 came before D1.
//! Then C1 < C2 < D1 < D2, so D2 has seen its increment, and 0 means that it has been taken back: the request is
//! over. Contradiction. So once 0 was read after the flag, no request is in the endpoint and none will ever get in.
//! (A later claim may make the number rise for a moment, but its C2 comes after D1, so it sends nothing.)
//!
//! The news of the last request ending is not lost either. The request does R1 `in_flight -= 1`, R2 read state; if
//! R1 left 0 and R2 reads Draining it wakes the control thread. Either R1 < D2, and D2 sees it, or D1 < D2 < R1 < R2, and
//! R2 sees the flag.
//!
//! The same holds over processes. While a proxy that was replaced finishes, its requests go by the same flag, which stands
//! in the shared file of counts and which only the process that serves sets, and D2 reads what each process has in flight, one
//! after the other, all of it after D1. The news of a last request in another process comes with the next look.
//!
//! A row may go to another endpoint while another process still looks at this one; so the flag has the row's binding
//! beside it, and with a binding that is not its own an endpoint is removed.

use std::hash::Hasher as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use http::HeaderValue;
use tokio::sync::Notify;

use crate::counts::{Counts, EndpointRow, VersionRow};
use crate::table::{Endpoint, EndpointState, Protocol};
use crate::window::Fnv;

/// The lowest bits of the word, below the binding.
const FLAG_BITS: u32 = 8;

/// What an endpoint's flag says. `Removed` is not in any table: it is the absence from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Flag {
    Routed = 0,
    Unready = 1,
    Draining = 2,
    Cut = 3,
    Removed = 4,
}

impl From<EndpointState> for Flag {
    fn from(state: EndpointState) -> Self {
        match state {
            // Who is kept is in no choice but that of its pages.
            EndpointState::Routed | EndpointState::Kept => Self::Routed,
            EndpointState::Unready => Self::Unready,
            EndpointState::Draining => Self::Draining,
            EndpointState::Cut => Self::Cut,
        }
    }
}

/// The object behind an endpoint of the table. It persists over tables as long as (id, incarnation) is the same.
pub struct LiveEndpoint {
    pub app: Arc<str>,
    pub id: String,
    pub incarnation: String,
    pub version: String,
    pub revision: u32,
    /// Of its id and its incarnation, the same in every process.
    pub name_hash: u64,
    pub version_value: HeaderValue,
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub app_row: VersionRow,
    pub version_row: VersionRow,
    pub row: EndpointRow,
    pub counts: Arc<Counts>,
    /// Of its row, while it is the endpoint's.
    binding: u64,
    /// What it had was cut, whatever its flag says by now: an instance may be gone before each thread has looked.
    was_cut: AtomicBool,
    /// Streams of it whose clients were asked to come again.
    told: AtomicU64,
    /// It was given a request.
    greeted: AtomicBool,
    /// Wakes the control thread when the last request of an endpoint that is on its way out has ended.
    idle: Arc<Notify>,
}

/// Where an endpoint's numbers are kept.
#[derive(Clone)]
pub struct Rows {
    pub counts: Arc<Counts>,
    pub app: VersionRow,
    pub version: VersionRow,
    pub endpoint: EndpointRow,
}

impl LiveEndpoint {
    /// Nothing may be claimed before the table that names it is in force: a row that was just bound says Removed.
    pub fn new(app: Arc<str>, endpoint: &Endpoint, rows: Rows, idle: Arc<Notify>) -> Self {
        let mut name = Fnv::default();
        name.write(endpoint.id.as_bytes());
        name.write(&[0]);
        name.write(endpoint.incarnation.as_bytes());
        Self {
            revision: endpoint.revision,
            name_hash: name.finish(),
            binding: rows.counts.binding(rows.endpoint),
            app,
            id: endpoint.id.clone(),
            incarnation: endpoint.incarnation.clone(),
            version: endpoint.version.clone(),
            version_value: HeaderValue::from_str(&endpoint.version).unwrap_or(HeaderValue::from_static("?")),
            address: endpoint.address,
            protocol: endpoint.protocol,
            app_row: rows.app,
            version_row: rows.version,
            row: rows.endpoint,
            counts: rows.counts,
            was_cut: AtomicBool::new(false),
            told: AtomicU64::new(0),
            greeted: AtomicBool::new(false),
            idle,
        }
    }

    #[must_use]
    pub fn flag(&self) -> Flag {
        let word = self.counts.flag(self.row).load(SeqCst);
        if word >> FLAG_BITS != self.binding {
            return Flag::Removed;
        }
        match word & ((1 << FLAG_BITS) - 1) {
            0 => Flag::Routed,
            1 => Flag::Unready,
            2 => Flag::Draining,
            3 => Flag::Cut,
            _ => Flag::Removed,
        }
    }

    /// D1. Read `in_flight` only after it. For the process that serves.
    pub fn set_flag(&self, flag: Flag) {
        if flag == Flag::Cut {
            self.note_cut();
        }
        self.counts.flag(self.row).store(self.binding << FLAG_BITS | flag as u64, SeqCst);
    }

    /// A table says that what it has is cut.
    pub fn note_cut(&self) {
        self.was_cut.store(true, SeqCst);
    }

    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.was_cut.load(SeqCst) || self.flag() == Flag::Cut
    }

    pub fn note_told(&self) {
        self.told.fetch_add(1, Relaxed);
    }

    #[must_use]
    pub fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    /// D2: in all processes.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.counts.in_flight_in_all(self.row)
    }

    /// Its row is still its own.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.counts.binding(self.row) == self.binding
    }

    /// It waits for its first request.
    #[must_use]
    pub fn is_new(&self) -> bool {
        !self.greeted.load(Relaxed)
    }

    /// Whether it waits for its first request; true for one caller only.
    pub fn greet(&self) -> bool {
        self.is_new() && !self.greeted.swap(true, Relaxed)
    }

    /// How busy it is, for choosing only.
    #[must_use]
    pub fn load(&self) -> u64 {
        self.counts.in_flight(self.row).load(Relaxed)
    }

    #[must_use]
    pub fn cut(&self) -> u64 {
        self.counts.endpoint_cut(self.row).load(Relaxed)
    }

    /// C1 and C2: a place for one request, or `None` when the endpoint is no longer routed.
    #[must_use]
    pub fn claim(self: &Arc<Self>) -> Option<Claim> {
        self.counts.in_flight(self.row).fetch_add(1, SeqCst);
        let claim = Claim(Arc::clone(self));
        (self.flag() == Flag::Routed).then_some(claim)
    }
}

/// A place in an endpoint, given back when dropped.
pub struct Claim(Arc<LiveEndpoint>);

impl Claim {
    #[must_use]
    pub fn endpoint(&self) -> &Arc<LiveEndpoint> {
        &self.0
    }
}

impl Drop for Claim {
    /// R1 and R2.
    fn drop(&mut self) {
        let before = self.0.counts.in_flight(self.0.row).fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "every claim was counted once");
        if before == 1 && self.0.flag() != Flag::Routed {
            self.0.idle.notify_one();
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::thread;

    /// An endpoint with counts in a temporary file.
    pub fn endpoint(counts: &Arc<Counts>, id: &str, address: &str) -> Arc<LiveEndpoint> {
        of(counts, id, 1, address)
    }

    /// One of this revision, which nobody listens for.
    pub fn endpoint_of(counts: &Arc<Counts>, id: &str, revision: u32) -> Arc<LiveEndpoint> {
        of(counts, id, revision, "127.0.0.1:1")
    }

    fn of(counts: &Arc<Counts>, id: &str, revision: u32, address: &str) -> Arc<LiveEndpoint> {
        let rows = Rows {
            counts: Arc::clone(counts),
            app: counts.bind_app("web", &[]).unwrap(),
            version: counts.bind_version("web", "1", &[]).unwrap(),
            endpoint: counts.bind_endpoint("web", id, "a").unwrap(),
        };
        let told = Endpoint {
            id: id.into(),
            incarnation: "a".into(),
            version: revision.to_string(),
            revision,
            address: address.parse().unwrap(),
            protocol: Protocol::default(),
            weight: 1,
            state: EndpointState::Routed,
        };
        Arc::new(LiveEndpoint::new("web".into(), &told, rows, Arc::new(Notify::new())))
    }

    #[test]
    fn zero_seen_after_the_flag_means_that_nothing_gets_in() {
        let dir = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::alone(&dir.path().join("c")));
        let endpoint = endpoint(&counts, "web-1-1", "127.0.0.1:1");
        for _ in 0..2_000 {
            endpoint.set_flag(Flag::Routed);
            let inside = Arc::new(AtomicU64::new(0));
            let racers: Vec<_> = (0..2)
                .map(|_| {
                    let (endpoint, inside) = (Arc::clone(&endpoint), Arc::clone(&inside));
                    thread::spawn(move || {
                        while let Some(claim) = endpoint.claim() {
                            inside.fetch_add(1, SeqCst);
                            inside.fetch_sub(1, SeqCst);
                            drop(claim);
                        }
                    })
                })
                .collect();
            endpoint.set_flag(Flag::Draining);
            while endpoint.in_flight() != 0 {
                std::hint::spin_loop();
            }
            assert_eq!(inside.load(SeqCst), 0);
            racers.into_iter().for_each(|racer| racer.join().unwrap());
            assert_eq!((inside.load(SeqCst), endpoint.in_flight()), (0, 0));
        }
    }
}
