//! What a single event does to the books: what is counted, what is kept of an instance, and what is no news.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, START_MS, World, counts, settings};
use trundle_core::Millis;
use trundle_core::decide::{actions, decide};
use trundle_core::event::{
    Action, Command, DrainProof, Event, Evidence, Exit, Fact, FailureCause, PauseCause, StartPurpose,
    StopPurpose,
};
use trundle_core::ids::{InstanceKey, RevisionNumber};
use trundle_core::limits::CountOrPercent;
use trundle_core::settings::{OnFailure, RolloutSettings};
use trundle_core::state::{Book, Class, Phase, Request, RolloutState};

const DIED: Fact = Fact::Exited(Exit { code: Some(1), signal: None });

fn key(revision: u32, slot: u32) -> InstanceKey {
    InstanceKey { revision: RevisionNumber(revision), slot, attempt: 1 }
}

fn book(world: &World, revision: u32) -> &Book {
    world.state.book(RevisionNumber(revision)).unwrap()
}

/// Only applied, nothing is decided.
fn see(world: &mut World, instance: InstanceKey, fact: Fact) {
    world.apply(Event::Observed { instance, fact });
}

fn started(incarnation: &str) -> Fact {
    Fact::Started { pid: 77, address: Some("127.0.0.1:5".into()), incarnation: incarnation.into() }
}

/// A rollout to 2 with its first instance just intended; what becomes of it is told by hand.
fn by_hand(change: impl FnOnce(&mut RolloutSettings)) -> (World, InstanceKey) {
    let mut world = World::with(settings(4, |r| {
        counts(1, 0)(r);
        change(r);
    }));
    world.at += 60_000;
    world.fate = Box::new(|_, _| Fate::Never);
    world.deploy("2");
    let instance = world.state.instances().find(|i| i.key().revision.0 == 2).unwrap().key();
    (world, instance)
}

#[test]
fn what_is_known_of_an_instance_is_what_was_told() {
    let (mut world, key) = by_hand(|r| r.min_healthy_time_ms = 2_000);
    let began = world.at;
    let known = |world: &World| {
        let i = world.state.instance(key).unwrap();
        (i.phase(), i.phase_since() - began, i.timer_at().map(|at| at - began))
    };
    let deadline = RolloutSettings::default().healthy_deadline_ms;
    assert_eq!(known(&world), (Phase::Intended, 0, Some(deadline)));
    let fresh = world.state.instance(key).unwrap();
    assert_eq!((fresh.pid(), fresh.address(), fresh.incarnation()), (None, None, None));
    assert_eq!(
        (fresh.failure(), fresh.stop_purpose(), fresh.drained(), fresh.is_cut()),
        (None, None, None, false)
    );
    assert_eq!((fresh.born(), fresh.was_ever_ready()), (5, false), "the fifth start of this app");

    world.at += 100;
    see(&mut world, key, started("a"));
    assert_eq!(known(&world), (Phase::Starting, 100, Some(deadline)));
    let i = world.state.instance(key).unwrap();
    assert_eq!((i.pid(), i.address().map(|a| &**a)), (Some(77), Some("127.0.0.1:5")));
    assert_eq!((i.incarnation().map(|a| &**a), i.matures_at()), (Some("a"), None));

    world.at += 100;
    see(&mut world, key, Fact::Ready);
    assert_eq!(known(&world), (Phase::Ready, 200, Some(2_200)));
    let i = world.state.instance(key).unwrap();
    assert_eq!((i.ready_since(), i.matures_at()), (Some(began + 200), Some(began + 2_200)));
    assert_eq!((i.is_routed(), i.was_ever_ready(), world.state.is_available(key)), (false, true, false));

    see(&mut world, key, Fact::Routed(true));
    assert!(world.state.instance(key).unwrap().is_routed());
    world.state.advance(began + 2_200);
    world.at = began + 2_200;
    assert_eq!(known(&world), (Phase::Ready, 200, None));
    assert!(world.state.is_available(key) && world.state.instance(key).unwrap().matures_at().is_none());

    let purpose = StopPurpose::Surplus;
    world.apply(Event::Decided(Action::Drain { instance: key, purpose }));
    see(&mut world, key, Fact::Drained { proof: DrainProof::Proven });
    let i = world.state.instance(key).unwrap();
    assert_eq!((i.stop_purpose(), i.drained()), (Some(purpose), Some(DrainProof::Proven)));
    world.apply(Event::Decided(Action::Stop { instance: key, purpose, cut: true }));
    assert!(world.state.instance(key).unwrap().is_cut());
}

