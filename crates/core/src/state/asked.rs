//! What people ask of single places and of the number of replicas in the middle of a rollout, and what is kept of the past.

use std::collections::BTreeSet;

use crate::event::StartPurpose;
use crate::ids::{InstanceKey, RevisionNumber};

use super::AppState;

impl AppState {
    /// That place once more: nothing that failed there makes it wait, and a pause does not hold it.
    pub(super) fn retry(&mut self, key: InstanceKey) {
        if let Some(book) = self.books.get_mut(&key.revision) {
            book.slots.forgive_place(key.slot);
        }
        if self.target == Some(key.revision)
            && let Some(rollout) = self.open_rollout_mut()
        {
            rollout.retries.insert(key.slot);
        }
    }

    /// That place is left out: the base comes back to it.
    pub(super) fn skip(&mut self, key: InstanceKey) {
        if let Some(rollout) = self.open_rollout_mut()
            && rollout.skipped.insert(key.slot)
        {
            rollout.to_restore += 1;
            rollout.retries.remove(&key.slot);
            if let Some(book) = self.books.get_mut(&key.revision) {
                book.slots.close(key.slot);
            }
        }
    }

    pub(super) fn note_asked_start(&mut self, key: InstanceKey, purpose: StartPurpose) {
        let Some(rollout) = self.open_rollout_mut() else { return };
        match purpose {
            StartPurpose::Retry => {
                rollout.retries.remove(&key.slot);
            }
            StartPurpose::Restore => rollout.to_restore = rollout.to_restore.saturating_sub(1),
            StartPurpose::Roll if rollout.target() == key.revision => {
                rollout.retries.remove(&key.slot);
            }
            StartPurpose::Roll | StartPurpose::Repair | StartPurpose::Scale => {}
        }
    }

    /// A new number of replicas in the middle of a rollout: each revision gets its share, so that the mix stays as it is.
    /// In proportion to what is wanted of each, rounding half away from zero; the rest to the largest: of equals the newer
    /// one wins it and the older one loses it. On the way back nothing is shared: what is left goes anyway.
    pub(super) fn share(&mut self, before: u32, after: u32) {
        if before == after || self.open_rollout().is_none_or(|r| r.back_to.is_some()) {
            return;
        }
        let difference = i64::from(after) - i64::from(before);
        let good: Vec<(RevisionNumber, i64)> = self
            .books
            .iter()
            .filter(|(revision, book)| book.want > 0 && (difference < 0 || !self.bad.contains(revision)))
            .map(|(revision, book)| (*revision, i64::from(book.want)))
            .collect();
        let all: i64 = good.iter().map(|(_, want)| want).sum();
        let mut shares: Vec<_> =
            good.iter().map(|(revision, want)| (*revision, half_away(difference * want, all))).collect();
        let rest = difference - shares.iter().map(|(_, share)| share).sum::<i64>();
        let largest = if rest > 0 {
            good.iter().max_by_key(|(revision, want)| (*want, *revision))
        } else {
            good.iter().max_by_key(|(revision, want)| (*want, std::cmp::Reverse(*revision)))
        };
        let Some((largest, _)) = largest else { return };
        if let Some((_, share)) = shares.iter_mut().find(|(revision, _)| revision == largest) {
            *share += rest;
        }
        for (revision, share) in shares {
            if let Some(book) = self.books.get_mut(&revision) {
                let want = (i64::from(book.want) + share).max(0);
                book.owed += want - i64::from(book.want);
                book.want = u32::try_from(want).unwrap_or(u32::MAX);
            }
        }
    }

    /// Revisions beyond `history_limit` that nothing runs, wants or can go back to; and the rollouts to them.
    pub(super) fn forget_old(&mut self) {
        let Some(limit) = self.settings.as_ref().map(|s| s.rollout.history_limit) else { return };
        let in_use: BTreeSet<RevisionNumber> = self
            .books
            .iter()
            .filter(|(_, book)| book.counts.live() > 0)
            .map(|(revision, _)| *revision)
            .chain(self.target)
            .chain(self.base)
            // The newest, so that its number is never given again.
            .chain(self.revisions.keys().next_back().copied())
            .collect();
        let spare = self.revisions.keys().rev().copied().filter(|r| !in_use.contains(r));
        let old: BTreeSet<RevisionNumber> = spare.skip(limit as usize).collect();
        if old.is_empty() {
            return;
        }
        self.revisions.retain(|r, _| !old.contains(r));
        self.succeeded.retain(|r| !old.contains(r));
        self.bad.retain(|r| !old.contains(r));
        self.books.retain(|r, _| !old.contains(r));
        let last = self.rollouts.keys().next_back().copied();
        self.rollouts.retain(|id, rollout| Some(*id) == last || !old.contains(&rollout.to));
    }
}

/// `of / all`, rounded half away from zero; `all` is above 0.
fn half_away(of: i64, all: i64) -> i64 {
    let doubled = 2 * of.abs() + all;
    of.signum() * (doubled / (2 * all))
}

#[cfg(test)]
mod tests {
    #[test]
    fn halves_go_away_from_zero() {
        let rounded =
            [(1, 2, 1), (-1, 2, -1), (1, 3, 0), (2, 3, 1), (5, 10, 1), (4, 10, 0), (-15, 10, -2), (0, 3, 0)];
        for (of, all, want) in rounded {
            assert_eq!(super::half_away(of, all), want, "{of} / {all}");
        }
    }
}
