//! What people may ask for, checked against the state: either the commands to journal, or a refusal that says why and
//! what to do. Nothing is changed here.

use serde::{Deserialize, Serialize};

use crate::compatible::{self, Release};
use crate::event::{Command, RolloutKind};
use crate::formats::{self, Asked, Format, Watched};
use crate::ids::{InstanceKey, RevisionNumber, RolloutId};
use crate::revision::{Revision, Template};
use crate::settings::{AppSettings, Listen, Maintenance};

use super::AppState;
use super::rollout::RolloutState;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Deploy(Box<DeployRequest>),
    Pause,
    Resume,
    /// How many of a hundred get the target while the rollout stands still; None: as many as its instances are.
    Share(Option<u32>),
    Abort,
    /// To a revision, or to the newest one that succeeded and was not judged bad.
    Rollback(Option<RevisionNumber>),
    /// One place once more.
    Retry(InstanceKey),
    /// One place left out of the rollout.
    Skip(InstanceKey),
    Scale(u32),
    Restart,
    /// Clients are answered in the place of the app, or reach it again.
    Maintenance(Option<Maintenance>),
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployRequest {
    pub template: Template,
    pub settings: AppSettings,
    /// Refuse when another rollout holds the app.
    pub if_idle: bool,
    /// Pause after each batch.
    #[serde(default)]
    pub step: bool,
    /// The newest rollout that the asker knew of. Another one by now: somebody else was faster.
    pub seen_rollout: Option<RolloutId>,
    /// Whatever speaks against it is journaled, and it is done.
    #[serde(default)]
    pub force: bool,
    /// Filled in by who carries the request to the state.
    #[serde(default)]
    pub known: Known,
}

/// What a state cannot know by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Who uses which format; None: nobody can tell.
    pub watched: Option<Vec<Watched>>,
    /// The present in seconds since 1970.
    pub now_s: Option<i64>,
}

impl DeployRequest {
    /// Nothing but this.
    pub fn new(template: Template, settings: AppSettings) -> Self {
        Self {
            template,
            settings,
            if_idle: false,
            step: false,
            seen_rollout: None,
            force: false,
            known: Known::default(),
        }
    }
}

/// Not allowed now. The text says why and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What a request comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// To be journaled in one record, in this order.
    pub commands: Vec<Command>,
    /// The rollout to follow, if there is one.
    pub rollout: Option<RolloutId>,
    /// What was done, or why nothing had to be, in a sentence.
    pub says: String,
}

impl AppState {
    /// Checks a request against the present state.
    ///
    /// # Errors
    /// A [`Refusal`] when the state does not allow it.
    pub fn permit(&self, request: &Request) -> Result<Step, Refusal> {
        match request {
            Request::Deploy(deploy) => self.permit_deploy(deploy),
            Request::Pause => match self.open_rollout() {
                None => {
                    refuse(format!("no rollout of {} is running, so there is nothing to pause", self.app))
                }
                Some(r) if r.state == RolloutState::Paused => {
                    Ok(self.nothing(format!("rollout {} is paused already", r.id)))
                }
                Some(r) => Ok(self.step(vec![Command::Pause], r.id, format!("rollout {} is paused", r.id))),
            },
            Request::Resume => match self.open_rollout() {
                Some(r) if r.state == RolloutState::Paused => {
                    Ok(self.step(vec![Command::Resume], r.id, format!("rollout {} goes on", r.id)))
                }
                Some(r) => Ok(self.nothing(format!("rollout {} is running already", r.id))),
                None => {
                    refuse(format!("no rollout of {} is paused, so there is nothing to resume", self.app))
                }
            },
            Request::Share(share) => self.permit_share(*share),
            Request::Abort => self.permit_abort(),
            Request::Rollback(to) => self.permit_rollback(*to),
            Request::Retry(key) => self.permit_retry(*key),
            Request::Skip(key) => self.permit_skip(*key),
            Request::Scale(replicas) => self.permit_scale(*replicas),
            Request::Restart => self.permit_restart(),
            Request::Maintenance(wanted) => self.permit_maintenance(wanted.as_ref()),
            Request::Down => {
                let step = Step {
                    commands: vec![Command::Down],
                    rollout: None,
                    says: format!("{} goes down", self.app),
                };
                Ok(step)
            }
        }
    }

