//! What people may ask for in which state, the commands that come of it, and the sentence that they read. As tables: nothing
//! is changed, only asked.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, World, counts, settings, template};
use trundle_core::event::{Command, Event, Exit, Fact, RolloutKind};
use trundle_core::ids::{InstanceKey, RevisionNumber, RolloutId};
use trundle_core::limits::CountOrPercent;
use trundle_core::revision::{Check, Port, Probe, Template};
use trundle_core::settings::OnFailure;
use trundle_core::state::{DeployRequest, Request, RolloutState};

/// The commands by their names, then the sentence: `pause: rollout 2 is paused`. Without commands `nothing: …`.
fn ask(world: &World, request: &Request) -> String {
    match world.state.permit(request) {
        Err(refusal) => format!("refused: {refusal}"),
        Ok(step) => {
            let names: Vec<_> = step.commands.iter().map(name).collect();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            format!("{names}: {}", step.says)
        }
    }
}

fn name(command: &Command) -> String {
    match command {
        Command::Roll { rollout, target, kind, step } => {
            let step = if *step { " step by step" } else { "" };
            format!("{kind:?} {rollout} to revision {target}{step}").to_lowercase()
        }
        Command::TurnBack { to, aborted: true } => format!("abort to revision {to}"),
        Command::TurnBack { to, aborted: false } => format!("turn back to revision {to}"),
        Command::AddRevision { revision } => format!("add revision {}", revision.number),
        Command::Configure { settings } => format!("configure {}", settings.replicas),
        Command::Forced { .. } => "forced".into(),
        Command::Pause => "pause".into(),
        Command::Resume => "resume".into(),
        Command::Share { of_a_hundred } => format!("share {of_a_hundred:?}"),
        Command::Retry { instance } => format!("retry {instance}"),
        Command::Skip { instance } => format!("skip {instance}"),
        Command::Down => "down".into(),
    }
}

fn deploy(world: &World, version: &str) -> DeployRequest {
    let settings = world.state.settings().unwrap().clone();
    DeployRequest::new(template(version), settings)
}

fn ask_deploy(world: &World, request: DeployRequest) -> String {
    ask(world, &Request::Deploy(Box::new(request)))
}

fn idle() -> World {
    World::with(settings(4, counts(1, 0)))
}

/// 1 runs, a rollout to 2 is on its way.
fn rolling() -> World {
    let mut world = idle();
    world.deploy("2");
    world.step();
    world
}

fn paused() -> World {
    let mut world = rolling();
    world.request(Request::Pause);
    world
}

fn going_back() -> World {
    let mut world = rolling();
    world.request(Request::Abort);
    world
}

/// 2 failed on its way, and the way back failed too.
fn failed() -> World {
    let mut world = World::with(settings(4, |r| {
        counts(1, 0)(r);
        r.on_failure = OnFailure::Rollback;
    }));
    world.fate = Box::new(|key, nth| if key.revision.0 == 2 && nth == 1 { Fate::Ready } else { Fate::Exits });
    world.deploy("2");
    world.run();
    assert_eq!(world.outcome(), RolloutState::Failed);
    world
}

fn down() -> World {
    let mut world = idle();
    world.request(Request::Down);
    while world.step() {}
    world
}

