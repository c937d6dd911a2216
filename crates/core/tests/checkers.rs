//! Each checker of the invariants, alone: what it fires at, and the nearest thing that it lets pass. A checker that never
//! fires is no evidence; one that fires at the allowed would stop a sound rollout.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, World, counts, settings};
use trundle_core::event::{
    Action, Command, Event, Exit, Fact, FailureCause, Outcome, PauseCause, RolloutKind, StartPurpose,
    StopPurpose,
};
use trundle_core::ids::{InstanceKey, RevisionNumber, RolloutId};
use trundle_core::invariants::{self, DECISION_CHECKERS, EVENT_CHECKERS, Witness};
use trundle_core::settings::OnFailure;
use trundle_core::state::{AppState, Phase, Request, RolloutState};

fn key(revision: u32, slot: u32) -> InstanceKey {
    InstanceKey { revision: RevisionNumber(revision), slot, attempt: 1 }
}

fn start(instance: InstanceKey, purpose: StartPurpose) -> Action {
    Action::Start { instance, purpose }
}

fn drain(instance: InstanceKey, purpose: StopPurpose) -> Action {
    Action::Drain { instance, purpose }
}

fn stop(instance: InstanceKey, purpose: StopPurpose) -> Action {
    Action::Stop { instance, purpose, cut: false }
}

fn conclude(outcome: Outcome) -> Action {
    Action::Conclude { outcome, cause: None }
}

fn by() -> PauseCause {
    PauseCause::Person { by: "ann".into() }
}

/// The numbers of all that fire at these actions; and that the first of them is what `check` answers.
fn check(state: &AppState, actions: &[Action], expect: &[&str]) {
    let fired: Vec<_> = DECISION_CHECKERS
        .iter()
        .filter(|(_, _, checker)| checker(state, actions).is_err())
        .map(|(number, _, _)| *number)
        .collect();
    assert_eq!(fired, expect, "{actions:?}");
    let first = invariants::check(state, actions).err().map(|v| v.invariant);
    assert_eq!(first, expect.first().copied(), "{actions:?}");
}

/// Four of 1 at one extra and one missing: floor 3, ceiling 5. Nothing is open.
fn idle() -> World {
    World::with(settings(4, counts(1, 1)))
}

/// A rollout to 2 with one of it ready, one of 1 draining and two of 2 alive.
fn rolling() -> World {
    let mut world = idle();
    world.stop_ms = 5_000;
    world.deploy("2");
    while world.ready_of(2).is_empty() {
        assert!(world.step());
    }
    world
}

/// From here on all but one may be missing and three more may run, so that neither bound is a reason for anything.
fn with_wide_bounds(world: &World) -> AppState {
    let replicas = world.state.budget().desired;
    let wide = settings(replicas, counts(3, replicas - 1));
    after(&world.state, &said(Command::Configure { settings: Box::new(wide) }))
}

#[test]
fn what_an_idle_app_allows() {
    let world = idle();
    let state = &world.state;
    let surplus = StopPurpose::Surplus;
    let all = |purpose| (1..=4).map(|slot| drain(key(1, slot), purpose)).collect::<Vec<_>>();
    check(state, &[], &[]);
    check(state, &[drain(key(1, 1), surplus)], &[]);
    check(state, &[drain(key(1, 1), surplus), drain(key(1, 2), surplus)], &["S1"]);
    check(state, &all(surplus), &["S1", "S14"]);
    check(state, &all(StopPurpose::Down), &[]);
    check(state, &[start(key(1, 5), StartPurpose::Roll)], &[]);
    check(state, &[start(key(1, 5), StartPurpose::Roll), start(key(1, 6), StartPurpose::Roll)], &["S2"]);
    check(state, &[start(InstanceKey { attempt: 2, ..key(1, 1) }, StartPurpose::Roll)], &["S16"]);
    check(
        state,
        &[
            start(key(1, 5), StartPurpose::Roll),
            start(InstanceKey { attempt: 2, ..key(1, 5) }, StartPurpose::Roll),
        ],
        &["S2", "S16"],
    );
    check(state, &[drain(key(1, 1), StopPurpose::Replaced)], &["S4"]);
    check(state, &[stop(key(1, 1), surplus)], &["S12"]);
    check(state, &[Action::Fail { instance: key(1, 9), cause: FailureCause::NotLive }], &["S13"]);
    check(state, &[Action::Fail { instance: key(1, 1), cause: FailureCause::NotLive }], &[]);
    check(state, &[start(key(1, 5), StartPurpose::Repair)], &[]);
    check(state, &[start(key(2, 1), StartPurpose::Repair)], &["S19"]);
    check(state, &[start(key(2, 1), StartPurpose::Restore)], &["S19"]);
    for turn in [
        Action::BatchReached { batch: 1 },
        Action::PauseRollout { cause: by() },
        Action::Bake,
        conclude(Outcome::Failed),
    ] {
        check(state, &[turn], &["S17"]);
    }
    check(state, &[conclude(Outcome::Succeeded)], &["S17"]);
    check(state, &[Action::TurnBack { to: RevisionNumber(1), cause: by() }], &["S4", "S17"]);
    check(state, &[Action::Recovered], &[]);
}

