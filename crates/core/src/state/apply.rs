//! The fold: one event at a time, total, and the same on every machine.

use std::collections::BTreeMap;

use crate::Millis;
use crate::event::{
    Action, Command, Event, Exit, Fact, FailureCause, Outcome, PauseCause, StartPurpose, StopPurpose,
};
use crate::ids::{InstanceKey, RevisionNumber, RolloutId};

use super::AppState;
use super::book::Class;
use super::instance::{Instance, Phase};
use super::rollout::{FailureRecord, Progress, Rollout, RolloutState};
use super::timers::Timer;

impl AppState {
    /// Takes one event that happened at `at`. Time that would go back stands still instead.
    pub fn apply(&mut self, at: Millis, event: &Event) {
        self.advance(at);
        match event {
            Event::Commanded { by, command } => self.command(by, command),
            Event::Decided(action) => self.decided(action),
            Event::Observed { instance, fact } => self.observed(*instance, fact),
            Event::Evidence { instance, evidence } => {
                if let Some(rollout) = self.last_rollout_mut()
                    && let Some(record) = rollout.records.iter_mut().rev().find(|r| r.instance == *instance)
                {
                    record.evidence = Some(evidence.clone());
                }
            }
            Event::Counted { requests } => {
                if let Some(rollout) = self.last_rollout_mut() {
                    let ended = rollout.state.is_terminal();
                    let taken =
                        if ended { &mut rollout.requests_after } else { &mut rollout.requests_before };
                    taken.get_or_insert_with(|| requests.clone());
                }
            }
            Event::Rebooted => self.rebooted(),
            Event::InvariantBroken { invariant, .. } => {
                let cause = PauseCause::Invariant { invariant: invariant.clone() };
                self.end_rollout(RolloutState::Failed, Some(cause));
            }
        }
        self.keep_watermarks();
    }

    /// Lets time pass: what was due by `now` becomes true.
    pub fn advance(&mut self, now: Millis) {
        while let Some((at, timer)) = self.timers.pop_due(now) {
            self.now = self.now.max(at);
            match timer {
                Timer::Mature(key) => self.mature(key),
                Timer::Overdue(key) => self.note_overdue(key),
                Timer::Cut(key) => {
                    self.stoppable.insert(key);
                }
                Timer::Backoff(revision, slot) => {
                    if let Some(book) = self.books.get_mut(&revision) {
                        book.slots.reopen(slot, at);
                    }
                }
                Timer::Wake => {}
            }
            self.keep_watermarks();
        }
        self.now = self.now.max(now);
    }

    fn mature(&mut self, key: InstanceKey) {
        self.change(key, |i, _| {
            i.matured = true;
            i.timer = None;
        });
    }

    fn note_overdue(&mut self, key: InstanceKey) {
        self.change(key, |i, _| {
            i.overdue = true;
            i.timer = None;
        });
        self.overdue.insert(key);
    }

    fn command(&mut self, by: &str, command: &Command) {
        match command {
            Command::Configure { settings } => {
                self.settings = Some((**settings).clone());
                self.refresh_all();
            }
            Command::AddRevision { revision } => {
                self.revisions.insert(revision.number, (**revision).clone());
            }
            Command::Roll { rollout, target, kind } => {
                self.end_rollout(RolloutState::Superseded, None);
                if *kind == crate::event::RolloutKind::Rollback
                    && let Some(left) = self.target
                {
                    self.bad.insert(left);
                }
                self.bad.remove(target);
                self.down = false;
                let from = self.base;
                self.target = Some(*target);
                let opened = Rollout {
                    id: *rollout,
                    from,
                    to: *target,
                    kind: *kind,
                    state: RolloutState::Running,
                    by: by.to_owned(),
                    opened_at: self.now,
                    ended_at: None,
                    back_to: None,
                    aborted: false,
                    cause: None,
                    failures: 0,
                    records: Vec::new(),
                    batches: 0,
                    batch_reached_at: self.now,
                    bake_since: None,
                    lowest_available: self.totals.available(),
                    highest_total: self.totals.live(),
                    peak_mix: BTreeMap::new(),
                    peak_rank: (0, 0),
                    progress: self.fresh_progress(),
                    requests_before: None,
                    requests_after: None,
                };
                self.rollouts.insert(*rollout, opened);
                self.forgive_target();
            }
            Command::TurnBack { to, aborted } => {
                self.turn_back(*to, *aborted, PauseCause::Person { by: by.to_owned() });
            }
            Command::Pause => self.pause(PauseCause::Person { by: by.to_owned() }),
            Command::Resume => self.resume(),
            Command::Down => {
                self.end_rollout(RolloutState::Aborted, Some(PauseCause::Person { by: by.to_owned() }));
                self.down = true;
                self.recovering_since = None;
                for book in self.books.values_mut() {
                    book.want = 0;
                }
            }
        }
    }

