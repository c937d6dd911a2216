//! One state of the model, and what becomes of it when something happens: the shipping `apply` and `decide`, with every
//! checker looking.

use trundle_core::decide::decide;
use trundle_core::event::{Command, Event};
use trundle_core::invariants::{self, Witness};
use trundle_core::state::{AppState, DeployRequest, Phase, Request, RolloutState};

use crate::app::App;
use crate::common::template;
use crate::happening::{Happening, Seen};
use crate::key::{Key, key};
use crate::sometimes::Sometimes;

#[derive(Debug, Clone)]
pub struct Node {
    pub state: AppState,
    pub faults: u8,
    pub commands: u8,
}

/// A rule that does not hold, with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

/// A pass answers with moves of one kind, so a few of them follow each other; more than this and it never rests.
const MOST_PASSES: u32 = 60;

impl Node {
    /// Empty, or with the first version running everywhere, or with a rollout to the second just begun.
    pub fn first(app: &App) -> Result<Self, Broken> {
        let mut node = Self { state: AppState::new("web".parse().unwrap()), faults: 0, commands: 0 };
        let settings = Box::new(app.settings());
        node.state
            .apply(0, &Event::Commanded { by: "a".to_owned(), command: Command::Configure { settings } });
        let mut reached = Sometimes::default();
        if app.running {
            let settled = App { interleaved: false, step: false, commands: None, faults: None, ..*app };
            node = node.after(&settled, Happening::Deploy(1), &mut reached)?.unwrap();
            while node.state.open_rollout().is_some() {
                node = crate::fair::easiest(&settled, &node, &mut reached)?;
            }
        }
        if app.rolling {
            let settled = App { interleaved: false, commands: None, faults: None, ..*app };
            node = node.after(&settled, Happening::Deploy(2), &mut reached)?.unwrap();
        }
        (node.faults, node.commands) = (0, 0);
        Ok(node)
    }

    pub fn key(&self, app: &App) -> Key {
        key(app, self)
    }

    /// What follows; `None` when it cannot happen here, or changes nothing.
    pub fn after(
        &self,
        app: &App,
        happening: Happening,
        reached: &mut Sometimes,
    ) -> Result<Option<Self>, Broken> {
        if self.is_too_much(app, happening) {
            return Ok(None);
        }
        match happening {
            Happening::See(key, seen) => {
                let fact = seen.fact();
                // What is no news is not recorded.
                if !self.state.is_news(key, &fact) {
                    return Ok(None);
                }
                let mut next = self.counting(app, happening);
                next.apply(&Event::Observed { instance: key, fact }, reached)?;
                next.settled(app, reached)
            }
            Happening::Tick => self.clone().tick(app, reached),
            Happening::Nearly => {
                let before = self.state.now();
                let soon = self.state.next_timer_at().map_or(before, |at| at.saturating_sub(1));
                let mut next = self.clone();
                next.state.advance(soon.max(before));
                Ok((soon > before).then_some(next))
            }
            Happening::Decide => {
                let mut next = self.clone();
                Ok(next.pass(reached)?.then_some(next))
            }
            Happening::Reboot => {
                let mut next = self.counting(app, happening);
                next.apply(&Event::Rebooted, reached)?;
                next.settled(app, reached)
            }
            _ => {
                let commands = self.ask(app, happening);
                if commands.is_empty() {
                    return Ok(None);
                }
                let mut next = self.counting(app, happening);
                for command in commands {
                    next.apply(&Event::Commanded { by: "a".to_owned(), command }, reached)?;
                }
                next.settled(app, reached)
            }
        }
    }

    /// One fault or one command more, where their number is bounded.
    fn counting(&self, app: &App, happening: Happening) -> Self {
        let mut next = self.clone();
        next.faults += u8::from(app.faults.is_some() && self.is_fault(happening));
        next.commands += u8::from(app.commands.is_some() && happening.is_command());
        next
    }

    /// Until something changes: wake-ups that find nothing to do are passed over.
    fn tick(mut self, app: &App, reached: &mut Sometimes) -> Result<Option<Self>, Broken> {
        let before = self.key(app);
        for _ in 0..100 {
            let Some(at) = self.state.next_timer_at() else { return Ok(None) };
            self.state.advance(at);
            self.scan()?;
            self.settle(app, reached)?;
            if self.key(app) != before {
                return Ok(Some(self));
            }
        }
        Ok(None)
    }

    fn is_too_much(&self, app: &App, happening: Happening) -> bool {
        app.commands.is_some_and(|most| happening.is_command() && self.commands >= most)
            || app.faults.is_some_and(|most| self.is_fault(happening) && self.faults >= most)
    }

    /// What a good world does not do.
    fn is_fault(&self, happening: Happening) -> bool {
        let Happening::See(key, seen) = happening else { return happening == Happening::Reboot };
        let phase = self.state.instance(key).map(|i| i.phase());
        match seen {
            Seen::Started | Seen::Routed | Seen::Drained => false,
            Seen::Ready => phase == Some(Phase::Unknown),
            Seen::Gone => !matches!(phase, Some(Phase::Stopping)),
            Seen::Refused | Seen::Unready | Seen::NotLive | Seen::Exited | Seen::Unknown | Seen::Unrouted => {
                true
            }
        }
    }

