//! Liveness. From any state on, a fair world: what starts becomes ready, what drains drains, what stops goes, time passes,
//! and a person who is asked says go on. Then every rollout ends, or waits for a named person, within a bound.

use std::mem::discriminant;

use trundle_core::decide::{Decision, decide};
use trundle_core::event::{Outcome, PauseCause};
use trundle_core::ids::InstanceKey;
use trundle_core::reason::Reason;
use trundle_core::state::{AppState, Phase, RolloutState};

use crate::app::App;
use crate::happening::{Happening, Seen};
use crate::node::{Broken, Node};
use crate::sometimes::Sometimes;

/// Far more than any rollout of so few needs, waits in back-off among it.
const MOST_STEPS: u32 = 400;
/// Step by step a person is asked once a batch, and after a way back once more.
const MOST_RESUMES: u32 = 8;

fn broken<T>(liveness: &str, why: &str, state: &AppState) -> Result<T, Broken> {
    let said: Vec<String> = decide(state).reasons.iter().map(Reason::text).collect();
    Err(Broken(format!("invariant {liveness} is broken: {why}: {}", said.join("; "))))
}

/// What a good world does next; `None` when only people can.
fn next(state: &AppState) -> Option<Happening> {
    let routes = state.settings().is_some_and(|s| s.listen.is_some());
    let told = state.instances().find_map(|i| {
        let seen = match i.phase() {
            Phase::Intended | Phase::Starting | Phase::Unready | Phase::Unknown => Seen::Ready,
            Phase::Ready if routes && !i.is_routed() => Seen::Routed,
            Phase::Draining if i.drained().is_none() => Seen::Drained,
            Phase::Stopping => Seen::Gone,
            Phase::Ready | Phase::Draining | Phase::Failed => return None,
        };
        Some(Happening::See(i.key(), seen))
    });
    told.or_else(|| state.next_timer_at().map(|_| Happening::Tick))
}

/// One step of the fair world; the same node when nothing is left.
pub fn easiest(app: &App, node: &Node, reached: &mut Sometimes) -> Result<Node, Broken> {
    let Some(happening) = next(&node.state) else { return Ok(node.clone()) };
    Ok(node.after(app, happening, reached)?.unwrap_or_else(|| node.clone()))
}

/// Until only people could do anything.
fn until_people(app: &App, mut node: Node, reached: &mut Sometimes) -> Result<Node, Broken> {
    for _ in 0..MOST_STEPS {
        let before = decide(&node.state);
        wakes_in_time(&node.state, &before)?;
        let Some(happening) = next(&node.state) else { return Ok(node) };
        let Some(after) = node.after(app, happening, reached)? else {
            match happening {
                // Nothing that is pending changes anything any more.
                Happening::Tick => return Ok(node),
                _ => return broken("L5", &format!("\"{happening}\" is what it waits for"), &node.state),
            }
        };
        if let Happening::See(key, _) = happening {
            waits_no_more(key, &before, &after.state)?;
        }
        node = after;
    }
    broken("L1", &format!("{MOST_STEPS} steps and no end"), &node.state)
}

/// L1 to L5 from this state on.
pub fn ends(app: &App, node: &Node, reached: &mut Sometimes) -> Result<(), Broken> {
    let app = App { faults: None, commands: None, interleaved: false, ..*app };
    let mut node = node.clone();
    node.rest(reached)?;
    // One whose failures are counted up already, as in the recovery after a reboot, will ask a person.
    let goes_back = node
        .state
        .open_rollout()
        .is_some_and(|r| r.state == RolloutState::RollingBack && r.failures < app.max_failures);
    node = until_people(&app, node, reached)?;
    serves_while_halted(&node.state)?;
    let mut resumes = 0;
    while node.state.open_rollout().is_some() {
        resumes += 1;
        let resumed = node.after(&app, Happening::Resume, reached)?;
        let Some(resumed) = resumed.filter(|_| resumes <= MOST_RESUMES) else {
            return broken("L4", &format!("resumed {} times and no end", resumes - 1), &node.state);
        };
        node = until_people(&app, resumed, reached)?;
    }
    is_at_its_end(&node.state, goes_back)?;
    let failed = node.state.last_rollout().is_some_and(|r| r.state == RolloutState::Failed);
    if failed && !node.state.is_down() {
        // The person that it waits for deploys a fix.
        let fixed = node.after(&app, Happening::Deploy(9), reached)?;
        let Some(fixed) = fixed else { return broken("L1", "a fix cannot be deployed", &node.state) };
        node = until_people(&App { step: false, ..app }, fixed, reached)?;
        while let Some(resumed) = node.after(&app, Happening::Resume, reached)? {
            node = until_people(&app, resumed, reached)?;
        }
        is_at_its_end(&node.state, false)?;
    }
    Ok(())
}