#[test]
fn turns_of_a_rollout() {
    let mut paused_way_back = going_back();
    paused_way_back.request(Request::Pause);
    let table: Vec<(World, Request, &str)> = vec![
        (idle(), Request::Pause, "refused: no rollout of web is running, so there is nothing to pause"),
        (rolling(), Request::Pause, "pause: rollout 2 is paused"),
        (paused(), Request::Pause, "nothing: rollout 2 is paused already"),
        (idle(), Request::Resume, "refused: no rollout of web is paused, so there is nothing to resume"),
        (rolling(), Request::Resume, "nothing: rollout 2 is running already"),
        (paused(), Request::Resume, "resume: rollout 2 goes on"),
        (idle(), Request::Abort, "nothing: no rollout of web is running: nothing to abort"),
        (rolling(), Request::Abort, "abort to revision 1: rollout 2 stops and goes back to 1"),
        (going_back(), Request::Abort, "nothing: rollout 2 is going back already"),
        (paused_way_back, Request::Abort, "resume: rollout 2 is going back already"),
        (idle(), Request::Down, "down: web goes down"),
    ];
    for (world, request, expect) in table {
        assert_eq!(ask(&world, &request), expect);
    }
    let follow = |world: &World, request| world.state.permit(&request).unwrap().rollout;
    assert_eq!(follow(&rolling(), Request::Resume), Some(RolloutId(2)), "there is one to follow");
    assert_eq!(follow(&idle(), Request::Abort), None);
}

#[test]
fn rollback_by_name_and_without() {
    let to = |revision| Request::Rollback(Some(RevisionNumber(revision)));
    let mut second = rolling();
    second.run();
    let table: Vec<(&World, Request, &str)> = vec![
        (&second, Request::Rollback(None), "rollback 3 to revision 1: goes back to 1 (revision 1)"),
        (&second, to(1), "rollback 3 to revision 1: goes back to 1 (revision 1)"),
        (&second, to(2), "nothing: 2 of web is what runs: nothing to do"),
        (&second, to(7), "refused: web has no revision 7; see `trundle history web`"),
    ];
    for (world, request, expect) in table {
        assert_eq!(ask(world, &request), expect);
    }
    assert_eq!(ask(&rolling(), &to(1)), "turn back to revision 1: goes back to 1 (revision 1)");
    assert_eq!(ask(&rolling(), &to(2)), "nothing: rollout 2 to 2 is on its way already");
    assert!(ask(&going_back(), &to(2)).ends_with("a way back is never rolled back"));
    assert_eq!(ask(&going_back(), &to(1)), "nothing: rollout 2 is going back to 1 already");
    // It failed on its way back to 1: what is wanted does not run, so it may be asked for.
    assert_eq!(ask(&failed(), &to(1)), "rollback 3 to revision 1: goes back to 1 (revision 1)");
    // What is wanted does not run when the app is down: then it may be asked for.
    assert_eq!(ask(&down(), &to(1)), "rollback 2 to revision 1: goes back to 1 (revision 1)");
}

#[test]
fn scaling_and_restarting() {
    assert_eq!(ask(&idle(), &Request::Scale(1)), "configure 1: web goes to 1 replica");
    assert_eq!(ask(&idle(), &Request::Scale(6)), "configure 6: web goes to 6 replicas");
    assert_eq!(ask(&idle(), &Request::Scale(4)), "nothing: web has 4 replicas already");
    assert!(ask(&World::empty(), &Request::Scale(4)).contains("was never deployed"));
    assert!(ask(&failed(), &Request::Scale(6)).contains("deploy again first, then scale"));
    assert!(ask(&idle(), &Request::Scale(2_000_000)).contains("are more than 1000000"));

    assert_eq!(ask(&idle(), &Request::Restart), "add revision 2, restart 2 to revision 2: restarts web");
    let held = "refused: rollout 2 to 2 holds web; restart when it has ended";
    assert_eq!(ask(&rolling(), &Request::Restart), held);
    assert_eq!(ask(&down(), &Request::Restart), "refused: web does not run, so it cannot be restarted");
    // Each restart is a revision of its own, also after one that was gone back from.
    let mut world = idle();
    for restarts in 1..=2 {
        world.request(Request::Restart);
        world.run();
        let newest = world.state.revision(world.state.target().unwrap()).unwrap();
        assert_eq!((newest.template.restarts, newest.number.0), (restarts, restarts + 1));
        assert!(newest.template.same_as(&template("1")), "it runs the same");
    }
}

