//! What must hold at every moment, one numbered checker each, on maintained counts, so that they run in release builds too.
//!
//! [`check`] looks at a decision before it is carried out, [`Witness`] at an event before and after it is applied, and
//! [`scan`] counts everything anew. Those that no pure function can see stand where the effects are; `docs/invariants.md`
//! names the place of each.

mod decisions;
mod events;
mod scan;

use crate::event::Action;
use crate::state::AppState;

pub use decisions::DECISION_CHECKERS;
pub use events::{EVENT_CHECKERS, Witness};
pub use scan::scan;

/// A bug of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {invariant} is broken: {detail}")]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

/// All checkers over one pass of a decision, before it has an effect.
///
/// # Errors
/// The first invariant that the actions would break in this state.
pub fn check(state: &AppState, actions: &[Action]) -> Result<(), Violation> {
    for (invariant, _, checker) in DECISION_CHECKERS {
        checker(state, actions).map_err(|detail| Violation { invariant, detail })?;
    }
    Ok(())
}

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
}