/// Where all may be missing, the last one may leave.
#[test]
fn a_floor_of_nothing_allows_nothing() {
    let world = World::with(settings(1, counts(0, 1)));
    check(&world.state, &[drain(key(1, 1), StopPurpose::Surplus)], &[]);
}

#[test]
fn what_a_rollout_at_work_allows() {
    let world = rolling();
    let state = &with_wide_bounds(&world);
    let draining = state.instances().find(|i| i.phase() == Phase::Draining).unwrap().key();
    let sound = world.ready_of(1)[0];
    check(state, &[drain(draining, StopPurpose::Replaced)], &["S13"]);
    check(state, &[Action::Fail { instance: draining, cause: FailureCause::NotLive }], &["S13"]);
    check(state, &[stop(draining, StopPurpose::Replaced)], &["S12"]);
    check(state, &[drain(sound, StopPurpose::Replaced)], &[]);
    check(state, &[conclude(Outcome::Failed)], &[]);
    check(state, &[conclude(Outcome::Succeeded)], &["S18"]);
    check(state, &[Action::TurnBack { to: RevisionNumber(1), cause: by() }], &[]);
    for turn in [Action::BatchReached { batch: 1 }, Action::PauseRollout { cause: by() }, Action::Bake] {
        check(state, &[turn], &[]);
    }
}

/// A good end needs all of the target, and nothing else: either alone is not enough.
#[test]
fn a_good_end_is_counted() {
    let mut world = World::with(settings(4, counts(1, 0)));
    world.stop_ms = 60_000;
    world.deploy("2");
    while world.ready_of(2).len() < 4 {
        assert!(world.step());
    }
    assert!(world.state.totals().live() > 4);
    check(&world.state, &[conclude(Outcome::Succeeded)], &["S18"]);
    let mut world = World::with(settings(4, counts(0, 1)));
    world.fate = Box::new(|_, _| Fate::Never);
    world.deploy("2");
    while world.state.counts_of(world.state.target()).live() == 0 {
        assert!(world.step());
    }
    assert_eq!(world.state.totals().live(), 4);
    check(&world.state, &[conclude(Outcome::Succeeded)], &["S18"]);
}

#[test]
fn a_drain_that_is_proven_or_past_its_deadline_may_end() {
    let mut world = rolling();
    let draining = world.state.instances().find(|i| i.phase() == Phase::Draining).unwrap().key();
    check(&world.state, &[stop(draining, StopPurpose::Replaced)], &["S12"]);
    let proof = trundle_core::event::DrainProof::Proven;
    world.state.apply(world.at, &Event::Observed { instance: draining, fact: Fact::Drained { proof } });
    check(&world.state, &[stop(draining, StopPurpose::Replaced)], &[]);
}

