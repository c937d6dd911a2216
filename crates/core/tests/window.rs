//! The order of versions for clients: who has seen which does not go back, and a way back releases everybody.

#![allow(clippy::unwrap_used)]

mod common;

use common::{World, counts, settings};
use trundle_core::decide::decide;
use trundle_core::event::Fact;
use trundle_core::ids::{InstanceKey, RevisionNumber};
use trundle_core::settings::AppSettings;
use trundle_core::settings::Listen;
use trundle_core::state::{Request, RolloutState, Window};
use trundle_core::traffic::Traffic;

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
    assert_eq!(world.state.window(), Window { open: false, ..third }, "its end changes nothing else");
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
    assert_eq!(world.state.window(), Window { open: false, ..back });
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

const MAX_AGE_MS: u64 = 3_600_000;
const DRAIN_MS: u64 = 30_000;

/// Two of revision 1, whose pages may be an hour old.
fn with_pages(surge: u32, unavailable: u32) -> World {
    let traffic = Traffic { skew_max_age_ms: MAX_AGE_MS, ..Traffic::default() };
    let listen = Listen { traffic: Some(traffic), ..Listen::http("127.0.0.1:80") };
    World::with(AppSettings { listen: Some(listen), ..settings(2, counts(surge, unavailable)) })
}

/// In a rollout to 2, with the last of 1 kept: its name.
fn kept() -> (World, InstanceKey) {
    let mut world = with_pages(1, 0);
    world.deploy("2");
    while world.state.kept().is_empty() {
        assert!(world.step(), "nobody is kept");
    }
    let kept = world.state.kept();
    assert_eq!((kept.len(), kept[0].revision, world.state.totals().live()), (1, RevisionNumber(1), 3));
    (world, kept[0])
}

fn left_ms(world: &World, key: InstanceKey) -> u64 {
    world.state.instance(key).unwrap().timer_at().unwrap() - world.state.now()
}

#[test]
fn the_last_of_a_version_is_kept_for_its_pages() {
    let (mut world, key) = kept();
    assert_eq!(left_ms(&world, key), MAX_AGE_MS + DRAIN_MS);
    let said: Vec<String> = decide(&world.state).reasons.iter().map(|reason| reason.text()).collect();
    let name = key.name(world.state.app());
    assert_eq!(
        said[0],
        format!("keeps {name} for clients with pages of 1 (at most 60 min 30 s)"),
        "{said:?}"
    );
    // The last page is gone: what it has in its hands has the time of any drain.
    world.see(key, Fact::Released);
    assert_eq!((world.state.kept(), left_ms(&world, key)), (Vec::new(), DRAIN_MS));
    world.see(key, Fact::Released);
    assert_eq!(left_ms(&world, key), DRAIN_MS);
    world.run();
    assert_eq!(world.outcome(), RolloutState::Succeeded);
}

#[test]
fn who_needs_the_room_does_not_wait_for_pages() {
    let began = |world: &World| world.at;
    type Need = fn(&mut World);
    let needs: [(Need, RolloutState); 3] = [
        (|world| world.request(Request::Abort), RolloutState::Aborted),
        (|world| world.request(Request::Rollback(None)), RolloutState::RolledBack),
        (|world| world.deploy("3"), RolloutState::Succeeded),
    ];
    for (need, outcome) in needs {
        let (mut world, key) = kept();
        let before = began(&world);
        need(&mut world);
        assert!(world.state.kept().iter().all(|kept| *kept != key));
        // Of a deploy that follows the next old one is kept in its turn.
        while world.state.open_rollout().is_some() && world.state.kept().is_empty() && world.step() {}
        let next = world.state.kept();
        next.iter().for_each(|kept| world.see(*kept, Fact::Released));
        world.run();
        assert_eq!(world.outcome(), outcome);
        let took = world.state.last_rollout().unwrap().ended_at.unwrap() - before;
        assert!(took < 2 * 60_000, "{outcome:?} after {took} ms");
    }
    let (mut world, _) = kept();
    let before = world.at;
    world.request(Request::Down);
    while world.state.totals().live() > 0 && world.step() {}
    assert!(world.at - before < 60_000, "{} ms", world.at - before);
}

#[test]
fn nobody_is_kept_where_that_would_be_wrong() {
    let never = |world: &mut World, what: &str| {
        while world.step() {
            assert!(world.state.kept().is_empty(), "{what}");
        }
        assert!(world.state.open_rollout().is_none(), "{what}");
    };
    let mut without_room = with_pages(0, 1);
    without_room.deploy("2");
    never(&mut without_room, "it would take the place of the one that is to come");
    let mut same = with_pages(1, 0);
    same.request(Request::Restart);
    never(&mut same, "the files are the same");
    let mut back = with_pages(1, 0);
    back.deploy("2");
    back.step();
    back.request(Request::Abort);
    never(&mut back, "of a bad version");
    let mut without = World::with(settings(2, counts(1, 0)));
    without.deploy("2");
    never(&mut without, "nothing is said of pages");
}
