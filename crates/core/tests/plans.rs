//! What a plan says: moves that belong together, how long it takes, how low and how high it goes. Each row is worked out by
//! hand from the rules.

#![allow(clippy::unwrap_used)]

mod common;

use common::{World, counts, settings, template};
use trundle_core::event::{Command, Event, RolloutKind};
use trundle_core::ids::RevisionNumber;
use trundle_core::limits::Order;
use trundle_core::plan::{Assumed, Plan, StepAction, plan};
use trundle_core::revision::Revision;
use trundle_core::settings::AppSettings;

const START_MS: u64 = 1_000;
const STOP_MS: u64 = 10;

/// The plan of a rollout from 1 to 2, at a moment that is not 0.
fn planned(app: AppSettings) -> Plan {
    let mut world = World::with(app);
    world.at += 5_000;
    world.state.advance(world.at);
    let revision = Revision { number: RevisionNumber(2), template: template("2") };
    world.command(Command::AddRevision { revision: Box::new(revision) });
    let rollout = world.state.next_rollout();
    let (target, kind) = (RevisionNumber(2), RolloutKind::Deploy);
    world.command(Command::Roll { rollout, target, kind, step: false });
    plan(world.state, Assumed { start_ms: START_MS, stop_ms: STOP_MS })
}

/// Each batch as `-2x1 +2x2`: two of revision 1 leave, two of revision 2 start.
fn batches(plan: &Plan) -> Vec<String> {
    let text = |step: &trundle_core::plan::Step| {
        let sign = if step.action == StepAction::Start { '+' } else { '-' };
        format!("{sign}{}x{}", step.count, step.revision)
    };
    plan.batches.iter().map(|steps| steps.iter().map(text).collect::<Vec<_>>().join(" ")).collect()
}

fn mix(plan: &Plan) -> Vec<(u32, u32)> {
    plan.peak_mix.iter().map(|(revision, n)| (revision.0, *n)).collect()
}

#[test]
fn ten_servers_by_two() {
    let plan = planned(settings(10, |r| (r.batch, r.order) = (Some(2), Some(Order::StopFirst))));
    assert_eq!(batches(&plan), ["-2x1 +2x2"; 5]);
    assert_eq!(plan.expected_ms, 5 * (START_MS + STOP_MS), "each batch stops, then starts");
    assert_eq!((plan.lowest_available, plan.highest_total, plan.ends), (8, 10, true));
    // (6, 4), (4, 4) and (4, 6) have the largest minimum; of the largest sum the first.
    assert_eq!(mix(&plan), [(1, 6), (2, 4)]);
    assert_eq!((plan.budget.surge, plan.budget.unavailable), (0, 2));
}

#[test]
fn one_replica_starts_first() {
    let plan = planned(settings(1, counts(1, 0)));
    assert_eq!(batches(&plan), ["+1x2", "-1x1"]);
    assert_eq!(plan.expected_ms, START_MS + STOP_MS);
    assert_eq!((plan.lowest_available, plan.highest_total, plan.ends), (1, 2, true));
    assert_eq!(mix(&plan), [(1, 1), (2, 1)]);
}

/// On a fixed port both never serve together; the most mixed moment is that of one alone.
#[test]
fn a_fixed_port_has_a_moment_without_anybody() {
    let mut app = settings(1, |_| ());
    app.fixed_port = true;
    let plan = planned(app);
    assert_eq!(batches(&plan), ["-1x1", "+1x2"]);
    assert_eq!(plan.expected_ms, STOP_MS + START_MS);
    assert_eq!((plan.lowest_available, plan.highest_total), (0, 1));
    assert_eq!(mix(&plan), [(1, 1)]);
}

/// Without a listener nothing is drained: a stop is the move itself.
#[test]
fn a_worker_is_stopped_without_a_drain() {
    let mut app = settings(4, counts(2, 0));
    app.listen = None;
    let plan = planned(app);
    assert_eq!(batches(&plan), ["+2x2", "-2x1", "+2x2", "-2x1"]);
    assert_eq!(plan.expected_ms, 2 * (START_MS + STOP_MS));
    assert_eq!((plan.lowest_available, plan.highest_total, plan.ends), (4, 6, true));
}

/// Two versions leave at one moment: each is said for itself.
#[test]
fn two_versions_are_replaced_by_a_third() {
    let mut world = World::with(settings(4, counts(2, 0)));
    world.deploy("2");
    while world.ready_of(2).len() < 2 || world.ready_of(1).len() > 2 {
        assert!(world.step());
    }
    let mut state = world.state.clone();
    let say = |command| Event::Commanded { by: "ann".into(), command };
    let wide = settings(4, counts(0, 4));
    state.apply(world.at, &say(Command::Configure { settings: Box::new(wide) }));
    let revision = Revision { number: RevisionNumber(3), template: template("3") };
    state.apply(world.at, &say(Command::AddRevision { revision: Box::new(revision) }));
    let (rollout, kind) = (state.next_rollout(), RolloutKind::Deploy);
    state.apply(world.at, &say(Command::Roll { rollout, target: RevisionNumber(3), kind, step: false }));
    let plan = plan(state, Assumed { start_ms: START_MS, stop_ms: STOP_MS });
    assert_eq!(batches(&plan)[0], "-2x1 -2x2");
}

/// Places that are left over from an earlier version do not count in the mix.
#[test]
fn only_what_is_routed_is_in_the_mix() {
    let mut world = World::with(settings(2, counts(1, 0)));
    for version in ["2", "3"] {
        world.deploy(version);
        world.run();
    }
    let mix: Vec<_> = world.state.last_rollout().unwrap().peak_mix.keys().map(|r| r.0).collect();
    assert_eq!(mix, [2, 3]);
}
