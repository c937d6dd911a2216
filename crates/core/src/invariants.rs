//! What must hold at every moment, one numbered checker each. They read counts, so they run in release builds too: a
//! decision that would break one is not carried out. [`scan`] counts everything anew and belongs to tests and recovery.

use std::collections::BTreeSet;

use crate::event::{Action, StartPurpose, StopPurpose};
use crate::ids::InstanceKey;
use crate::state::{AppState, Phase, RolloutState};

/// A bug of ours, caught before it had an effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {invariant} would be broken: {detail}")]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

type Checker = fn(&AppState, &[Action]) -> Result<(), String>;

/// Number, name, checker.
pub const CHECKERS: &[(&str, &str, Checker)] = &[
    ("S1", "availability", s1_availability),
    ("S2", "surge", s2_surge),
    ("S3", "bad stays bad", s3_bad_stays_bad),
    ("S4", "one change of direction", s4_one_direction),
    ("S5", "pause", s5_pause),
    ("S12", "never cut the busy", s12_never_cut_the_busy),
    ("S13", "draining is absorbing", s13_draining_is_absorbing),
    ("S14", "never empty by our hand", s14_never_empty),
    ("S15", "rollback is minimal", s15_rollback_is_minimal),
    ("S16", "one per slot", s16_one_per_slot),
    ("S17", "terminal is final", s17_terminal_is_final),
    ("S19", "the proven version repairs", s19_proven_repairs),
];

/// All checkers over one pass of a decision.
///
/// # Errors
/// The first invariant that the actions would break in this state.
pub fn check(state: &AppState, actions: &[Action]) -> Result<(), Violation> {
    for (invariant, _, checker) in CHECKERS {
        checker(state, actions).map_err(|detail| Violation { invariant, detail })?;
    }
    Ok(())
}

/// Available ones that the actions take out, unless a person takes the whole app down.
fn taken(state: &AppState, actions: &[Action]) -> u32 {
    let needs_route = state.settings().is_some_and(|s| s.listen.is_some());
    let available = |key: &InstanceKey| {
        state.instance(*key).is_some_and(|i| {
            i.phase() == Phase::Ready && i.matures_at().is_none() && (i.is_routed() || !needs_route)
        })
    };
    let count = leaving(actions)
        .filter(|(_, purpose)| *purpose != StopPurpose::Down)
        .filter(|(k, _)| available(k))
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

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
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
    })
}

fn s5_pause(state: &AppState, actions: &[Action]) -> Result<(), String> {
    if !state.is_halted() || state.is_down() {
        return Ok(());
    }
    if let Some((key, _)) = starts(actions).find(|(_, purpose)| *purpose != StartPurpose::Repair) {
        return Err(format!("{key:?} would start in a pause"));
    }
    let moved = actions.iter().find_map(|action| match action {
        Action::Drain { instance, purpose } if *purpose != StopPurpose::Failed => Some(*instance),
        Action::Stop { instance, purpose, .. } => {
            let begun = state.instance(*instance).is_some_and(|i| i.phase() == Phase::Draining);
            (!begun && *purpose != StopPurpose::Failed).then_some(*instance)
        }
        _ => None,
    });
    ensure(moved.is_none(), || format!("{moved:?} would leave in a pause"))
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
        let slot = InstanceKey { attempt: 0, ..key };
        let next = InstanceKey { attempt: u32::MAX, ..key };
        if !taken.insert((key.revision, key.slot)) || state.has_instance_between(slot, next) {
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

fn s19_proven_repairs(state: &AppState, actions: &[Action]) -> Result<(), String> {
    let foreign = starts(actions)
        .find(|(key, purpose)| *purpose == StartPurpose::Repair && Some(key.revision) != state.proven());
    ensure(foreign.is_none(), || format!("{foreign:?} would repair, but {:?} is proven", state.proven()))
}

/// Counts everything anew and compares with the maintained books: for tests, the simulator and recovery.
///
/// # Errors
/// The first difference, in words.
pub fn scan(state: &AppState) -> Result<(), String> {
    let open = state.rollouts().values().filter(|r| !r.state.is_terminal()).count();
    ensure(open <= 1, || format!("S8: {open} rollouts are open"))?;
    let mut held = BTreeSet::new();
    for instance in state.instances() {
        let key = instance.key();
        if instance.phase().is_held() {
            ensure(held.insert((key.revision, key.slot)), || {
                format!("S16: {key:?} is the second in its place")
            })?;
        }
    }
    let phase_count = |wanted: fn(Phase) -> bool| {
        u32::try_from(state.instances().filter(|i| wanted(i.phase())).count()).unwrap_or(u32::MAX)
    };
    let live = u32::try_from(state.instances().count()).unwrap_or(u32::MAX);
    let totals = state.totals();
    ensure(totals.live() == live, || format!("books say {} live, there are {live}", totals.live()))?;
    let held = phase_count(Phase::is_held);
    ensure(totals.held() == held, || format!("books say {} held, there are {held}", totals.held()))?;
    let ready = phase_count(|p| p == Phase::Ready);
    let booked: u32 = state.books().values().map(|b| b.ready()).sum();
    ensure(booked == ready, || format!("books say {booked} ready, there are {ready}"))?;
    let in_books: u32 = state.books().values().map(|b| b.counts().live()).sum();
    ensure(in_books == live, || format!("the books of revisions hold {in_books}, there are {live}"))
}