    fn permit_deploy(&self, deploy: &DeployRequest) -> Result<Step, Refusal> {
        let open = self.open_rollout();
        if let Some(seen) = deploy.seen_rollout
            && let Some(newer) = self.last_rollout().filter(|r| r.id > seen)
        {
            let when = self.now.saturating_sub(newer.opened_at) / 1000;
            return refuse(format!(
                "{} was faster: rollout {} to {} began {when} s ago; look at it with `trundle status {}`, then deploy again",
                newer.by,
                newer.id,
                self.version_of(newer.to),
                self.app
            ));
        }
        // The command line has said so with the line of the file; others ask over the socket.
        if let Some(problem) = deploy.settings.problems().into_iter().next() {
            return refuse(format!("{}: {}; {}", problem.key, problem.message, problem.hint));
        }
        if let Some(text) = deploy.template.run.limits.problem() {
            return refuse(text);
        }
        if let Some(text) = deploy.template.health.problem() {
            return refuse(text);
        }
        let known = self.revisions.values().rev().find(|r| r.template.same_as(&deploy.template));
        let same_as_target = known.is_some_and(|k| {
            self.target.and_then(|t| self.revision(t)).is_some_and(|t| t.template.same_as(&k.template))
        });
        let settings = self.closed_as_before(&deploy.settings);
        let settings_differ = self.settings.as_ref() != Some(&settings);
        let mut commands = Vec::new();
        if settings_differ {
            commands.push(Command::Configure { settings: Box::new(settings) });
        }
        let turned_back = open.is_some_and(|r| r.back_to.is_some());
        if same_as_target && !self.down && !turned_back {
            if let Some(open) = open {
                let version = self.version_of(open.to);
                if deploy.step && !open.step {
                    return refuse(format!(
                        "rollout {} to {version} is on its way without --step; `trundle pause {}` stops it where it is",
                        open.id, self.app
                    ));
                }
                let says = format!("rollout {} to {version} is on its way already", open.id);
                return Ok(Step { commands, rollout: Some(open.id), says });
            }
            // After a failed way back nothing moves by itself: a person who asks again means it.
            let failed = self.last_rollout().is_some_and(|r| r.state == RolloutState::Failed);
            if self.base == self.target && !failed {
                let version = self.target.map(|t| self.version_of(t)).unwrap_or_default();
                let says = if settings_differ {
                    format!("{} of {} stays, the settings changed", version, self.app)
                } else {
                    format!("{} of {} is what runs: nothing to do", version, self.app)
                };
                return Ok(Step { commands, rollout: None, says });
            }
        }
        if let Some(open) = open.filter(|_| deploy.if_idle) {
            return refuse(format!(
                "rollout {} to {}, begun by {}, holds {}; follow it with `trundle wait {}`",
                open.id,
                self.version_of(open.to),
                open.by,
                self.app,
                open.id
            ));
        }
        let (version, app) = (&deploy.template.version, &self.app);
        let beside = self.cannot_run_beside(&deploy.template, known.map(|revision| revision.number));
        if !beside.is_empty() && !deploy.force {
            let beside = beside.join("; ");
            return refuse(format!("{version} of {app} skips a stop: {beside}, or deploy with --force"));
        }
        let mut against = self.objections_to(deploy);
        if !against.is_empty() && !deploy.force {
            return refuse(format!(
                "{version} of {app} stops serving what clients speak: {}; wait until that is over, or deploy with --force",
                against.join("; ")
            ));
        }
        against.extend(beside);
        let target = match known {
            Some(revision) if same_as_target => self.target.unwrap_or(revision.number),
            Some(revision) => revision.number,
            None => {
                let revision = Revision { number: self.next_revision(), template: deploy.template.clone() };
                let number = revision.number;
                commands.push(Command::AddRevision { revision: Box::new(revision) });
                number
            }
        };
        let says = match open {
            Some(open) => format!("supersedes rollout {} to {}", open.id, self.version_of(open.to)),
            None => format!("rolls {} to {}", self.app, deploy.template.version),
        };
        let mut step = self.roll(commands, target, RolloutKind::Deploy, says);
        if let Some(Command::Roll { step, .. }) = step.commands.last_mut() {
            *step = deploy.step;
        }
        // Behind what it is about, so that it stands in the rollout's own evidence.
        if !against.is_empty() {
            step.commands.push(Command::Forced { against });
        }
        Ok(step)
    }