#[test]
fn a_deploy_of_what_is_there_already() {
    let same = "nothing: 1 of web is what runs: nothing to do";
    assert_eq!(ask_deploy(&idle(), deploy(&idle(), "1")), same);
    let other = |world: &World, version| DeployRequest {
        settings: settings(4, counts(2, 0)),
        ..deploy(world, version)
    };
    assert_eq!(ask_deploy(&idle(), other(&idle(), "1")), "configure 4: 1 of web stays, the settings changed");
    let on_its_way = "nothing: rollout 2 to 2 is on its way already";
    assert_eq!(ask_deploy(&rolling(), deploy(&rolling(), "2")), on_its_way);
    assert_eq!(
        ask_deploy(&rolling(), other(&rolling(), "2")),
        "configure 4: rollout 2 to 2 is on its way already"
    );
    let by_steps = |version| DeployRequest { step: true, ..deploy(&rolling(), version) };
    assert_eq!(
        ask_deploy(&rolling(), by_steps("2")),
        "refused: rollout 2 to 2 is on its way without --step; `trundle pause web` stops it where it is"
    );
    let mut stepping = idle();
    stepping.roll("2", true);
    assert_eq!(ask_deploy(&stepping, by_steps("2")), on_its_way);
    // Down, it does not run: asked for again, it is rolled out again.
    assert_eq!(ask_deploy(&down(), deploy(&down(), "1")), "deploy 2 to revision 1: rolls web to 1");
    // On the way back its target is not what anybody deployed.
    assert_eq!(
        ask_deploy(&going_back(), deploy(&going_back(), "1")),
        "deploy 3 to revision 1: supersedes rollout 2 to 2"
    );
    // After a failed way back a person who asks again means it.
    assert_eq!(ask_deploy(&failed(), deploy(&failed(), "1")), "deploy 3 to revision 1: rolls web to 1");
    // A version that stopped half-way is wanted, and it is not what succeeded.
    let mut half = paused();
    half.run();
    let key = half.ready_of(1)[0];
    let skipped = half.state.instances().find(|i| i.key().revision.0 == 2).unwrap().key();
    assert_eq!(key.revision.0, 1);
    half.request(Request::Skip(skipped));
    half.request(Request::Resume);
    half.run();
    assert_eq!(half.outcome(), RolloutState::Failed);
    assert_eq!(ask_deploy(&half, deploy(&half, "2")), "deploy 3 to revision 2: rolls web to 2");
    let places = half.state.book(skipped.revision).unwrap().slots();
    assert_eq!(places.next_attempt(skipped.slot), Some(2), "what was left out can be taken again");
    // Of several with the same content it is the one that is wanted, and not the newest.
    let mut twice = idle();
    twice.request(Request::Restart);
    twice.run();
    twice.request(Request::Rollback(Some(RevisionNumber(1))));
    twice.run();
    twice.request(Request::Down);
    assert_eq!(ask_deploy(&twice, deploy(&twice, "1")), "deploy 4 to revision 1: rolls web to 1");
}

#[test]
fn a_deploy_of_something_else() {
    let world = rolling();
    assert_eq!(
        ask_deploy(&world, deploy(&world, "3")),
        "add revision 3, deploy 3 to revision 3: supersedes rollout 2 to 2"
    );
    assert_eq!(
        ask_deploy(&world, DeployRequest { step: true, ..deploy(&world, "3") }),
        "add revision 3, deploy 3 to revision 3 step by step: supersedes rollout 2 to 2"
    );
    let busy = ask_deploy(&world, DeployRequest { if_idle: true, ..deploy(&world, "3") });
    assert_eq!(busy, "refused: rollout 2 to 2, begun by test, holds web; follow it with `trundle wait 2`");
    assert_eq!(
        ask_deploy(&idle(), DeployRequest { if_idle: true, ..deploy(&idle(), "3") }),
        "add revision 2, deploy 2 to revision 2: rolls web to 3"
    );
    // A version that is known keeps its number; of those that were restarted since, the newest.
    let mut back = rolling();
    back.run();
    assert_eq!(ask_deploy(&back, deploy(&back, "1")), "deploy 3 to revision 1: rolls web to 1");
    back.request(Request::Restart);
    back.run();
    assert_eq!(ask_deploy(&back, deploy(&back, "2")), "nothing: 2 of web is what runs: nothing to do");
    back.deploy("1");
    back.run();
    assert_eq!(ask_deploy(&back, deploy(&back, "2")), "deploy 5 to revision 3: rolls web to 2");
}

