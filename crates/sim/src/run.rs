//! The loop around the engine: virtual time goes to whatever happens next.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use trundle_core::Millis;
use trundle_core::ids::{AppName, BadName};
use trundle_core::state::{AppState, DeployRequest, Refusal, Request, RolloutState, Step as Answer};
use trundle_engine::journal::{Entry, JournalError};
use trundle_engine::{Denied, Engine, Input};

use crate::outcome::{Outcome, Steps, limit_ms};
use crate::setup::{Setup, template};
use crate::store::Disk;
use crate::world::{Fate, Fates, Handle, World};

type Watch = Box<dyn FnMut(&Entry, &AppState)>;
type SimEngine = Engine<Disk, Handle, Handle>;

/// One app in a simulated world.
pub struct Sim {
    pub world: Rc<RefCell<World>>,
    pub disk: Disk,
    engine: Option<SimEngine>,
    app: AppName,
    setup: Setup,
    boot: u32,
    /// When the engine wants to look again.
    wake_at: Option<Millis>,
    steps: Steps,
    watch: Option<Watch>,
}

impl Sim {
    /// The first version is not deployed yet.
    ///
    /// # Panics
    /// Never: the name is one.
    pub fn new(setup: Setup, disk: Disk) -> Self {
        let (start, failure) = (setup.start, setup.failure);
        let fates: Fates = Box::new(move |key, _, chance| {
            let after = start.draw(chance);
            match key.revision.0 > 1 && failure > 0.0 && chance.f64() < failure {
                true => Fate::Exits(after),
                false => Fate::Ready(after),
            }
        });
        Self::with_fates(setup, disk, fates)
    }

    /// With a say in what becomes of each start.
    ///
    /// # Panics
    /// Never: the name is one.
    pub fn with_fates(setup: Setup, disk: Disk, fates: Fates) -> Self {
        #[expect(clippy::unwrap_used, reason = "a constant that is a name")]
        let app: AppName = "web".parse().unwrap();
        let world = Rc::new(RefCell::new(World::new(app.clone(), setup.clone(), fates)));
        Self {
            world,
            disk,
            engine: None,
            app,
            setup,
            boot: 1,
            wake_at: None,
            steps: Steps::default(),
            watch: None,
        }
    }

    /// Sees every entry as it becomes durable, with the state after the turn.
    pub fn watch(&mut self, with: impl FnMut(&Entry, &AppState) + 'static) {
        self.watch = Some(Box::new(with));
    }

    /// A daemon begins: the first, or the next one.
    ///
    /// # Errors
    /// When the journal cannot be read, or it dies over its first write.
    pub fn start_daemon(&mut self) -> Result<(), JournalError> {
        let handle = Handle(Rc::clone(&self.world));
        let boot = format!("boot {}", self.boot);
        let recovered = Engine::recover(self.disk.clone(), handle.clone(), handle, &boot, self.now());
        self.disk.take_crash();
        let engine = recovered?;
        self.engine = Some(engine);
        self.turn(Vec::new());
        Ok(())
    }

    /// It is killed: what was on its way to it is lost.
    pub fn kill_daemon(&mut self) {
        self.engine = None;
        self.wake_at = None;
    }

    pub fn reboot(&mut self) {
        self.kill_daemon();
        self.boot += 1;
        self.world.borrow_mut().reboot();
    }

    pub fn has_daemon(&self) -> bool {
        self.engine.is_some()
    }

    pub fn now(&self) -> Millis {
        self.world.borrow().now
    }

    /// None before the first deploy, and without a daemon.
    pub fn state(&self) -> Option<&AppState> {
        self.engine.as_ref().and_then(|e| e.apps().get(&self.app)).map(|app| &app.state)
    }

    /// Brings a version on its way.
    ///
    /// # Errors
    /// When the version is no label.
    pub fn deploy(&mut self, version: &str) -> Result<Result<Answer, Denied>, BadName> {
        self.deploy_with(version, |_| ())
    }

