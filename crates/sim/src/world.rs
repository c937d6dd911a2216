//! What outlives a daemon: processes that start, serve, die and stop, and a router that keeps its last table. Behind the
//! engine's own ports; everything it says comes later, by the queue.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use trundle_core::Millis;
use trundle_core::event::{DrainProof, Evidence, Exit, Fact, RefusalCode, Requests};
use trundle_core::ids::{AppName, InstanceKey, RevisionNumber};
use trundle_engine::ports::{Capabilities, Driver, Ensure, Fence, Report, RouteState, Router, Routes};

use crate::queue::Queue;
use crate::setup::Setup;

/// What becomes of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Ready after this.
    Ready(Millis),
    /// Ends with code 1 after this.
    Exits(Millis),
    /// Runs, and is never ready.
    Never,
    /// It cannot even be started.
    Refused,
}

/// Says what becomes of each start: its key, and which start of its revision it is, from 1.
pub type Fates = Box<dyn FnMut(InstanceKey, u32, &mut fastrand::Rng) -> Fate>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happening {
    Up(InstanceKey),
    Dies(InstanceKey),
    Stopped(InstanceKey),
    Drained(InstanceKey),
    Tell(InstanceKey, Word),
}

/// What is told without anything happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Started,
    Ready,
    Unready,
    Exited,
    Gone,
    Refused,
    Routed,
}

#[derive(Debug, Clone, Copy)]
struct Process {
    alive: bool,
    ready: bool,
    refused: bool,
    /// The end was ordered.
    ending: bool,
    route: Option<RouteState>,
    /// The daemon that was told of it last.
    told_epoch: u64,
    pid: u32,
}

impl Process {
    fn serves(&self) -> bool {
        self.alive && self.ready && self.route == Some(RouteState::Routed)
    }
}

/// By revision and place; of each place the newest, which is the only one that can be alive.
#[derive(Debug, Default)]
struct Processes(BTreeMap<RevisionNumber, Vec<Option<(InstanceKey, Process)>>>);

impl Processes {
    fn get(&self, key: InstanceKey) -> Option<&Process> {
        let known = self.0.get(&key.revision)?.get(key.slot as usize)?.as_ref()?;
        (known.0 == key).then_some(&known.1)
    }

    fn get_mut(&mut self, key: InstanceKey) -> Option<&mut Process> {
        let known = self.0.get_mut(&key.revision)?.get_mut(key.slot as usize)?.as_mut()?;
        (known.0 == key).then_some(&mut known.1)
    }

    /// Answers with the one that stood there.
    fn insert(&mut self, key: InstanceKey, process: Process) -> Option<(InstanceKey, Process)> {
        let places = self.0.entry(key.revision).or_default();
        let at = key.slot as usize;
        if places.len() <= at {
            places.resize_with(at + 1, || None);
        }
        places[at].replace((key, process))
    }

    fn iter(&self) -> impl Iterator<Item = (InstanceKey, &Process)> {
        self.0.values().flatten().flatten().map(|(key, process)| (*key, process))
    }
}

pub struct World {
    pub app: AppName,
    pub now: Millis,
    pub chance: fastrand::Rng,
    pub fates: Fates,
    setup: Setup,
    processes: Processes,
    address: Arc<str>,
    starts: BTreeMap<RevisionNumber, u32>,
    queue: Queue<Happening>,
    epoch: u64,
    pids: u32,
    /// Alive, ready and in the table, counted where the requests would be.
    pub serving: u32,
    pub alive: u32,
    /// Something happened to an instance by itself: fewer may serve, and the engine did nothing wrong.
    pub disturbed: bool,
    /// One was stopped that was still in the table, or two stood under one name.
    pub broken: Vec<String>,
}

impl World {
    pub fn new(app: AppName, setup: Setup, fates: Fates) -> Self {
        Self {
            app,
            now: 0,
            chance: fastrand::Rng::with_seed(setup.seed),
            fates,
            setup,
            processes: Processes::default(),
            address: "sim".into(),
            starts: BTreeMap::new(),
            queue: Queue::default(),
            epoch: 0,
            pids: 0,
            serving: 0,
            alive: 0,
            disturbed: false,
            broken: Vec::new(),
        }
    }

    pub fn next_at(&self) -> Option<Millis> {
        self.queue.next_at()
    }

    /// What happens by `now`, and what of it is told.
    pub fn happens(&mut self, reports: &mut Vec<Report>) {
        while let Some(happening) = self.queue.pop(self.now) {
            if let Some((instance, fact)) = self.happen(happening) {
                reports.push(Report::Seen { app: self.app.clone(), instance, fact });
            }
        }
    }

