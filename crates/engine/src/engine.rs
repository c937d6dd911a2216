//! The loop's body: one turn takes inputs, decides until at rest, makes it durable, and only then acts.

mod acting;

use std::collections::{BTreeMap, BTreeSet};

use trundle_core::Millis;
use trundle_core::decide;
use trundle_core::event::{Action, Command, Event, Evidence, Fact};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::invariants::{self, Violation, Witness};
use trundle_core::settings::Listen;
use trundle_core::state::{
    AppState, Class, GateState, Instance, Phase, Refusal, Request, RolloutState, Step, Window,
};

use crate::chronicle::Chronicle;
use crate::effects::Told;
use crate::journal::{Entry, JournalError, Store};
use crate::ports::{Driver, Fence, Report, Router};

/// What comes in.
pub enum Input {
    Report(Report),
    Request { app: AppName, by: String, request: Request, reply: Reply },
}

/// Where the answer to a request goes, once it is durable.
pub type Reply = Box<dyn FnOnce(Result<Step, Denied>) + Send>;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The state does not allow it now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("there is no app called {0}; `trundle status` lists them")]
    NoSuchApp(AppName),
    /// The journal cannot be written: nothing was changed.
    #[error("{0}")]
    Trouble(String),
}

/// What a turn left behind.
#[derive(Debug, Default)]
pub struct Turn {
    /// When to turn again without an input, on the journal's clock.
    pub wake_at: Option<Millis>,
    /// What was made durable.
    pub entries: Vec<Entry>,
}

/// How often an unwritable journal is tried again.
const RETRY_MS: Millis = 1_000;
/// After a restart, how long decisions wait for the driver to say what became of what it kept.
const OBSERVE_MS: Millis = 10_000;
/// While deadlines run, at most this much watched time is lost with a daemon that is killed.
const KEEP_TIME_MS: Millis = 250;
/// Passes of one decision in one turn. A healthy one needs a handful.
const MOST_PASSES: usize = 10_000;

pub struct Engine<S, D, R> {
    store: S,
    driver: D,
    router: R,
    apps: BTreeMap<AppName, App>,
    fence: Fence,
    last_n: u64,
    /// Decided and applied, but not durable: nothing of it has had an effect.
    unwritten: Vec<Entry>,
    /// Made durable in this turn.
    written: Vec<Entry>,
    /// The journal's clock is durable up to here.
    kept_until: Millis,
    trouble: Option<String>,
}

/// One app with what was last told about it.
pub struct App {
    pub state: AppState,
    pub chronicle: Chronicle,
    pub router_trouble: Option<String>,
    /// What the driver and the router were told last, of each instance that lives.
    told: Told,
    told_listen: Option<Listen>,
    told_window: Window,
    told_gates: Vec<GateState>,
    /// What its instances read of its gates is not what it should be.
    pub gate_trouble: Option<String>,
    /// Events named these since they were told of.
    touched: Vec<InstanceKey>,
    /// Told nothing yet in this life of the daemon.
    fresh: bool,
    /// Observe first: these were alive, and nobody has seen them since the restart.
    awaited: BTreeSet<InstanceKey>,
    awaited_until: Millis,
    /// A bug of ours that would come again: no more decisions until a restart.
    stuck: bool,
}

impl App {
    fn new(name: AppName) -> Self {
        Self {
            state: AppState::new(name),
            chronicle: Chronicle::default(),
            router_trouble: None,
            told: Told::default(),
            told_listen: None,
            told_window: Window::default(),
            told_gates: Vec::new(),
            gate_trouble: None,
            touched: Vec::new(),
            fresh: true,
            awaited: BTreeSet::new(),
            awaited_until: 0,
            stuck: false,
        }
    }
}

/// All apps of a journal, as they were when its last entry was written.
pub fn fold_all(entries: &[Entry]) -> BTreeMap<AppName, App> {
    let mut apps = BTreeMap::new();
    for entry in entries {
        fold(&mut apps, entry);
    }
    apps
}

fn fold<'a>(apps: &'a mut BTreeMap<AppName, App>, entry: &Entry) -> &'a App {
    let app = apps.entry(entry.app.clone()).or_insert_with(|| App::new(entry.app.clone()));
    let routed = |state: &AppState| {
        entry.event.instance().filter(|key| state.instance(*key).is_some_and(Instance::is_routed))
    };
    let was_routed = routed(&app.state);
    // Commands have no instance, and some let those go that are kept.
    let kept = if entry.event.instance().is_none() { app.state.kept() } else { Vec::new() };
    app.state.apply(entry.at_ms, &entry.event);
    if let Some(key) = was_routed.filter(|_| routed(&app.state).is_none()) {
        app.told.doubt(key);
    }
    let is_kept = |key: &InstanceKey| app.state.instance(*key).is_some_and(Instance::is_kept);
    app.touched.extend(kept.into_iter().filter(|key| !is_kept(key)));
    app.touched.extend(entry.event.instance());
    app.chronicle.note(entry, &app.state);
    app
}

