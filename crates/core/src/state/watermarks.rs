//! What is kept true after every event: low and high water, the mix, the progress clock.

use std::collections::BTreeMap;

use crate::ids::RevisionNumber;
use crate::limits::Budget;

use super::AppState;
use super::rollout::{Progress, Rollout, RolloutState};
use super::timers::Timer;

/// Floor and ceiling as they bind now. A bound that was just moved cannot be met at once, and nothing is wrong: it binds as
/// far as it was come to. 4 instances that are scaled to 8 with 1 unavailable have a floor of 7; it binds at 4, then at 5
/// when 5 are available, and never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub floor: u32,
    pub ceiling: u32,
}

impl Bounds {
    fn bind(&mut self, budget: Budget, available: u32, live: u32) {
        self.floor = budget.floor().min(self.floor.max(available));
        self.ceiling = budget.ceiling().max(self.ceiling.min(live));
    }
}

impl AppState {
    /// Settings changed: the clocks of the open rollout may be due at other moments.
    pub(super) fn wake_for_clocks(&mut self) {
        let (Some(settings), Some(rollout)) = (&self.settings, self.open_rollout()) else { return };
        let (of, progress) = (&settings.rollout, &rollout.progress);
        let due = [
            Some(rollout.batch_reached_at + of.delay_ms),
            rollout.bake_since.map(|since| since + of.bake_time_ms),
            progress
                .running_since
                .map(|since| since + of.progress_deadline_ms.saturating_sub(progress.spent_ms)),
        ];
        for at in due.into_iter().flatten() {
            self.timers.set(at.max(self.now), Timer::Wake);
        }
    }

    pub(super) fn fresh_progress(&self) -> Progress {
        Progress {
            best_available: self.counts_of(self.target).available(),
            lowest_others: self.others().live(),
            spent_ms: 0,
            running_since: None,
        }
    }

    fn routed(&self) -> BTreeMap<RevisionNumber, u32> {
        self.books.iter().map(|(r, book)| (*r, book.routed)).filter(|(_, n)| *n > 0).collect()
    }

    /// What is true after every event: low and high water, the mix, the progress clock.
    pub(super) fn keep_watermarks(&mut self) {
        let (available, live, now) = (self.totals.available(), self.totals.live(), self.now);
        let target = self.counts_of(self.target);
        let others_live = live - target.live();
        let new = self.target.and_then(|t| self.books.get(&t)).map_or(0, |b| b.routed);
        let old = self.books.values().map(|b| b.routed).sum::<u32>() - new;
        let rank = (old.min(new), old + new);
        // Only a new peak is worth the list of it.
        let peak = self.open_rollout().filter(|r| rank > r.peak_rank).map(|_| self.routed());
        let in_backoff = self.target.and_then(|t| self.books.get(&t)).map_or(0, |b| b.slots.in_backoff());
        let on_its_way = target.held() > target.available() || in_backoff > 0;
        let deadline = self.settings.as_ref().map_or(0, |s| s.rollout.progress_deadline_ms);
        let budget = self.budget();
        self.bounds.bind(budget, available, live);
        let (bounds, is_complete) = (self.bounds, self.is_complete());
        let Some(rollout) = self.open_rollout_mut() else { return };
        if !is_complete {
            // The time is one in which all of them were good: it begins anew when they are again.
            rollout.bake_since = None;
        }
        rollout.note_level(available, live, bounds);
        if let Some(peak) = peak {
            rollout.peak_rank = rank;
            rollout.peak_mix = peak;
        }
        let progress = &mut rollout.progress;
        if target.available() > progress.best_available || others_live < progress.lowest_others {
            progress.best_available = progress.best_available.max(target.available());
            progress.lowest_others = progress.lowest_others.min(others_live);
            progress.spent_ms = 0;
            progress.running_since = progress.running_since.map(|_| now);
        }
        let runs = on_its_way && matches!(rollout.state, RolloutState::Running | RolloutState::RollingBack);
        match (runs, progress.running_since) {
            (true, None) => {
                progress.running_since = Some(now);
                let due = now + deadline.saturating_sub(progress.spent_ms);
                self.timers.set(due, Timer::Wake);
            }
            (false, Some(_)) => {
                progress.spent_ms = progress.spent_at(now);
                progress.running_since = None;
            }
            (true, Some(since)) if since == now && progress.spent_ms == 0 => {
                self.timers.set(now + deadline, Timer::Wake);
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}

impl Rollout {
    fn note_level(&mut self, available: u32, live: u32, bounds: Bounds) {
        // What broke a bound comes before what only came near it.
        let lowness = |available: u32, floor: u32| (floor.saturating_sub(available), u32::MAX - available);
        if lowness(available, bounds.floor) > lowness(self.lowest_available, self.lowest_floor) {
            (self.lowest_available, self.lowest_floor) = (available, bounds.floor);
        }
        let highness = |live: u32, ceiling: u32| (live.saturating_sub(ceiling), live);
        if highness(live, bounds.ceiling) > highness(self.highest_total, self.highest_ceiling) {
            (self.highest_total, self.highest_ceiling) = (live, bounds.ceiling);
        }
    }
}
