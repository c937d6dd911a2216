//! What happened in one rollout, moment by moment: where each instance stood, how many were available, and every line with
//! its why. A fold of the journal that was written, so a page made of it shows what was, not what was meant.

use std::collections::{BTreeMap, BTreeSet};

use trundle_core::Millis;
use trundle_core::decide::{Moves, moves};
use trundle_core::event::{Action, Event};
use trundle_core::ids::{AppName, InstanceKey, RevisionNumber, RolloutId};
use trundle_core::reason::Reason;
use trundle_core::state::{AppState, Instance, Phase};

use super::{Line, is_available, line};
use crate::engine::App;
use crate::journal::Entry;

/// All times are wall time, in milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    /// A little before the rollout began, and a little after it ended.
    pub from_ms: u64,
    pub until_ms: u64,
    pub began_ms: u64,
    /// None: it is open.
    pub ended_ms: Option<u64>,
    /// In the order in which they were started; never empty lives.
    pub lives: Vec<Life>,
    /// After each change; the first is of `from_ms`.
    pub levels: Vec<Level>,
    pub told: Vec<Told>,
}

/// One instance, as long as there was anything of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub name: String,
    pub revision: RevisionNumber,
    pub stays: Vec<Stay>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    pub stage: Stage,
    pub from_ms: u64,
    pub until_ms: u64,
}

/// What a person wants to know of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Starting,
    /// Ready, but not yet for long enough, or not yet routed.
    Maturing,
    Available,
    /// It was ready, and is not now.
    Unready,
    Draining,
    Stopping,
    Failed,
    /// Nobody can tell whether it lives.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    pub at_ms: u64,
    /// Those of each revision; none is left out that has one.
    pub available: BTreeMap<RevisionNumber, u32>,
    pub live: u32,
    pub floor: u32,
    pub ceiling: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub at_ms: u64,
    pub line: Line,
    /// Why just then, with the numbers of that moment: what the decision said for it.
    pub why: Option<String>,
}

/// What is shown beside the rollout itself: this share of its time, within these bounds.
const MARGIN_SHARE: u64 = 25;
const MARGIN_MS: (u64, u64) = (300, 10_000);

/// `app` is the app after all `entries`; `now_ms`: a daemon watches, and time has gone on since the last of them. None: there
/// is no such rollout.
pub fn timeline(
    entries: &[Entry],
    app: &App,
    rollout: RolloutId,
    now_ms: Option<u64>,
    time_text: fn(u64) -> String,
) -> Option<Timeline> {
    let began_ms = *app.chronicle.began.get(&rollout)?;
    let ended_ms = app.chronicle.ended.get(&rollout).copied();
    let last_ms = app.chronicle.last_wall_ms.unwrap_or(began_ms);
    let end_ms = ended_ms.unwrap_or(now_ms.unwrap_or(last_ms)).max(began_ms);
    let margin = ((end_ms - began_ms) / MARGIN_SHARE).clamp(MARGIN_MS.0, MARGIN_MS.1);
    let until_ms = if ended_ms.is_some() { end_ms + margin } else { end_ms };
    let shown = Timeline {
        from_ms: began_ms.saturating_sub(margin),
        until_ms,
        began_ms,
        ended_ms,
        ..Timeline::default()
    };
    let first = app.chronicle.first_record.get(&rollout).copied()?;
    let next = app.chronicle.first_record.get(&RolloutId(rollout.0 + 1)).copied().unwrap_or(u64::MAX);
    let mut walk = Walk::new(app.state.app().clone(), shown);
    for entry in entries.iter().filter(|e| e.app == *app.state.app()) {
        if entry.wall_ms > until_ms && entry.n >= next {
            break;
        }
        let why = walk.take(entry);
        // What comes long after the end is no part of it.
        if (first..next).contains(&entry.n)
            && entry.wall_ms <= until_ms
            && let Some(line) = line(entry, app, time_text)
        {
            let line = Line { rollout: Some(rollout.0), ..line };
            walk.shown.told.push(Told { at_ms: entry.wall_ms, line, why });
        }
    }
    Some(walk.end(now_ms.is_some()))
}

struct Walk {
    state: AppState,
    shown: Timeline,
    lives: BTreeMap<InstanceKey, Life>,
    /// Starts, oldest first.
    order: Vec<InstanceKey>,
    /// The last entry on both clocks: between two entries they go alike.
    at_ms: Millis,
    wall_ms: u64,
    /// When an instance that was looked at changes by time alone.
    maturing: BTreeSet<(Millis, InstanceKey)>,
    /// The decision whose actions are being written.
    decision: Option<Moves>,
}

impl Walk {
    fn new(app: AppName, shown: Timeline) -> Self {
        Self {
            state: AppState::new(app),
            shown,
            lives: BTreeMap::new(),
            order: Vec::new(),
            at_ms: 0,
            wall_ms: 0,
            maturing: BTreeSet::new(),
            decision: None,
        }
    }

    /// One entry, and what became true by time alone before it. Answers why it was decided.
    fn take(&mut self, entry: &Entry) -> Option<String> {
        self.let_time_pass(entry.at_ms, entry.wall_ms);
        let why = match &entry.event {
            Event::Decided(action) => self.why(action),
            _ => {
                self.decision = None;
                None
            }
        };
        self.state.apply(entry.at_ms, &entry.event);
        // A wall clock that was set back draws nothing backwards.
        self.wall_ms = self.wall_ms.max(entry.wall_ms);
        self.at_ms = entry.at_ms;
        self.note(self.wall_ms, instance_of(&entry.event));
        why
    }