/// Equality of content, never of a label: each part alone makes it another revision.
#[test]
fn the_same_label_on_something_else_is_another_revision() {
    let world = idle();
    let changes: [fn(&mut Template); 3] = [
        |t| t.version = "1.1".parse().unwrap(),
        |t| t.run.port = Port::Fixed(80),
        |t| t.health.live = Some(Check::new(Probe::Tcp)),
    ];
    for change in changes {
        let mut request = deploy(&world, "1");
        change(&mut request.template);
        assert!(!request.template.same_as(&template("1")));
        let answer = ask_deploy(&world, request);
        assert!(answer.starts_with("add revision 2, deploy 2 to revision 2"), "{answer}");
    }
}

#[test]
fn who_was_faster_is_named_and_since_when() {
    let mut world = rolling();
    world.at = world.state.open_rollout().unwrap().opened_at + 90_500;
    world.state.advance(world.at);
    let knowing = |seen| DeployRequest { seen_rollout: Some(RolloutId(seen)), ..deploy(&world, "3") };
    assert_eq!(
        ask_deploy(&world, knowing(1)),
        "refused: test was faster: rollout 2 to 2 began 90 s ago; look at it with `trundle status web`, then deploy again"
    );
    for seen in [2, 3] {
        assert!(ask_deploy(&world, knowing(seen)).starts_with("add revision 3"), "{seen}");
    }
}

fn see(world: &mut World, instance: InstanceKey, fact: Fact) {
    world.apply(Event::Observed { instance, fact });
}

/// Three versions: 1 is proven, 2 was superseded on its way, 3 is rolled out.
#[test]
fn only_places_of_what_is_wanted_or_proven_are_tried_again() {
    let mut world = World::with(settings(4, |r| {
        counts(1, 1)(r);
        r.max_failures = CountOrPercent::Count(9);
    }));
    world.deploy("2");
    while world.ready_of(2).len() < 2 {
        assert!(world.step());
    }
    world.deploy("3");
    world.step();
    let died = || Fact::Exited(Exit { code: Some(1), signal: None });
    let of = |world: &World, revision: u32| {
        world.state.instances().find(|i| i.key().revision.0 == revision).unwrap().key()
    };
    let (first, second, third) = (of(&world, 1), of(&world, 2), of(&world, 3));
    for key in [first, second, third] {
        see(&mut world, key, died());
    }
    let name = |key: InstanceKey| key.name(world.state.app());
    for key in [first, third] {
        let expect = format!("retry {key}: {} is tried again", name(key));
        assert_eq!(ask(&world, &Request::Retry(key)), expect);
    }
    let replaced =
        format!("refused: {} is of 2, which is being replaced: it is not tried again", name(second));
    assert_eq!(ask(&world, &Request::Retry(second)), replaced);
    let stays = {
        world.command(Command::Pause);
        ask(&world, &Request::Retry(third))
    };
    assert_eq!(stays, format!("retry {third}: web-{third} is tried again; rollout 3 stays paused"));
}