impl<S: Store, D: Driver, R: Router> Engine<S, D, R> {
    /// Reads the journal and begins a new epoch. Nothing is done before the first turn.
    ///
    /// # Errors
    /// When the journal cannot be read, or the epoch not be made durable.
    pub fn recover(
        mut store: S,
        driver: D,
        router: R,
        boot_id: &str,
        wall_ms: u64,
    ) -> Result<Self, JournalError> {
        let entries = store.load()?;
        let last_boot = store.boot_id()?;
        let epoch = store.begin_epoch()?;
        let mut engine = Self {
            store,
            driver,
            router,
            apps: BTreeMap::new(),
            fence: Fence { epoch, n: 0 },
            last_n: 0,
            unwritten: Vec::new(),
            written: Vec::new(),
            kept_until: 0,
            trouble: None,
        };
        for entry in &entries {
            fold(&mut engine.apps, entry);
            engine.last_n = entry.n;
        }
        let now = entries.last().map_or(0, |e| e.at_ms).max(engine.store.kept_time()?);
        engine.kept_until = now;
        let rebooted = last_boot.as_deref().is_some_and(|last| last != boot_id);
        let names: Vec<_> = engine.apps.keys().cloned().collect();
        for name in names {
            if rebooted {
                engine.record(now, wall_ms, &name, Event::Rebooted);
            }
            let broken = engine.apps.get(&name).and_then(|app| invariants::scan(&app.state).err());
            let broken = broken.map(|detail| Violation { invariant: "books", detail });
            engine.note_broken(now, wall_ms, &name, broken);
            if let Some(app) = engine.apps.get_mut(&name) {
                app.state.advance(now);
                app.awaited = app.state.instances().filter(|i| is_up(i.phase())).map(|i| i.key()).collect();
                app.awaited_until = now + OBSERVE_MS;
            }
        }
        if last_boot.as_deref() != Some(boot_id) {
            // First what the new boot means, then that it was seen: a daemon that dies in between finds the same again.
            engine.store.append(&engine.unwritten)?;
            engine.unwritten.clear();
            engine.store.set_boot_id(boot_id)?;
        }
        Ok(engine)
    }

    /// The journal's time as the last daemon left it.
    pub fn last_at(&self) -> Millis {
        self.apps.values().map(|app| app.state.now()).max().unwrap_or(0)
    }

    pub fn apps(&self) -> &BTreeMap<AppName, App> {
        &self.apps
    }

    /// Why nothing can be made durable, if so.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// One turn at the journal's time `now`. `wall_ms` is for display only.
    pub fn turn(&mut self, now: Millis, wall_ms: u64, inputs: Vec<Input>) -> Turn {
        let mut touched: BTreeSet<AppName> = BTreeSet::new();
        for input in inputs {
            self.take(now, wall_ms, input, &mut touched);
        }
        for (name, app) in &mut self.apps {
            let due = app.state.next_timer_at().is_some_and(|at| at <= now);
            let observed = !app.awaited.is_empty() && now >= app.awaited_until;
            if due || observed || app.fresh {
                app.state.advance(now);
                touched.insert(name.clone());
            }
        }
        for name in &touched {
            self.route_the_ready(name);
        }
        self.router.publish();
        for name in &touched {
            self.settle(now, wall_ms, name);
        }
        self.write();
        let entries = std::mem::take(&mut self.written);
        if self.trouble.is_none() {
            for name in self.apps.keys().cloned().collect::<Vec<_>>() {
                let has_trouble = self.apps.get(&name).is_some_and(|app| app.gate_trouble.is_some());
                if touched.contains(&name) || !entries.is_empty() || has_trouble {
                    self.act(&name);
                }
            }
            self.router.publish();
        }
        let wake_at = self.keep_time(now, &entries);
        Turn { wake_at, entries }
    }

