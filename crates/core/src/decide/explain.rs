//! What is being waited for, with the instance, the numbers and the time left. Changes nothing.

use crate::Millis;
use crate::event::FailureCause;
use crate::reason::{Group, Reason};
use crate::state::{AppState, Class, Instance, Request, Rollout, RolloutState};

/// Every wait of now; empty when there is none.
pub fn waits(state: &AppState) -> Vec<Reason> {
    let mut found = Vec::new();
    if state.settings().is_none() {
        return vec![Reason::NeverDeployed];
    }
    if state.is_down() {
        found.push(Reason::Down);
    }
    if let Some(rollout) = state.last_rollout() {
        halt(state, rollout, &mut found);
    }
    if state.recovering_since().is_some() {
        let available = state.counts_of(state.proven()).available();
        found.push(Reason::Recovering { available, desired: state.budget().desired });
    }
    held(state, &mut found);
    leaving(state, &mut found);
    backoff(state, &mut found);
    if let Some(rollout) = state.open_rollout() {
        clocks(state, rollout, &mut found);
    }
    found
}

/// Why the rollout stands still or goes back: the gate that said no stands first.
fn halt(state: &AppState, rollout: &Rollout, found: &mut Vec<Reason>) {
    let gate = rollout.blamed().map(|record| Reason::GateFailed {
        gate: record.cause.gate().to_owned(),
        instance: record.instance.name(state.app()),
        text: record.cause.text(),
    });
    match rollout.state {
        RolloutState::Paused => {
            found.extend(gate);
            found.extend(rollout.cause.clone().map(|cause| Reason::Paused { cause }));
        }
        RolloutState::Failed => {
            found.extend(gate);
            let can_go_back = state.permit(&Request::Rollback(None)).is_ok();
            found.push(Reason::Halted { cause: rollout.cause.clone(), can_go_back });
        }
        RolloutState::RollingBack => found.push(Reason::RollingBack { cause: rollout.cause.clone() }),
        RolloutState::Running
        | RolloutState::RolledBack
        | RolloutState::Succeeded
        | RolloutState::Aborted
        | RolloutState::Superseded => {}
    }
}

fn held(state: &AppState, found: &mut Vec<Reason>) {
    if let Some((instances, instance, left_ms)) = few(state, Class::Starting) {
        found.push(Reason::Starting { instances, instance, left_ms });
    }
    if let Some((instances, instance, _)) = few(state, Class::Unready) {
        found.push(Reason::Unready { instances, instance });
    }
    if let Some((instances, instance, left_ms)) = few(state, Class::Maturing) {
        found.push(Reason::MinHealthyTime { instances, instance, left_ms });
    }
    if let Some((instances, instance, _)) = few(state, Class::Routing) {
        found.push(Reason::Routing { instances, instance });
    }
}

fn leaving(state: &AppState, found: &mut Vec<Reason>) {
    let kept = state.kept();
    for instance in kept.iter().filter_map(|key| state.instance(*key)) {
        let key = instance.key();
        found.push(Reason::Kept {
            instance: key.name(state.app()),
            version: state.version_of(key.revision),
            left_ms: instance.timer_at().map_or(0, |at| at.saturating_sub(state.now())),
            pages: None,
        });
    }
    if kept.len() < state.totals().of(Class::Draining) as usize
        && let Some((instances, instance, left_ms)) = few(state, Class::Draining)
    {
        found.push(Reason::Draining { instances, instance, left_ms, in_flight: None });
    }
    if let Some((instances, instance, _)) = few(state, Class::Stopping) {
        found.push(Reason::Stopping { instances, instance });
    }
    if let Some((instances, _, _)) = few(state, Class::Unknown) {
        found.push(Reason::Unknown { instances });
    }
}

fn backoff(state: &AppState, found: &mut Vec<Reason>) {
    let count = state.books().values().map(|b| b.slots().in_backoff()).sum();
    let next: Option<Millis> = state.books().values().filter_map(|b| b.slots().next_retry_at()).min();
    // One that is kept for inspection has a place that is not waited for.
    if let Some(at) = next.filter(|at| *at > state.now()) {
        found.push(Reason::Backoff { count, left_ms: at.saturating_sub(state.now()) });
    }
}

fn clocks(state: &AppState, rollout: &Rollout, found: &mut Vec<Reason>) {
    let Some(settings) = state.settings() else { return };
    if let Some(since) = rollout.bake_since {
        let left_ms = (since + settings.rollout.bake_time_ms).saturating_sub(state.now());
        found.push(Reason::Bake { left_ms });
    }
    if rollout.progress.running_since.is_some() {
        let spent = rollout.progress.spent_at(state.now());
        found.push(Reason::Deadline { left_ms: settings.rollout.progress_deadline_ms.saturating_sub(spent) });
    }
}

/// A class over all revisions: how many, the oldest's name, and the time until its timer. None when it is empty.
fn few(state: &AppState, class: Class) -> Option<(Group, String, Millis)> {
    let oldest = || state.books().values().flat_map(|book| book.members(class)).take(Group::EXAMPLES);
    let examples: Vec<_> = oldest().map(|key| key.name(state.app())).collect();
    let first = examples.first()?.clone();
    let timer = oldest().next().and_then(|key| state.instance(key)).and_then(Instance::timer_at);
    let left_ms = timer.map_or(0, |at| at.saturating_sub(state.now()));
    Some((Group { count: state.totals().of(class), examples }, first, left_ms))
}

impl FailureCause {
    /// The check that said no, as people configure it.
    pub fn gate(&self) -> &'static str {
        match self {
            Self::Exited(_) | Self::Refused { .. } => "start",
            Self::NotReady { .. } | Self::Unstable { .. } => "ready",
            Self::NotLive => "live",
        }
    }

    /// What happened, in half a sentence.
    pub fn text(&self) -> String {
        use crate::reason::duration_text;
        match self {
            Self::Exited(exit) => exit.text(),
            Self::Refused { text, .. } => text.clone(),
            Self::NotReady { after_ms } => format!("not ready after {}", duration_text(*after_ms)),
            Self::Unstable { after_ms } => format!("turned unready after {}", duration_text(*after_ms)),
            Self::NotLive => "its liveness check failed".to_owned(),
        }
    }
}