/// A pause: repair and what a person asked for since, and nothing else.
#[test]
fn what_a_pause_allows() {
    let mut world = World::with(settings(4, counts(1, 1)));
    world.fate = Box::new(|key, nth| if key.revision.0 == 2 && nth == 2 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    world.run();
    while world.step() {}
    assert_eq!(world.outcome(), RolloutState::Paused);
    let state = &with_wide_bounds(&world);
    assert!(state.budget().ceiling() > state.totals().live(), "there is room for one more");
    let (old, new) = (world.ready_of(1)[0], world.ready_of(2)[0]);
    let failed = state.open_rollout().unwrap().records[0].instance;
    let again = InstanceKey { attempt: failed.attempt + 1, ..failed };
    let free = key(1, 9);
    check(state, &[start(key(2, 9), StartPurpose::Roll)], &["S5"]);
    // Repair is up to the floor and no further.
    check(state, &[start(free, StartPurpose::Repair)], &["S5"]);
    let mut below = state.clone();
    let one_less = below.budget().floor() - 1;
    for dead in [world.ready_of(1), world.ready_of(2)].concat() {
        if below.totals().available() > one_less {
            let exit = Fact::Exited(Exit { code: None, signal: Some(9) });
            below.apply(world.at, &Event::Observed { instance: dead, fact: exit });
        }
    }
    assert_eq!(below.totals().available(), one_less);
    check(&below, &[start(free, StartPurpose::Repair)], &[]);
    let three = [free, key(1, 8), key(1, 7)].map(|place| start(place, StartPurpose::Repair));
    check(&below, &three, &["S5"]);
    check(state, &[start(again, StartPurpose::Retry)], &["S5"]);
    check(state, &[start(free, StartPurpose::Restore)], &["S5"]);
    check(state, &[start(free, StartPurpose::Scale)], &["S5"]);
    check(state, &[drain(old, StopPurpose::Replaced)], &["S5"]);
    check(state, &[drain(old, StopPurpose::Down)], &["S5"]);
    check(state, &[drain(new, StopPurpose::Surplus)], &["S5"]);
    check(state, &[drain(new, StopPurpose::Failed)], &[]);
    check(state, &[drain(new, StopPurpose::Skipped)], &[]);

    let asked = |request: Request| {
        let mut state = state.clone();
        for command in state.permit(&request).unwrap().commands {
            state.apply(world.at, &Event::Commanded { by: "ann".into(), command });
        }
        state
    };
    check(&asked(Request::Retry(failed)), &[start(again, StartPurpose::Retry)], &[]);
    check(&asked(Request::Retry(failed)), &[start(key(2, 9), StartPurpose::Retry)], &["S5"]);
    check(&asked(Request::Skip(failed)), &[start(free, StartPurpose::Restore)], &[]);
    // Both have the same share, and the newer one wins the rest.
    check(&asked(Request::Scale(5)), &[start(key(2, 9), StartPurpose::Scale)], &[]);
    check(&asked(Request::Scale(5)), &[start(free, StartPurpose::Scale)], &["S5"]);
    check(&asked(Request::Scale(5)), &[drain(new, StopPurpose::Surplus)], &["S5"]);
    check(&asked(Request::Scale(1)), &[drain(old, StopPurpose::Surplus)], &[]);
    // Down is a person's force: no pause and no floor holds it.
    let all: Vec<_> = state.instances().map(|i| drain(i.key(), StopPurpose::Down)).collect();
    check(&asked(Request::Down), &all, &[]);
}

/// Paused while one of the old ones drains: what had begun goes on.
#[test]
fn a_pause_lets_what_drains_end() {
    let mut world = rolling();
    let draining = world.state.instances().find(|i| i.phase() == Phase::Draining).unwrap().key();
    world.request(Request::Pause);
    let proof = trundle_core::event::DrainProof::Proven;
    world.state.apply(world.at, &Event::Observed { instance: draining, fact: Fact::Drained { proof } });
    check(&world.state, &[stop(draining, StopPurpose::Replaced)], &[]);
}

#[test]
fn what_a_way_back_allows() {
    let mut world = World::with(settings(8, |r| {
        counts(1, 1)(r);
        r.on_failure = OnFailure::Rollback;
    }));
    world.fate = Box::new(|key, nth| if key.revision.0 == 2 && nth == 3 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    while world.outcome() != RolloutState::RollingBack {
        assert!(world.step());
    }
    let state = &with_wide_bounds(&world);
    let (old, new) = (world.ready_of(1)[0], world.ready_of(2)[0]);
    assert!(state.counts_of(state.target()).held() <= 8);
    check(state, &[drain(new, StopPurpose::Replaced)], &[]);
    check(state, &[drain(old, StopPurpose::Surplus)], &["S15"]);
    check(state, &[start(key(2, 9), StartPurpose::Roll)], &["S3"]);
    check(state, &[Action::TurnBack { to: RevisionNumber(2), cause: by() }], &["S4"]);
    // More of it than are desired may leave.
    let mut fewer = state.clone();
    let fewer_settings = settings(1, counts(1, 1));
    let held = fewer.counts_of(fewer.target()).held();
    assert!(held > 1, "{held}");
    fewer.apply(
        world.at,
        &Event::Commanded {
            by: "ann".into(),
            command: Command::Configure { settings: Box::new(fewer_settings) },
        },
    );
    check(&fewer, &[drain(old, StopPurpose::Surplus)], &[]);
}

/// The numbers of all that fire when `event` led from `before` to `after`.
fn judge(before: &AppState, event: &Event, after: &AppState, expect: &[&str]) {
    let witness = Witness::new(before, after.now(), event);
    let fired: Vec<_> = EVENT_CHECKERS
        .iter()
        .filter(|(_, _, checker)| checker(&witness, event, after).is_err())
        .map(|(number, _, _)| *number)
        .collect();
    assert_eq!(fired, expect, "{event:?}");
    assert_eq!(witness.check(event, after).err().map(|v| v.invariant), expect.first().copied(), "{event:?}");
}

fn after(state: &AppState, event: &Event) -> AppState {
    let mut next = state.clone();
    next.apply(state.now(), event);
    next
}

fn said(command: Command) -> Event {
    Event::Commanded { by: "ann".into(), command }
}

fn roll(rollout: u32, target: u32, kind: RolloutKind) -> Event {
    said(Command::Roll { rollout: RolloutId(rollout), target: RevisionNumber(target), kind, step: false })
}

#[test]
fn verdicts_are_made_and_taken_back_by_whom_they_should() {
    let world = rolling();
    let good = world.state.clone();
    let verdict = Event::Decided(Action::TurnBack { to: RevisionNumber(1), cause: by() });
    let judged = after(&good, &verdict);
    assert!(judged.is_bad(RevisionNumber(2)));
    let nobody = Event::Decided(Action::Recovered);
    judge(&good, &verdict, &judged, &[]);
    judge(&good, &said(Command::TurnBack { to: RevisionNumber(1), aborted: true }), &judged, &[]);
    judge(&good, &nobody, &judged, &["S3"]);
    judge(&good, &said(Command::Pause), &judged, &["S3"]);
    judge(&judged, &nobody, &good, &["S3", "S4"]);
    judge(&good, &nobody, &good, &[]);
    // A person who deploys it again takes it back.
    let forgiven = after(&judged, &roll(3, 2, RolloutKind::Deploy));
    assert!(!forgiven.is_bad(RevisionNumber(2)));
    judge(&judged, &roll(3, 2, RolloutKind::Deploy), &forgiven, &[]);
    let left = after(&idle().state, &roll(2, 1, RolloutKind::Rollback));
    judge(&idle().state, &roll(2, 1, RolloutKind::Rollback), &left, &[]);
}

#[test]
fn a_way_back_has_one_direction() {
    let mut world = rolling();
    world.run();
    world.deploy("3");
    let to = |revision| {
        let back = Action::TurnBack { to: RevisionNumber(revision), cause: by() };
        after(&world.state, &Event::Decided(back))
    };
    let any = Event::Decided(Action::Recovered);
    judge(&to(2), &any, &to(2), &[]);
    judge(&to(2), &any, &to(1), &["S4"]);
}

#[test]
fn a_rollout_ends_once_and_is_superseded_in_words() {
    let world = rolling();
    let open = world.state.clone();
    let superseding = roll(3, 1, RolloutKind::Deploy);
    let superseded = after(&open, &superseding);
    judge(&open, &superseding, &superseded, &[]);
    judge(&open, &superseding, &open, &["S20"]);
    // Ended in another way before the new one opened.
    let conclude = Event::Decided(Action::Conclude { outcome: Outcome::Failed, cause: None });
    let failed = after(&open, &conclude);
    judge(&open, &superseding, &after(&failed, &superseding), &["S20"]);
    judge(&failed, &superseding, &after(&failed, &superseding), &[]);
    judge(&failed, &Event::Decided(Action::Recovered), &open, &["S17"]);
    judge(&failed, &Event::Decided(Action::Recovered), &failed, &[]);
    // Two that are open: one with a lower number is opened beside a newer one.
    let ended_9 = after(&after(&idle().state, &roll(9, 1, RolloutKind::Deploy)), &conclude);
    let opened_3 = after(&ended_9, &roll(3, 1, RolloutKind::Deploy));
    let only_3 = after(&idle().state, &roll(3, 1, RolloutKind::Deploy));
    judge(&only_3, &Event::Decided(Action::Recovered), &opened_3, &["S8"]);
    judge(&only_3, &Event::Decided(Action::Recovered), &only_3, &[]);
}

#[test]
fn an_instance_is_ready_and_routed_by_what_was_seen_of_it() {
    let mut world = idle();
    world.fate = Box::new(|_, _| Fate::Never);
    world.deploy("2");
    let instance = world.state.instances().find(|i| i.key().revision.0 == 2).unwrap().key();
    let seen = |fact| Event::Observed { instance, fact };
    let starting = world.state.clone();
    let ready = after(&starting, &seen(Fact::Ready));
    let routed = after(&ready, &seen(Fact::Routed(true)));
    let failed = after(&starting, &seen(Fact::Exited(Exit { code: Some(1), signal: None })));
    let unknown = after(&starting, &seen(Fact::Unknown));
    let draining = after(&routed, &Event::Decided(drain(instance, StopPurpose::Replaced)));
    let stopping = after(&routed, &Event::Decided(stop(instance, StopPurpose::Replaced)));
    judge(&starting, &seen(Fact::Ready), &ready, &[]);
    judge(&starting, &seen(Fact::Routed(true)), &ready, &["S18"]);
    judge(&ready, &seen(Fact::Routed(true)), &routed, &[]);
    judge(&ready, &seen(Fact::Unknown), &ready, &[]);
    judge(&starting, &seen(Fact::Ready), &routed, &["S12"]);
    judge(&starting, &seen(Fact::Routed(true)), &routed, &["S12", "S18"]);
    // What drains, stops or failed only goes on that way.
    let any = || seen(Fact::Ready);
    for (was, is, holds) in [
        (&draining, &draining, true),
        (&draining, &stopping, true),
        (&draining, &unknown, true),
        (&draining, &ready, false),
        (&draining, &failed, false),
        (&stopping, &stopping, true),
        (&stopping, &unknown, true),
        (&stopping, &draining, false),
        (&stopping, &ready, false),
        (&failed, &failed, true),
        (&failed, &stopping, true),
        (&failed, &draining, true),
        (&failed, &ready, false),
        (&failed, &unknown, false),
    ] {
        judge(was, &any(), is, if holds { &[] } else { &["S13"] });
    }
}

#[test]
fn time_comes_from_events_and_never_falls() {
    let state = idle().state;
    let event = Event::Decided(Action::Recovered);
    let witness = |at| Witness::new(&state, at, &event);
    let moved = |to| {
        let mut next = state.clone();
        next.advance(to);
        next
    };
    let now = state.now();
    assert!(witness(now + 5).check(&event, &moved(now + 5)).is_ok());
    assert!(witness(now - 1).check(&event, &state).is_ok(), "what would go back stands still");
    for (at, is) in [(now + 5, now), (now + 5, now + 6), (now - 1, now + 1)] {
        let found = witness(at).check(&event, &moved(is)).unwrap_err();
        assert_eq!(found.invariant, "S21");
    }
}
