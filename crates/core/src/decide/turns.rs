//! Verdicts on instances, and the turns of a rollout: pause, go back, bake, end.

use crate::Millis;
use crate::event::{Action, FailureCause, Outcome, PauseCause};
use crate::settings::OnFailure;
use crate::state::{AppState, Rollout, RolloutState};

/// Instances that had their time.
pub fn verdicts(state: &AppState) -> Vec<Action> {
    let after_ms = state.settings().map_or(0, |s| s.rollout.healthy_deadline_ms);
    state
        .overdue()
        .map(|instance| Action::Fail { instance, cause: FailureCause::NotReady { after_ms } })
        .collect()
}

/// At most one turn of the open rollout.
pub fn turn(state: &AppState) -> Option<Action> {
    if let Some(since) = state.recovering_since() {
        return recovered(state, since).then_some(Action::Recovered);
    }
    let rollout = state.open_rollout()?;
    match rollout.state {
        RolloutState::Running | RolloutState::RollingBack => {}
        RolloutState::Paused
        | RolloutState::RolledBack
        | RolloutState::Succeeded
        | RolloutState::Failed
        | RolloutState::Aborted
        | RolloutState::Superseded => return None,
    }
    trouble(state, rollout)
        .map(|cause| answer_to(state, rollout, cause))
        .or_else(|| batch_reached(state, rollout))
        .or_else(|| completion(state, rollout))
        .or_else(|| step_reached(rollout))
}

/// The base is at full strength, or it had the time that one instance gets.
fn recovered(state: &AppState, since: Millis) -> bool {
    let desired = state.budget().desired;
    let patience = state.settings().map_or(0, |s| s.rollout.healthy_deadline_ms);
    state.counts_of(state.proven()).available() >= desired || state.now() >= since + patience
}

fn trouble(state: &AppState, rollout: &Rollout) -> Option<PauseCause> {
    let settings = state.settings()?;
    let max_failures = settings.max_failures();
    // Who goes on in spite of failures is stopped by the deadline only.
    if rollout.failures >= max_failures && settings.rollout.on_failure != OnFailure::Continue {
        return Some(PauseCause::Failures { failures: rollout.failures, max_failures });
    }
    let after_ms = settings.rollout.progress_deadline_ms;
    (rollout.progress.spent_at(state.now()) >= after_ms).then_some(PauseCause::ProgressDeadline { after_ms })
}

/// What `on_failure` makes of it. A way back that fails is never rolled back: it asks a person.
fn answer_to(state: &AppState, rollout: &Rollout, cause: PauseCause) -> Action {
    let on_failure = state.settings().map_or(OnFailure::Pause, |s| s.rollout.on_failure);
    if rollout.back_to.is_some() || on_failure == OnFailure::Continue {
        return Action::Conclude { outcome: Outcome::Failed, cause: Some(cause) };
    }
    let way_back = state.rollback_target().filter(|_| !state.is_first_rollout());
    match (on_failure, way_back) {
        (OnFailure::Rollback, Some(to)) => Action::TurnBack { to, cause },
        (OnFailure::Rollback | OnFailure::Pause | OnFailure::Continue, _) => Action::PauseRollout { cause },
    }
}

/// `--step`: a batch is through and more are to come.
fn step_reached(rollout: &Rollout) -> Option<Action> {
    let batch = rollout.batches;
    (rollout.step && batch > rollout.stepped)
        .then_some(Action::PauseRollout { cause: PauseCause::Step { batch } })
}

/// The moment from which the delay counts.
fn batch_reached(state: &AppState, rollout: &Rollout) -> Option<Action> {
    let complete = super::moves::complete_batches(state)?;
    (complete > rollout.batches).then_some(Action::BatchReached { batch: complete })
}

/// All of the target available and nothing else live: then the bake time, then the end. With places left out, the base
/// stands there, and that is not what was wanted.
fn completion(state: &AppState, rollout: &Rollout) -> Option<Action> {
    let left_out = state.budget().desired - state.goal();
    let restored = left_out == 0 || state.counts_of(state.proven()).available() == left_out;
    if !state.is_complete() || !restored {
        return None;
    }
    if left_out > 0 {
        let cause = PauseCause::Skipped { count: left_out };
        return Some(Action::Conclude { outcome: Outcome::Failed, cause: Some(cause) });
    }
    let bake_ms = state.settings().map_or(0, |s| s.rollout.bake_time_ms);
    match rollout.bake_since {
        None if bake_ms > 0 => return Some(Action::Bake),
        Some(since) if state.now() < since + bake_ms => return None,
        None | Some(_) => {}
    }
    let outcome = match (rollout.back_to, rollout.aborted) {
        (None, _) => Outcome::Succeeded,
        (Some(_), false) => Outcome::RolledBack,
        (Some(_), true) => Outcome::Aborted,
    };
    Some(Action::Conclude { outcome, cause: None })
}
