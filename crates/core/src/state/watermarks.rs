//! What is kept true after every event: low and high water, the mix, the progress clock.

use std::collections::BTreeMap;

use crate::ids::RevisionNumber;

use super::AppState;
use super::rollout::{Progress, RolloutState};
use super::timers::Timer;

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
        let Some(rollout) = self.open_rollout_mut() else { return };
        rollout.lowest_available = rollout.lowest_available.min(available);
        rollout.highest_total = rollout.highest_total.max(live);
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
