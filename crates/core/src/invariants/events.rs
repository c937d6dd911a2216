//! What no event may do to a state: a few values taken before it is applied, compared with what is there afterwards.

use std::collections::BTreeSet;

use crate::Millis;
use crate::event::{Action, Command, Event, Fact, RolloutKind};
use crate::ids::{InstanceKey, RevisionNumber, RolloutId};
use crate::state::{AppState, Phase, RolloutState};

use super::{Violation, ensure};

type Checker = fn(&Witness, &Event, &AppState) -> Result<(), String>;

/// Number, name, checker.
pub const EVENT_CHECKERS: &[(&str, &str, Checker)] = &[
    ("S3", "bad stays bad", s3_bad_stays_bad),
    ("S4", "one direction", s4_one_direction),
    ("S8", "one rollout per app", s8_one_rollout),
    ("S12", "route only the proven", s12_route_only_the_proven),
    ("S13", "draining is absorbing", s13_draining_is_absorbing),
    ("S17", "terminal is final", s17_terminal_is_final),
    ("S18", "evidence", s18_evidence),
    ("S20", "supersede is explicit", s20_supersede_is_explicit),
    ("S21", "time", s21_time),
];

/// What an event is judged by: taken before it is applied, at a cost that does not grow with the app.
#[derive(Debug, Clone)]
pub struct Witness {
    at: Millis,
    now: Millis,
    last: Option<(RolloutId, RolloutState, Option<RevisionNumber>)>,
    bad: BTreeSet<RevisionNumber>,
    /// The instance that the event is about.
    instance: Option<(InstanceKey, Option<Seen>)>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    phase: Phase,
    routed: bool,
}

impl Witness {
    pub fn new(state: &AppState, at: Millis, event: &Event) -> Self {
        Self {
            at,
            now: state.now(),
            last: state.last_rollout().map(|r| (r.id, r.state, r.back_to)),
            bad: state.bad_revisions().clone(),
            instance: event.instance().map(|key| (key, seen(state, key))),
        }
    }

    /// Judges the state after the event.
    ///
    /// # Errors
    /// The first invariant that the event broke.
    pub fn check(&self, event: &Event, after: &AppState) -> Result<(), Violation> {
        for (invariant, _, checker) in EVENT_CHECKERS {
            checker(self, event, after).map_err(|detail| Violation { invariant, detail })?;
        }
        Ok(())
    }

    fn was_open(&self) -> Option<RolloutId> {
        self.last.filter(|(_, state, _)| !state.is_terminal()).map(|(id, _, _)| id)
    }
}

fn seen(state: &AppState, key: InstanceKey) -> Option<Seen> {
    state.instance(key).map(|i| Seen { phase: i.phase(), routed: i.is_routed() })
}

/// A verdict makes it grow, a person makes it shrink. One that is forgotten can never be started again.
fn s3_bad_stays_bad(before: &Witness, event: &Event, after: &AppState) -> Result<(), String> {
    let (was, is) = (&before.bad, after.bad_revisions());
    if was == is {
        return Ok(());
    }
    let a_person_spoke = matches!(event, Event::Commanded { .. });
    let verdict = matches!(
        event,
        Event::Decided(Action::TurnBack { .. })
            | Event::Commanded {
                command: Command::TurnBack { .. } | Command::Roll { kind: RolloutKind::Rollback, .. },
                ..
            }
    );
    let judged = is.difference(was).next();
    ensure(judged.is_none() || verdict, || format!("{judged:?} counts as bad, and nobody judged it"))?;
    let forgiven = was.difference(is).find(|revision| after.revision(**revision).is_some());
    ensure(forgiven.is_none() || a_person_spoke, || {
        format!("{forgiven:?} was judged bad, and nobody took it back")
    })
}

fn s4_one_direction(before: &Witness, _: &Event, after: &AppState) -> Result<(), String> {
    let Some((id, _, Some(back_to))) = before.last else { return Ok(()) };
    let now = after.rollouts().get(&id).and_then(|r| r.back_to);
    ensure(now == Some(back_to), || format!("rollout {id} went back to {back_to} and turned to {now:?}"))
}