    /// The same with other settings, or otherwise asked for.
    ///
    /// # Errors
    /// When the version is no label.
    pub fn deploy_with(
        &mut self,
        version: &str,
        change: impl FnOnce(&mut DeployRequest),
    ) -> Result<Result<Answer, Denied>, BadName> {
        let settings = self.setup.settings.clone();
        let template = template(version)?;
        let mut request = DeployRequest::new(template, settings);
        change(&mut request);
        Ok(self.ask(Request::Deploy(Box::new(request))))
    }

    /// As a person would.
    ///
    /// # Errors
    /// What the engine denies, and that nobody is there to ask.
    pub fn ask(&mut self, request: Request) -> Result<Answer, Denied> {
        let (answer, answers) = std::sync::mpsc::channel();
        // Nobody waits if the daemon dies over it.
        let reply = Box::new(move |said| drop(answer.send(said)));
        self.turn(vec![Input::Request { app: self.app.clone(), by: "sim".to_owned(), request, reply }]);
        answers.try_recv().unwrap_or_else(|_| Err(Denied::Refused(Refusal("no daemon answers".to_owned()))))
    }

    /// When something happens next, if ever.
    pub fn next_at(&self) -> Option<Millis> {
        self.world.borrow().next_at().into_iter().chain(self.wake_at).min()
    }

    /// Lets time pass in which nothing happens.
    pub fn wait_until(&mut self, at: Millis) {
        let mut world = self.world.borrow_mut();
        world.now = world.now.max(at);
    }

    /// To the next moment at which anything happens; false when nothing ever will.
    pub fn step(&mut self) -> bool {
        let Some(at) = self.next_at() else { return false };
        let mut reports = Vec::new();
        {
            let mut world = self.world.borrow_mut();
            world.now = world.now.max(at);
            world.happens(&mut reports);
        }
        self.turn(reports.into_iter().map(Input::Report).collect());
        true
    }

    fn turn(&mut self, inputs: Vec<Input>) {
        let now = self.now();
        let Some(engine) = &mut self.engine else { return };
        let turn = engine.turn(now, now, inputs);
        self.wake_at = turn.wake_at;
        if let Some(app) = engine.apps().get(&self.app) {
            let target = app.state.target().map_or(0, |t| t.0);
            for entry in &turn.entries {
                self.steps.note(entry, target);
                if let Some(watch) = &mut self.watch {
                    watch(entry, &app.state);
                }
            }
        }
        if self.disk.take_crash() {
            self.kill_daemon();
        }
    }

    /// Until the rollout ends or is paused and nothing moves any more, or `most` moments have passed.
    pub fn run(&mut self, most: u64) -> bool {
        for _ in 0..most {
            if self.is_at_rest() {
                return true;
            }
            if !self.step() {
                return self.is_at_rest();
            }
        }
        false
    }

    fn is_at_rest(&self) -> bool {
        let Some(state) = self.state() else { return false };
        match state.open_rollout().map(|r| r.state) {
            None => true,
            Some(RolloutState::Paused) => self.world.borrow().next_at().is_none(),
            Some(_) => false,
        }
    }

    /// Forgets what was counted until now: the next rollout is measured from here.
    pub fn reset_marks(&mut self) {
        self.steps = Steps::default();
    }

    /// Of the newest rollout.
    pub fn outcome(&self) -> Option<Outcome> {
        let state = self.state()?;
        let rollout = state.last_rollout()?;
        let peak_mix: BTreeMap<String, u32> =
            rollout.peak_mix.iter().map(|(revision, n)| (state.version_of(*revision), *n)).collect();
        Some(Outcome {
            state: rollout.state,
            budget: state.budget(),
            duration_ms: rollout.ended_at.unwrap_or(state.now()) - rollout.opened_at,
            limit_ms: limit_ms(&self.setup.settings, &self.setup),
            lowest_available: rollout.lowest_available,
            highest_total: rollout.highest_total,
            peak_mix,
            decisions: self.steps.decisions,
            steps: self.steps.steps.iter().map(|s| s.since(rollout.opened_at)).collect(),
        })
    }

    pub fn decisions(&self) -> u64 {
        self.steps.decisions
    }

    /// All that was written into the journal, decisions among it.
    pub fn events(&self) -> u64 {
        self.steps.events
    }
}
