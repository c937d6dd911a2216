//! What the world shall look like for a state: a pure function, so that carrying it out twice is carrying it out once,
//! and recovery is carrying it out again.

use std::collections::BTreeMap;

use trundle_core::ids::{InstanceKey, RevisionNumber};
use trundle_core::settings::Listen;
use trundle_core::state::{AppState, Instance, Phase};

use crate::ports::{Kept, Route, RouteState};

/// The whole of what the driver and the router are told about one app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub revisions: BTreeMap<RevisionNumber, WantedInstances>,
    pub routes: Vec<Route>,
    pub listen: Option<Listen>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedInstances {
    pub keep: Vec<Kept>,
    pub victims: Vec<InstanceKey>,
}

impl Wanted {
    pub fn of(state: &AppState) -> Self {
        // The door stays open until the last instance has left.
        let open = !state.is_down() || state.totals().live() > 0;
        let listen = state.settings().and_then(|s| s.listen.clone()).filter(|_| open);
        let mut wanted = Self { listen, ..Self::default() };
        for instance in state.instances() {
            let of_revision = wanted.revisions.entry(instance.key().revision).or_default();
            let kept = |probe| Kept { instance: instance.key(), probe, was_ready: instance.was_ever_ready() };
            match instance.phase() {
                Phase::Intended | Phase::Starting | Phase::Ready | Phase::Unready | Phase::Unknown => {
                    of_revision.keep.push(kept(true));
                }
                // It finishes its requests, or is kept for inspection: its health matters no more.
                Phase::Draining | Phase::Failed => {
                    of_revision.keep.push(kept(false));
                }
                Phase::Stopping => of_revision.victims.push(instance.key()),
            }
            wanted.routes.extend(route(state, instance));
        }
        wanted
    }
}

fn route(state: &AppState, instance: &Instance) -> Option<Route> {
    let route_state = match instance.phase() {
        Phase::Ready => RouteState::Routed,
        Phase::Unready | Phase::Unknown => RouteState::Unready,
        Phase::Failed if instance.was_ever_ready() && !instance.has_exited() => RouteState::Unready,
        Phase::Draining => RouteState::Draining,
        Phase::Stopping if instance.is_cut() => RouteState::Cut,
        Phase::Intended | Phase::Starting | Phase::Stopping | Phase::Failed => return None,
    };
    Some(Route {
        instance: instance.key(),
        incarnation: instance.incarnation()?.to_owned(),
        version: state.version_of(instance.key().revision),
        address: instance.address()?.to_owned(),
        state: route_state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use trundle_core::event::{Action, Event, Fact, StartPurpose};
    use trundle_core::ids::AppName;

    #[test]
    fn what_was_ready_once_is_told_so_for_good() {
        let instance: InstanceKey = "1-1".parse().expect("a key");
        let mut state = AppState::new("web".parse::<AppName>().expect("a name"));
        let mut told = |event: Event| {
            state.apply(0, &event);
            Wanted::of(&state).revisions[&instance.revision].keep.clone()
        };
        let kept = |was_ready| vec![Kept { instance, probe: true, was_ready }];
        let start = Action::Start { instance, purpose: StartPurpose::Roll };
        assert_eq!(told(Event::Decided(start)), kept(false));
        let saw = |fact| Event::Observed { instance, fact };
        let started = Fact::Started { pid: 1, address: None, incarnation: "a".to_owned() };
        assert_eq!(told(saw(started)), kept(false));
        assert_eq!(told(saw(Fact::Ready)), kept(true));
        assert_eq!(told(saw(Fact::Unready)), kept(true), "a hung one is no new one");
    }
}
