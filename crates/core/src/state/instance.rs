//! One instance as the journal knows it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::event::{DrainProof, FailureCause, StopPurpose};
use crate::ids::InstanceKey;

/// Where an instance stands. One that is gone is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The start is durable in the journal; the process may or may not exist.
    Intended,
    Starting,
    Ready,
    Unready,
    Draining,
    Stopping,
    Failed,
    Unknown,
}

impl Phase {
    /// As it stands in a sentence and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
    /// Still counted on: it serves or is about to.
    pub fn is_held(self) -> bool {
        match self {
            Self::Intended | Self::Starting | Self::Ready | Self::Unready => true,
            Self::Draining | Self::Stopping | Self::Failed | Self::Unknown => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub(super) key: InstanceKey,
    pub(super) phase: Phase,
    pub(super) phase_since: Millis,
    /// Rises with each start of the app: the order of age.
    pub(super) born: u64,
    /// A person asked for it: a retry, or a share of more replicas.
    pub(super) asked: bool,
    pub(super) ready_since: Option<Millis>,
    /// `min_healthy_time` has passed in this ready period.
    pub(super) matured: bool,
    pub(super) ever_available: bool,
    pub(super) ever_ready: bool,
    /// In the table that the router acknowledged last.
    pub(super) routed: bool,
    pub(super) drained: Option<DrainProof>,
    pub(super) stop_purpose: Option<StopPurpose>,
    pub(super) cut: bool,
    /// The last of its revision: as long as clients have pages of it, it gives them what these load.
    pub(super) kept: bool,
    pub(super) failure: Option<Box<FailureCause>>,
    /// Its process ended; only the cleaning-up is left.
    pub(super) exited: bool,
    pub(super) pid: Option<u32>,
    pub(super) address: Option<Arc<str>>,
    pub(super) incarnation: Option<Arc<str>>,
    /// When its timer fires, by kind; to be able to cancel it.
    pub(super) timer: Option<(Millis, super::timers::Timer)>,
}

impl Instance {
    pub(super) fn intended(key: InstanceKey, born: u64, at: Millis) -> Self {
        Self {
            key,
            phase: Phase::Intended,
            phase_since: at,
            born,
            asked: false,
            ready_since: None,
            matured: false,
            ever_available: false,
            ever_ready: false,
            routed: false,
            drained: None,
            stop_purpose: None,
            cut: false,
            kept: false,
            failure: None,
            exited: false,
            pid: None,
            address: None,
            incarnation: None,
            timer: None,
        }
    }

    pub fn key(&self) -> InstanceKey {
        self.key
    }
    pub fn phase(&self) -> Phase {
        self.phase
    }
    pub fn phase_since(&self) -> Millis {
        self.phase_since
    }
    pub fn born(&self) -> u64 {
        self.born
    }
    pub fn ready_since(&self) -> Option<Millis> {
        self.ready_since
    }
    pub fn is_routed(&self) -> bool {
        self.routed
    }
    /// It may have been given requests: it is routed from the moment it is ready.
    pub fn was_ever_ready(&self) -> bool {
        self.ever_ready
    }
    pub fn drained(&self) -> Option<DrainProof> {
        self.drained
    }
    pub fn stop_purpose(&self) -> Option<StopPurpose> {
        self.stop_purpose
    }
    /// Stopped although requests were still running past the drain deadline.
    pub fn is_cut(&self) -> bool {
        self.cut
    }
    /// It drains, and gives clients what their pages of its version load.
    pub fn is_kept(&self) -> bool {
        self.kept && self.phase == Phase::Draining
    }
    pub fn failure(&self) -> Option<&FailureCause> {
        self.failure.as_deref()
    }
    pub fn has_exited(&self) -> bool {
        self.exited
    }
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }
    pub fn address(&self) -> Option<&Arc<str>> {
        self.address.as_ref()
    }
    pub fn incarnation(&self) -> Option<&Arc<str>> {
        self.incarnation.as_ref()
    }

    /// When `min_healthy_time` will have passed; None once it has, or while not ready.
    pub fn matures_at(&self) -> Option<Millis> {
        self.timer_at().filter(|_| self.phase == Phase::Ready && !self.matured)
    }
    /// When its deadline or its waiting ends, whichever its phase has.
    pub fn timer_at(&self) -> Option<Millis> {
        self.timer.map(|(at, _)| at)
    }

    /// Ready for `min_healthy_time`, and in the routing table if there is one.
    pub(super) fn is_available(&self, needs_route: bool) -> bool {
        self.phase == Phase::Ready && self.matured && (self.routed || !needs_route)
    }
}
