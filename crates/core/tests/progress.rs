//! The progress deadline: what counts as progress, when its clock runs, and when it passes. To the millisecond.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, World, counts, settings};
use trundle_core::Millis;
use trundle_core::event::{Command, DrainProof, Event, Fact, PauseCause};
use trundle_core::ids::InstanceKey;
use trundle_core::limits::CountOrPercent;
use trundle_core::settings::RolloutSettings;
use trundle_core::state::{Phase, RolloutState};

const DEADLINE_MS: Millis = 60_000;

fn patient(r: &mut RolloutSettings) {
    r.healthy_deadline_ms = DEADLINE_MS;
    r.progress_deadline_ms = DEADLINE_MS;
    r.max_failures = CountOrPercent::Count(9);
}

/// Four of 1 with one that may be missing, and a rollout to 2 of which nothing becomes ready by itself: as many start as may
/// be extra, one of the old ones drains until it is told to be drained.
fn rolling(surge: u32) -> World {
    let mut world = World::with(settings(4, |r| {
        counts(surge, 1)(r);
        patient(r);
        r.drain_timeout_ms = 10 * DEADLINE_MS;
    }));
    world.at += 5_000;
    world.state.advance(world.at);
    world.fate = Box::new(|_, _| Fate::Never);
    world.stop_ms = 20 * DEADLINE_MS;
    world.deploy("2");
    world
}

fn in_phase(world: &World, revision: u32, phase: Phase) -> InstanceKey {
    let mut all = world.state.instances().filter(|i| i.key().revision.0 == revision);
    all.find(|i| i.phase() == phase).unwrap().key()
}

fn spent(world: &World) -> Millis {
    world.state.open_rollout().unwrap().progress.spent_at(world.at)
}

fn runs(world: &World) -> bool {
    world.state.open_rollout().unwrap().progress.running_since.is_some()
}

fn later(world: &mut World, ms: Millis) {
    world.at += ms;
    world.state.advance(world.at);
}

fn see(world: &mut World, instance: InstanceKey, fact: Fact) {
    world.apply(Event::Observed { instance, fact });
}

fn becomes_available(world: &mut World, instance: InstanceKey) {
    see(world, instance, Fact::Ready);
    see(world, instance, Fact::Routed(true));
}

/// All of the target are on their way from here on, and none of them has a clock of its own.
fn ready_and_never_routed(world: &mut World) {
    let new: Vec<_> = world.state.instances().map(|i| i.key()).filter(|key| key.revision.0 == 2).collect();
    for instance in new {
        see(world, instance, Fact::Ready);
    }
}

#[test]
fn a_new_high_of_the_target_or_a_new_low_of_the_others_is_progress() {
    let mut world = rolling(1);
    let (new, old) = (in_phase(&world, 2, Phase::Intended), in_phase(&world, 1, Phase::Draining));
    later(&mut world, 5_000);
    assert_eq!((spent(&world), runs(&world)), (5_000, true));
    see(&mut world, old, Fact::Drained { proof: DrainProof::Proven });
    assert_eq!(spent(&world), 5_000, "it is still alive");
    see(&mut world, old, Fact::Gone);
    assert_eq!(spent(&world), 0, "one less of the others");
    world.settle();
    let second = InstanceKey { slot: new.slot + 1, ..new };
    assert!(runs(&world));
    later(&mut world, 3_000);
    becomes_available(&mut world, new);
    assert_eq!((spent(&world), runs(&world)), (0, true), "one more of the target, and another one starts");
    later(&mut world, 2_000);
    see(&mut world, new, Fact::Unready);
    later(&mut world, 1_000);
    becomes_available(&mut world, new);
    assert_eq!(spent(&world), 3_000, "who only comes back is no progress");
    assert_eq!(
        world.state.instance(second).map(|i| i.phase()),
        Some(Phase::Intended),
        "it waits for that one"
    );
}

