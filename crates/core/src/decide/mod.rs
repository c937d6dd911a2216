//! The decision: from what is to what happens next. A pure function that looks at counts, never at history, so a crash,
//! a late event or a lost instance needs no case of its own.
//!
//! One pass answers with moves of one kind: verdicts before turns, turns before moves. The caller journals and applies
//! them, then asks again, until there is nothing more to do.

mod asked;
mod explain;
mod moves;
mod turns;

use crate::Millis;
use crate::event::Action;
use crate::reason::Reason;
use crate::state::AppState;

pub use explain::waits;
pub use moves::{Moves, batch_size, complete_batches, moves};

/// What happens next, why, and when to look again without an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    pub actions: Vec<Action>,
    /// Never empty: no action without a reason, no inaction without one.
    pub reasons: Vec<Reason>,
    pub wake_at: Option<Millis>,
}

/// One pass.
pub fn decide(state: &AppState) -> Decision {
    let Moves { actions, mut reasons } = pass(state);
    reasons.extend(waits(state));
    if reasons.is_empty() {
        reasons.push(Reason::NothingToDo);
    }
    Decision { actions, reasons, wake_at: state.next_timer_at() }
}

/// The actions of one pass alone, for who carries them out and tells nobody why.
pub fn actions(state: &AppState) -> Vec<Action> {
    pass(state).actions
}

fn pass(state: &AppState) -> Moves {
    let mut actions = turns::verdicts(state);
    if actions.is_empty() {
        actions.extend(turns::turn(state));
    }
    if actions.is_empty() { moves(state) } else { Moves { actions, reasons: Vec::new() } }
}
