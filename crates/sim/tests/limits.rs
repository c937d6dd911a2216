//! What physics allows, against what the engine does in a world where nothing goes wrong: never faster, and hardly slower.

#![allow(clippy::unwrap_used)]

use trundle_core::limits::CountOrPercent;
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_core::state::RolloutState;
use trundle_sim::{Disk, Setup, Sim, Spread};

/// Duration ÷ limit of a rollout of `replicas` with `surge`, `unavailable` and `batch` (0: none), where each takes `start_ms` to be
/// ready and `stop_ms` to be gone.
fn ratio(replicas: u32, surge: u32, unavailable: u32, batch: u32, start_ms: u64, stop_ms: u64) -> f64 {
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Count(surge)),
        max_unavailable: Some(CountOrPercent::Count(unavailable)),
        batch: (batch > 0).then_some(batch),
        healthy_deadline_ms: 3_600_000,
        progress_deadline_ms: 7_200_000,
        ..RolloutSettings::default()
    };
    let listen = Some(Listen::http("127.0.0.1:1"));
    let mut setup =
        Setup::new(AppSettings { replicas, rollout, listen, fixed_port: false, gates: Vec::new() });
    (setup.start, setup.stop) = (Spread::Always(start_ms), Spread::Always(stop_ms));
    setup.drain = Spread::Always(0);
    let mut sim = Sim::new(setup, Disk::default());
    sim.start_daemon().unwrap();
    for version in ["1", "2"] {
        sim.deploy(version).unwrap().unwrap();
        assert!(sim.run(1_000_000));
    }
    let outcome = sim.outcome().unwrap();
    assert_eq!(outcome.state, RolloutState::Succeeded);
    outcome.duration_ms as f64 / outcome.limit_ms as f64
}

#[test]
fn a_rollout_takes_what_physics_allows() {
    let rows = [
        (8, 1, 1, 0, 180_000, 1_000),
        (8, 1, 0, 0, 90_000, 1_000),
        (10, 0, 2, 2, 60_000, 5_000),
        (10, 3, 2, 2, 60_000, 5_000),
        (10, 2, 0, 2, 60_000, 5_000),
        (10, 1, 0, 2, 60_000, 5_000),
        (9, 3, 3, 4, 60_000, 5_000),
        (12, 4, 4, 3, 5_000, 60_000),
        (7, 7, 0, 0, 10_000, 10_000),
    ];
    for row @ (replicas, surge, unavailable, batch, start_ms, stop_ms) in rows {
        let ratio = ratio(replicas, surge, unavailable, batch, start_ms, stop_ms);
        println!("{row:?}: {ratio:.3}");
        assert!((0.999..1.10).contains(&ratio), "{row:?}: {ratio}");
    }
}