/// The same after a resume: it begins from what is there, and not from nothing.
#[test]
fn a_resume_begins_anew_from_what_is_there() {
    let mut world = rolling(2);
    let new = in_phase(&world, 2, Phase::Intended);
    becomes_available(&mut world, new);
    later(&mut world, 4_000);
    world.command(Command::Pause);
    world.command(Command::Resume);
    let progress = world.state.open_rollout().unwrap().progress;
    assert_eq!((progress.best_available, progress.lowest_others, spent(&world)), (1, 4, 0));
    world.settle();
    later(&mut world, 4_000);
    assert_eq!((spent(&world), runs(&world)), (4_000, true));
    let old = in_phase(&world, 1, Phase::Draining);
    see(&mut world, old, Fact::Drained { proof: DrainProof::Proven });
    see(&mut world, old, Fact::Gone);
    assert_eq!(spent(&world), 0, "one less of the others than at the resume");
}

#[test]
fn the_clock_stands_in_a_pause_and_while_only_others_leave() {
    let mut world = rolling(1);
    later(&mut world, 5_000);
    world.command(Command::Pause);
    assert!(!runs(&world), "one starts, but it is paused");
    later(&mut world, 30_000);
    assert_eq!(spent(&world), 5_000);
    let mut one = World::with(settings(1, |r| {
        counts(1, 0)(r);
        patient(r);
    }));
    one.fate = Box::new(|_, _| Fate::Never);
    one.stop_ms = DEADLINE_MS / 4;
    one.deploy("2");
    let only = in_phase(&one, 2, Phase::Intended);
    assert!(runs(&one));
    becomes_available(&mut one, only);
    one.settle();
    assert_eq!(one.state.others().live(), 1, "it drains");
    assert!(!runs(&one), "all of the target is there");
}

/// (progress after, and when it passes): from the last progress, and something wakes for it.
#[test]
fn it_passes_a_deadline_after_the_last_progress() {
    let mut world = rolling(1);
    let began = world.at;
    while world.outcome() == RolloutState::Running {
        assert!(world.step());
    }
    assert_eq!(world.at - began, DEADLINE_MS);

    let mut world = rolling(1);
    let (began, old) = (world.at, in_phase(&world, 1, Phase::Draining));
    later(&mut world, 10_000);
    see(&mut world, old, Fact::Drained { proof: DrainProof::Proven });
    later(&mut world, 10_000);
    see(&mut world, old, Fact::Gone);
    world.settle();
    ready_and_never_routed(&mut world);
    while world.outcome() == RolloutState::Running {
        assert!(world.step());
    }
    assert_eq!(world.at - began, 20_000 + DEADLINE_MS);
    let cause = world.state.open_rollout().unwrap().cause.clone();
    assert_eq!(cause, Some(PauseCause::ProgressDeadline { after_ms: DEADLINE_MS }));
}

/// What is set in the middle of a rollout counts from where the clock began.
#[test]
fn another_deadline_counts_at_once() {
    for deadline_ms in [75_000, 90_000] {
        let mut world = rolling(1);
        let began = world.at;
        ready_and_never_routed(&mut world);
        later(&mut world, 10_000);
        let mut app = world.state.settings().unwrap().clone();
        app.rollout.progress_deadline_ms = deadline_ms;
        world.command(Command::Configure { settings: Box::new(app) });
        world.settle();
        while world.outcome() == RolloutState::Running {
            assert!(world.step());
        }
        assert_eq!(world.at - began, deadline_ms);
    }
}

#[test]
fn another_bake_time_counts_at_once() {
    let mut world = World::with(settings(2, |r| r.bake_time_ms = 7_000));
    world.deploy("2");
    while world.state.open_rollout().unwrap().bake_since.is_none() {
        assert!(world.step());
    }
    let since = world.at;
    later(&mut world, 1_000);
    world.settle();
    let said: Vec<_> = world.last.reasons.iter().map(|r| r.text()).collect();
    assert_eq!(said, ["everything is replaced; it is watched for 6 s more"]);
    let mut app = world.state.settings().unwrap().clone();
    app.rollout.bake_time_ms = 9_000;
    world.command(Command::Configure { settings: Box::new(app) });
    world.settle();
    while world.outcome() == RolloutState::Running {
        assert!(world.step());
    }
    assert_eq!((world.outcome(), world.at - since), (RolloutState::Succeeded, 9_000));
}
