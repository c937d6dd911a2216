//! The order of versions for clients while two of them serve, for the router.

use crate::Millis;
use crate::event::StopPurpose;
use crate::ids::{InstanceKey, RevisionNumber};

use super::AppState;
use super::rollout::RolloutState;

/// What a router needs to know so that no client goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// What was told to a client under another number says nothing of this order: a way back releases everybody.
    pub number: u64,
    /// It comes after all others, which stand in the order of their numbers.
    pub newest: Option<RevisionNumber>,
    /// Of a hundred clients or requests so many get the newest, while the rollout stands still. None: by its instances.
    pub share: Option<u32>,
}

impl AppState {
    /// How long an instance that drains now may be kept for the pages that clients have of its version: it is the last that had
    /// requests, and a newer version takes its place.
    pub(super) fn keeps_for_pages(&self, instance: InstanceKey, purpose: StopPurpose) -> Millis {
        let traffic = self.settings.as_ref().and_then(|settings| settings.listen.as_ref()?.traffic.as_ref());
        let is_last = self.book(instance.revision).is_none_or(|book| book.ready() == 0);
        match purpose {
            StopPurpose::Replaced if is_last => traffic.map_or(0, |traffic| traffic.skew_max_age_ms),
            StopPurpose::Replaced
            | StopPurpose::Surplus
            | StopPurpose::Failed
            | StopPurpose::Skipped
            | StopPurpose::Down => 0,
        }
    }

    /// Of the last rollout. One that supersedes another by a newer revision goes on in its window: who has seen 3.2 does not
    /// go back to 3.1 because 3.3 has come.
    pub fn window(&self) -> Window {
        let Some(last) = self.last_rollout() else { return Window::default() };
        let mut first = last;
        for before in self.rollouts().values().rev().skip(1) {
            let goes_on = before.state == RolloutState::Superseded && before.back_to.is_none();
            if !goes_on || before.to >= first.to {
                break;
            }
            first = before;
        }
        let goes_back = u64::from(last.back_to.is_some());
        let share = last.share.filter(|_| last.state == RolloutState::Paused);
        Window { number: u64::from(first.id.0) * 2 + goes_back, newest: Some(last.target()), share }
    }
}
