//! One pass of the decision after a person asked for something in a pause: each move and each sentence, as a table.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, World, settings};
use trundle_core::decide::decide;
use trundle_core::event::{Action, Command, Event, Exit, Fact};
use trundle_core::ids::{InstanceKey, RevisionNumber};
use trundle_core::limits::CountOrPercent;
use trundle_core::state::{Class, Phase, Request};

/// Eight of 1 at one extra and one missing, paused with three new ones of which the last was never ready.
fn paused(surge: u32, unavailable: u32) -> (World, InstanceKey) {
    let mut world = World::with(settings(8, |r| {
        r.max_surge = Some(CountOrPercent::Count(surge));
        r.max_unavailable = Some(CountOrPercent::Count(unavailable));
    }));
    world.fate = Box::new(|key, nth| if key.revision.0 == 2 && nth == 3 { Fate::Never } else { Fate::Ready });
    world.deploy("2");
    world.run();
    while world.step() {}
    world.fate = Box::new(|_, _| Fate::Ready);
    let failed = world.state.instances().find(|i| i.phase() == Phase::Failed).unwrap().key();
    (world, failed)
}

/// What the request alone brings about: how many start and how many leave, and the sentences that say so.
fn first_pass(world: &mut World, request: Request) -> (usize, usize, Vec<String>) {
    for command in world.state.permit(&request).unwrap().commands {
        world.command(command);
    }
    let decision = decide(&world.state);
    let start = |a: &&Action| matches!(a, Action::Start { .. });
    let starts = decision.actions.iter().filter(start).count();
    let moves = ["starts", "takes", "tries"];
    let said = decision.reasons.iter().map(|r| r.text()).filter(|t| moves.iter().any(|m| t.starts_with(m)));
    (starts, decision.actions.len() - starts, said.collect())
}

#[test]
fn every_share_is_said_with_its_revision_and_its_number() {
    let shares = |to| {
        let (mut world, _) = paused(0, 1);
        first_pass(&mut world, Request::Scale(to))
    };
    let of = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        shares(16),
        (
            8,
            0,
            of(&[
                "starts 5 of revision 1: its share of more replicas",
                "starts 3 of revision 2: its share of more replicas"
            ])
        )
    );
    assert_eq!(
        shares(4),
        (
            0,
            3,
            of(&[
                "takes out 2 of revision 1: its share of fewer replicas",
                "takes out 1 of revision 2: its share of fewer replicas"
            ])
        )
    );
}

#[test]
fn a_place_that_is_left_out_gets_its_base_in_the_same_pass_and_says_so() {
    let (mut world, failed) = paused(1, 0);
    world.see(failed, Fact::Exited(Exit { code: Some(1), signal: None }));
    while world.step() {}
    let (starts, leaves, said) = first_pass(&mut world, Request::Skip(failed));
    assert_eq!((starts, leaves), (1, 0));
    assert_eq!(said, ["starts 1 of revision 1 in place of what was left out (1)"]);
    world.settle();
    let again = decide(&world.state);
    assert!(again.reasons.iter().all(|r| !r.text().contains("left out")), "said once: {:?}", again.reasons);
}

#[test]
fn only_as_many_sound_ones_are_left_out_at_once_as_can_be_spared() {
    let (mut world, _) = paused(2, 2);
    let sound = world.ready_of(2);
    assert!(sound.len() >= 2, "{sound:?}");
    let before = world.state.totals().available();
    for key in &sound[..2] {
        for command in world.state.permit(&Request::Skip(*key)).unwrap().commands {
            world.command(command);
        }
    }
    world.settle();
    let floor = world.state.budget().floor();
    let after = world.state.totals().available();
    assert_eq!(after, floor.max(before - 2), "as many as can be spared, and no more");
    assert!(world.state.totals().of(Class::Draining) > 0);
}

#[test]
fn retry_leaves_other_failed_ones_where_they_are() {
    let mut world = World::with(settings(4, |r| {
        r.max_surge = Some(CountOrPercent::Count(2));
        r.max_unavailable = Some(CountOrPercent::Count(0));
        r.max_failures = CountOrPercent::Count(2);
    }));
    world.fate = Box::new(|key, _| if key.revision.0 == 2 { Fate::Never } else { Fate::Ready });
    world.deploy("2");
    world.run();
    while world.step() {}
    let kept: Vec<_> =
        world.state.instances().filter(|i| i.phase() == Phase::Failed).map(|i| i.key()).collect();
    assert_eq!(kept.len(), 2);
    let (starts, leaves, said) = first_pass(&mut world, Request::Retry(kept[0]));
    assert_eq!((starts, leaves, said.as_slice()), (0, 1, ["takes away web-2-1".to_owned()].as_slice()));
    world.settle();
    assert_eq!(world.state.instance(kept[1]).map(|i| i.phase()), Some(Phase::Failed), "it is kept");
}

