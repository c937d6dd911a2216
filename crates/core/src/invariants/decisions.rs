//! What no decision may do, checked on counts before it is carried out.

use std::collections::BTreeSet;

use crate::event::{Action, Outcome, StartPurpose, StopPurpose};
use crate::ids::InstanceKey;
use crate::state::{AppState, Phase, RolloutState};

use super::ensure;

pub(super) type Checker = fn(&AppState, &[Action]) -> Result<(), String>;

/// Number, name, checker.
pub const DECISION_CHECKERS: &[(&str, &str, Checker)] = &[
    ("S1", "availability", s1_availability),
    ("S2", "surge", s2_surge),
    ("S3", "bad stays bad", s3_bad_stays_bad),
    ("S4", "one direction", s4_one_direction),
    ("S5", "pause", s5_pause),
    ("S12", "never cut the busy", s12_never_cut_the_busy),
    ("S13", "draining is absorbing", s13_draining_is_absorbing),
    ("S14", "never empty by our hand", s14_never_empty),
    ("S15", "rollback is minimal", s15_rollback_is_minimal),
    ("S16", "one per slot", s16_one_per_slot),
    ("S17", "terminal is final", s17_terminal_is_final),
    ("S18", "evidence", s18_evidence),
    ("S19", "the proven version repairs", s19_proven_repairs),
];