/// `true`: worth a record.
#[test]
fn what_is_no_news_is_not_worth_a_record() {
    let (world, key) = by_hand(|_| ());
    let after = |facts: &[Event]| {
        let mut state = world.state.clone();
        facts.iter().for_each(|event| state.apply(world.at, event));
        state
    };
    let fact = |fact| Event::Observed { instance: key, fact };
    let drained = || Fact::Drained { proof: DrainProof::Proven };
    let purpose = StopPurpose::Replaced;
    let intended = after(&[]);
    let starting = after(&[fact(started("a"))]);
    let ready = after(&[fact(started("a")), fact(Fact::Ready)]);
    let routed = after(&[fact(started("a")), fact(Fact::Ready), fact(Fact::Routed(true))]);
    let unready = after(&[fact(started("a")), fact(Fact::Ready), fact(Fact::Unready)]);
    let unknown = after(&[fact(started("a")), fact(Fact::Unknown)]);
    let failed = after(&[Event::Decided(Action::Fail { instance: key, cause: FailureCause::NotLive })]);
    let dead = after(&[fact(DIED)]);
    let draining = after(&[fact(Fact::Ready), Event::Decided(Action::Drain { instance: key, purpose })]);
    let proven = after(&[
        fact(Fact::Ready),
        Event::Decided(Action::Drain { instance: key, purpose }),
        fact(drained()),
    ]);
    let table = [
        (&intended, started("a"), true),
        (&starting, started("a"), false),
        (&starting, started("b"), true),
        (&unknown, started("a"), true),
        (&intended, Fact::Ready, true),
        (&ready, Fact::Ready, false),
        (&unready, Fact::Ready, true),
        (&failed, Fact::Ready, false),
        (&ready, Fact::Unready, true),
        (&starting, Fact::Unready, false),
        (&unready, Fact::Unready, false),
        (&ready, Fact::Routed(true), true),
        (&ready, Fact::Routed(false), false),
        (&routed, Fact::Routed(true), false),
        (&routed, Fact::Routed(false), true),
        (&starting, Fact::Routed(true), false),
        (&draining, drained(), true),
        (&proven, drained(), false),
        (&ready, drained(), false),
        (&starting, Fact::NotLive, true),
        (&failed, Fact::NotLive, false),
        (&draining, Fact::Unknown, false),
        (&starting, DIED, true),
        (&failed, DIED, true),
        (&dead, DIED, false),
        (&dead, Fact::Gone, true),
    ];
    for (state, fact, news) in table {
        let phase = state.instance(key).unwrap().phase();
        assert_eq!(state.is_news(key, &fact), news, "{fact:?} while {phase:?}");
    }
    assert!(!intended.is_news(InstanceKey { attempt: 2, ..key }, &Fact::Gone), "nobody of that name");
}

/// Of the instance that it is about, and the newest failure of it.
#[test]
fn evidence_goes_to_the_failure_that_it_is_about() {
    let mut world = World::with(settings(4, |r| {
        counts(2, 0)(r);
        r.max_failures = CountOrPercent::Count(9);
    }));
    world.fate = Box::new(|_, _| Fate::Never);
    world.deploy("2");
    see(&mut world, key(2, 1), DIED);
    see(&mut world, key(2, 2), DIED);
    let evidence = Box::new(Evidence { logs: vec!["no space".into()], ..Evidence::default() });
    world.apply(Event::Evidence { instance: key(2, 1), evidence });
    let records = &world.state.open_rollout().unwrap().records;
    let has = |n: usize| (records[n].instance, records[n].evidence.is_some());
    assert_eq!((has(0), has(1)), ((key(2, 1), true), (key(2, 2), false)));
}

