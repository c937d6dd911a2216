//! What Trundle decides, and nothing else.
//!
//! [`state::AppState`] is a fold over [`event::Event`]s; [`decide::decide`] looks at it and answers with actions,
//! the reasons for every move and every wait, and the moment to look again. Nothing here reads a clock, touches a
//! file or waits: the same events give the same answer on every machine.

pub mod compatible;
pub mod decide;
pub mod event;
pub mod formats;
pub mod health;
pub mod ids;
pub mod invariants;
pub mod limits;
pub mod plan;
pub mod reason;
pub mod revision;
pub mod settings;
pub mod situation;
pub mod state;
pub mod traffic;

/// Milliseconds on the journal's clock: it counts only time in which a daemon was watching, and never goes back.
pub type Millis = u64;
