//! The engine over a scripted world: intents are durable before effects, a daemon may die at any turn, a full disk
//! stops everything but the traffic.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::sync::mpsc;

use common::{World, app, daemon, deploy, outcome, run};
use trundle_core::event::Fact;
use trundle_core::state::{Request, RolloutState};
use trundle_engine::Input;
use trundle_engine::audit::audit;
use trundle_engine::ports::Report;

#[test]
fn a_daemon_that_dies_at_any_turn_ends_the_same() {
    let world = World::default();
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    assert_eq!(outcome(&engine), (RolloutState::Succeeded, 4));
    let turns = run(&mut engine, &world, vec![deploy("2")], usize::MAX);
    assert!(turns >= 6, "{turns}");
    let uncrashed: BTreeSet<_> = world.borrow().running.clone();

    for die_at in 1..=turns {
        let world = World::default();
        let mut engine = daemon(&world, "boot");
        run(&mut engine, &world, vec![deploy("1")], usize::MAX);
        run(&mut engine, &world, vec![deploy("2")], die_at);
        drop(engine);
        // What was reported while nobody listened is lost.
        world.borrow_mut().reports.clear();
        let mut engine = daemon(&world, "boot");
        run(&mut engine, &world, vec![], usize::MAX);
        assert_eq!(outcome(&engine), (RolloutState::Succeeded, 4), "died at turn {die_at}");
        let world = world.borrow();
        assert_eq!(world.running, uncrashed, "died at turn {die_at}");
        assert_eq!(world.routed, uncrashed);
        assert!(world.ever_started.values().all(|n| *n == 1), "a twin after turn {die_at}");
        assert!(world.unfounded.is_empty(), "an effect before its intent: {:?}", world.unfounded);
        assert_eq!(audit(&world.journal.entries), [], "died at turn {die_at}");
    }
}

/// The proxy answers before the health checks do: what it says counts as soon as everybody was seen, not at the next timer.
#[test]
fn after_a_restart_reports_come_one_at_a_time() {
    for die_at in 1..6 {
        let world = World::default();
        let mut engine = daemon(&world, "boot");
        run(&mut engine, &world, vec![deploy("1")], usize::MAX);
        run(&mut engine, &world, vec![deploy("2")], die_at);
        drop(engine);
        world.borrow_mut().reports.clear();
        let mut engine = daemon(&world, "boot");
        run(&mut engine, &world, vec![], 1);
        let mut waiting: std::collections::VecDeque<Report> = Default::default();
        loop {
            waiting.extend(std::mem::take(&mut world.borrow_mut().reports));
            let Some(next) = waiting.pop_front() else { break };
            let at = engine.last_at() + 1;
            engine.turn(at, 0, vec![Input::Report(next)]);
        }
        assert_eq!(outcome(&engine), (RolloutState::Succeeded, 4), "died at turn {die_at}");
    }
}

#[test]
fn a_full_disk_stops_everything_but_the_traffic() {
    let world = World::default();
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    run(&mut engine, &world, vec![deploy("2")], 3);
    world.borrow_mut().journal.full = true;
    let (running, routed) = (world.borrow().running.clone(), world.borrow().routed.clone());
    for _ in 0..5 {
        // The world goes on; the engine only listens.
        let reports = std::mem::take(&mut world.borrow_mut().reports);
        let at = engine.last_at() + 1_000;
        engine.turn(at, 0, reports.into_iter().map(Input::Report).collect());
    }
    assert!(engine.trouble().unwrap().contains("no space"), "{:?}", engine.trouble());
    assert_eq!(world.borrow().running, running, "nothing starts or stops");
    assert!(world.borrow().routed.is_superset(&routed), "the traffic goes on");

    let (answer, asked) = mpsc::channel();
    let reply = Box::new(move |said| answer.send(said).unwrap());
    let at = engine.last_at();
    engine.turn(at, 0, vec![Input::Request { app: app(), by: "ann".into(), request: Request::Pause, reply }]);
    assert!(asked.recv().unwrap().unwrap_err().to_string().contains("journal"));

    world.borrow_mut().journal.full = false;
    run(&mut engine, &world, vec![], usize::MAX);
    run(&mut engine, &world, vec![], usize::MAX);
    assert_eq!((outcome(&engine), engine.trouble()), ((RolloutState::Succeeded, 4), None));
}

#[test]
fn after_a_reboot_the_base_comes_back_and_the_rollout_goes_on() {
    let world = World::default();
    let mut engine = daemon(&world, "boot 1");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    run(&mut engine, &world, vec![deploy("2")], 5);
    drop(engine);
    world.borrow_mut().reports.clear();
    world.borrow_mut().running.clear();
    // Killed before its first turn: the next one knows of the reboot all the same.
    drop(daemon(&world, "boot 2"));
    let mut engine = daemon(&world, "boot 2");
    run(&mut engine, &world, vec![], 1);
    let base: Vec<_> = world.borrow().running.iter().map(|k| k.revision.0).collect();
    assert_eq!(base, [1, 1, 1, 1]);
    run(&mut engine, &world, vec![], usize::MAX);
    assert_eq!(outcome(&engine), (RolloutState::Succeeded, 4));
}

#[test]
fn the_journal_tells_the_same_state_again() {
    let world = World::default();
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    run(&mut engine, &world, vec![deploy("2")], 4);
    let told = format!("{:?}", engine.apps()[&app()].state);
    let again = daemon(&world, "boot");
    assert_eq!(format!("{:?}", again.apps()[&app()].state), told);
}

#[test]
fn a_daemon_that_dies_again_and_again_still_sees_a_deadline_pass() {
    let world = World::default();
    world.borrow_mut().silent = true;
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], 1);
    // Each life lasts for 300 ms; the healthy deadline is 5 minutes.
    for _ in 0..1_200 {
        engine = daemon(&world, "boot");
        let began = engine.last_at();
        engine.turn(began + 300, 0, vec![]);
    }
    assert_eq!(outcome(&engine).0, RolloutState::Paused);
}

/// It would wait for ever for an acknowledgement: the router was told nothing new.
#[test]
fn one_that_turns_unready_and_ready_within_a_turn_is_routed_again() {
    let world = World::default();
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    let key = *world.borrow().routed.first().unwrap();
    let seen = |fact| Input::Report(Report::Seen { app: app(), instance: key, fact });
    run(&mut engine, &world, vec![seen(Fact::Unready), seen(Fact::Ready)], usize::MAX);
    assert!(engine.apps()[&app()].state.is_available(key));
}