/// How long it had lived: since it was ready, or since its phase began.
#[test]
fn a_failure_says_after_how_long() {
    let (mut world, instance) = by_hand(|r| {
        r.min_healthy_time_ms = 2_000;
        r.max_failures = CountOrPercent::Count(9);
    });
    let began = world.at;
    world.at = began + 700;
    see(&mut world, instance, started("a"));
    world.at = began + 1_000;
    see(&mut world, instance, Fact::Ready);
    world.at = began + 1_500;
    see(&mut world, instance, Fact::Unready);
    let record = world.state.open_rollout().unwrap().records[0].clone();
    assert_eq!(record.cause, FailureCause::Unstable { after_ms: 500 });
    assert_eq!((record.at, record.after_ms), (began + 1_500, 0), "unready since that moment");
    assert_eq!(world.state.instance(instance).unwrap().failure(), Some(&record.cause));

    let (mut world, instance) = by_hand(|_| ());
    world.at += 700;
    see(&mut world, instance, started("a"));
    world.at += 50;
    see(&mut world, instance, DIED);
    assert_eq!(world.state.last_rollout().unwrap().records[0].after_ms, 50, "since it was started");
}

/// Turning unready is a verdict only within `min_healthy_time`, and only on what is rolled out.
#[test]
fn one_that_was_proven_may_turn_unready() {
    let (mut world, new) = by_hand(|r| r.min_healthy_time_ms = 2_000);
    see(&mut world, new, Fact::Ready);
    world.at += 2_000;
    see(&mut world, new, Fact::Unready);
    assert_eq!(world.state.instance(new).unwrap().phase(), Phase::Unready, "it had stayed for long enough");
    let old = world.ready_of(1)[0];
    see(&mut world, old, Fact::Unready);
    see(&mut world, old, Fact::Ready);
    see(&mut world, old, Fact::Unready);
    assert_eq!(world.state.instance(old).unwrap().phase(), Phase::Unready, "it is not what is rolled out");
    assert_eq!(world.state.open_rollout().unwrap().failures, 0);
}

#[test]
fn the_last_hundred_failures_are_kept_and_all_are_counted() {
    let mut world = World::with(settings(1, |r| {
        counts(1, 0)(r);
        r.on_failure = OnFailure::Continue;
    }));
    world.fate = Box::new(|_, _| Fate::Never);
    world.deploy("2");
    for attempt in 1..=102 {
        let instance = InstanceKey { attempt, ..key(2, 1) };
        world.apply(Event::Decided(Action::Start { instance, purpose: StartPurpose::Roll }));
        see(&mut world, instance, DIED);
        world.apply(Event::Decided(Action::Stop { instance, purpose: StopPurpose::Failed, cut: false }));
        see(&mut world, instance, Fact::Gone);
    }
    let rollout = world.state.open_rollout().unwrap();
    assert_eq!((rollout.records.len(), rollout.failures, rollout.failures_in_all), (100, 102, 102));
    assert_eq!([0, 99].map(|n| rollout.records[n].instance.attempt), [3, 102], "the last ones");
}

/// Who was asked for in a pause is counted as coming while it starts, whatever happens to it in between.
#[test]
fn what_was_asked_for_is_coming_until_it_is_there() {
    let mut world = World::with(settings(4, counts(0, 1)));
    world.fate = Box::new(|key, nth| if key.revision.0 == 2 && nth == 2 { Fate::Exits } else { Fate::Ready });
    world.deploy("2");
    world.run();
    while world.step() {}
    world.fate = Box::new(|_, _| Fate::Never);
    let failed = world.state.open_rollout().unwrap().records[0].instance;
    world.request(Request::Retry(failed));
    let again = InstanceKey { attempt: 2, ..failed };
    let coming = |world: &World| book(world, 2).coming();
    assert_eq!(coming(&world), 1);
    for (fact, count) in
        [(Fact::Unknown, 0), (started("a"), 1), (Fact::Ready, 0), (Fact::Routed(true), 0), (Fact::Unready, 0)]
    {
        see(&mut world, again, fact.clone());
        assert_eq!(coming(&world), count, "{fact:?}");
    }
    let mut rebooted = World::with(settings(4, counts(0, 1)));
    rebooted.fate = Box::new(|key, _| if key.revision.0 == 2 { Fate::Exits } else { Fate::Ready });
    rebooted.deploy("2");
    rebooted.run();
    while rebooted.step() {}
    rebooted.fate = Box::new(|_, _| Fate::Never);
    let failed = rebooted.state.open_rollout().unwrap().records[0].instance;
    rebooted.request(Request::Retry(failed));
    assert_eq!(coming(&rebooted), 1);
    rebooted.apply(Event::Rebooted);
    assert_eq!(coming(&rebooted), 0);
}

