//! The engine that ships, in a world of numbers: instances, router and store are simulated behind the engine's own ports,
//! time is virtual, chance comes from a seed. No rule of a rollout stands here.

mod outcome;
mod queue;
mod run;
mod setup;
mod spread;
mod store;
mod trace;
mod world;

pub use outcome::{Outcome, Step};
pub use run::Sim;
pub use setup::Setup;
pub use spread::Spread;
pub use store::{CrashAt, Disk};
pub use trace::Trace;
pub use world::{Fate, Fates, World};