/// Available ones that the actions take out, unless a person takes the whole app down.
fn taken(state: &AppState, actions: &[Action]) -> u32 {
    let count = leaving(actions)
        .filter(|(_, purpose)| *purpose != StopPurpose::Down)
        .filter(|(key, _)| state.is_available(*key))
        .count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn leaving(actions: &[Action]) -> impl Iterator<Item = (InstanceKey, StopPurpose)> {
    actions.iter().filter_map(|action| match action {
        Action::Drain { instance, purpose } | Action::Stop { instance, purpose, .. } => {
            Some((*instance, *purpose))
        }
        _ => None,
    })
}

fn starts(actions: &[Action]) -> impl Iterator<Item = (InstanceKey, StartPurpose)> {
    actions.iter().filter_map(|action| match action {
        Action::Start { instance, purpose } => Some((*instance, *purpose)),
        _ => None,
    })
}

fn s1_availability(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let (taken, available) = (taken(state, actions), state.totals().available());
    let floor = state.budget().floor();
    ensure(taken == 0 || available - taken >= floor, || {
        format!("{taken} of {available} available would leave, and the floor is {floor}")
    })
}

fn s2_surge(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let (started, live) = (starts(actions).count() as u64, u64::from(state.totals().live()));
    let ceiling = u64::from(state.budget().ceiling());
    ensure(started == 0 || live + started <= ceiling, || {
        format!("{started} would start beside {live} live, and the ceiling is {ceiling}")
    })
}

fn s3_bad_stays_bad(state: &AppState, actions: &[Action]) -> Result<(), String> {
    match starts(actions).find(|(key, _)| state.is_bad(key.revision)) {
        None => Ok(()),
        Some((key, _)) => Err(format!("{key:?} would start, but revision {} was judged bad", key.revision)),
    }
}

fn s4_one_direction(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let turns = actions.iter().any(|a| matches!(a, Action::TurnBack { .. }));
    ensure(!turns || state.open_rollout().is_some_and(|r| r.back_to.is_none()), || {
        "a rollout that went back would turn again".to_owned()
    })?;
    let draining = |key| state.instance(key).is_some_and(|i| i.phase() == Phase::Draining);
    let undone = leaving(actions).find(|(key, purpose)| {
        *purpose == StopPurpose::Replaced && Some(key.revision) == state.target() && !draining(*key)
    });
    ensure(undone.is_none(), || format!("{undone:?} is of the target and would be replaced by it"))
}

fn s5_pause(state: &AppState, actions: &[Action]) -> Result<(), String> {
    if !state.is_halted() || state.is_down() {
        return Ok(());
    }
    if let Some((key, purpose)) = starts(actions).find(|(key, purpose)| !was_asked_for(state, *key, *purpose))
    {
        return Err(format!("{key:?} would start in a pause ({purpose:?})"));
    }
    repairs_only_the_floor(state, actions)?;
    let begun = |key| state.instance(key).is_some_and(|i| i.phase() == Phase::Draining);
    let shrinks = |key: InstanceKey| state.book(key.revision).is_some_and(|book| book.owed() < 0);
    let moved = leaving(actions).find(|(key, purpose)| {
        !begun(*key)
            && match purpose {
                StopPurpose::Failed | StopPurpose::Skipped => false,
                StopPurpose::Surplus => !shrinks(*key),
                StopPurpose::Replaced | StopPurpose::Down => true,
            }
    });
    ensure(moved.is_none(), || format!("{moved:?} would leave in a pause"))
}

/// In a pause the base comes up to the floor and no further, whoever serves. After a reboot it comes up to its full number.
fn repairs_only_the_floor(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let repairs = starts(actions).filter(|(_, purpose)| *purpose == StartPurpose::Repair).count() as u64;
    let (serving, budget) = (state.totals().available(), state.budget());
    let least = if serving == 0 { budget.floor().max(budget.desired.min(1)) } else { budget.floor() };
    let is_needed = repairs == 0 || u64::from(serving) + repairs <= u64::from(least);
    ensure(is_needed || state.recovering_since().is_some(), || {
        format!("{repairs} would start in a pause beside {serving} that serve, and the floor is {least}")
    })
}

/// What may start in a pause: repair, and what a person asked for since.
fn was_asked_for(state: &AppState, key: InstanceKey, purpose: StartPurpose) -> bool {
    let rollout = state.open_rollout();
    match purpose {
        StartPurpose::Repair => true,
        StartPurpose::Retry => rollout.is_some_and(|r| r.retries.contains(&key.slot)),
        StartPurpose::Restore => rollout.is_some_and(|r| r.left_out() > 0),
        StartPurpose::Scale => state.book(key.revision).is_some_and(|book| book.owed() > 0),
        StartPurpose::Roll => false,
    }
}

fn s12_never_cut_the_busy(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let stoppable: BTreeSet<_> = state.stoppable().collect();
    let cut = actions.iter().find_map(|action| match action {
        Action::Stop { instance, .. } if state.may_be_busy(*instance) => {
            (!stoppable.contains(instance)).then_some(*instance)
        }
        _ => None,
    });
    ensure(cut.is_none(), || {
        format!("{cut:?} would stop although its drain is neither proven nor past its deadline")
    })
}

fn s13_draining_is_absorbing(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let again = actions.iter().find_map(|action| match action {
        Action::Drain { instance, .. } | Action::Fail { instance, .. } => {
            let phase = state.instance(*instance).map(|i| i.phase());
            matches!(phase, None | Some(Phase::Draining | Phase::Stopping)).then_some(*instance)
        }
        _ => None,
    });
    ensure(again.is_none(), || format!("{again:?} is on its way out already"))
}

fn s14_never_empty(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let (taken, available) = (taken(state, actions), state.totals().available());
    let budget = state.budget();
    ensure(taken == 0 || taken < available || budget.desired == 0 || budget.floor() == 0, || {
        format!("all {available} available would leave at once")
    })
}

fn s15_rollback_is_minimal(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let going_back = state.open_rollout().filter(|r| r.state == RolloutState::RollingBack);
    let Some(target) = going_back.and(state.target()) else { return Ok(()) };
    let surplus = state.counts_of(Some(target)).held().saturating_sub(state.budget().desired) as usize;
    let healthy = |key: InstanceKey| state.instance(key).is_some_and(|i| i.phase() == Phase::Ready);
    let leaving = leaving(actions).filter(|(key, _)| key.revision == target && healthy(*key)).count();
    ensure(leaving <= surplus, || {
        format!("{leaving} healthy ones of revision {target} would leave on the way back to it")
    })
}

fn s16_one_per_slot(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let mut taken = BTreeSet::new();
    for (key, _) in starts(actions) {
        let stands = state.at_place(key.revision, key.slot).is_some();
        if !taken.insert((key.revision, key.slot)) || stands {
            return Err(format!("{key:?} would start in a place that is taken"));
        }
    }
    Ok(())
}

fn s17_terminal_is_final(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let turns = actions.iter().any(|action| match action {
        Action::BatchReached { .. }
        | Action::PauseRollout { .. }
        | Action::TurnBack { .. }
        | Action::Bake
        | Action::Conclude { .. } => true,
        Action::Start { .. }
        | Action::Drain { .. }
        | Action::Stop { .. }
        | Action::Fail { .. }
        | Action::Recovered => false,
    });
    ensure(!turns || state.open_rollout().is_some(), || "a rollout that ended would change".to_owned())
}

/// Success needs every one of them seen available, and nothing else alive.
fn s18_evidence(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let good = actions.iter().any(|action| match action {
        Action::Conclude { outcome, .. } => *outcome != Outcome::Failed,
        Action::Start { .. }
        | Action::Drain { .. }
        | Action::Stop { .. }
        | Action::Fail { .. }
        | Action::BatchReached { .. }
        | Action::PauseRollout { .. }
        | Action::TurnBack { .. }
        | Action::Bake
        | Action::Recovered => false,
    });
    let (available, live) = (state.counts_of(state.target()).available(), state.totals().live());
    let desired = state.budget().desired;
    ensure(!good || (available == desired && live == desired), || {
        format!("a good end with {available} of {desired} available and {live} live")
    })
}

fn s19_proven_repairs(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let foreign = starts(actions).find(|(key, purpose)| {
        matches!(purpose, StartPurpose::Repair | StartPurpose::Restore)
            && Some(key.revision) != state.proven()
    });
    ensure(foreign.is_none(), || format!("{foreign:?} would repair, but {:?} is proven", state.proven()))
}