/// Nothing of the last boot is left in any count.
#[test]
fn a_reboot_leaves_nothing_in_the_books() {
    let mut world = World::with(settings(4, counts(1, 1)));
    world.deploy("2");
    while world.ready_of(2).is_empty() {
        assert!(world.step());
    }
    let counted = |book: &Book| (book.counts().live(), book.ready(), book.routed(), book.coming());
    assert!(book(&world, 1).routed() > 0 && book(&world, 2).routed() > 0);
    assert_eq!(book(&world, 1).routed(), book(&world, 1).ready(), "each of them serves");
    world.apply(Event::Rebooted);
    for revision in [1, 2] {
        assert_eq!(counted(book(&world, revision)), (0, 0, 0, 0), "revision {revision}");
    }
    assert_eq!((world.state.totals().live(), world.state.stoppable().count()), (0, 0));
}

/// By birth, not by place: one that came back is the youngest.
#[test]
fn the_oldest_instance_leaves_first() {
    let mut world = World::with(settings(3, counts(0, 1)));
    let first = world.ready_of(1)[0];
    world.see(first, DIED);
    while world.ready_of(1).len() < 3 {
        assert!(world.step());
    }
    let order: Vec<_> = world.ready_of(1).iter().map(|k| (k.slot, k.attempt)).collect();
    assert_eq!(order, [(2, 1), (3, 1), (1, 2)]);
    world.deploy("2");
    let leaving = world.state.instances().find(|i| i.phase() == Phase::Draining).unwrap().key();
    assert_eq!(leaving, key(1, 2));
}

/// Every try in a place has a number of its own.
#[test]
fn each_attempt_is_a_name_of_its_own() {
    let mut world = World::with(settings(1, counts(0, 1)));
    let mut seen = Vec::new();
    for _ in 0..4 {
        while world.ready_of(1).is_empty() {
            assert!(world.step());
        }
        let instance = world.ready_of(1)[0];
        seen.push((instance.slot, instance.attempt));
        world.see(instance, DIED);
    }
    assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (1, 4)]);
    assert_eq!(book(&world, 1).slots().next_attempt(2), None, "a place that nobody took");
}

/// What scaling in a pause gives and takes is owed until it is done, and then nothing is.
#[test]
fn what_is_owed_is_paid() {
    let mut world = World::with(settings(8, counts(1, 0)));
    world.deploy("2");
    while world.ready_of(2).len() < 4 {
        assert!(world.step());
    }
    world.request(Request::Pause);
    while world.step() {}
    let owed = |world: &World| [book(world, 1).owed(), book(world, 2).owed()];
    for (to, expect) in [(16, [4, 4]), (8, [-4, -4])] {
        for command in world.state.permit(&Request::Scale(to)).unwrap().commands {
            world.command(command);
        }
        assert_eq!(owed(&world), expect, "to {to}");
        world.settle();
        while world.step() {}
        assert_eq!((owed(&world), world.state.totals().live()), ([0, 0], to), "to {to}");
        assert_eq!(world.outcome(), RolloutState::Paused);
    }
    // One that leaves for another reason pays nothing.
    for command in world.state.permit(&Request::Scale(6)).unwrap().commands {
        world.command(command);
    }
    let (before, old) = (owed(&world), world.ready_of(1)[0]);
    world.apply(Event::Decided(Action::Drain { instance: old, purpose: StopPurpose::Skipped }));
    assert_eq!(owed(&world), before);
}