    fn decided(&mut self, action: &Action) {
        match action {
            Action::Start { instance, purpose } => self.start(*instance, *purpose),
            Action::Drain { instance, purpose } => {
                self.unwant(*instance, *purpose);
                let deadline = self.now + self.settings.as_ref().map_or(0, |s| s.rollout.drain_timeout_ms);
                self.set_phase(*instance, Phase::Draining, |i| i.stop_purpose = Some(*purpose));
                self.set_timer(*instance, deadline, Timer::Cut(*instance));
            }
            Action::Stop { instance, purpose, cut } => {
                if self.instances.get(instance).is_some_and(|i| i.phase.is_held()) {
                    self.unwant(*instance, *purpose);
                }
                self.set_phase(*instance, Phase::Stopping, |i| {
                    i.stop_purpose = Some(*purpose);
                    i.cut = *cut;
                });
            }
            Action::Fail { instance, cause } => self.fail(*instance, cause.clone(), false),
            Action::BatchReached { batch } => {
                let (now, delay) = (self.now, self.settings.as_ref().map_or(0, |s| s.rollout.delay_ms));
                if let Some(rollout) = self.open_rollout_mut() {
                    rollout.batches = *batch;
                    rollout.batch_reached_at = now;
                }
                if delay > 0 {
                    self.timers.set(now + delay, Timer::Wake);
                }
            }
            Action::PauseRollout { cause } => self.pause(cause.clone()),
            Action::TurnBack { to, cause } => self.turn_back(*to, false, cause.clone()),
            Action::Bake => {
                let (now, bake) = (self.now, self.settings.as_ref().map_or(0, |s| s.rollout.bake_time_ms));
                if let Some(rollout) = self.open_rollout_mut() {
                    rollout.bake_since = Some(now);
                }
                self.timers.set(now + bake, Timer::Wake);
            }
            Action::Conclude { outcome } => self.conclude(*outcome),
            Action::Recovered => self.recovering_since = None,
        }
    }

    fn start(&mut self, key: InstanceKey, purpose: StartPurpose) {
        if self.instances.contains_key(&key) {
            return;
        }
        self.births += 1;
        let instance = Instance::intended(key, self.births, self.now);
        let book = self.books.entry(key.revision).or_default();
        book.slots.take(key.slot, key.attempt);
        book.insert(Class::Starting, instance.born, key);
        self.totals.add(Class::Starting);
        if purpose == StartPurpose::Roll {
            book.want = book.want.max(book.counts.held());
        }
        self.instances.insert(key, instance);
        let deadline = self.now + self.settings.as_ref().map_or(0, |s| s.rollout.healthy_deadline_ms);
        self.set_timer(key, deadline, Timer::Overdue(key));
    }

    fn unwant(&mut self, key: InstanceKey, purpose: StopPurpose) {
        match purpose {
            StopPurpose::Replaced | StopPurpose::Surplus => {
                if let Some(book) = self.books.get_mut(&key.revision) {
                    book.want = book.want.saturating_sub(1);
                }
            }
            StopPurpose::Failed | StopPurpose::Down => {}
        }
    }

    fn observed(&mut self, key: InstanceKey, fact: &Fact) {
        let Some(phase) = self.instances.get(&key).map(|i| i.phase) else { return };
        match fact {
            Fact::Started { pid, address, incarnation } => {
                self.change(key, |i, _| {
                    i.pid = Some(*pid);
                    i.address.clone_from(address);
                    i.incarnation = Some(incarnation.clone());
                });
                if matches!(phase, Phase::Intended | Phase::Unknown) {
                    self.set_phase(key, Phase::Starting, |_| ());
                }
            }
            Fact::StartRefused { code, text } => {
                if phase.is_held() {
                    self.fail(key, FailureCause::Refused { code: *code, text: text.clone() }, true);
                }
            }
            Fact::Ready => self.ready(key, phase),
            Fact::Unready => self.unready(key, phase),
            Fact::NotLive => {
                if phase.is_held() {
                    self.fail(key, FailureCause::NotLive, false);
                }
            }
            Fact::Exited(exit) => self.exited(key, phase, *exit),
            Fact::Gone => match phase {
                Phase::Draining | Phase::Stopping | Phase::Failed => self.remove(key),
                // Nobody told it to go: that is a loss like any other.
                Phase::Intended | Phase::Starting | Phase::Ready | Phase::Unready | Phase::Unknown => {
                    self.exited(key, phase, Exit { code: None, signal: None });
                }
            },
            Fact::Unknown => {
                if phase.is_held() {
                    self.set_phase(key, Phase::Unknown, |_| ());
                }
            }
            Fact::Routed(routed) => {
                if phase == Phase::Ready || !routed {
                    self.change(key, |i, _| i.routed = *routed);
                }
            }
            Fact::Drained { proof } => {
                if phase == Phase::Draining {
                    self.change(key, |i, _| i.drained = Some(*proof));
                    self.stoppable.insert(key);
                }
            }
        }
    }