/// Two of the target failed and are gone, and there is room for one.
#[test]
fn only_as_many_are_tried_again_at_once_as_there_is_room() {
    let mut world = World::with(settings(4, |r| {
        r.max_surge = Some(CountOrPercent::Count(2));
        r.max_unavailable = Some(CountOrPercent::Count(0));
        r.max_failures = CountOrPercent::Count(2);
    }));
    world.fate = Box::new(|key, _| if key.revision.0 == 2 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    world.run();
    while world.step() {}
    let failed: Vec<_> = world.state.open_rollout().unwrap().records.iter().map(|r| r.instance).collect();
    assert_eq!((failed.len(), world.state.totals().live()), (2, 4));
    let mut app = world.state.settings().unwrap().clone();
    app.rollout.max_surge = Some(CountOrPercent::Count(1));
    world.command(Command::Configure { settings: Box::new(app) });
    for command in world.state.permit(&Request::Retry(failed[0])).unwrap().commands {
        world.command(command);
    }
    let (starts, leaves, said) = first_pass(&mut world, Request::Retry(failed[1]));
    assert_eq!((starts, leaves, said.len()), (1, 0, 1), "{said:?}");
}

/// One that is dead is taken away because it is dead, and not once more because its place is left out.
#[test]
fn each_instance_is_taken_away_once_in_a_pass() {
    let (mut world, failed) = paused(1, 0);
    world.apply(Event::Observed {
        instance: failed,
        fact: Fact::Exited(Exit { code: Some(1), signal: None }),
    });
    let (_, leaves, _) = first_pass(&mut world, Request::Skip(failed));
    assert_eq!(leaves, 1);
}

/// The unavailable of a revision are part of its share, and sound ones are the rest of it.
#[test]
fn a_share_is_no_larger_for_its_broken_ones() {
    let (mut world, _) = paused(0, 1);
    while world.step() {}
    let broken = world.ready_of(1)[0];
    world.apply(Event::Observed { instance: broken, fact: Fact::Unready });
    for command in world.state.permit(&Request::Scale(6)).unwrap().commands {
        world.command(command);
    }
    let book = world.state.book(RevisionNumber(1)).unwrap();
    let owed = -book.owed();
    let leaving = decide(&world.state).actions.into_iter().filter_map(|action| match action {
        Action::Drain { instance, .. } | Action::Stop { instance, .. } => Some(instance),
        _ => None,
    });
    let of_first: Vec<_> = leaving.filter(|key| key.revision.0 == 1).collect();
    assert!(owed > 0 && of_first.contains(&broken), "{owed}: {of_first:?}");
    assert_eq!(of_first.len() as i64, owed);
}

/// With a place left out, the base stands there; what else is left of the old ones still holds back the next batch.
#[test]
fn a_batch_is_through_when_its_old_ones_are_gone() {
    let mut world = World::with(settings(6, |r| {
        r.batch = Some(2);
        r.max_surge = Some(CountOrPercent::Count(2));
        r.max_unavailable = Some(CountOrPercent::Count(0));
    }));
    world.stop_ms = 20_000;
    world.deploy("2");
    let skipped = InstanceKey { revision: RevisionNumber(2), slot: 1, attempt: 1 };
    world.request(Request::Skip(skipped));
    while world.ready_of(2).len() < 2 {
        assert!(world.step());
    }
    let batches = |world: &World| world.state.open_rollout().unwrap().batches;
    assert!(world.state.totals().of(Class::Draining) > 0, "the old ones are still there");
    assert_eq!(batches(&world), 0);
    while batches(&world) == 0 {
        assert!(world.step());
    }
    assert_eq!(world.state.others().live(), 4, "of six, two are through and one of the others stays");
}

/// What is owed stays owed where nothing more may run, and it is not said that anything is done about it.
#[test]
fn a_share_that_finds_no_room_is_not_said() {
    let (mut world, _) = paused(1, 0);
    assert_eq!(world.state.totals().live(), 9);
    let mut app = world.state.settings().unwrap().clone();
    app.replicas = 9;
    app.rollout.max_surge = Some(CountOrPercent::Count(0));
    app.rollout.max_unavailable = Some(CountOrPercent::Count(1));
    world.command(Command::Configure { settings: Box::new(app) });
    assert_eq!(world.state.books().values().map(|b| b.owed()).sum::<i64>(), 1);
    let said: Vec<_> = decide(&world.state).reasons.iter().map(|r| r.text()).collect();
    assert!(said.iter().all(|text| !text.contains("its share")), "{said:?}");
}
