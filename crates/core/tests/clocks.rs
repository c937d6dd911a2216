//! What only time ends: the bake time after the last replacement, and the patience with a base that does not come back
//! after a reboot. To the millisecond.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, START_MS, World, settings};
use trundle_core::event::Event;
use trundle_core::ids::RevisionNumber;
use trundle_core::state::RolloutState;

const BAKE_MS: u64 = 7_000;
const PATIENCE_MS: u64 = 5_000;

#[test]
fn it_is_watched_for_the_whole_bake_time_and_no_longer() {
    let mut world = World::with(settings(2, |r| r.bake_time_ms = BAKE_MS));
    world.deploy("2");
    while world.state.open_rollout().unwrap().bake_since.is_none() {
        assert!(world.step());
    }
    let since = world.state.open_rollout().unwrap().bake_since.unwrap();
    assert_eq!(since, world.at);
    assert_eq!((world.ready_of(2).len(), world.state.totals().live()), (2, 2), "all are replaced");
    world.at = since + BAKE_MS - 1;
    world.state.advance(world.at);
    world.settle();
    assert_eq!(world.outcome(), RolloutState::Running);
    assert!(world.codes().contains(&"bake".to_owned()), "{:?}", world.codes());
    world.run();
    let ended = world.state.last_rollout().unwrap().ended_at.unwrap();
    assert_eq!((world.outcome(), ended - since), (RolloutState::Succeeded, BAKE_MS));
}

#[test]
fn without_a_bake_time_it_ends_with_the_last_replacement() {
    let mut world = World::with(settings(2, |_| ()));
    world.deploy("2");
    world.run();
    let rollout = world.state.last_rollout().unwrap();
    assert_eq!((rollout.state, rollout.bake_since), (RolloutState::Succeeded, None));
}

/// A rollout to 2 that has just begun when the machine is started anew.
fn rebooted(base: Fate) -> World {
    let mut world = World::with(settings(2, |r| r.healthy_deadline_ms = PATIENCE_MS));
    world.deploy("2");
    world.step();
    world.fate = Box::new(move |key, _| if key.revision.0 == 1 { base } else { Fate::Ready });
    world.apply(Event::Rebooted);
    world.settle();
    assert_eq!(world.state.recovering_since(), Some(world.at));
    world
}

#[test]
fn the_rollout_goes_on_as_soon_as_the_base_is_back() {
    let mut world = rebooted(Fate::Ready);
    let began = world.at;
    while world.state.recovering_since().is_some() {
        assert!(world.step());
    }
    assert_eq!((world.at - began, world.ready_of(1).len()), (START_MS, 2));
    world.run();
    assert_eq!(world.outcome(), RolloutState::Succeeded);
}

#[test]
fn a_base_that_does_not_come_back_holds_the_rollout_for_one_deadline() {
    let mut world = rebooted(Fate::Never);
    let began = world.at;
    assert!(began > 0, "a moment that is not 0, so that sums are not products");
    world.at = began + PATIENCE_MS - 1;
    world.state.advance(world.at);
    world.settle();
    assert_eq!(world.state.recovering_since(), Some(began));
    assert_eq!(world.state.counts_of(Some(RevisionNumber(2))).live(), 0, "the base comes first");
    world.at = began + PATIENCE_MS;
    world.state.advance(world.at);
    world.settle();
    assert_eq!(world.state.recovering_since(), None);
}