    /// Every pair that would be alive at once: the newer of the two says whether that is possible. `to` may be known already, and
    /// older than what runs.
    fn cannot_run_beside(&self, to: &Template, number: Option<RevisionNumber>) -> Vec<String> {
        let release = |template: &Template| (template.version.to_string(), template.compatible_with.clone());
        let alive = |revision: &RevisionNumber| {
            let is_way_back = self.base == Some(*revision) && !self.down;
            is_way_back || self.books.get(revision).is_some_and(|book| book.counts().live() > 0)
        };
        let live = self.revisions.values().filter(|revision| alive(&revision.number));
        let live = live.filter(|revision| Some(revision.number) != number);
        // Where labels have no order, the one that was deployed later is newer.
        let is_newer = |revision: &&Revision| {
            let order = trundle_versions::compare(revision.template.version.as_str(), to.version.as_str());
            order.map_or_else(|| number.is_some_and(|number| revision.number > number), |order| order.is_gt())
        };
        let (newer, older): (Vec<&Revision>, Vec<&Revision>) = live.partition(is_newer);
        let of = |revisions: Vec<&Revision>| -> Vec<(String, Option<String>)> {
            revisions.into_iter().map(|revision| release(&revision.template)).collect()
        };
        let (newer, older, to) = (of(newer), of(older), release(to));
        let all: Vec<_> = self.revisions.values().map(|revision| release(&revision.template)).collect();
        let known: Vec<Release<'_>> = all.iter().map(as_release).collect();
        let older: Vec<Release<'_>> = older.iter().map(as_release).collect();
        let mut found = compatible::objections(&as_release(&to), &older, &known);
        for newer in newer.iter().map(as_release).filter(|newer| !newer.runs_beside(&to.0)) {
            let says = newer.compatible_with.unwrap_or_default();
            let way = format!("go back to a version of \"{says}\" first");
            found
                .push(format!("{} can run beside \"{says}\", and not beside {}; {way}", newer.version, to.0));
        }
        found
    }

    /// Formats of the file, and those of now that it does not name.
    fn objections_to(&self, deploy: &DeployRequest) -> Vec<String> {
        let of =
            |settings: &AppSettings| settings.listen.as_ref().map(|l| l.formats.clone()).unwrap_or_default();
        let now = self.settings.as_ref().map(of).unwrap_or_default();
        let mut formats = of(&deploy.settings);
        let left = now.iter().filter(|format| formats.iter().all(|other| other.name != format.name));
        let left: Vec<Format> = left.cloned().collect();
        formats.extend(left);
        // Also while nobody of it is alive: its clients will come again.
        let runs = |revision: &RevisionNumber| {
            self.base == Some(*revision)
                || self.books.get(revision).is_some_and(|book| book.counts().live() > 0)
        };
        let running: Vec<String> =
            self.revisions.keys().filter(|revision| runs(revision)).map(|r| self.version_of(*r)).collect();
        formats::objections(
            &formats,
            &now,
            &Asked {
                to: deploy.template.version.as_str(),
                running: &running,
                watched: deploy.known.watched.as_deref(),
                now_s: deploy.known.now_s,
            },
        )
    }

    /// While instances come and go the share follows them: any other would ask too much of those that are few.
    fn permit_share(&self, share: Option<u32>) -> Result<Step, Refusal> {
        if let Some(share) = share.filter(|share| *share > 100) {
            return refuse(format!("{share} of a hundred are too many; use 0 to 100"));
        }
        let Some(open) = self.open_rollout().filter(|open| open.back_to.is_none()) else {
            return refuse(format!(
                "no rollout of {} is on its way to a new version that could have a share",
                self.app
            ));
        };
        if open.state != RolloutState::Paused {
            return refuse(format!(
                "rollout {} moves, and its share with it; stop it with `trundle pause {}` first",
                open.id, self.app
            ));
        }
        let carries_http = |listen: &Listen| listen.tcp.is_none();
        if !self.settings.as_ref().and_then(|settings| settings.listen.as_ref()).is_some_and(carries_http) {
            return refuse(format!("{} takes no requests, so there is nothing to share out", self.app));
        }
        let version = self.version_of(open.to);
        let says = match share {
            Some(share) => {
                format!("{version} gets {share} of 100 requests until rollout {} goes on", open.id)
            }
            None => format!("{version} gets as many requests as its instances are"),
        };
        if open.share == share {
            return Ok(Step { commands: Vec::new(), rollout: Some(open.id), says });
        }
        Ok(self.step(vec![Command::Share { of_a_hundred: share }], open.id, says))
    }