/// Ready, mature and in the table: what is missing is said by its name.
#[test]
fn one_that_is_not_routed_yet_waits_for_the_proxy() {
    let (mut world, new) = by_hand(|_| ());
    see(&mut world, new, Fact::Ready);
    assert_eq!((book(&world, 2).ready(), book(&world, 2).routed()), (1, 0));
    assert_eq!(
        world.state.instance(new).unwrap().timer_at(),
        None,
        "min_healthy_time is 0: nothing to wake for"
    );
    let said: Vec<_> = decide(&world.state).reasons.iter().map(|r| r.text()).collect();
    assert!(said.contains(&"waits for the proxy to route web-2-1".to_owned()), "{said:?}");
    see(&mut world, new, Fact::Routed(true));
    assert_eq!((book(&world, 2).routed(), world.state.is_available(new)), (1, true));
    // The routed one leaves the table at once when it is not ready, without a drain.
    see(&mut world, new, Fact::Unready);
    assert_eq!((book(&world, 2).ready(), book(&world, 2).routed()), (0, 0));
}

#[test]
fn the_actions_alone_are_those_of_the_decision() {
    let mut world = World::with(settings(4, counts(1, 1)));
    let number = world.state.next_revision();
    let revision = trundle_core::revision::Revision { number, template: common::template("2") };
    world.command(Command::AddRevision { revision: Box::new(revision) });
    let (rollout, kind) = (world.state.next_rollout(), trundle_core::event::RolloutKind::Deploy);
    world.command(Command::Roll { rollout, target: number, kind, step: false });
    assert_eq!(actions(&world.state), decide(&world.state).actions);
    assert_eq!(actions(&world.state).len(), 2, "one starts and one leaves");
}

fn configure(world: &mut World, change: impl FnOnce(&mut trundle_core::settings::AppSettings)) {
    let mut settings = world.state.settings().unwrap().clone();
    change(&mut settings);
    world.command(Command::Configure { settings: Box::new(settings) });
}

/// (`min_healthy_time` from now on, when it is available): ready since 3 s, with 10 s before.
#[test]
fn another_min_healthy_time_counts_at_once_from_when_it_was_ready() {
    for (wait_ms, available_after) in [(2_000, 3_000), (3_000, 3_000), (5_000, 5_000), (20_000, 20_000)] {
        let (mut world, new) = by_hand(|r| r.min_healthy_time_ms = 10_000);
        see(&mut world, new, Fact::Ready);
        see(&mut world, new, Fact::Routed(true));
        let ready_at = world.at;
        world.at += 3_000;
        configure(&mut world, |s| s.rollout.min_healthy_time_ms = wait_ms);
        let due: Millis = ready_at + available_after;
        if due > world.at {
            world.state.advance(due - 1);
            assert!(!world.state.is_available(new), "{wait_ms}");
            assert_eq!(world.state.instance(new).unwrap().matures_at(), Some(due), "{wait_ms}");
            world.state.advance(due);
        }
        assert!(world.state.is_available(new), "{wait_ms}");
        assert_eq!(world.state.instance(new).unwrap().timer_at(), None, "{wait_ms}");
    }
}

#[test]
fn without_a_listener_ready_is_enough_from_now_on() {
    let (mut world, new) = by_hand(|_| ());
    assert!(!world.state.may_be_busy(new), "it was never ready");
    see(&mut world, new, Fact::Ready);
    assert!(!world.state.is_available(new));
    assert!(world.state.may_be_busy(new), "it may be routed at any moment");
    let mut dead = world.state.clone();
    dead.apply(world.at, &Event::Observed { instance: new, fact: DIED });
    assert!(!dead.may_be_busy(new), "nobody is there");
    configure(&mut world, |s| s.listen = None);
    assert!(world.state.is_available(new));
    assert_eq!(world.state.counts_of(Some(RevisionNumber(2))).of(Class::Available), 1);
    assert!(!world.state.may_be_busy(new), "no request can reach it");
}

/// Whether its place waits after its first failure: settings that change in between do not tell it wrongly.
#[test]
fn new_settings_forget_nobody_who_served_and_invent_none() {
    let wait = |world: &World, revision: u32| book(world, revision).slots().in_backoff();
    let (mut world, new) = by_hand(|r| r.max_failures = CountOrPercent::Count(9));
    configure(&mut world, |s| s.rollout.drain_timeout_ms += 1);
    see(&mut world, new, DIED);
    assert_eq!(wait(&world, 2), 1, "it never served");
    let old = world.ready_of(1)[0];
    see(&mut world, old, Fact::Unready);
    configure(&mut world, |s| s.rollout.drain_timeout_ms += 1);
    see(&mut world, old, DIED);
    assert_eq!(wait(&world, 1), 0, "it had served");
    let (mut world, new) = by_hand(|r| r.max_failures = CountOrPercent::Count(9));
    see(&mut world, new, started("a"));
    see(&mut world, new, DIED);
    assert_eq!(wait(&world, 2), 1, "starting is not serving");
}

