//! What only time ends: the bake time after the last replacement, the delay after a batch, a drain, and the patience with a
//! base that does not come back after a reboot. To the millisecond.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, START_MS, World, settings};
use trundle_core::event::{Action, Command, Event, Exit, Fact, StopPurpose};
use trundle_core::ids::RevisionNumber;
use trundle_core::limits::{CountOrPercent, Order};
use trundle_core::state::{Request, RolloutState};

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

/// Those that come back die at once and are tried again, so that each of them has its own deadline later than that.
#[test]
fn the_patience_after_a_reboot_wakes_by_itself() {
    let mut world = rebooted(Fate::Never);
    let began = world.at;
    for key in world.state.instances().map(|i| i.key()).collect::<Vec<_>>() {
        world.at = began + 1;
        world.see(key, Fact::Exited(Exit { code: Some(1), signal: None }));
    }
    while world.state.recovering_since().is_some() {
        assert!(world.step());
    }
    assert_eq!(world.at, began + PATIENCE_MS);
}

#[test]
fn after_a_reboot_only_what_is_proven_and_wanted_comes_first() {
    let mut first = World::empty();
    first.command(Command::Configure { settings: Box::new(settings(2, |_| ())) });
    first.deploy("1");
    first.apply(Event::Rebooted);
    assert_eq!(first.state.recovering_since(), None, "nothing is proven yet");
    let mut down = World::with(settings(2, |_| ()));
    down.request(Request::Down);
    down.apply(Event::Rebooted);
    down.settle();
    assert_eq!((down.state.recovering_since(), down.state.totals().live()), (None, 0));
}

#[test]
fn a_drain_is_cut_at_its_deadline_and_not_before() {
    let mut world = World::with(settings(2, |r| {
        r.drain_timeout_ms = 11_000;
        r.max_surge = Some(CountOrPercent::Count(0));
        r.max_unavailable = Some(CountOrPercent::Count(1));
    }));
    let key = world.ready_of(1)[0];
    let began = world.at;
    assert!(began > 1, "a moment that is not 0 or 1, so that sums are not products");
    world.apply(Event::Decided(Action::Drain { instance: key, purpose: StopPurpose::Replaced }));
    assert_eq!(world.state.next_timer_at(), Some(began + 11_000));
    world.state.advance(began + 10_999);
    assert_eq!(world.state.stoppable().count(), 0);
    world.state.advance(began + 11_000);
    assert_eq!(world.state.stoppable().collect::<Vec<_>>(), [key]);
}

#[test]
fn the_delay_after_a_batch_says_how_long_it_still_is() {
    let mut world = World::with(settings(4, |r| {
        (r.batch, r.order, r.delay_ms) = (Some(2), Some(Order::StopFirst), 30_000);
    }));
    world.deploy("2");
    while world.state.open_rollout().unwrap().batches == 0 {
        assert!(world.step());
    }
    let reached_at = world.at;
    for (later_ms, left) in [(0, "30 s"), (1_000, "29 s"), (29_000, "1 s"), (29_999, "1 ms")] {
        world.at = reached_at + later_ms;
        world.state.advance(world.at);
        world.settle();
        let said: Vec<_> = world.last.reasons.iter().map(|r| r.text()).collect();
        let expect = format!("batch 1 is complete; the next begins in {left}");
        assert!(said.contains(&expect), "{later_ms}: {said:?}");
        assert_eq!(world.state.others().live(), 2, "nothing leaves");
    }
    world.at = reached_at + 30_000;
    world.state.advance(world.at);
    world.settle();
    assert!(!world.codes().contains(&"delay".to_owned()), "{:?}", world.codes());
}

/// A moment that is over is nothing to wake for.
#[test]
fn what_takes_no_time_sets_no_timer() {
    let mut world = World::with(settings(4, |r| (r.batch, r.order) = (Some(2), Some(Order::StopFirst))));
    assert!(world.state.instances().all(|i| i.timer_at().is_none()), "min_healthy_time is 0");
    world.deploy("2");
    while world.state.open_rollout().unwrap().batches == 0 {
        assert!(world.state.next_timer_at().is_none_or(|next| next > world.at));
        assert!(world.step());
    }
    world.apply(Event::Decided(Action::BatchReached { batch: 1 }));
    assert!(world.state.next_timer_at().is_none_or(|next| next > world.at), "delay is 0");
}
