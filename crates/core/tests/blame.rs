//! Whom a rollout that stands still blames, and what it remembers of failures: the truth of the first line on the card.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, World, counts, settings};
use trundle_core::event::{Command, Exit, Fact};
use trundle_core::settings::OnFailure;
use trundle_core::state::{Request, RolloutState};

fn blamed(world: &World) -> Option<String> {
    let rollout = world.state.open_rollout().unwrap();
    assert_eq!(rollout.state, RolloutState::Paused);
    let told = world.codes().contains(&"gate_failed".to_owned());
    assert_eq!(told, rollout.blamed().is_some(), "the reasons and the record say the same");
    rollout.blamed().map(|record| record.instance.name(world.state.app()))
}

#[test]
fn a_persons_pause_is_not_blamed_on_a_failure_of_before() {
    let mut world = World::with(settings(4, counts(1, 0)));
    world.fate = Box::new(|key, nth| if key.revision.0 == 2 && nth == 1 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    world.run();
    assert_eq!(blamed(&world).as_deref(), Some("web-2-1"));
    world.request(Request::Resume);
    world.step();
    world.request(Request::Pause);
    assert_eq!(blamed(&world), None);
    let rollout = world.state.open_rollout().unwrap();
    assert_eq!((rollout.failures, rollout.failures_in_all, rollout.records.len()), (0, 1, 1));
}

#[test]
fn nor_is_a_step_after_a_failure_that_was_borne() {
    let mut world = World::with(settings(4, |r| {
        counts(1, 0)(r);
        r.max_failures = "2".parse().unwrap();
    }));
    world.fate = Box::new(|key, nth| if key.revision.0 == 2 && nth == 1 { Fate::Exits } else { Fate::Ready });
    world.roll("2", true);
    world.run();
    assert_eq!(world.state.open_rollout().unwrap().failures_in_all, 1);
    assert_eq!(blamed(&world), None);
}

#[test]
fn the_deadline_blames_only_who_failed_since_the_last_resume() {
    let mut world = World::with(settings(2, |r| {
        counts(1, 0)(r);
        r.healthy_deadline_ms = 5_000;
        r.progress_deadline_ms = 9_000;
    }));
    world.fate = Box::new(|key, nth| match (key.revision.0, nth) {
        (2, 1) => Fate::Exits,
        (2, _) => Fate::Never,
        _ => Fate::Ready,
    });
    world.deploy("2");
    world.run();
    assert_eq!(blamed(&world).as_deref(), Some("web-2-1"));
    // Nothing fails any more, and nothing comes: with a longer time for each, the deadline is first.
    let patient = settings(2, |r| {
        counts(1, 0)(r);
        r.healthy_deadline_ms = 100_000;
        r.progress_deadline_ms = 9_000;
    });
    world.command(Command::Configure { settings: Box::new(patient) });
    world.request(Request::Resume);
    world.run();
    assert_eq!(blamed(&world), None);
}

/// A failure was borne, the rest never comes: at the deadline it is that failure that is blamed.
#[test]
fn the_deadline_blames_the_failure_that_was_borne_before_it() {
    let mut world = World::with(settings(3, |r| {
        counts(1, 0)(r);
        r.max_failures = "3".parse().unwrap();
        r.healthy_deadline_ms = 100_000;
        r.progress_deadline_ms = 9_000;
    }));
    world.fate = Box::new(|key, nth| match (key.revision.0, nth) {
        (2, 1) => Fate::Exits,
        (2, _) => Fate::Never,
        _ => Fate::Ready,
    });
    world.deploy("2");
    world.run();
    assert_eq!(blamed(&world).as_deref(), Some("web-2-1"));
    assert_eq!(world.state.open_rollout().unwrap().failures, 1);
}

/// Of the same version as what was left, and restarted once: going back goes past both.
#[test]
fn back_from_a_restart_is_back_to_another_version() {
    let mut world = World::with(settings(2, counts(1, 0)));
    world.deploy("2");
    world.run();
    world.request(Request::Restart);
    // As long as it runs, the way back is to those that were not restarted.
    assert_eq!(world.state.rollback_target().unwrap().0, 2);
    world.run();
    assert_eq!((world.state.target().unwrap().0, world.state.rollback_target().unwrap().0), (3, 1));
    world.request(Request::Rollback(None));
    world.run();
    assert_eq!(world.ready_of(1).len(), 2);
    assert_eq!(world.state.rollback_target(), None, "what was left is bad, under either number");
    // A restart that fails is no verdict on the version.
    let mut world = World::with(settings(2, |r| {
        counts(1, 0)(r);
        r.on_failure = OnFailure::Rollback;
    }));
    world.deploy("2");
    world.run();
    world.fate = Box::new(|key, _| if key.revision.0 == 3 { Fate::Exits } else { Fate::Ready });
    world.request(Request::Restart);
    world.run();
    assert_eq!((world.outcome(), world.ready_of(2).len()), (RolloutState::RolledBack, 2));
    world.deploy("4");
    world.run();
    assert_eq!(world.state.rollback_target().unwrap().0, 2);
}

/// The bake time is one in which all were good: a death in it begins it anew.
#[test]
fn a_death_in_the_bake_time_begins_it_anew() {
    let bake = |r: &mut trundle_core::settings::RolloutSettings| {
        counts(1, 0)(r);
        r.bake_time_ms = 7_000;
        r.max_failures = "2".parse().unwrap();
    };
    let mut world = World::with(settings(2, bake));
    world.deploy("2");
    let since = |world: &World| world.state.open_rollout().and_then(|r| r.bake_since);
    while since(&world).is_none() {
        assert!(world.step());
    }
    let first = since(&world).unwrap();
    world.at = first + 6_000;
    let dies = world.ready_of(2)[0];
    world.see(dies, Fact::Exited(Exit { code: Some(1), signal: None }));
    assert_eq!(since(&world), None);
    while since(&world).is_none() {
        assert!(world.step());
    }
    let second = since(&world).unwrap();
    assert!(second > first + 6_000);
    world.run();
    let ended = world.state.last_rollout().unwrap().ended_at.unwrap();
    assert_eq!((world.outcome(), ended - second), (RolloutState::Succeeded, 7_000));
}
