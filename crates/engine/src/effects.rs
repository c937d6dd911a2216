//! What the world shall look like for a state: a pure function of each instance, so that carrying it out twice is carrying
//! it out once, and recovery is carrying all of it out again.

use std::collections::BTreeMap;

use trundle_core::ids::{InstanceKey, RevisionNumber};
use trundle_core::settings::Listen;
use trundle_core::state::{AppState, Instance, Phase, Window};

use crate::ports::{Kept, Route, RouteState};

/// What the driver and the router shall make of one instance, in so few words that what was told can be remembered of
/// each: only what differs is told again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    pub process: Option<ProcessShape>,
    pub route: Option<RouteState>,
    /// It was out of the table by what was seen since, so that even the same has to be told again: one that turns unready
    /// and ready within a turn would else wait for an acknowledgement of nothing.
    pub doubtful: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessShape {
    Keep { probe: bool, was_ready: bool },
    End,
}

/// What was told last of each instance: by revision and place, of each place the attempt that was told of last.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<RevisionNumber, Vec<(u32, Shape)>>);

impl Told {
    pub fn of(&self, key: InstanceKey) -> Shape {
        let told = self.0.get(&key.revision).and_then(|places| places.get(key.slot as usize));
        told.filter(|(attempt, _)| *attempt == key.attempt).map(|(_, shape)| *shape).unwrap_or_default()
    }

    /// Nobody can tell any more how it is routed.
    pub fn doubt(&mut self, key: InstanceKey) {
        let shape = self.of(key);
        if shape.route.is_some() {
            self.set(key, Shape { doubtful: true, ..shape });
        }
    }

    /// Revisions that the state has forgotten.
    pub fn forget(&mut self, state: &AppState) {
        self.0.retain(|revision, _| state.book(*revision).is_some());
    }

    pub fn set(&mut self, key: InstanceKey, shape: Shape) {
        let places = self.0.entry(key.revision).or_default();
        let at = key.slot as usize;
        if places.len() <= at {
            places.resize(at + 1, (0, Shape::default()));
        }
        // What is said last of an older attempt does not undo what was told of the newer.
        if places[at].0 <= key.attempt {
            places[at] = (key.attempt, shape);
        }
    }
}

/// Of one that is gone nothing is wanted.
pub fn shape(instance: Option<&Instance>) -> Shape {
    instance.map_or(Shape::default(), |i| Shape {
        process: Some(process_shape(i)),
        route: route_state(i),
        doubtful: false,
    })
}

fn process_shape(instance: &Instance) -> ProcessShape {
    let was_ready = instance.was_ever_ready();
    match instance.phase() {
        Phase::Intended | Phase::Starting | Phase::Ready | Phase::Unready | Phase::Unknown => {
            ProcessShape::Keep { probe: true, was_ready }
        }
        // It finishes its requests, or is kept for inspection: its health matters no more.
        Phase::Draining | Phase::Failed => ProcessShape::Keep { probe: false, was_ready },
        Phase::Stopping => ProcessShape::End,
    }
}

fn route_state(instance: &Instance) -> Option<RouteState> {
    if instance.address().is_none() || instance.incarnation().is_none() {
        return None;
    }
    match instance.phase() {
        Phase::Ready => Some(RouteState::Routed),
        Phase::Unready | Phase::Unknown => Some(RouteState::Unready),
        Phase::Failed if instance.was_ever_ready() && !instance.has_exited() => Some(RouteState::Unready),
        Phase::Draining if instance.is_kept() => Some(RouteState::Kept),
        Phase::Draining => Some(RouteState::Draining),
        Phase::Stopping if instance.is_cut() => Some(RouteState::Cut),
        Phase::Intended | Phase::Starting | Phase::Stopping | Phase::Failed => None,
    }
}

/// What differs from what was told, in the words of the ports.
#[derive(Debug, Default)]
pub struct Changes {
    pub processes: BTreeMap<RevisionNumber, ProcessChanges>,
    pub routes: Vec<Route>,
    /// They have no route any more.
    pub unrouted: Vec<InstanceKey>,
}

#[derive(Debug, Default)]
pub struct ProcessChanges {
    pub keep: Vec<Kept>,
    pub victims: Vec<InstanceKey>,
}

impl Changes {
    /// Notes what of `key` was told as `told` and is wanted now; answers with the shape that is told with this.
    pub fn note(&mut self, state: &AppState, key: InstanceKey, told: Shape) -> Shape {
        let instance = state.instance(key);
        let now = shape(instance);
        if now.process != told.process {
            self.process(key, now.process);
        }
        if now.route != told.route || told.doubtful {
            match route(state, key, instance, now.route) {
                Some(route) => self.routes.push(route),
                None => self.unrouted.push(key),
            }
        }
        now
    }

    fn process(&mut self, key: InstanceKey, wanted: Option<ProcessShape>) {
        let of_revision = self.processes.entry(key.revision).or_default();
        match wanted {
            Some(ProcessShape::Keep { probe, was_ready }) => {
                of_revision.keep.push(Kept { instance: key, probe, was_ready });
            }
            Some(ProcessShape::End) => of_revision.victims.push(key),
            // It ended, and the driver said so.
            None => {}
        }
    }
}

/// The whole route, in the words of the port.
pub fn route(
    state: &AppState,
    key: InstanceKey,
    instance: Option<&Instance>,
    wanted: Option<RouteState>,
) -> Option<Route> {
    let instance = instance?;
    Some(Route {
        instance: key,
        incarnation: instance.incarnation()?.clone(),
        version: state.label_of(key.revision),
        address: instance.address()?.clone(),
        protocol: state.revision(key.revision).map(|r| r.template.run.protocol).unwrap_or_default(),
        state: wanted?,
    })
}

/// Where requests are taken: the door stays open until the last instance has left.
pub fn listen(state: &AppState) -> Option<&Listen> {
    let open = !state.is_down() || state.totals().live() > 0;
    state.settings().and_then(|s| s.listen.as_ref()).filter(|_| open)
}

/// The order of versions for clients, where it is of use to them.
pub fn window(state: &AppState) -> Window {
    let window = state.window();
    let sets_it_up = state.settings().and_then(|s| s.listen.as_ref()).is_some_and(|l| l.traffic.is_some());
    if sets_it_up || window.share.is_some() { window } else { Window::default() }
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
            shape(state.instance(instance)).process
        };
        let kept = |was_ready| Some(ProcessShape::Keep { probe: true, was_ready });
        let start = Action::Start { instance, purpose: StartPurpose::Roll };
        assert_eq!(told(Event::Decided(start)), kept(false));
        let saw = |fact| Event::Observed { instance, fact };
        let started = Fact::Started { pid: 1, address: None, incarnation: "a".into() };
        assert_eq!(told(saw(started)), kept(false));
        assert_eq!(told(saw(Fact::Ready)), kept(true));
        assert_eq!(told(saw(Fact::Unready)), kept(true), "a hung one is no new one");
    }
}
