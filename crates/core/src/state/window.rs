//! The order of versions for clients while two of them serve, for the router.

use crate::Millis;
use crate::event::{RolloutKind, StopPurpose};
use crate::ids::{InstanceKey, RevisionNumber};

use super::AppState;
use super::book::Class;
use super::instance::Instance;
use super::rollout::RolloutState;
use super::timers::Timer;

/// What a router needs to know so that no client goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// What was told to a client under another number says nothing of this order: a way back releases everybody.
    pub number: u64,
    /// It comes after all others, which stand in the order of their numbers.
    pub newest: Option<RevisionNumber>,
    /// The rollout goes on.
    pub open: bool,
    /// Of a hundred clients or requests so many get the newest, while the rollout stands still. None: by its instances.
    pub share: Option<u32>,
}

impl AppState {
    /// How long an instance that drains now may be kept for the pages that clients have of its version: it is the last that had
    /// requests, another version has taken its place and serves, and nothing waits for the room that it takes.
    pub(super) fn keeps_for_pages(&self, instance: InstanceKey, purpose: StopPurpose) -> Millis {
        let traffic = self.settings.as_ref().and_then(|settings| settings.listen.as_ref()?.traffic.as_ref());
        let (Some(traffic), Some(rollout)) = (traffic, self.open_rollout()) else { return 0 };
        let is_last = self.book(instance.revision).is_none_or(|book| book.ready() == 0);
        let goes_on = rollout.back_to.is_none() && rollout.kind == RolloutKind::Deploy;
        let is_another = self.version_of(instance.revision) != self.version_of(rollout.to);
        let serves = self.counts_of(self.target).available() > 0 && self.budget().surge > 0;
        if purpose == StopPurpose::Replaced && is_last && goes_on && is_another && serves {
            traffic.skew_max_age_ms
        } else {
            0
        }
    }

    /// Those that are kept for pages. Looked for only where that can be: there may be many that drain.
    pub fn kept(&self) -> Vec<InstanceKey> {
        let traffic = self.settings.as_ref().and_then(|settings| settings.listen.as_ref()?.traffic.as_ref());
        if traffic.is_none_or(|traffic| traffic.skew_max_age_ms == 0) {
            return Vec::new();
        }
        let draining = self.books.values().flat_map(|book| book.members(Class::Draining));
        draining.filter(|key| self.instance(*key).is_some_and(Instance::is_kept)).collect()
    }

    /// They drain as others do, from now on: their pages are gone, or somebody needs the room.
    pub(super) fn release(&mut self, kept: &[InstanceKey]) {
        let drain_ms = self.settings.as_ref().map_or(0, |s| s.rollout.drain_timeout_ms);
        for key in kept {
            self.change(*key, |i, _| i.kept = false);
            self.set_timer(*key, self.now + drain_ms, Timer::Cut(*key));
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
        Window {
            number: u64::from(first.id.0) * 2 + goes_back,
            newest: Some(last.target()),
            open: !last.state.is_terminal(),
            share,
        }
    }
}