fn s8_one_rollout(before: &Witness, _: &Event, after: &AppState) -> Result<(), String> {
    let open = |id: &RolloutId| after.rollouts().get(id).is_some_and(|r| !r.state.is_terminal());
    let last = after.last_rollout().map(|r| r.id);
    let twice = before.last.map(|(id, _, _)| id).filter(|id| Some(*id) != last).filter(open);
    ensure(twice.is_none(), || format!("rollout {twice:?} is open beside {last:?}"))
}

fn s12_route_only_the_proven(before: &Witness, _: &Event, after: &AppState) -> Result<(), String> {
    let Some((key, was)) = before.instance else { return Ok(()) };
    let Some(is) = seen(after, key).filter(|is| is.routed) else { return Ok(()) };
    ensure(is.phase == Phase::Ready, || format!("{key:?} counts as routed while {:?}", is.phase))?;
    let was_ready = was.is_some_and(|was| was.phase == Phase::Ready);
    ensure(was_ready, || format!("{key:?} counts as routed before it was ready"))
}

fn s13_draining_is_absorbing(before: &Witness, _: &Event, after: &AppState) -> Result<(), String> {
    let Some((key, Some(was))) = before.instance else { return Ok(()) };
    let Some(is) = seen(after, key) else { return Ok(()) };
    let holds = match was.phase {
        Phase::Draining => matches!(is.phase, Phase::Draining | Phase::Stopping | Phase::Unknown),
        Phase::Stopping => matches!(is.phase, Phase::Stopping | Phase::Unknown),
        Phase::Failed => matches!(is.phase, Phase::Failed | Phase::Draining | Phase::Stopping),
        Phase::Intended | Phase::Starting | Phase::Ready | Phase::Unready | Phase::Unknown => true,
    };
    ensure(holds, || format!("{key:?} went from {:?} to {:?}", was.phase, is.phase))
}

fn s17_terminal_is_final(before: &Witness, _: &Event, after: &AppState) -> Result<(), String> {
    let Some((id, was, _)) = before.last.filter(|(_, state, _)| state.is_terminal()) else { return Ok(()) };
    let is = after.rollouts().get(&id).map(|r| r.state);
    ensure(is.is_none_or(|is| is == was), || format!("rollout {id} had ended {was:?} and is {is:?}"))
}

/// Ready only by an observation of that instance.
fn s18_evidence(before: &Witness, event: &Event, after: &AppState) -> Result<(), String> {
    let Some((key, was)) = before.instance else { return Ok(()) };
    let was_ready = was.is_some_and(|was| was.phase == Phase::Ready);
    let is_ready = seen(after, key).is_some_and(|is| is.phase == Phase::Ready);
    let told = matches!(event, Event::Observed { fact: Fact::Ready, .. });
    ensure(was_ready || !is_ready || told, || format!("{key:?} became ready and nobody saw it"))
}

fn s20_supersede_is_explicit(before: &Witness, event: &Event, after: &AppState) -> Result<(), String> {
    let Event::Commanded { command: Command::Roll { rollout, .. }, .. } = event else { return Ok(()) };
    let opened = after.open_rollout().is_some_and(|r| r.id == *rollout);
    ensure(opened, || format!("rollout {rollout} was asked for and is not open"))?;
    let Some(earlier) = before.was_open() else { return Ok(()) };
    let now = after.rollouts().get(&earlier).map(|r| r.state);
    ensure(now == Some(RolloutState::Superseded), || format!("rollout {earlier} was left as {now:?}"))
}

fn s21_time(before: &Witness, _: &Event, after: &AppState) -> Result<(), String> {
    let due = before.now.max(before.at);
    ensure(after.now() == due, || {
        format!("it was {}, the event came at {}, now it is {}", before.now, before.at, after.now())
    })
}
