//! `simulate`: the rollout of the file, by the engine that ships, in a world of numbers.

use clap::Args;
use serde_json::{Value, json};
use trundle_core::state::RolloutState;
use trundle_sim::{Disk, Outcome, Setup, Sim, Spread};

use super::{Context, FileArgs, Stop, print_json};
use crate::config::Secrets;
use crate::exit::Exit;

#[derive(Args, Clone)]
pub struct WorldArgs {
    /// How many, instead of what the file says
    #[arg(long)]
    replicas: Option<u32>,
    /// From the start of an instance to ready: 2s, 1s..5s, or 2s~500ms
    #[arg(long, value_name = "TIME", default_value = "1s")]
    start_time: Spread,
    /// From the last request of an instance to gone
    #[arg(long, value_name = "TIME", default_value = "1s")]
    stop_time: Spread,
    /// From the drain to the last request
    #[arg(long, value_name = "TIME", default_value = "0s")]
    drain_time: Spread,
    /// How likely a new instance fails, from 0 to 1
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    fail: f64,
    /// Chance comes from here: the same seed, the same rollout
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Moments after which a simulation is given up: a rollout of a million has a few for each instance.
const MOST_MOMENTS: u64 = 50_000_000;

pub fn run(context: &Context, file: &FileArgs, world: &WorldArgs) -> Result<Exit, Stop> {
    let loaded = super::deploy::load(context, file, Secrets::Optional)?;
    let mut settings = loaded.settings.clone();
    settings.replicas = world.replicas.unwrap_or(settings.replicas);
    if let Some(problem) = settings.problems().into_iter().next() {
        return Err(Stop::Error(format!("{}: {}; {}", problem.key, problem.message, problem.hint)));
    }
    let setup = Setup {
        settings,
        start: world.start_time,
        drain: world.drain_time,
        stop: world.stop_time,
        failure: world.fail,
        seed: world.seed,
    };
    let to = loaded.draft.version.to_string();
    let from = if to == "before" { "old" } else { "before" };
    let outcome = simulate(setup, from, &to)?;
    if context.json {
        print_json(&as_json(&outcome))?;
    } else {
        print!("{}", crate::term::simulate::render(&outcome, &to));
    }
    Ok(Exit::Done)
}

/// The first version comes up, and the second one replaces it.
fn simulate(setup: Setup, from: &str, to: &str) -> Result<Outcome, Stop> {
    let broken = |what: &str| Stop::Error(format!("the simulation {what}; please report this"));
    let mut sim = Sim::new(setup, Disk::that_forgets());
    sim.start_daemon().map_err(|error| broken(&error.to_string()))?;
    for version in [from, to] {
        sim.reset_marks();
        let asked = sim.deploy(version).map_err(|error| Stop::Error(error.to_string()))?;
        asked.map_err(|denied| broken(&denied.to_string()))?;
        if !sim.run(MOST_MOMENTS) {
            return Err(broken("does not come to its end"));
        }
    }
    sim.outcome().ok_or_else(|| broken("has no rollout"))
}

fn as_json(outcome: &Outcome) -> Value {
    let steps: Vec<Value> = outcome
        .steps
        .iter()
        .map(|s| json!({ "at_s": seconds(s.at_ms), "action": s.action, "revision": s.revision, "count": s.count }))
        .collect();
    json!({
        "duration_s": seconds(outcome.duration_ms), "limit_s": seconds(outcome.limit_ms),
        "max_surge": outcome.budget.surge, "max_unavailable": outcome.budget.unavailable,
        "floor": outcome.budget.floor(), "ceiling": outcome.budget.ceiling(),
        "lowest_available": outcome.lowest_available, "highest_total": outcome.highest_total,
        "peak_mix": outcome.peak_mix, "outcome": word(outcome.state), "decisions": outcome.decisions,
        "steps": steps,
    })
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn word(state: RolloutState) -> Value {
    serde_json::to_value(state).unwrap_or_default()
}

fn probability(text: &str) -> Result<f64, String> {
    let p: f64 = text.parse().map_err(|_| "a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&p) { Ok(p) } else { Err("a number from 0 to 1".to_owned()) }
}