#[test]
fn a_place_is_left_out_once_and_something_must_be_left() {
    let mut world = World::with(settings(3, counts(3, 0)));
    world.deploy("2");
    let key = |slot| InstanceKey { revision: RevisionNumber(2), slot, attempt: 1 };
    let left_out = |slot| {
        format!(
            "skip 2-{slot}: web-2-{slot} is left out: 1 comes back to its place, and rollout 2 will end as failed"
        )
    };
    assert_eq!(ask(&world, &Request::Skip(key(1))), left_out(1));
    world.command(Command::Skip { instance: key(1) });
    assert_eq!(ask(&world, &Request::Skip(key(1))), "refused: web-2-1 is left out already");
    let gone = "refused: web-2-1 was left out of this rollout; deploy again to have it in";
    see(&mut world, key(1), Fact::Exited(Exit { code: Some(1), signal: None }));
    assert_eq!(ask(&world, &Request::Retry(key(1))), gone);
    // The place of the same number of another version is not left out.
    let base = InstanceKey { revision: RevisionNumber(1), slot: 1, attempt: 1 };
    see(&mut world, base, Fact::Exited(Exit { code: Some(1), signal: None }));
    assert_eq!(ask(&world, &Request::Retry(base)), "retry 1-1: web-1-1 is tried again");
    // Two of three may be left out, and not the last.
    assert_eq!(ask(&world, &Request::Skip(key(2))), left_out(2));
    world.command(Command::Skip { instance: key(2) });
    assert_eq!(
        ask(&world, &Request::Skip(key(3))),
        "refused: nothing would be left of rollout 2; go back with `trundle abort web`"
    );
}

/// A way back over two versions; in between the left one counts as bad, and another one is rolled out over it.
#[test]
fn a_bad_version_grows_no_more_and_shrinks_with_the_others() {
    let at_work = || {
        let mut world = World::with(settings(8, counts(2, 2)));
        world.deploy("2");
        while world.ready_of(2).len() < 4 {
            assert!(world.step());
        }
        world.request(Request::Abort);
        world.deploy("3");
        world.request(Request::Pause);
        assert!(world.state.is_bad(RevisionNumber(2)) && !world.ready_of(2).is_empty());
        world
    };
    let owed = |world: &World, revision| world.state.book(RevisionNumber(revision)).map_or(0, |b| b.owed());
    let mut more = at_work();
    for command in more.state.permit(&Request::Scale(16)).unwrap().commands {
        more.command(command);
    }
    assert_eq!((owed(&more, 1) > 0, owed(&more, 2)), (true, 0));
    let mut fewer = at_work();
    for command in fewer.state.permit(&Request::Scale(4)).unwrap().commands {
        fewer.command(command);
    }
    assert!(owed(&fewer, 1) < 0 && owed(&fewer, 2) < 0);
}

/// What is beyond the limit is forgotten with the rollouts to it, and what stays keeps its own.
#[test]
fn rollouts_are_forgotten_with_their_revisions() {
    let mut app = settings(1, counts(1, 0));
    app.rollout.history_limit = 1;
    let mut world = World::with(app);
    for version in ["2", "3", "4"] {
        world.deploy(version);
        world.run();
    }
    let kept: Vec<_> = world.state.rollouts().values().map(|r| (r.id.0, r.to.0)).collect();
    assert_eq!(kept, [(3, 3), (4, 4)]);
}

/// Gone back from, a version counts as judged bad; it is a person who takes that back by deploying it again.
#[test]
fn a_rollback_when_idle_judges_what_it_leaves() {
    let mut world = rolling();
    world.run();
    let left = RevisionNumber(2);
    assert!(!world.state.is_bad(left) && world.state.has_succeeded(left));
    assert!(!world.state.has_succeeded(RevisionNumber(9)));
    let rolled = |kind| {
        let mut state = world.state.clone();
        let target = RevisionNumber(1);
        let command = Command::Roll { rollout: RolloutId(3), target, kind, step: false };
        state.apply(world.at, &Event::Commanded { by: "ann".into(), command });
        state
    };
    assert!(rolled(RolloutKind::Rollback).is_bad(left));
    assert!(!rolled(RolloutKind::Deploy).is_bad(left));
    assert_eq!(rolled(RolloutKind::Rollback).bad_revisions().len(), 1);
}
