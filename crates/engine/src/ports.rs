//! What the engine needs of the world. Every call returns at once; outcomes come back as [`Report`]s.

use std::sync::Arc;

use trundle_core::Millis;
use trundle_core::event::{DrainProof, Evidence, Fact, Requests};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::revision::Protocol;
use trundle_core::revision::Revision;
use trundle_core::settings::Listen;
use trundle_core::state::{GateState, Window};

/// Orders commands over all daemons of a state directory: one with a smaller fence than the greatest seen changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence {
    /// Raised by each daemon as it takes the state directory.
    pub epoch: u64,
    /// Raised by each command.
    pub n: u64,
}

/// What shall be true of the instances that are named, all of one revision. Absolute: saying it twice is saying it once.
/// Of those that are not named, what was said before holds; a new daemon names all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensure<'a> {
    pub fence: Fence,
    pub app: &'a AppName,
    pub revision: &'a Revision,
    /// How many, for drivers that count instead of naming.
    pub want: u32,
    /// These shall exist. One that was never started is started; one that was started and is no more is reported
    /// (`Exited`), never started again under its name.
    pub keep: &'a [Kept],
    /// These shall end: signal, grace, kill; `Gone` is reported when nothing of them is left, also for one that never was.
    pub victims: &'a [InstanceKey],
    pub stop_grace_period_ms: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub instance: InstanceKey,
    /// Whether checks matter: false for one that drains or was judged; its exit is reported all the same.
    pub probe: bool,
    /// Whether it was ever seen ready, by this daemon or one before. Then its startup is over, being not live counts,
    /// and "it is not ready" is news.
    pub was_ready: bool,
}

/// What a driver can do, so that plan and report can say what is not proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// It starts instances under the names it is given.
    pub names: bool,
    /// It can choose which ones end.
    pub picks_victims: bool,
    /// It runs the health checks.
    pub probes: bool,
}

/// Starts, watches, probes and stops instances.
pub trait Driver {
    fn capabilities(&self) -> Capabilities;

    /// Begins to make it so. Says nothing back: what happens arrives as [`Report::Seen`].
    fn ensure(&mut self, command: &Ensure<'_>);

    /// What the instances of an app may read of its gates from now on, before anything else is told of it.
    ///
    /// # Errors
    /// They may still read what was told before; the text is for people.
    fn gates(&mut self, _app: &AppName, _gates: &[GateState]) -> Result<(), String> {
        Ok(())
    }

    /// The last probe and the last log lines of an instance, also of one that is gone. Must be quick (milliseconds).
    fn evidence(&mut self, app: &AppName, instance: InstanceKey) -> Evidence;
}

/// One instance as the router shall see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub instance: InstanceKey,
    pub incarnation: Arc<str>,
    pub version: Arc<str>,
    pub address: Arc<str>,
    pub protocol: Protocol,
    pub state: RouteState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    Routed,
    /// Out of the table, may come back; its requests are left alone.
    Unready,
    /// Out for good, but for what the pages load that clients have of its version; as soon as there are none it drains.
    Kept,
    /// Out for good; the router answers when its last request is done.
    Draining,
    /// The drain deadline passed: what is left is closed and counted as cut.
    Cut,
}

/// Routes of one app. Absolute for those that are named, and of the others what was said before holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes<'a> {
    pub fence: Fence,
    pub app: &'a AppName,
    /// None: the app takes no requests.
    pub listen: Option<&'a Listen>,
    /// The order of versions for its clients.
    pub window: Window,
    /// There are no others: a new daemon begins with this.
    pub whole: bool,
    pub routes: Vec<Route>,
    /// These have no route any more.
    pub unrouted: Vec<InstanceKey>,
}

/// Owns the routing table. Acknowledgements and drains arrive as [`Report::Seen`] with `Routed` and `Drained`.
pub trait Router {
    fn set(&mut self, routes: &Routes<'_>);

    /// What was set since the last call goes out now, as one table.
    fn publish(&mut self);

    /// What was counted for the app until now; None when nobody can tell at the moment.
    fn counts(&mut self, app: &AppName) -> Option<Requests>;
}

/// Something the world reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Seen {
        app: AppName,
        instance: InstanceKey,
        fact: Fact,
    },
    /// The router refused or cannot reach what it needs; the text is for people. Empty: all is well again.
    RouterTrouble {
        app: AppName,
        text: String,
    },
}

impl Report {
    pub fn drained(app: AppName, instance: InstanceKey, proof: DrainProof) -> Self {
        Self::Seen { app, instance, fact: Fact::Drained { proof } }
    }
}