    fn ready(&mut self, key: InstanceKey, phase: Phase) {
        // Draining is absorbing, and a failed one does not come back: no health result leads out of either.
        if !matches!(phase, Phase::Intended | Phase::Starting | Phase::Unready | Phase::Unknown) {
            return;
        }
        self.overdue.remove(&key);
        let wait = self.settings.as_ref().map_or(0, |s| s.rollout.min_healthy_time_ms);
        let now = self.now;
        self.cancel_timer(key);
        self.set_phase(key, Phase::Ready, |i| {
            i.ready_since = Some(now);
            i.ever_ready = true;
            i.matured = wait == 0;
            i.overdue = false;
        });
        if wait > 0 {
            self.set_timer(key, now + wait, Timer::Mature(key));
        }
    }

    fn unready(&mut self, key: InstanceKey, phase: Phase) {
        if phase != Phase::Ready {
            return;
        }
        let Some(instance) = self.instances.get(&key) else { return };
        let after_ms = instance.ready_since.map_or(0, |since| self.now - since);
        let too_soon = !instance.matured;
        self.cancel_timer(key);
        self.set_phase(key, Phase::Unready, |i| {
            i.ready_since = None;
            i.matured = false;
            i.routed = false;
        });
        if too_soon && self.open_rollout().is_some_and(|r| r.target() == key.revision) {
            self.fail(key, FailureCause::Unstable { after_ms }, false);
        }
    }

    fn exited(&mut self, key: InstanceKey, phase: Phase, exit: Exit) {
        match phase {
            Phase::Intended | Phase::Starting | Phase::Ready | Phase::Unready | Phase::Unknown => {
                self.fail(key, FailureCause::Exited(exit), true);
            }
            Phase::Failed => self.change(key, |i, _| i.exited = true),
            Phase::Draining | Phase::Stopping => self.remove(key),
        }
    }

    fn fail(&mut self, key: InstanceKey, cause: FailureCause, exited: bool) {
        let Some(instance) = self.instances.get(&key) else { return };
        let (had_served, after_ms) = (instance.ever_available, self.now - instance.phase_started_at());
        let now = self.now;
        self.cancel_timer(key);
        self.overdue.remove(&key);
        self.set_phase(key, Phase::Failed, |i| {
            i.failure = Some(cause.clone());
            i.exited = exited;
            i.routed = false;
        });
        if let Some(book) = self.books.get_mut(&key.revision) {
            book.slots.fail(key.slot, had_served, now);
        }
        if let Some(rollout) = self.open_rollout_mut()
            && rollout.target() == key.revision
        {
            rollout.failures += 1;
            if rollout.records.len() < Rollout::MAX_RECORDS {
                rollout.records.push(FailureRecord {
                    instance: key,
                    cause,
                    at: now,
                    after_ms,
                    evidence: None,
                });
            }
        }
    }

    fn pause(&mut self, cause: PauseCause) {
        if let Some(rollout) = self.open_rollout_mut() {
            rollout.state = RolloutState::Paused;
            rollout.cause = Some(cause);
        }
    }

    fn resume(&mut self) {
        let progress = self.fresh_progress();
        if let Some(rollout) = self.open_rollout_mut() {
            rollout.state =
                if rollout.back_to.is_some() { RolloutState::RollingBack } else { RolloutState::Running };
            rollout.cause = None;
            rollout.failures = 0;
            rollout.progress = progress;
        }
        self.forgive_target();
    }

    fn turn_back(&mut self, to: RevisionNumber, aborted: bool, cause: PauseCause) {
        let Some(left) = self.open_rollout().map(|r| r.to) else { return };
        self.bad.insert(left);
        self.target = Some(to);
        let progress = self.fresh_progress();
        if let Some(rollout) = self.open_rollout_mut() {
            rollout.state = RolloutState::RollingBack;
            rollout.back_to = Some(to);
            rollout.aborted = aborted;
            rollout.cause = Some(cause);
            rollout.failures = 0;
            rollout.batches = 0;
            rollout.bake_since = None;
            rollout.progress = progress;
        }
        self.forgive_target();
    }

