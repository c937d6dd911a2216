//! Random worlds: faults, people and time in any order. After every event the books are counted anew, and no decision
//! may break an invariant; in the end a fair world comes to its end.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fate, World, settings};
use proptest::prelude::*;
use trundle_core::event::{DrainProof, Event, Exit, Fact};
use trundle_core::ids::InstanceKey;
use trundle_core::limits::{CountOrPercent, Order};
use trundle_core::settings::{AppSettings, OnFailure};
use trundle_core::state::{Phase, Request, RolloutState};

#[derive(Debug, Clone)]
enum Op {
    Steps(u8),
    Wait(u32),
    Exit(u8),
    Unready(u8),
    Ready(u8),
    NotLive(u8),
    LateDrained(u8),
    LateGone(u8),
    Deploy(u8, bool),
    Pause,
    Resume,
    Abort,
    Rollback,
    Restart,
    Scale(u8),
    Retry(u8),
    Skip(u8),
    Reboot,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1..6u8).prop_map(Op::Steps),
        2 => (1..20_000u32).prop_map(Op::Wait),
        2 => any::<u8>().prop_map(Op::Exit),
        2 => any::<u8>().prop_map(Op::Unready),
        1 => any::<u8>().prop_map(Op::Ready),
        1 => any::<u8>().prop_map(Op::NotLive),
        1 => any::<u8>().prop_map(Op::LateDrained),
        1 => any::<u8>().prop_map(Op::LateGone),
        3 => (1..5u8, any::<bool>()).prop_map(|(version, step)| Op::Deploy(version, step)),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        1 => Just(Op::Abort),
        1 => Just(Op::Rollback),
        1 => Just(Op::Restart),
        2 => (1..12u8).prop_map(Op::Scale),
        1 => any::<u8>().prop_map(Op::Retry),
        1 => any::<u8>().prop_map(Op::Skip),
        1 => Just(Op::Reboot),
    ]
}

prop_compose! {
    fn app()(
        replicas in 1..12u32,
        surge in prop_oneof![Just(None), (0..4u32).prop_map(|n| Some(CountOrPercent::Count(n))), (0..201u32).prop_map(|p| Some(CountOrPercent::Percent(p)))],
        unavailable in prop_oneof![Just(None), (0..4u32).prop_map(|n| Some(CountOrPercent::Count(n))), (0..101u32).prop_map(|p| Some(CountOrPercent::Percent(p)))],
        batch in prop::option::of(1..5u32),
        order in prop_oneof![Just(None), Just(Some(Order::StartFirst)), Just(Some(Order::StopFirst))],
        delay_ms in 0..3_000u64,
        min_healthy_time_ms in prop_oneof![Just(0), 1..3_000u64],
        max_failures in 1..4u32,
        on_failure in prop_oneof![Just(OnFailure::Pause), Just(OnFailure::Rollback), Just(OnFailure::Continue)],
        history_limit in 0..4u32,
        worker in any::<bool>(),
    ) -> AppSettings {
        let mut app = settings(replicas, |r| {
            r.max_surge = surge;
            r.max_unavailable = unavailable;
            r.batch = batch;
            r.order = order;
            r.delay_ms = if batch.is_some() { delay_ms } else { 0 };
            r.min_healthy_time_ms = min_healthy_time_ms;
            r.healthy_deadline_ms = 10_000;
            r.progress_deadline_ms = 60_000;
            r.max_failures = CountOrPercent::Count(max_failures);
            r.on_failure = on_failure;
            r.history_limit = history_limit;
        });
        if worker {
            app.listen = None;
        }
        app
    }
}

/// Some instance; which one does not matter, but for a seed it is the same.
fn pick(world: &World, n: u8) -> Option<InstanceKey> {
    let all: Vec<_> = world.state.instances().map(|i| i.key()).collect();
    (!all.is_empty()).then(|| all[usize::from(n) % all.len()])
}

fn act(world: &mut World, op: &Op) {
    let see = |world: &mut World, n: u8, fact: Fact| {
        if let Some(key) = pick(world, n) {
            world.see(key, fact);
        }
    };
    let ask = |world: &mut World, request: Request| {
        if world.state.permit(&request).is_ok() {
            world.request(request);
        }
    };
    match op {
        Op::Steps(n) => (0..*n).for_each(|_| {
            world.step();
        }),
        Op::Wait(ms) => {
            world.at += u64::from(*ms);
            world.state.advance(world.at);
            world.settle();
        }
        Op::Exit(n) => see(world, *n, Fact::Exited(Exit { code: Some(1), signal: None })),
        Op::Unready(n) => see(world, *n, Fact::Unready),
        Op::Ready(n) => see(world, *n, Fact::Ready),
        Op::NotLive(n) => see(world, *n, Fact::NotLive),
        Op::LateDrained(n) => see(world, *n, Fact::Drained { proof: DrainProof::Proven }),
        Op::LateGone(n) => see(world, *n, Fact::Gone),
        Op::Deploy(version, step) => world.roll(&version.to_string(), *step),
        Op::Pause => ask(world, Request::Pause),
        Op::Resume => ask(world, Request::Resume),
        Op::Abort => ask(world, Request::Abort),
        Op::Rollback => ask(world, Request::Rollback(None)),
        Op::Restart => ask(world, Request::Restart),
        Op::Scale(n) => ask(world, Request::Scale(u32::from(*n))),
        Op::Retry(n) => {
            if let Some(key) = pick(world, *n) {
                ask(world, Request::Retry(key));
            }
        }
        Op::Skip(n) => {
            if let Some(key) = pick(world, *n) {
                ask(world, Request::Skip(key));
            }
        }
        Op::Reboot => {
            world.apply(Event::Rebooted);
            world.settle();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000), ..ProptestConfig::default() })]

    #[test]
    fn no_world_breaks_an_invariant_and_a_fair_one_ends(
        app in app().prop_filter("a file that is refused", |a| a.problems().is_empty()),
        fates in prop::collection::vec(0..10u8, 16),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let mut world = World::with(app);
        world.fate = Box::new(move |key, nth| match fates[(key.slot as usize * 7 + nth as usize) % fates.len()] {
            0 => Fate::Never,
            1 | 2 => Fate::Exits,
            _ => Fate::Ready,
        });
        for op in &ops {
            act(&mut world, op);
        }
        // From here on the world is fair: what does not answer dies, everything else starts, a person says go on.
        world.fate = Box::new(|_, _| Fate::Ready);
        for _ in 0..3 {
            for key in world.state.instances().map(|i| i.key()).collect::<Vec<_>>() {
                match world.state.instance(key).map(|i| i.phase()) {
                    Some(Phase::Unready) => world.see(key, Fact::Ready),
                    Some(Phase::Ready) => world.see(key, Fact::Routed(true)),
                    _ => {}
                }
            }
            // Step by step, a person goes on after each batch.
            for _ in 0..800 {
                if world.state.permit(&Request::Resume).is_ok() {
                    world.request(Request::Resume);
                }
                if !world.step() {
                    break;
                }
            }
        }
        if world.outcome() == RolloutState::Failed {
            world.deploy("9");
            for _ in 0..400 {
                if !world.step() {
                    break;
                }
            }
        }
        let budget = world.state.budget();
        prop_assert!(world.state.open_rollout().is_none(), "{:?} {:?}", world.outcome(), world.last.reasons);
        prop_assert!(world.state.totals().available() >= budget.floor(), "{:?}", world.last.reasons);
        prop_assert!(world.state.totals().live() <= budget.ceiling().max(budget.desired), "{:?}", world.last.reasons);
        prop_assert!(world.last.actions.is_empty());
    }
}