    fn take(&mut self, now: Millis, wall_ms: u64, input: Input, touched: &mut BTreeSet<AppName>) {
        match input {
            Input::Report(Report::Seen { app, instance, fact }) => {
                let Some(known) = self.apps.get_mut(&app) else { return };
                if fact_is_conclusive(&fact) && known.awaited.remove(&instance) && known.awaited.is_empty() {
                    // Decisions waited for this one, also when it brings no news.
                    touched.insert(app.clone());
                }
                if known.state.is_news(instance, &fact) {
                    self.record(now, wall_ms, &app, Event::Observed { instance, fact });
                    touched.insert(app);
                }
            }
            Input::Report(Report::RouterTrouble { app, text }) => {
                if let Some(known) = self.apps.get_mut(&app) {
                    known.router_trouble = Some(text).filter(|t| !t.is_empty());
                }
            }
            Input::Request { app, by, request, reply } => {
                let answer = self.ask(now, wall_ms, &app, &by, &request);
                if answer.is_ok() && self.apps.contains_key(&app) {
                    touched.insert(app);
                }
                reply(answer);
            }
        }
    }

    /// What a person asks for is durable before it counts, and before they are told so.
    fn ask(
        &mut self,
        now: Millis,
        wall_ms: u64,
        app: &AppName,
        by: &str,
        request: &Request,
    ) -> Result<Step, Denied> {
        let step = match self.apps.get_mut(app) {
            Some(known) => {
                known.state.advance(now);
                known.state.permit(request)?
            }
            None if matches!(request, Request::Deploy(_)) => AppState::new(app.clone()).permit(request)?,
            None => return Err(Denied::NoSuchApp(app.clone())),
        };
        self.write();
        if let Some(trouble) = &self.trouble {
            return Err(Denied::Trouble(trouble.clone()));
        }
        let commands = step.commands.iter().zip(self.last_n + 1..).map(|(command, n)| Entry {
            n,
            epoch: self.fence.epoch,
            app: app.clone(),
            at_ms: now,
            wall_ms,
            event: Event::Commanded { by: by.to_owned(), command: command.clone() },
        });
        let entries: Vec<Entry> = commands.collect();
        if let Err(error) = self.store.append(&entries) {
            self.trouble = Some(error.to_string());
            return Err(Denied::Trouble(error.to_string()));
        }
        let rolls = step.commands.iter().any(|command| matches!(command, Command::Roll { .. }));
        for entry in entries {
            let broken = self.fold(&entry);
            self.written.push(entry);
            self.note_broken(now, wall_ms, app, broken);
        }
        if rolls {
            self.count(now, wall_ms, app);
        }
        Ok(step)
    }

    /// Decides until there is nothing more to do. Nothing has an effect yet.
    fn settle(&mut self, now: Millis, wall_ms: u64, name: &AppName) {
        for _ in 0..MOST_PASSES {
            let Some(app) = self.apps.get_mut(name) else { return };
            if app.stuck || (!app.awaited.is_empty() && now < app.awaited_until) {
                return;
            }
            app.awaited.clear();
            let actions = decide::actions(&app.state);
            if actions.is_empty() {
                return;
            }
            if let Err(violation) = invariants::check(&app.state, &actions) {
                // Twice in a row means that halting does not help: then stand still altogether.
                app.stuck = app.state.is_halted() || app.state.open_rollout().is_none();
                let event = Event::InvariantBroken {
                    invariant: violation.invariant.to_owned(),
                    detail: violation.detail,
                };
                self.record(now, wall_ms, name, event);
                continue;
            }
            for action in actions {
                let ends = matches!(action, Action::Conclude { .. });
                self.record(now, wall_ms, name, Event::Decided(action));
                if ends {
                    self.count(now, wall_ms, name);
                }
            }
        }
        if let Some(app) = self.apps.get_mut(name) {
            app.stuck = true;
        }
    }

    fn count(&mut self, now: Millis, wall_ms: u64, name: &AppName) {
        if let Some(requests) = self.router.counts(name) {
            self.record(now, wall_ms, name, Event::Counted { requests: Box::new(requests) });
        }
    }

    /// Applies an event and remembers it to be written. A failure brings its evidence along.
    fn record(&mut self, now: Millis, wall_ms: u64, name: &AppName, event: Event) {
        let n = self.last_n + 1;
        let entry = Entry { n, epoch: self.fence.epoch, app: name.clone(), at_ms: now, wall_ms, event };
        let failures = |app: &App| app.state.open_rollout().map_or(0, |r| r.failures_in_all);
        let before = self.apps.get(name).map_or(0, failures);
        let broken = self.fold(&entry);
        self.unwritten.push(entry);
        self.note_broken(now, wall_ms, name, broken);
        let failed = self.apps.get(name).and_then(|app| {
            let rollout = app.state.open_rollout()?;
            (rollout.failures_in_all > before).then(|| rollout.records.last().map(|r| r.instance)).flatten()
        });
        if let Some(instance) = failed {
            let mut evidence = self.driver.evidence(name, instance);
            evidence.base_shows_it_too = self.base_shows_it_too(name, instance, &evidence);
            self.record(now, wall_ms, name, Event::Evidence { instance, evidence: Box::new(evidence) });
        }
    }