    fn permit_abort(&self) -> Result<Step, Refusal> {
        let Some(open) = self.open_rollout() else {
            return Ok(self.nothing(format!("no rollout of {} is running: nothing to abort", self.app)));
        };
        if open.back_to.is_some() {
            let commands =
                if open.state == RolloutState::Paused { vec![Command::Resume] } else { Vec::new() };
            return Ok(self.step(commands, open.id, format!("rollout {} is going back already", open.id)));
        }
        let Some(to) = self.rollback_target() else {
            return refuse(format!(
                "no version of {} has succeeded yet, so there is nothing to go back to; stop it with `trundle down {}`",
                self.app, self.app
            ));
        };
        let says = format!("rollout {} stops and goes back to {}", open.id, self.version_of(to));
        Ok(self.step(vec![Command::TurnBack { to, aborted: true }], open.id, says))
    }

    fn permit_rollback(&self, to: Option<RevisionNumber>) -> Result<Step, Refusal> {
        if let Some(open) = self.open_rollout().filter(|r| r.back_to.is_some()) {
            if to == Some(open.target()) {
                let version = self.version_of(open.target());
                return Ok(self.nothing(format!("rollout {} is going back to {version} already", open.id)));
            }
            return refuse(format!(
                "rollout {} is going back to {} already; a way back is never rolled back",
                open.id,
                self.version_of(open.target())
            ));
        }
        let to = match to {
            Some(named) if !self.revisions.contains_key(&named) => {
                return refuse(format!(
                    "{} has no revision {named}; see `trundle history {}`",
                    self.app, self.app
                ));
            }
            Some(named) => {
                if let Some(step) = self.wanted_already(named) {
                    return Ok(step);
                }
                self.permit_jump_back(named)?;
                named
            }
            None => match self.rollback_target() {
                Some(found) => found,
                None => {
                    return refuse(format!(
                        "{} has no earlier version that succeeded and was not judged bad; see `trundle history {}`",
                        self.app, self.app
                    ));
                }
            },
        };
        let says = format!("goes back to {} (revision {to})", self.version_of(to));
        if let Some(open) = self.open_rollout() {
            return Ok(self.step(vec![Command::TurnBack { to, aborted: false }], open.id, says));
        }
        Ok(self.roll(Vec::new(), to, RolloutKind::Rollback, says))
    }

    /// Further back than to what is there beside the present one anyway. The way back of a rollout is never refused.
    fn permit_jump_back(&self, named: RevisionNumber) -> Result<(), Refusal> {
        let is_there = self.base == Some(named) && self.open_rollout().is_some()
            || self.rollback_target() == Some(named)
            || self.books.get(&named).is_some_and(|book| book.counts().live() > 0);
        let Some(revision) = self.revision(named).filter(|_| !is_there) else { return Ok(()) };
        let beside = self.cannot_run_beside(&revision.template, Some(named));
        if beside.is_empty() {
            return Ok(());
        }
        refuse(format!("{} of {} skips a stop: {}", self.version_of(named), self.app, beside.join("; ")))
    }

    /// Asked again, as by who lost the answer: the same as once.
    fn wanted_already(&self, named: RevisionNumber) -> Option<Step> {
        if Some(named) != self.target || self.down {
            return None;
        }
        let version = self.version_of(named);
        if let Some(open) = self.open_rollout() {
            let says = format!("rollout {} to {version} is on its way already", open.id);
            return Some(Step { commands: Vec::new(), rollout: Some(open.id), says });
        }
        let failed = self.last_rollout().is_some_and(|r| r.state == RolloutState::Failed);
        let runs = self.base == self.target && !failed;
        runs.then(|| self.nothing(format!("{version} of {} is what runs: nothing to do", self.app)))
    }