fn is_at_its_end(state: &AppState, went_back: bool) -> Result<(), Broken> {
    let decision = decide(state);
    if !decision.actions.is_empty() {
        return broken("L3", "it ended and has more to do", state);
    }
    if state.is_down() {
        let all_gone = state.totals().live() == 0;
        return if all_gone { Ok(()) } else { broken("L1", "it is down and something lives", state) };
    }
    let Some(last) = state.last_rollout() else { return Ok(()) };
    match last.state {
        RolloutState::Failed => {
            let waits_for_person = decision.reasons.iter().any(|r| matches!(r, Reason::Halted { .. }));
            let gave_up = matches!(last.cause, Some(PauseCause::ProgressDeadline { .. }));
            if !waits_for_person {
                return broken("L1", "it failed and says not what a person can do", state);
            }
            if went_back && !gave_up {
                return broken("L2", &format!("the way back ended as {:?}", Outcome::Failed), state);
            }
            serves_while_halted(state)
        }
        RolloutState::Running
        | RolloutState::Paused
        | RolloutState::RollingBack
        | RolloutState::RolledBack
        | RolloutState::Succeeded
        | RolloutState::Aborted
        | RolloutState::Superseded => {
            let desired = state.budget().desired;
            let of_target = state.counts_of(state.target()).available();
            let rule = if went_back { "L2" } else { "L3" };
            if (of_target, state.totals().live()) == (desired, desired) {
                return Ok(());
            }
            broken(rule, &format!("{of_target} of {desired} are of the target"), state)
        }
    }
}

/// A pause never leaves an app at zero, nor below its floor, once a version is proven.
fn serves_while_halted(state: &AppState) -> Result<(), Broken> {
    let least = state.budget().floor().max(state.budget().desired.min(1));
    if !state.is_halted() || state.is_down() || state.proven().is_none() {
        return Ok(());
    }
    let serving = state.totals().available();
    if serving >= least {
        return Ok(());
    }
    broken("S5", &format!("{serving} serve in a pause, and {least} could"), state)
}

/// Who says how long it waits wakes by then.
fn wakes_in_time(state: &AppState, decision: &Decision) -> Result<(), Broken> {
    for reason in &decision.reasons {
        let left_ms = match reason {
            Reason::Delay { left_ms, .. }
            | Reason::Starting { left_ms, .. }
            | Reason::MinHealthyTime { left_ms, .. }
            | Reason::Draining { left_ms, .. }
            | Reason::Kept { left_ms, .. }
            | Reason::Backoff { left_ms, .. }
            | Reason::Bake { left_ms }
            | Reason::Deadline { left_ms } => *left_ms,
            _ => continue,
        };
        // Nothing left: the time has come already, and an event is waited for.
        if left_ms > 0 && decision.wake_at.is_none_or(|at| at > state.now() + left_ms) {
            return broken("L5", &format!("nothing wakes it for \"{}\"", reason.text()), state);
        }
    }
    Ok(())
}

/// What was waited for has happened: the wait is over, or another one has begun.
fn waits_no_more(key: InstanceKey, before: &Decision, after: &AppState) -> Result<(), Broken> {
    let name = key.name(after.app());
    let names_it = |reason: &Reason| reason.clone().names_mut().into_iter().any(|n| **n == name);
    let is_wait = |reason: &&Reason| {
        matches!(
            reason,
            Reason::Starting { .. }
                | Reason::Unready { .. }
                | Reason::Routing { .. }
                | Reason::Draining { .. }
                | Reason::Kept { .. }
                | Reason::Stopping { .. }
                | Reason::Unknown { .. }
        )
    };
    let waits: Vec<_> =
        before.reasons.iter().filter(is_wait).filter(|r| names_it(r)).map(discriminant).collect();
    let still = decide(after).reasons.into_iter().find(|r| waits.contains(&discriminant(r)) && names_it(r));
    match still {
        None => Ok(()),
        Some(reason) => broken("L5", &format!("it happened, and still \"{}\"", reason.text()), after),
    }
}