    fn happen(&mut self, happening: Happening) -> Option<(InstanceKey, Fact)> {
        match happening {
            Happening::Up(key) => {
                self.change(key, |p| p.ready = p.alive);
                self.processes.get(key).is_some_and(|p| p.alive).then_some((key, Fact::Ready))
            }
            Happening::Dies(key) => {
                let lived = self.processes.get(key).is_some_and(|p| p.alive && !p.ending);
                if !lived {
                    return None;
                }
                self.end(key);
                Some((key, Fact::Exited(Exit { code: Some(1), signal: None })))
            }
            Happening::Stopped(key) => {
                let routed = self.processes.get(key).is_some_and(Process::serves);
                if routed {
                    self.broken.push(format!("{key} was stopped while it took requests"));
                }
                self.end(key);
                Some((key, Fact::Gone))
            }
            Happening::Drained(key) => {
                let drains = self
                    .processes
                    .get(key)
                    .is_some_and(|p| matches!(p.route, Some(RouteState::Draining | RouteState::Kept)));
                drains.then_some((key, Fact::Drained { proof: DrainProof::Proven }))
            }
            Happening::Tell(key, word) => Some((key, self.say(key, word)?)),
        }
    }

    fn say(&self, key: InstanceKey, word: Word) -> Option<Fact> {
        let process = self.processes.get(key);
        let alive = process.is_some_and(|p| p.alive);
        match word {
            Word::Started => process.map(|p| Fact::Started {
                pid: p.pid,
                address: Some(Arc::clone(&self.address)),
                incarnation: Arc::clone(&self.address),
            }),
            Word::Ready => (alive && process.is_some_and(|p| p.ready)).then_some(Fact::Ready),
            Word::Unready => alive.then_some(Fact::Unready),
            Word::Exited => (!alive).then_some(Fact::Exited(Exit { code: Some(1), signal: None })),
            Word::Gone => (!alive).then_some(Fact::Gone),
            Word::Refused => {
                Some(Fact::StartRefused { code: RefusalCode::System, text: "refused".to_owned() })
            }
            Word::Routed => {
                process.is_some_and(|p| p.route == Some(RouteState::Routed)).then_some(Fact::Routed(true))
            }
        }
    }

    /// Every change of a process goes through here, so that the counts are right.
    fn change(&mut self, key: InstanceKey, with: impl FnOnce(&mut Process)) {
        let Some(process) = self.processes.get_mut(key) else { return };
        let (served, lived) = (process.serves(), process.alive);
        with(process);
        self.serving = self.serving + u32::from(process.serves()) - u32::from(served);
        self.alive = self.alive + u32::from(process.alive) - u32::from(lived);
    }

    fn end(&mut self, key: InstanceKey) {
        self.change(key, |p| (p.alive, p.ready) = (false, false));
    }

    fn begin(&mut self, key: InstanceKey) {
        let nth = self.starts.entry(key.revision).or_default();
        *nth += 1;
        let fate = (self.fates)(key, *nth, &mut self.chance);
        self.pids += 1;
        let process = Process {
            alive: false,
            ready: false,
            refused: fate == Fate::Refused,
            ending: false,
            route: None,
            told_epoch: self.epoch,
            pid: self.pids,
        };
        if let Some((before, _)) = self.processes.insert(key, process).filter(|(_, p)| p.alive) {
            self.broken.push(format!("{key} was started where {before} is alive"));
        }
        if fate == Fate::Refused {
            self.queue.push(self.now, Happening::Tell(key, Word::Refused));
            return;
        }
        self.change(key, |p| p.alive = true);
        self.queue.push(self.now, Happening::Tell(key, Word::Started));
        match fate {
            Fate::Ready(after) => self.queue.push(self.now + after, Happening::Up(key)),
            Fate::Exits(after) => self.queue.push(self.now + after, Happening::Dies(key)),
            Fate::Never | Fate::Refused => {}
        }
    }

    fn keep(&mut self, key: InstanceKey) {
        let epoch = self.epoch;
        let Some(process) = self.processes.get_mut(key) else { return self.begin(key) };
        if process.told_epoch == epoch {
            return;
        }
        // A new daemon asks: it is told how things stand.
        process.told_epoch = epoch;
        let words = match (process.refused, process.alive, process.ready) {
            (true, _, _) => vec![Word::Refused],
            (false, false, _) => vec![Word::Exited],
            (false, true, true) => vec![Word::Started, Word::Ready],
            (false, true, false) => vec![Word::Started, Word::Unready],
        };
        for word in words {
            self.queue.push(self.now, Happening::Tell(key, word));
        }
    }

