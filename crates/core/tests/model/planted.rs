//! A checker that no missing guard can reach alone: where S14 breaks S1 is broken too, and speaks first.

use trundle_core::event::{Action, StopPurpose};
use trundle_core::invariants::{DECISION_CHECKERS, check};

use crate::app::App;
use crate::node::Node;

#[test]
fn the_last_one_that_serves_does_not_leave() {
    let app: App = "replicas=1 surge=1 unavailable=0".parse().unwrap();
    let state = Node::first(&app).unwrap().state;
    let instance = state.instances().next().unwrap().key();
    let leaves = [Action::Drain { instance, purpose: StopPurpose::Surplus }];
    let (_, _, s14) = DECISION_CHECKERS.iter().find(|(number, _, _)| *number == "S14").unwrap();
    assert_eq!(s14(&state, &leaves), Err("all 1 available would leave at once".to_owned()));
    assert_eq!(check(&state, &leaves).unwrap_err().invariant, "S1");
    assert_eq!(s14(&state, &[]), Ok(()));
}
