//! The order of versions for clients: who has seen which does not go back, and a way back releases everybody.

#![allow(clippy::unwrap_used)]

mod common;

use common::{World, counts, settings};
use trundle_core::ids::RevisionNumber;
use trundle_core::settings::AppSettings;
use trundle_core::state::{Request, RolloutState, Window};

fn idle() -> World {
    World::with(settings(4, counts(1, 0)))
}

fn begin(world: &mut World, version: &str) -> Window {
    world.deploy(version);
    world.step();
    world.state.window()
}

fn newest(window: Window) -> u32 {
    window.newest.unwrap().0
}

#[test]
fn what_supersedes_forward_goes_on_in_the_same_window() {
    assert_eq!(World::empty().state.window(), Window::default());
    let mut world = idle();
    let first = begin(&mut world, "2");
    assert_eq!(newest(first), 2);
    let second = begin(&mut world, "3");
    assert_eq!((second.number, newest(second)), (first.number, 3));
    let third = begin(&mut world, "4");
    assert_eq!((third.number, newest(third)), (first.number, 4));
    world.run();
    assert_eq!(world.outcome(), RolloutState::Succeeded);
    assert_eq!(world.state.window(), third, "its end changes nothing");
    assert_ne!(begin(&mut world, "5").number, third.number, "another rollout is another window");
}

#[test]
fn a_way_back_is_another_window_and_the_old_version_is_its_newest() {
    let mut world = idle();
    let forward = begin(&mut world, "2");
    world.request(Request::Abort);
    let back = world.state.window();
    assert_eq!(newest(back), 1);
    assert_ne!(back.number, forward.number);
    world.run();
    assert_eq!(world.state.window(), back);
    // Forward once more, and superseded by what is older than its own target.
    let again = begin(&mut world, "3");
    let older = begin(&mut world, "2");
    assert_eq!((newest(again), newest(older)), (3, 2));
    assert_ne!(older.number, again.number);
    // By a name, when it has ended.
    let mut world = idle();
    let forward = begin(&mut world, "2");
    world.run();
    world.request(Request::Rollback(Some(RevisionNumber(1))));
    let back = world.state.window();
    assert_eq!(newest(back), 1);
    assert_ne!(back.number, forward.number);
}

#[test]
fn a_share_holds_as_long_as_the_rollout_stands_still() {
    let share = |share| Request::Share(share);
    let mut world = idle();
    let refused = |world: &World, wanted| world.state.permit(&share(wanted)).unwrap_err().to_string();
    assert!(refused(&world, Some(20)).contains("no rollout of web is on its way"));
    begin(&mut world, "2");
    assert!(refused(&world, Some(20)).contains("stop it with `trundle pause web` first"));
    world.request(Request::Pause);
    assert!(refused(&world, Some(101)).contains("use 0 to 100"));
    let says = world.state.permit(&share(Some(20))).unwrap().says;
    assert_eq!(says, "2 gets 20 of 100 requests until rollout 2 goes on");
    world.request(share(Some(20)));
    assert_eq!(world.state.window().share, Some(20));
    assert!(world.state.permit(&share(Some(20))).unwrap().commands.is_empty(), "once is enough");
    world.request(share(None));
    assert_eq!(world.state.window().share, None);
    world.request(share(Some(0)));
    assert_eq!(world.state.window().share, Some(0));
    world.request(Request::Resume);
    assert_eq!(world.state.window().share, None);
    world.request(Request::Pause);
    assert_eq!(world.state.window().share, None, "it does not come back");
    world.request(share(Some(50)));
    world.request(Request::Abort);
    assert_eq!(world.state.window().share, None);
    assert!(refused(&world, Some(20)).contains("on its way to a new version"));
    let mut worker = World::with(AppSettings { listen: None, ..settings(2, counts(1, 0)) });
    begin(&mut worker, "2");
    worker.request(Request::Pause);
    assert!(refused(&worker, Some(20)).contains("takes no requests"));
}