    fn stop(&mut self, key: InstanceKey) {
        let (alive, ending) = self.processes.get(key).map_or((false, false), |p| (p.alive, p.ending));
        if !alive {
            self.queue.push(self.now, Happening::Tell(key, Word::Gone));
        } else if !ending {
            self.change(key, |p| p.ending = true);
            let after = self.setup.stop.draw(&mut self.chance);
            self.queue.push(self.now + after, Happening::Stopped(key));
        }
    }

    fn is_late(&mut self, fence: Fence) -> bool {
        let late = fence.epoch < self.epoch;
        self.epoch = self.epoch.max(fence.epoch);
        late
    }

    /// Some process that is alive.
    pub fn any_alive(&mut self) -> Option<InstanceKey> {
        let alive: Vec<_> = self.processes.iter().filter(|(_, p)| p.alive).map(|(key, _)| key).collect();
        (!alive.is_empty()).then(|| alive[self.chance.usize(..alive.len())])
    }

    /// It ends by itself, now.
    pub fn kill(&mut self, key: InstanceKey) {
        self.disturbed = true;
        self.queue.push(self.now, Happening::Dies(key));
    }

    /// It is not ready for a while.
    pub fn flap(&mut self, key: InstanceKey, for_ms: Millis) {
        self.disturbed = true;
        if self.processes.get(key).is_some_and(|p| p.alive && p.ready) {
            self.change(key, |p| p.ready = false);
            self.queue.push(self.now, Happening::Tell(key, Word::Unready));
            self.queue.push(self.now + for_ms, Happening::Up(key));
        }
    }

    /// The same word once more, or one that comes too late.
    pub fn repeat(&mut self, key: InstanceKey, after: Millis) {
        self.disturbed = true;
        let word = match self.chance.u8(..5) {
            0 => Word::Started,
            1 => Word::Ready,
            2 => Word::Exited,
            3 => Word::Gone,
            _ => Word::Routed,
        };
        self.queue.push(self.now + after, Happening::Tell(key, word));
    }

    /// The machine starts anew: nothing that ran runs.
    pub fn reboot(&mut self) {
        self.disturbed = true;
        self.queue.clear();
        let keys: Vec<_> = self.processes.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.change(key, |p| (p.alive, p.ready, p.route) = (false, false, None));
        }
    }
}

/// The world as the engine's driver and router see it.
#[derive(Clone)]
pub struct Handle(pub Rc<RefCell<World>>);

impl Driver for Handle {
    fn capabilities(&self) -> Capabilities {
        Capabilities { names: true, picks_victims: true, probes: true }
    }

    fn ensure(&mut self, command: &Ensure<'_>) {
        let mut world = self.0.borrow_mut();
        if world.is_late(command.fence) {
            return;
        }
        for kept in command.keep {
            world.keep(kept.instance);
        }
        for key in command.victims {
            world.stop(*key);
        }
    }

    fn evidence(&mut self, _: &AppName, _: InstanceKey) -> Evidence {
        Evidence::default()
    }
}

impl Router for Handle {
    fn set(&mut self, routes: &Routes<'_>) {
        let mut world = self.0.borrow_mut();
        if world.is_late(routes.fence) {
            return;
        }
        if routes.whole {
            let named: BTreeSet<_> = routes.routes.iter().map(|r| r.instance).collect();
            let routed = world.processes.iter().filter(|(key, p)| p.route.is_some() && !named.contains(key));
            let others: Vec<_> = routed.map(|(key, _)| key).collect();
            for key in others {
                world.change(key, |p| p.route = None);
            }
        }
        let now = world.now;
        for route in &routes.routes {
            let key = route.instance;
            world.change(key, |p| p.route = Some(route.state));
            match route.state {
                RouteState::Routed => world.queue.push(now, Happening::Tell(key, Word::Routed)),
                // Nobody has pages open there.
                RouteState::Draining | RouteState::Kept => {
                    let drain = world.setup.drain;
                    let after = drain.draw(&mut world.chance);
                    world.queue.push(now + after, Happening::Drained(key));
                }
                RouteState::Unready | RouteState::Cut => {}
            }
        }
        for key in &routes.unrouted {
            world.change(*key, |p| p.route = None);
        }
    }

    fn publish(&mut self) {}

    fn counts(&mut self, _: &AppName) -> Option<Requests> {
        None
    }
}