    fn conclude(&mut self, outcome: Outcome) {
        let state = match outcome {
            Outcome::Succeeded => RolloutState::Succeeded,
            Outcome::RolledBack => RolloutState::RolledBack,
            Outcome::Aborted => RolloutState::Aborted,
            Outcome::Failed => RolloutState::Failed,
        };
        let target = self.target;
        self.end_rollout(state, None);
        if outcome == Outcome::Failed {
            return;
        }
        if let Some(target) = target {
            self.base = Some(target);
            self.succeeded.retain(|r| *r != target);
            self.succeeded.push(target);
            self.books.entry(target).or_default();
        }
        let desired = self.budget().desired;
        for (revision, book) in &mut self.books {
            book.want = if Some(*revision) == target { desired } else { 0 };
        }
    }

    fn end_rollout(&mut self, state: RolloutState, cause: Option<PauseCause>) {
        let now = self.now;
        if let Some(rollout) = self.open_rollout_mut() {
            rollout.state = state;
            rollout.ended_at = Some(now);
            rollout.progress.running_since = None;
            if cause.is_some() {
                rollout.cause = cause;
            }
        }
    }

    /// Nothing of the last boot is left: held ones failed with it, the others are gone.
    fn rebooted(&mut self) {
        let keys: Vec<_> = self.instances.keys().copied().collect();
        for key in keys {
            self.remove(key);
        }
        for book in self.books.values_mut() {
            book.slots.forgive_all();
        }
        if self.base.is_some() && !self.down {
            self.recovering_since = Some(self.now);
            let patience = self.settings.as_ref().map_or(0, |s| s.rollout.healthy_deadline_ms);
            self.timers.set(self.now + patience, Timer::Wake);
        }
    }

    /// A person asked for it, so every place of the target may be tried at once.
    fn forgive_target(&mut self) {
        if let Some(book) = self.target.and_then(|t| self.books.get_mut(&t)) {
            book.slots.forgive_all();
        }
    }

    fn remove(&mut self, key: InstanceKey) {
        self.cancel_timer(key);
        self.overdue.remove(&key);
        self.stoppable.remove(&key);
        let needs_route = self.needs_route();
        let Some(instance) = self.instances.remove(&key) else { return };
        let class = Class::of(&instance, needs_route);
        self.totals.take(class);
        if let Some(book) = self.books.get_mut(&key.revision) {
            book.remove(class, instance.born, key);
            book.ready -= u32::from(instance.phase == Phase::Ready);
            book.routed -= u32::from(instance.phase == Phase::Ready && instance.routed);
            if let Some(until) = book.slots.release(key.slot, self.now) {
                self.timers.set(until, Timer::Backoff(key.revision, key.slot));
            }
        }
    }

    /// Changes an instance and moves it in the books.
    fn change(&mut self, key: InstanceKey, with: impl FnOnce(&mut Instance, Millis)) {
        let needs_route = self.needs_route();
        let Some(instance) = self.instances.get_mut(&key) else { return };
        let (before, was_ready) = (Class::of(instance, needs_route), instance.phase == Phase::Ready);
        let was_routed = was_ready && instance.routed;
        with(instance, self.now);
        let (after, is_ready) = (Class::of(instance, needs_route), instance.phase == Phase::Ready);
        let is_routed = is_ready && instance.routed;
        let first_time = after == Class::Available && !instance.ever_available;
        instance.ever_available |= after == Class::Available;
        let born = instance.born;
        let book = self.books.entry(key.revision).or_default();
        if before != after {
            book.remove(before, born, key);
            book.insert(after, born, key);
            self.totals.take(before);
            self.totals.add(after);
        }
        book.ready = book.ready + u32::from(is_ready) - u32::from(was_ready);
        book.routed = book.routed + u32::from(is_routed) - u32::from(was_routed);
        if first_time {
            book.slots.forgive(key.slot);
        }
    }

    fn set_phase(&mut self, key: InstanceKey, phase: Phase, also: impl FnOnce(&mut Instance)) {
        if matches!(phase, Phase::Draining | Phase::Stopping) {
            self.cancel_timer(key);
            self.overdue.remove(&key);
            self.stoppable.remove(&key);
        }
        self.change(key, |i, now| {
            i.phase = phase;
            i.phase_since = now;
            if phase != Phase::Ready {
                i.routed = false;
            }
            also(i);
        });
    }

    fn set_timer(&mut self, key: InstanceKey, at: Millis, timer: Timer) {
        self.cancel_timer(key);
        self.timers.set(at, timer);
        if let Some(instance) = self.instances.get_mut(&key) {
            instance.timer = Some((at, timer));
        }
    }