    fn permit_scale(&self, replicas: u32) -> Result<Step, Refusal> {
        let Some(settings) = &self.settings else {
            return refuse(format!("{} was never deployed, so it cannot be scaled", self.app));
        };
        if self.open_rollout().is_none() && self.is_halted() {
            return refuse(format!(
                "the last rollout of {} failed and waits for a person; deploy again first, then scale",
                self.app
            ));
        }
        if settings.replicas == replicas {
            return Ok(self.nothing(format!("{} has {} already", self.app, replicas_text(replicas))));
        }
        let settings = AppSettings { replicas, ..settings.clone() };
        if let Some(problem) = settings.problems().into_iter().next() {
            return refuse(format!("{}; {}", problem.message, problem.hint));
        }
        let says = format!("{} goes to {}", self.app, replicas_text(replicas));
        let rollout = self.open_rollout().map(|r| r.id);
        Ok(Step { commands: vec![Command::Configure { settings: Box::new(settings) }], rollout, says })
    }

    /// What a file says of the app, and what a person said of its clients.
    fn closed_as_before(&self, wanted: &AppSettings) -> AppSettings {
        let now = self.settings.as_ref().and_then(|settings| settings.listen.as_ref());
        let maintenance = now.and_then(|listen| listen.maintenance.clone());
        let listen = wanted.listen.clone().map(|listen| Listen { maintenance, ..listen });
        AppSettings { listen, ..wanted.clone() }
    }

    fn permit_maintenance(&self, wanted: Option<&Maintenance>) -> Result<Step, Refusal> {
        let Some(settings) = &self.settings else {
            return refuse(format!("{} was never deployed, so nobody can reach it", self.app));
        };
        let Some(listen) = &settings.listen else {
            return refuse(format!("{} takes no requests, so there is nobody to answer", self.app));
        };
        let word = if wanted.is_some() { "closed for maintenance" } else { "open" };
        if listen.maintenance.as_ref() == wanted {
            return Ok(self.nothing(format!("{} is {word} already", self.app)));
        }
        let listen = Listen { maintenance: wanted.cloned(), ..listen.clone() };
        let settings = AppSettings { listen: Some(listen), ..settings.clone() };
        let rollout = self.open_rollout().map(|r| r.id);
        let says = format!("{} is {word}", self.app);
        Ok(Step { commands: vec![Command::Configure { settings: Box::new(settings) }], rollout, says })
    }

    fn permit_restart(&self) -> Result<Step, Refusal> {
        if let Some(open) = self.open_rollout() {
            return refuse(format!(
                "rollout {} to {} holds {}; restart when it has ended",
                open.id,
                self.version_of(open.to),
                self.app
            ));
        }
        let Some(current) = self.target.and_then(|t| self.revision(t)).filter(|_| !self.down) else {
            return refuse(format!("{} does not run, so it cannot be restarted", self.app));
        };
        let mut template = current.template.clone();
        template.restarts = self.revisions.values().map(|r| r.template.restarts).max().unwrap_or(0) + 1;
        let number = self.next_revision();
        let commands = vec![Command::AddRevision { revision: Box::new(Revision { number, template }) }];
        Ok(self.roll(commands, number, RolloutKind::Restart, format!("restarts {}", self.app)))
    }

    fn roll(
        &self,
        mut commands: Vec<Command>,
        target: RevisionNumber,
        kind: RolloutKind,
        says: String,
    ) -> Step {
        let rollout = self.next_rollout();
        commands.push(Command::Roll { rollout, target, kind, step: false });
        Step { commands, rollout: Some(rollout), says }
    }

    pub(super) fn step(&self, commands: Vec<Command>, rollout: RolloutId, says: String) -> Step {
        Step { commands, rollout: Some(rollout), says }
    }

    fn nothing(&self, says: String) -> Step {
        Step { commands: Vec::new(), rollout: self.open_rollout().map(|r| r.id), says }
    }
}

fn as_release((version, compatible_with): &(String, Option<String>)) -> Release<'_> {
    Release { version, compatible_with: compatible_with.as_deref() }
}

fn replicas_text(n: u32) -> String {
    if n == 1 { "1 replica".to_owned() } else { format!("{n} replicas") }
}

pub(super) fn refuse<T>(text: String) -> Result<T, Refusal> {
    Err(Refusal(text))
}