    /// What a person asks for comes to; nothing when it is refused, or is so already.
    fn ask(&self, app: &App, happening: Happening) -> Vec<Command> {
        let request = match happening {
            Happening::Deploy(version) => Request::Deploy(Box::new(DeployRequest {
                step: app.step,
                ..DeployRequest::new(
                    template(&version.to_string()),
                    self.state.settings().cloned().unwrap_or_else(|| app.settings()),
                )
            })),
            Happening::Pause => Request::Pause,
            Happening::Resume => Request::Resume,
            Happening::Abort => Request::Abort,
            Happening::Rollback => Request::Rollback(None),
            Happening::Restart => Request::Restart,
            Happening::Down => Request::Down,
            Happening::Scale(n) => Request::Scale(n),
            Happening::Retry(key) => Request::Retry(key),
            Happening::Skip(key) => Request::Skip(key),
            Happening::See(..)
            | Happening::Tick
            | Happening::Nearly
            | Happening::Decide
            | Happening::Reboot => return Vec::new(),
        };
        self.state.permit(&request).map(|step| step.commands).unwrap_or_default()
    }

    fn apply(&mut self, event: &Event, reached: &mut Sometimes) -> Result<(), Broken> {
        let at = self.state.now();
        let before = Witness::new(&self.state, at, event);
        let outcome = self.state.last_rollout().map(|r| r.state);
        reached.before(&self.state, event);
        self.state.apply(at, event);
        before.check(event, &self.state).map_err(|e| Broken(e.to_string()))?;
        let ended = outcome.is_some_and(RolloutState::is_terminal);
        reached.after(&self.state, event, ended);
        self.scan()
    }

    fn scan(&self) -> Result<(), Broken> {
        invariants::scan(&self.state).map_err(|e| Broken(format!("invariant scan is broken: {e}")))
    }

    /// One pass, checked and then applied; whether it did anything.
    fn pass(&mut self, reached: &mut Sometimes) -> Result<bool, Broken> {
        let decision = decide(&self.state);
        if decision.reasons.is_empty() {
            return Err(Broken("invariant reasons is broken: a decision without a reason".to_owned()));
        }
        invariants::check(&self.state, &decision.actions).map_err(|e| Broken(e.to_string()))?;
        reached.decided(&self.state, &decision);
        for action in &decision.actions {
            self.apply(&Event::Decided(action.clone()), reached)?;
        }
        Ok(!decision.actions.is_empty())
    }

    fn settle(&mut self, app: &App, reached: &mut Sometimes) -> Result<(), Broken> {
        if app.interleaved { Ok(()) } else { self.rest(reached) }
    }

    fn settled(mut self, app: &App, reached: &mut Sometimes) -> Result<Option<Self>, Broken> {
        self.settle(app, reached)?;
        Ok(Some(self))
    }

    /// Decides until there is nothing more to do.
    pub fn rest(&mut self, reached: &mut Sometimes) -> Result<(), Broken> {
        for _ in 0..MOST_PASSES {
            if !self.pass(reached)? {
                return Ok(());
            }
        }
        Err(Broken(format!("invariant rest is broken: {MOST_PASSES} passes and more to do")))
    }

    /// Everything that might happen next.
    pub fn happenings(&self, app: &App) -> Vec<Happening> {
        use Happening as H;
        let mut found = vec![H::Tick];
        if app.interleaved {
            found.push(H::Decide);
        }
        let mut told = Vec::new();
        for instance in self.state.instances() {
            // Of those that are alike, one stands for all.
            let alike = crate::key::describe(&self.state, instance);
            if told.contains(&alike) {
                continue;
            }
            told.push(alike);
            let key = instance.key();
            found.extend(Seen::ALL.iter().map(|(seen, _)| H::See(key, *seen)));
            if instance.phase() == Phase::Failed {
                found.push(H::Retry(key));
            }
            found.push(H::Skip(key));
        }
        found.extend((1..=app.versions).map(H::Deploy));
        found.extend([H::Pause, H::Resume, H::Abort, H::Rollback, H::Down, H::Reboot]);
        if app.most > 0 {
            found.extend((1..=app.most).map(H::Scale));
        }
        // A restart is a new version each time: only where their number is bounded.
        if app.commands.is_some() {
            found.push(H::Restart);
        }
        found.extend(self.empty_places().into_iter().map(H::Retry));
        if app.clocks {
            found.push(H::Nearly);
        }
        found
    }

    /// Places of the target whose instance failed and is gone already.
    fn empty_places(&self) -> Vec<trundle_core::ids::InstanceKey> {
        let failed = self.state.open_rollout().into_iter().flat_map(|r| r.records.iter());
        let mut places: Vec<_> = failed
            .map(|record| record.instance)
            .filter(|key| self.state.at_place(key.revision, key.slot).is_none())
            .collect();
        places.sort_unstable_by_key(|key| (key.revision, key.slot));
        places.dedup_by_key(|key| (key.revision, key.slot));
        places
    }
}
