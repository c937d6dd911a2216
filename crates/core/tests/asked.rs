//! What a person may ask for in the middle of a rollout: one place once more, one left out, step by step, another number of
//! replicas; and going on in spite of failures.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, World, counts, settings};
use trundle_core::event::{Command, Event, Exit, Fact, PauseCause};
use trundle_core::ids::{InstanceKey, RevisionNumber};
use trundle_core::limits::{CountOrPercent, Order};
use trundle_core::settings::{OnFailure, RolloutSettings};
use trundle_core::state::{Phase, Request, RolloutState};

/// Eight of 1, and a rollout to 2 whose third instance was never ready: paused as `ooooonnx`.
fn paused() -> (World, InstanceKey) {
    let mut world = World::with(settings(8, counts(0, 1)));
    world.fate = Box::new(|key, nth| if key.revision.0 == 2 && nth == 3 { Fate::Never } else { Fate::Ready });
    world.deploy("2");
    world.run();
    assert_eq!(
        (world.outcome(), world.pictures.last().unwrap().as_str()),
        (RolloutState::Paused, "ooooonnx")
    );
    let failed = world.state.instances().find(|i| i.phase() == Phase::Failed).unwrap().key();
    world.fate = Box::new(|_, _| Fate::Ready);
    world.reset_marks();
    (world, failed)
}

fn rest(world: &mut World) {
    while world.step() {}
}

#[test]
fn retry_is_that_one_only_and_the_pause_stays() {
    let (mut world, failed) = paused();
    world.request(Request::Retry(failed));
    rest(&mut world);
    assert_eq!(
        (world.outcome(), world.pictures.last().unwrap().as_str()),
        (RolloutState::Paused, "ooooonnn")
    );
    assert_eq!((world.lowest_available, world.highest_live), (7, 8));
    assert!(world.state.permit(&Request::Retry(failed)).is_err(), "what stands there now did not fail");
    world.request(Request::Resume);
    world.run();
    assert_eq!((world.outcome(), world.ready_of(2).len()), (RolloutState::Succeeded, 8));
}

#[test]
fn retry_that_fails_again_stays_in_the_pause() {
    let (mut world, failed) = paused();
    world.fate = Box::new(|_, _| Fate::Exits);
    world.request(Request::Retry(failed));
    rest(&mut world);
    assert_eq!((world.outcome(), world.pictures.last().unwrap().as_str()), (RolloutState::Paused, "ooooonn"));
    assert_eq!(world.state.open_rollout().unwrap().records.len(), 2);
    let again = InstanceKey { attempt: 2, ..failed };
    assert!(world.state.permit(&Request::Retry(again)).is_ok(), "its place can be tried again");
}

