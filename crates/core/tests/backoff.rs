//! Places that must wait after a failure: for how long, what ends the wait, and that no other place is tried instead.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, World, counts, settings};
use trundle_core::Millis;
use trundle_core::event::{Exit, Fact};
use trundle_core::ids::{InstanceKey, RevisionNumber};
use trundle_core::limits::CountOrPercent;
use trundle_core::settings::OnFailure;
use trundle_core::state::{Class, Request, RolloutState};

const DIED: Fact = Fact::Exited(Exit { code: Some(1), signal: None });

fn in_backoff(world: &World, revision: u32) -> u32 {
    world.state.book(RevisionNumber(revision)).map_or(0, |book| book.slots().in_backoff())
}

fn starting(world: &World, revision: u32) -> u32 {
    world.state.counts_of(Some(RevisionNumber(revision))).of(Class::Starting)
}

/// Lets the time pass to a moment, with everything that is due until then.
fn until(world: &mut World, at: Millis) {
    while world.state.next_timer_at().is_some_and(|next| next <= at) {
        assert!(world.step());
    }
    world.at = at;
    world.state.advance(at);
    world.settle();
}

/// The base place that waits is not tried elsewhere, with a rollout at work and in a pause.
#[test]
fn no_other_place_is_tried_instead_of_one_that_waits() {
    for pauses in [false, true] {
        // Room for all of both versions, so that nothing but the wait holds it back.
        let mut world = World::with(settings(4, counts(5, 0)));
        // The one that comes back dies before it served; then its place must wait.
        world.fate = Box::new(|key, nth| match (key.revision.0, nth) {
            (2, _) => Fate::Never,
            (_, 5) => Fate::Exits,
            _ => Fate::Ready,
        });
        world.deploy("2");
        if pauses {
            world.request(Request::Pause);
        }
        let victim = world.ready_of(1)[0];
        world.see(victim, DIED);
        while in_backoff(&world, 1) == 0 {
            assert!(world.step());
        }
        let failed_at = world.at;
        while in_backoff(&world, 1) > 0 {
            assert_eq!(starting(&world, 1), 0, "pauses: {pauses}");
            assert!(world.step());
        }
        assert_eq!(world.at - failed_at, 500);
        let again = world.state.instances().find(|i| i.key().attempt == 2).unwrap().key();
        assert_eq!((again.revision, starting(&world, 1)), (victim.revision, 1), "that place and no other");
    }
}

#[test]
fn the_wait_doubles_from_half_a_second_to_a_minute() {
    let mut world = World::with(settings(1, |r| {
        counts(1, 0)(r);
        r.on_failure = OnFailure::Continue;
        r.progress_deadline_ms = 3_600_000;
    }));
    world.fate = Box::new(|key, _| if key.revision.0 == 2 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    let mut waits = Vec::new();
    while waits.len() < 9 {
        while starting(&world, 2) > 0 {
            assert!(world.step());
        }
        let failed_at = world.at;
        while starting(&world, 2) == 0 {
            assert!(world.step());
        }
        waits.push(world.at - failed_at);
    }
    assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    let attempts = world.state.instances().find(|i| i.key().revision.0 == 2).unwrap().key().attempt;
    assert_eq!(attempts, 10, "each try has its own name");
}

/// (how long it served, and how long its place then waits), after a failure before that.
#[test]
fn one_that_served_comes_back_at_once_and_ten_seconds_forgive_what_was_before() {
    for (served_ms, wait_ms) in [(9_999, 1_000), (10_000, 0)] {
        let mut world = World::with(settings(1, counts(0, 1)));
        let first = world.ready_of(1)[0];
        let died_at = world.at;
        world.see(first, DIED);
        while starting(&world, 1) == 0 {
            assert!(world.step());
        }
        assert_eq!(world.at - died_at, world.stop_ms, "it had served: only its place has to be clean");
        while world.ready_of(1).is_empty() {
            assert!(world.step());
        }
        let second = world.ready_of(1)[0];
        assert_eq!(second, InstanceKey { attempt: 2, ..first });
        let ready_at = world.state.instance(second).unwrap().ready_since().unwrap();
        until(&mut world, ready_at + served_ms);
        world.see(second, DIED);
        while starting(&world, 1) == 0 {
            assert!(world.step());
        }
        let waited = world.at - (ready_at + served_ms);
        assert_eq!(waited, wait_ms.max(world.stop_ms), "after {served_ms} ms");
    }
}

#[test]
fn resume_tries_every_place_of_the_target_at_once() {
    let mut world = World::with(settings(4, counts(2, 0)));
    world.fate = Box::new(|key, _| if key.revision.0 == 2 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    world.run();
    assert_eq!((world.outcome(), in_backoff(&world, 2)), (RolloutState::Paused, 2));
    while world.state.totals().live() > 4 {
        assert!(world.step());
    }
    world.fate = Box::new(|_, _| Fate::Ready);
    world.request(Request::Resume);
    assert_eq!((starting(&world, 2), in_backoff(&world, 2)), (2, 0));
}

/// In a rollout that is not halted, a retry is a start like any other, and it is answered by it.
#[test]
fn a_retry_is_answered_by_the_start_of_that_place() {
    let mut world = World::with(settings(1, |r| {
        counts(1, 0)(r);
        r.max_failures = CountOrPercent::Count(10);
    }));
    world.fate = Box::new(|key, _| if key.revision.0 == 2 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    while in_backoff(&world, 2) == 0 || world.state.totals().live() > 1 {
        assert!(world.step());
    }
    assert_eq!(world.outcome(), RolloutState::Running);
    world.fate = Box::new(|_, _| Fate::Ready);
    let failed = world.state.open_rollout().unwrap().records[0].instance;
    for command in world.state.permit(&Request::Retry(failed)).unwrap().commands {
        world.command(command);
    }
    assert_eq!(world.state.open_rollout().unwrap().retries.len(), 1);
    world.settle();
    assert_eq!((starting(&world, 2), world.state.open_rollout().unwrap().retries.len()), (1, 0));
}

/// One that is kept for inspection holds its place, and after the wait nothing is waited for any more.
#[test]
fn the_wait_ends_also_where_a_failed_one_is_kept() {
    let mut world = World::with(settings(4, |r| {
        counts(1, 0)(r);
        r.healthy_deadline_ms = 5_000;
    }));
    world.fate = Box::new(|key, _| if key.revision.0 == 2 { Fate::Never } else { Fate::Ready });
    world.deploy("2");
    world.run();
    let failed_at = world.at;
    assert_eq!((world.outcome(), in_backoff(&world, 2)), (RolloutState::Paused, 1));
    until(&mut world, failed_at + 499);
    assert_eq!(in_backoff(&world, 2), 1);
    until(&mut world, failed_at + 500);
    assert_eq!((in_backoff(&world, 2), world.state.totals().of(Class::Failed)), (0, 1));
}