/// What is wanted follows the number of replicas while nothing is rolled out; down, nothing is wanted.
#[test]
fn what_is_wanted_of_the_version_that_runs() {
    let mut world = World::with(settings(4, counts(1, 1)));
    configure(&mut world, |s| s.replicas = 6);
    assert_eq!((book(&world, 1).want(), world.state.budget().desired), (6, 6));
    world.request(Request::Down);
    configure(&mut world, |s| s.replicas = 8);
    assert_eq!((book(&world, 1).want(), world.state.budget().desired), (0, 0));
    assert!(world.state.is_down());
    let said: Vec<_> = decide(&world.state).reasons.iter().map(|r| r.text()).collect();
    assert!(said.contains(&"the app is down; `trundle deploy` starts it".to_owned()), "{said:?}");
    while world.step() {}
    world.deploy("1");
    assert!(!world.state.is_down());
}

/// Where what ran was judged bad, only what succeeded repairs; where there is none, nothing does.
#[test]
fn nothing_is_proven_that_was_judged_bad_or_never_succeeded() {
    let mut world = World::with(settings(2, counts(1, 0)));
    world.deploy("2");
    world.run();
    assert_eq!(world.state.proven(), Some(RevisionNumber(2)));
    world.request(Request::Rollback(None));
    assert_eq!(world.state.proven(), Some(RevisionNumber(1)), "it succeeded before");
    world.deploy("3");
    assert_eq!((world.state.base(), world.state.proven()), (Some(RevisionNumber(2)), None));
}

/// Nothing to go back to and nothing to keep serving: then a batch is ignored, and `rollback` means pause.
#[test]
fn the_first_rollout_pauses_where_another_goes_back() {
    let mut world = World::empty();
    let app = settings(4, |r| {
        r.on_failure = OnFailure::Rollback;
        (r.batch, r.max_surge, r.max_unavailable) =
            (Some(1), Some(CountOrPercent::Count(1)), Some(CountOrPercent::Count(0)));
    });
    world.command(Command::Configure { settings: Box::new(app) });
    assert!(world.state.is_first_rollout());
    world.fate = Box::new(|_, nth| if nth == 3 { Fate::Exits } else { Fate::Ready });
    world.deploy("1");
    assert_eq!(world.state.totals().live(), 4, "all at once");
    world.run();
    assert_eq!(world.outcome(), RolloutState::Paused);
    let cause = world.state.open_rollout().unwrap().cause.clone();
    assert_eq!(cause, Some(PauseCause::Failures { failures: 1, max_failures: 1 }));
    world.request(Request::Resume);
    world.run();
    assert!(!world.state.is_first_rollout());
    assert!(world.at > START_MS);
}

/// Many places: each instance stands where it was put, and nobody else.
#[test]
fn three_hundred_places_are_kept_apart() {
    let mut world = World::with(settings(300, |_| ()));
    let slots: Vec<_> = world.state.instances().map(|i| i.key().slot).collect();
    assert_eq!(slots, (1..=300).collect::<Vec<_>>());
    for slot in [1, 2, 255, 256, 257, 300] {
        assert_eq!(world.state.at_place(RevisionNumber(1), slot).unwrap().key(), key(1, slot));
    }
    for slot in [301, 512, 513, 5_000] {
        assert!(world.state.at_place(RevisionNumber(1), slot).is_none(), "{slot}");
    }
    // A row that was emptied is filled again.
    for slot in 257..=300 {
        see(&mut world, key(1, slot), DIED);
        see(&mut world, key(1, slot), Fact::Gone);
        assert!(world.state.at_place(RevisionNumber(1), slot).is_none());
    }
    assert_eq!(world.state.totals().live(), 256);
    world.settle();
    assert_eq!(
        world.state.at_place(RevisionNumber(1), 257).unwrap().key(),
        InstanceKey { attempt: 2, ..key(1, 257) }
    );
    assert_eq!(world.state.totals().live(), 300);
}