#[test]
fn retry_does_not_wait_for_a_back_off() {
    let mut world = World::with(settings(4, |r| {
        counts(1, 0)(r);
        r.max_failures = CountOrPercent::Count(10);
    }));
    world.fate = Box::new(|key, _| if key.revision.0 == 2 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    let target = RevisionNumber(2);
    while world.state.book(target).unwrap().slots().in_backoff() == 0
        || world.state.counts_of(Some(target)).live() > 0
    {
        world.step();
    }
    let before = world.at;
    world.fate = Box::new(|_, _| Fate::Ready);
    let failed = world.state.open_rollout().unwrap().records.last().unwrap().instance;
    world.request(Request::Retry(failed));
    assert_eq!((world.at, world.state.counts_of(Some(target)).held()), (before, 1));
}

#[test]
fn skip_gives_the_place_back_and_the_rollout_ends_as_failed() {
    let (mut world, failed) = paused();
    world.request(Request::Skip(failed));
    rest(&mut world);
    assert_eq!(
        (world.outcome(), world.pictures.last().unwrap().as_str()),
        (RolloutState::Paused, "oooooonn")
    );
    world.request(Request::Resume);
    world.run();
    assert_eq!(
        (world.outcome(), world.ready_of(1).len(), world.ready_of(2).len()),
        (RolloutState::Failed, 1, 7)
    );
    assert_eq!(world.lowest_available, 7);
    let cause = world.state.last_rollout().unwrap().cause.clone();
    assert_eq!(cause, Some(PauseCause::Skipped { count: 1 }));
    assert_eq!(world.state.base(), Some(RevisionNumber(1)), "what does not run everywhere is not proven");

    // The same version once more: now everywhere.
    world.deploy("2");
    world.run();
    assert_eq!((world.outcome(), world.ready_of(2).len()), (RolloutState::Succeeded, 8));
}

#[test]
fn skip_of_a_healthy_one_holds_the_floor() {
    let (mut world, _) = paused();
    let healthy = world.ready_of(2)[0];
    world.request(Request::Skip(healthy));
    rest(&mut world);
    assert_eq!(world.lowest_available, 7);
    assert!(world.state.instance(healthy).is_some(), "the failed one holds the room that the base needs");
    world.request(Request::Resume);
    world.run();
    assert_eq!(
        (world.outcome(), world.ready_of(1).len(), world.ready_of(2).len()),
        (RolloutState::Failed, 1, 7)
    );
    assert_eq!(world.lowest_available, 7);
}

#[test]
fn what_cannot_be_tried_or_left_out_is_refused_with_the_reason() {
    let (world, failed) = paused();
    let says = |request| world.state.permit(&request).unwrap_err().to_string();
    let nobody = InstanceKey { slot: 77, ..failed };
    let old = world.ready_of(1)[0];
    assert!(says(Request::Retry(nobody)).contains("no instance web-2-77"));
    assert!(says(Request::Retry(world.ready_of(2)[0])).contains("is ready"));
    assert!(says(Request::Skip(old)).contains("not of 2"));
    let idle = World::with(settings(2, counts(1, 0)));
    let says = |request| idle.state.permit(&request).unwrap_err().to_string();
    assert!(says(Request::Skip(idle.ready_of(1)[0])).contains("no rollout"));
    let mut first = World::empty();
    first.command(Command::Configure { settings: Box::new(settings(2, counts(1, 0))) });
    first.fate = Box::new(|_, _| Fate::Exits);
    first.deploy("1");
    first.run();
    let key = first.state.last_rollout().unwrap().records[0].instance;
    assert!(first.state.permit(&Request::Skip(key)).unwrap_err().to_string().contains("no other version"));
}

#[test]
fn step_by_step_waits_for_a_person_after_each_batch() {
    let mut world = World::with(settings(6, |r| (r.batch, r.order) = (Some(2), Some(Order::StopFirst))));
    world.roll("2", true);
    for done in [2, 4] {
        world.run();
        assert_eq!((world.outcome(), world.ready_of(2).len()), (RolloutState::Paused, done));
        let cause = world.state.open_rollout().unwrap().cause.clone();
        assert_eq!(cause, Some(PauseCause::Step { batch: done as u32 / 2 }));
        world.request(Request::Resume);
    }
    world.run();
    assert_eq!(
        (world.outcome(), world.lowest_available, world.highest_live),
        (RolloutState::Succeeded, 4, 6)
    );
}

#[test]
fn step_by_step_without_a_batch_takes_what_the_budget_allows_at_once() {
    let mut world = World::with(settings(4, counts(1, 1)));
    world.roll("2", true);
    world.run();
    assert_eq!(
        (world.outcome(), world.ready_of(2).len(), world.ready_of(1).len()),
        (RolloutState::Paused, 2, 2)
    );
    world.request(Request::Resume);
    world.run();
    assert_eq!(world.outcome(), RolloutState::Succeeded);
}

#[test]
fn going_on_in_spite_of_failures_ends_at_the_deadline() {
    let on = |r: &mut RolloutSettings| {
        counts(1, 1)(r);
        r.on_failure = OnFailure::Continue;
        r.healthy_deadline_ms = 5_000;
        r.progress_deadline_ms = 60_000;
    };
    let mut world = World::with(settings(4, on));
    world.fate =
        Box::new(|key, _| if key.revision.0 == 2 && key.slot == 2 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    world.run();
    assert_eq!(world.outcome(), RolloutState::Failed);
    let rollout = world.state.last_rollout().unwrap();
    assert!(matches!(rollout.cause, Some(PauseCause::ProgressDeadline { .. })), "{:?}", rollout.cause);
    assert!(rollout.records.len() > 3, "it was tried again and again");
    assert_eq!((world.ready_of(2).len(), world.lowest_available >= 3), (3, true));

    let mut world = World::with(settings(4, on));
    world.fate = Box::new(|key, nth| if key.revision.0 == 2 && nth < 4 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    world.run();
    assert_eq!(
        (world.outcome(), world.ready_of(2).len()),
        (RolloutState::Succeeded, 4),
        "a bad start is outlived"
    );
}

/// `want` of (old, new) before, the change, and after.
#[test]
fn a_new_number_of_replicas_is_shared_in_proportion() {
    // (replicas, new ones when it is paused, to, old after, new after)
    let table = [
        (8, 4, 16, 8, 8),
        (8, 2, 12, 9, 3),
        (8, 4, 4, 2, 2),
        (8, 2, 4, 3, 1),
        // 1 × 4/8 is one half: away from zero for both, one too many; of equals the newer wins it and the older loses it.
        (8, 4, 9, 4, 5),
        (8, 4, 7, 3, 4),
    ];
    for (replicas, new, to, old_after, new_after) in table {
        let mut world = World::with(settings(replicas, counts(1, 0)));
        world.deploy("2");
        while world.ready_of(2).len() < new {
            world.step();
        }
        world.request(Request::Pause);
        rest(&mut world);
        let before = (world.ready_of(1).len(), world.ready_of(2).len());
        world.reset_marks();
        world.request(Request::Scale(to));
        rest(&mut world);
        let after = (world.ready_of(1).len(), world.ready_of(2).len());
        assert_eq!(world.outcome(), RolloutState::Paused);
        assert_eq!(before, (replicas as usize - new, new));
        assert_eq!(after, (old_after, new_after), "{replicas} at {before:?} to {to}");
        assert_eq!(after.0 + after.1, (before.0 + before.1 + to as usize) - replicas as usize);
        world.request(Request::Resume);
        world.run();
        assert_eq!((world.outcome(), world.ready_of(2).len()), (RolloutState::Succeeded, to as usize));
    }
}

#[test]
fn a_rollout_that_runs_can_be_scaled_too() {
    let mut world = World::with(settings(4, counts(1, 0)));
    world.deploy("2");
    world.step();
    world.request(Request::Scale(9));
    world.run();
    assert_eq!((world.outcome(), world.ready_of(2).len()), (RolloutState::Succeeded, 9));
    world.deploy("3");
    world.step();
    world.reset_marks();
    world.request(Request::Scale(3));
    world.run();
    assert_eq!((world.outcome(), world.ready_of(3).len()), (RolloutState::Succeeded, 3));
    assert!(world.lowest_available >= 3, "{}", world.lowest_available);
}

#[test]
fn the_lowest_and_its_floor_are_of_one_moment() {
    let lowest = |world: &World| {
        let rollout = world.state.last_rollout().unwrap();
        (rollout.lowest_available, rollout.lowest_floor)
    };
    let highest = |world: &World| {
        let rollout = world.state.last_rollout().unwrap();
        (rollout.highest_total, rollout.highest_ceiling)
    };
    let mut world = World::with(settings(4, counts(1, 1)));
    world.deploy("2");
    assert_eq!((lowest(&world), highest(&world)), ((3, 3), (5, 5)), "one was taken out at once");
    world.request(Request::Scale(8));
    assert_eq!(world.state.budget().floor(), 7);
    world.run();
    assert_eq!((world.outcome(), lowest(&world)), (RolloutState::Succeeded, (3, 3)), "nothing was wrong");
    // With the rollout that brings it: 8 were available, and 15 are the new floor.
    world.command(Command::Configure { settings: Box::new(settings(16, counts(1, 1))) });
    world.deploy("3");
    world.run();
    assert_eq!((world.outcome(), lowest(&world)), (RolloutState::Succeeded, (8, 8)));
    assert_eq!(world.state.budget().floor(), 15);
    // Scaled down, it is the ceiling that cannot be met at once.
    world.deploy("4");
    world.step();
    world.request(Request::Scale(3));
    world.run();
    assert_eq!((world.outcome(), world.state.budget().ceiling()), (RolloutState::Succeeded, 4));
    assert_eq!(highest(&world), (17, 17));
    assert_eq!(lowest(&world), (2, 2));
    // Once it was reached it binds: what fails then is worse than fewer were under a lower floor.
    world.stop_ms = 5_000;
    world.deploy("5");
    world.request(Request::Scale(8));
    while world.state.totals().available() < 7 {
        world.step();
    }
    assert_eq!(lowest(&world), (2, 2));
    let available = world.state.totals().available();
    for key in [world.ready_of(4), world.ready_of(5)].concat().into_iter().take(4) {
        world.apply(Event::Observed { instance: key, fact: Fact::Unready });
    }
    assert_eq!(lowest(&world), (available - 4, 7));
}

#[test]
fn waves_of_failures_end_when_their_number_is_reached() {
    let mut world = World::with(settings(10, |r| {
        counts(5, 0)(r);
        r.max_failures = CountOrPercent::Percent(25);
    }));
    world.fate =
        Box::new(|key, nth| if key.revision.0 == 2 && nth % 2 == 0 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    world.run();
    assert_eq!(world.outcome(), RolloutState::Paused);
    let cause = world.state.open_rollout().unwrap().cause.clone();
    assert_eq!(cause, Some(PauseCause::Failures { failures: 3, max_failures: 3 }), "25 % of 10, rounded up");
    assert_eq!(world.lowest_available, 10);
}

#[test]
fn one_that_supersedes_is_superseded_and_both_are_replaced() {
    let mut world = World::with(settings(6, counts(1, 1)));
    for version in ["2", "3", "4"] {
        world.deploy(version);
        for _ in 0..3 {
            world.step();
        }
    }
    let states: Vec<_> = world.state.rollouts().values().map(|r| r.state).collect();
    use RolloutState::{Running, Succeeded, Superseded};
    assert_eq!(states, [Succeeded, Superseded, Superseded, Running]);
    world.run();
    assert_eq!((world.outcome(), world.ready_of(4).len()), (Succeeded, 6));
    assert_eq!((world.lowest_available, world.highest_live), (5, 7));
}

#[test]
fn only_so_many_revisions_are_kept() {
    let mut world = World::with(settings(2, |r| {
        counts(1, 0)(r);
        r.history_limit = 2;
    }));
    for version in ["2", "3", "4", "5"] {
        world.deploy(version);
        world.run();
        assert_eq!(world.outcome(), RolloutState::Succeeded);
    }
    let kept: Vec<_> = world.state.revisions().keys().map(|r| r.0).collect();
    assert_eq!(kept, [3, 4, 5], "the one that runs and two to go back to");
    assert!(world.state.permit(&Request::Rollback(Some(RevisionNumber(2)))).is_err());
    world.request(Request::Rollback(None));
    world.run();
    world.request(Request::Rollback(None));
    world.run();
    assert_eq!(world.ready_of(3).len(), 2);
    assert!(world.state.permit(&Request::Rollback(None)).is_err(), "nothing older is left");
    world.deploy("9");
    assert_eq!(world.state.target(), Some(RevisionNumber(6)), "no number is given twice");
}

#[test]
fn a_base_that_dies_in_a_left_out_place_comes_back() {
    let (mut world, failed) = paused();
    world.request(Request::Skip(failed));
    world.request(Request::Resume);
    while world.ready_of(1).len() > 1 {
        assert!(world.step());
    }
    let last = world.ready_of(1)[0];
    world.see(last, Fact::Exited(Exit { code: None, signal: Some(9) }));
    world.run();
    assert_eq!(
        (world.outcome(), world.ready_of(1).len(), world.ready_of(2).len()),
        (RolloutState::Failed, 1, 7)
    );
}

/// Who lost the answer asks again, and gets no second rollout.
#[test]
fn to_go_back_to_what_is_wanted_is_nothing_to_do() {
    let mut world = World::with(settings(3, counts(1, 0)));
    let named = |n| Request::Rollback(Some(RevisionNumber(n)));
    let again = |world: &World, n| {
        let step = world.state.permit(&named(n)).unwrap();
        assert!(step.commands.is_empty(), "{step:?}");
        (step.rollout.map(|r| r.0), step.says)
    };
    assert_eq!(again(&world, 1), (None, "1 of web is what runs: nothing to do".to_owned()));
    world.deploy("2");
    assert_eq!(again(&world, 2), (Some(2), "rollout 2 to 2 is on its way already".to_owned()));
    world.request(named(1));
    assert_eq!(again(&world, 1), (Some(2), "rollout 2 is going back to 1 already".to_owned()));
    assert!(world.state.permit(&named(2)).is_err(), "a way back is never rolled back");
    world.run();
    assert_eq!(again(&world, 1).0, None);
    // Nothing runs: then it is no repetition.
    world.request(Request::Down);
    world.run();
    assert!(!world.state.permit(&named(1)).unwrap().commands.is_empty());
}
