//! Turns decisions into effects: observe → decide → journal → act, over ports.
//!
//! One synchronous turn takes what was seen and said, and leaves behind a durable journal and the commands that follow
//! from it. Nothing here waits for an effect: its outcome comes back as an observation. So the engine that ships is
//! the engine that a simulator drives with a virtual clock.

pub mod audit;
pub mod chronicle;
pub mod clock;
mod effects;
pub mod engine;
pub mod journal;
pub mod lock;
pub mod ports;
pub mod view;

pub use engine::{App, Denied, Engine, Input, Reply, Turn, fold_all};