    /// Whether an instance of the base fails its check with the same answer now: then the cause is outside.
    fn base_shows_it_too(
        &mut self,
        name: &AppName,
        failed: InstanceKey,
        evidence: &Evidence,
    ) -> Option<bool> {
        let said = evidence.probe.as_ref()?;
        let state = &self.apps.get(name)?.state;
        let base = state.base().filter(|base| *base != failed.revision)?;
        let unready: Vec<_> = state.book(base)?.members(Class::Unready).take(3).collect();
        let same = |key: &InstanceKey| {
            let of_base = self.driver.evidence(name, *key).probe;
            of_base.is_some_and(|probe| (probe.status, &probe.error) == (said.status, &said.error))
        };
        Some(unready.iter().any(same))
    }

    /// Applies an entry, and answers with the invariant that it broke, if so.
    fn fold(&mut self, entry: &Entry) -> Option<Violation> {
        self.last_n = entry.n;
        let before = self.apps.get(&entry.app).map(|app| Witness::new(&app.state, entry.at_ms, &entry.event));
        let after = fold(&mut self.apps, entry);
        before?.check(&entry.event, &after.state).err()
    }

    /// Too late to prevent it: the rollout stops and a person is asked.
    fn note_broken(&mut self, now: Millis, wall_ms: u64, name: &AppName, broken: Option<Violation>) {
        if let Some(Violation { invariant, detail }) = broken {
            let event = Event::InvariantBroken { invariant: invariant.to_owned(), detail };
            self.record(now, wall_ms, name, event);
        }
    }

    /// Makes everything durable in one transaction.
    fn write(&mut self) {
        if self.unwritten.is_empty() && self.trouble.is_none() {
            return;
        }
        match self.store.append(&self.unwritten) {
            Ok(()) => {
                self.trouble = None;
                self.written.append(&mut self.unwritten);
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    /// While deadlines run the clock is made durable several times a second; answers when to turn again.
    fn keep_time(&mut self, now: Millis, entries: &[Entry]) -> Option<Millis> {
        if let Some(last) = entries.last() {
            self.kept_until = self.kept_until.max(last.at_ms);
        }
        let wake_at = self.wake_at(now);
        if !self.apps.values().any(|app| deadlines_run(&app.state)) {
            return wake_at;
        }
        // What fails here is lost time only; the next append tells of a disk in trouble.
        if now >= self.kept_until + KEEP_TIME_MS && self.store.keep_time(now).is_ok() {
            self.kept_until = now;
        }
        Some(wake_at.unwrap_or(Millis::MAX).min(now + KEEP_TIME_MS))
    }

    fn wake_at(&self, now: Millis) -> Option<Millis> {
        let has_trouble = self.trouble.is_some() || self.apps.values().any(|app| app.gate_trouble.is_some());
        let retry = has_trouble.then_some(now + RETRY_MS);
        let apps = self.apps.values().flat_map(|app| {
            let awaited = (!app.awaited.is_empty()).then_some(app.awaited_until);
            app.state.next_timer_at().into_iter().chain(awaited)
        });
        apps.chain(retry).min()
    }
}

/// Somebody waits for time to pass: a rollout that runs, an instance on its way up or out.
fn deadlines_run(state: &AppState) -> bool {
    let rolls = state.open_rollout().is_some_and(|r| r.state != RolloutState::Paused);
    rolls || [Class::Starting, Class::Draining].iter().any(|class| state.totals().of(*class) > 0)
}

/// It was seen ready once: whether it still is, the driver says first.
fn is_up(phase: Phase) -> bool {
    matches!(phase, Phase::Ready | Phase::Unready)
}

/// After it, everybody knows what became of the instance.
fn fact_is_conclusive(fact: &Fact) -> bool {
    match fact {
        Fact::Ready
        | Fact::Unready
        | Fact::NotLive
        | Fact::Exited(_)
        | Fact::Gone
        | Fact::StartRefused { .. }
        | Fact::Unknown
        | Fact::Drained { .. } => true,
        Fact::Started { .. } | Fact::Routed(_) | Fact::Released => false,
    }
}