    fn let_time_pass(&mut self, at_ms: Millis, wall_ms: u64) {
        while let Some(due) = self.state.next_timer_at().filter(|due| *due <= at_ms) {
            let wall = (self.wall_ms + due.saturating_sub(self.at_ms)).min(wall_ms.max(self.wall_ms));
            self.begin_at(wall);
            self.state.advance(due);
            while let Some((_, key)) = self.maturing.first().copied().filter(|(at, _)| *at <= due) {
                self.maturing.pop_first();
                self.note(wall, Some(key));
            }
        }
        self.begin_at(wall_ms);
        self.state.advance(at_ms);
    }

    /// The first look is one at the very edge of what is shown.
    fn begin_at(&mut self, wall_ms: u64) {
        if self.shown.levels.is_empty() && wall_ms >= self.shown.from_ms {
            self.look(self.shown.from_ms, None);
        }
    }

    fn note(&mut self, wall_ms: u64, changed: Option<InstanceKey>) {
        if (self.shown.from_ms..=self.shown.until_ms).contains(&wall_ms) {
            self.look(wall_ms, changed);
        }
    }

    /// At the one instance that changed; None: at all of them.
    fn look(&mut self, wall_ms: u64, changed: Option<InstanceKey>) {
        match changed {
            Some(key) => self.see(key, wall_ms),
            None => {
                let mut alive: Vec<_> = self.state.instances().map(|i| (i.born(), i.key())).collect();
                alive.sort_unstable();
                let known: Vec<_> = self.lives.keys().copied().collect();
                for key in alive.into_iter().map(|(_, key)| key).chain(known) {
                    self.see(key, wall_ms);
                }
            }
        }
        let level = self.level(wall_ms);
        if self.shown.levels.last().is_none_or(|last| Level { at_ms: wall_ms, ..last.clone() } != level) {
            self.shown.levels.push(level);
        }
    }

    fn see(&mut self, key: InstanceKey, wall_ms: u64) {
        let instance = self.state.instance(key);
        let now = instance.map(|instance| stage(&self.state, instance));
        self.maturing.extend(instance.and_then(Instance::matures_at).map(|at| (at, key)));
        let open =
            self.lives.get_mut(&key).and_then(|life| life.stays.last_mut()).filter(|stay| stay.is_open());
        if let Some(stay) = open {
            if now == Some(stay.stage) {
                return;
            }
            stay.until_ms = wall_ms;
        }
        let Some(stage) = now else { return };
        let life = self.lives.entry(key).or_insert_with(|| {
            self.order.push(key);
            Life { name: key.name(self.state.app()), revision: key.revision, stays: Vec::new() }
        });
        life.stays.push(Stay { stage, from_ms: wall_ms, until_ms: u64::MAX });
    }

    fn level(&self, at_ms: u64) -> Level {
        let books = self.state.books().iter().map(|(number, book)| (*number, book.counts().available()));
        let budget = self.state.budget();
        Level {
            at_ms,
            available: books.filter(|(_, n)| *n > 0).collect(),
            live: self.state.totals().live(),
            floor: budget.floor(),
            ceiling: budget.ceiling(),
        }
    }

    /// The decision is asked again for the state in which it was taken. Another release may answer differently: then nothing
    /// is said.
    fn why(&mut self, action: &Action) -> Option<String> {
        let known = self.decision.as_ref().is_some_and(|of| of.actions.contains(action));
        if !known {
            self.decision = Some(moves(&self.state));
        }
        let found = self.decision.as_ref().filter(|of| of.actions.contains(action))?;
        // What it may not do beyond that explains no action. A stop after its drain is no new decision.
        let explains = |reason: &&Reason| !matches!(reason, Reason::Floor { .. } | Reason::Ceiling { .. });
        let texts: Vec<_> = found.reasons.iter().filter(explains).map(Reason::text).collect();
        (!texts.is_empty() && !matches!(action, Action::Stop { .. })).then(|| texts.join("; "))
    }

    fn end(mut self, watched: bool) -> Timeline {
        let until = self.shown.until_ms;
        self.begin_at(until);
        if watched || self.shown.ended_ms.is_some() {
            self.let_time_pass(self.at_ms + until.saturating_sub(self.wall_ms), until);
        }
        for life in self.lives.values_mut() {
            for stay in &mut life.stays {
                stay.until_ms = stay.until_ms.min(until);
            }
            // Several records of one moment are one change.
            life.stays.retain(|stay| stay.from_ms < stay.until_ms);
        }
        let lives = self.order.iter().filter_map(|key| self.lives.remove(key));
        self.shown.lives = lives.filter(|life| !life.stays.is_empty()).collect();
        self.shown
    }
}

impl Stay {
    /// Its end was not seen yet.
    fn is_open(&self) -> bool {
        self.until_ms == u64::MAX
    }
}

/// The only instance that an event can change. None: it may be any.
fn instance_of(event: &Event) -> Option<InstanceKey> {
    match event {
        Event::Observed { instance, .. }
        | Event::Evidence { instance, .. }
        | Event::Decided(
            Action::Start { instance, .. }
            | Action::Drain { instance, .. }
            | Action::Stop { instance, .. }
            | Action::Fail { instance, .. },
        ) => Some(*instance),
        _ => None,
    }
}

fn stage(state: &AppState, instance: &Instance) -> Stage {
    match instance.phase() {
        Phase::Ready if is_available(state, instance) => Stage::Available,
        Phase::Ready => Stage::Maturing,
        Phase::Intended | Phase::Starting => Stage::Starting,
        Phase::Unready => Stage::Unready,
        Phase::Draining => Stage::Draining,
        Phase::Stopping => Stage::Stopping,
        Phase::Failed => Stage::Failed,
        Phase::Unknown => Stage::Unknown,
    }
}