    fn cancel_timer(&mut self, key: InstanceKey) {
        if let Some((at, timer)) = self.instances.get_mut(&key).and_then(|i| i.timer.take()) {
            self.timers.cancel(at, timer);
        }
    }

    /// Settings changed: who is available may have changed with them.
    fn refresh_all(&mut self) {
        let needs_route = self.needs_route();
        let wait = self.settings.as_ref().map_or(0, |s| s.rollout.min_healthy_time_ms);
        self.totals = super::Counts::default();
        for book in self.books.values_mut() {
            book.clear_members();
        }
        let now = self.now;
        for (key, instance) in &mut self.instances {
            if instance.phase == Phase::Ready
                && !instance.matured
                && instance.ready_since.is_some_and(|s| s + wait <= now)
            {
                instance.matured = true;
            }
            let class = Class::of(instance, needs_route);
            instance.ever_available |= class == Class::Available;
            self.books.entry(key.revision).or_default().insert(class, instance.born, *key);
            self.totals.add(class);
        }
        if self.open_rollout().is_none() && !self.down {
            let desired = self.budget().desired;
            if let Some(book) = self.target.and_then(|t| self.books.get_mut(&t)) {
                book.want = desired;
            }
        }
    }

    fn fresh_progress(&self) -> Progress {
        Progress {
            best_available: self.counts_of(self.target).available(),
            lowest_others: self.others().live(),
            spent_ms: 0,
            running_since: None,
        }
    }

    /// What is true after every event: low and high water, the mix, the progress clock.
    fn keep_watermarks(&mut self) {
        let (available, live, now) = (self.totals.available(), self.totals.live(), self.now);
        let target = self.counts_of(self.target);
        let others_live = live - target.live();
        let routed: BTreeMap<_, _> =
            self.books.iter().map(|(r, book)| (*r, book.routed)).filter(|(_, n)| *n > 0).collect();
        let new = self.target.and_then(|t| routed.get(&t).copied()).unwrap_or(0);
        let old = routed.values().sum::<u32>() - new;
        let in_backoff = self.target.and_then(|t| self.books.get(&t)).map_or(0, |b| b.slots.in_backoff());
        let on_its_way = target.held() > target.available() || in_backoff > 0;
        let deadline = self.settings.as_ref().map_or(0, |s| s.rollout.progress_deadline_ms);
        let Some(rollout) = self.open_rollout_mut() else { return };
        rollout.lowest_available = rollout.lowest_available.min(available);
        rollout.highest_total = rollout.highest_total.max(live);
        let rank = (old.min(new), old + new);
        if rank > rollout.peak_rank {
            rollout.peak_rank = rank;
            rollout.peak_mix = routed;
        }
        let progress = &mut rollout.progress;
        if target.available() > progress.best_available || others_live < progress.lowest_others {
            progress.best_available = progress.best_available.max(target.available());
            progress.lowest_others = progress.lowest_others.min(others_live);
            progress.spent_ms = 0;
            progress.running_since = progress.running_since.map(|_| now);
        }
        let runs = on_its_way && matches!(rollout.state, RolloutState::Running | RolloutState::RollingBack);
        match (runs, progress.running_since) {
            (true, None) => {
                progress.running_since = Some(now);
                let due = now + deadline.saturating_sub(progress.spent_ms);
                self.timers.set(due, Timer::Wake);
            }
            (false, Some(_)) => {
                progress.spent_ms = progress.spent_at(now);
                progress.running_since = None;
            }
            (true, Some(since)) if since == now && progress.spent_ms == 0 => {
                self.timers.set(now + deadline, Timer::Wake);
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn last_rollout_mut(&mut self) -> Option<&mut Rollout> {
        self.rollouts.values_mut().next_back()
    }

    fn open_rollout_mut(&mut self) -> Option<&mut Rollout> {
        self.last_rollout_mut().filter(|r| !r.state.is_terminal())
    }

    /// The number the next rollout gets.
    pub fn next_rollout(&self) -> RolloutId {
        RolloutId(self.rollouts.keys().next_back().map_or(1, |id| id.0 + 1))
    }

    /// The number the next revision gets.
    pub fn next_revision(&self) -> RevisionNumber {
        RevisionNumber(self.revisions.keys().next_back().map_or(1, |n| n.0 + 1))
    }
}

impl Instance {
    /// When this life of it began, as far as the journal knows: readiness counts from the last change of side.
    fn phase_started_at(&self) -> Millis {
        self.ready_since.unwrap_or(self.phase_since)
    }
}
