//! When a gate is open.

#![allow(clippy::unwrap_used)]

mod common;

use common::{World, counts, settings};
use trundle_core::event::Event;
use trundle_core::settings::AppSettings;
use trundle_core::state::{Gate, Request};

fn with_gate() -> World {
    let gates = vec![Gate { name: "new-orders".to_owned(), versions: ">=4.1".to_owned() }];
    World::with(AppSettings { gates, ..settings(3, counts(1, 0)) })
}

fn because(world: &World) -> Vec<String> {
    let gate = world.state.gates().remove(0);
    assert_eq!(gate.open, gate.because.is_empty());
    gate.because
}

#[test]
fn a_gate_opens_when_nobody_and_no_way_back_lacks_what_it_needs() {
    let mut world = with_gate(); // runs 1
    let mut seen = Vec::new();
    for version in ["4.0", "4.1"] {
        world.deploy(version);
        while world.step() {
            seen.push(because(&world));
        }
        assert!(seen.iter().all(|because| !because.is_empty()), "never on the way: {seen:?}");
    }
    assert_eq!(because(&world), ["a rollback would go to 4.0"]);
    // A restart is no reason, and a rollout that may still fail is none: then a rollback would go to 4.0.
    world.request(Request::Restart);
    assert_eq!(because(&world), ["a rollback would go to 4.0"]);
    while world.step() {
        assert_eq!(because(&world), ["a rollback would go to 4.0"]);
    }
    world.deploy("4.2");
    assert_eq!(because(&world), ["a rollback would go to 4.0"]);
    while world.step() {}
    assert_eq!(because(&world), [""; 0], "4.1 is what a rollback goes to");

    // Before the first of the old version is started.
    let old = world.state.revisions().values().find(|r| r.template.version.as_str() == "4.0").unwrap().number;
    let back = Request::Rollback(Some(old));
    let mut asked = world.state.clone();
    for command in asked.permit(&back).unwrap().commands {
        asked.apply(asked.now(), &Event::Commanded { by: "ann".to_owned(), command });
    }
    assert_eq!(asked.gates()[0].because, ["4.0 is on its way"]);
    world.request(back);
    world.run();
    assert_eq!(because(&world), ["4.0 has instances"]);
}

#[test]
fn without_instances_it_is_closed() {
    let mut world = with_gate();
    world.request(Request::Down);
    while world.step() {}
    assert!(!because(&world).is_empty());
}
