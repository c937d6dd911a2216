//! When two states count as one: what a decision can see, without names, attempts and moments. Of time only the order
//! stays in which what is pending will come true, and whether the next of it is about to.

use std::hash::{DefaultHasher, Hasher};

use trundle_core::Millis;
use trundle_core::ids::RevisionNumber;
use trundle_core::state::{AppState, Instance, Phase, Rollout};

use crate::app::App;
use crate::node::Node;

/// A hash of 128 bits: among a billion states two that differ share one with a probability of 10⁻²¹.
pub type Key = u128;

pub fn key(app: &App, node: &Node) -> Key {
    let state = &node.state;
    let mut words = Words(Vec::with_capacity(64));
    words.extend([u64::from(node.faults), u64::from(node.commands)]);
    words.extend([u64::from(state.budget().desired), u64::from(state.is_down())]);
    words.extend([revision(state.target()), revision(state.base())]);
    words.extend([u64::from(state.recovering_since().is_some())]);
    for number in state.revisions().keys() {
        words.push(u64::from(state.is_bad(*number)) << 1 | u64::from(state.has_succeeded(*number)));
    }
    words.push(revision(state.rollback_target()));
    if let Some(last) = state.last_rollout() {
        rollout(app, state, last, &mut words);
    }
    let clocks = Clocks::of(app, state);
    for (number, book) in state.books() {
        words.push(u64::MAX - u64::from(number.0));
        words.extend([u64::from(book.want()), book.owed() as u64, u64::from(book.coming())]);
        words.push(u64::from(book.slots().in_backoff()) << 8 | clocks.rank(book.slots().next_retry_at()));
        let of_revision = state.instances().filter(|i| i.key().revision == *number);
        let mut alike: Vec<u64> =
            of_revision.map(|i| describe(state, i) << 8 | clocks.rank(i.timer_at())).collect();
        alike.sort_unstable();
        words.extend(alike);
    }
    words.extend(rollout_clocks(state).map(|at| clocks.rank(at)));
    words.hash()
}

/// What can be told of an instance, but for its name and its time.
pub fn describe(state: &AppState, instance: &Instance) -> u64 {
    let key = instance.key();
    let open = state.open_rollout();
    let asked = |of: fn(&Rollout) -> &std::collections::BTreeSet<u32>, revision: RevisionNumber| {
        open.is_some_and(|r| revision == key.revision && of(r).contains(&key.slot))
    };
    let flags = [
        state.is_available(key),
        instance.phase() == Phase::Ready && instance.matures_at().is_none(),
        instance.is_routed(),
        instance.was_ever_ready(),
        instance.has_exited(),
        instance.drained().is_some(),
        instance.is_cut(),
        state.overdue().any(|k| k == key),
        state.stoppable().any(|k| k == key),
        asked(|r| &r.skipped, open.map_or(RevisionNumber(0), |r| r.to)),
        asked(|r| &r.retries, state.target().unwrap_or(RevisionNumber(0))),
    ];
    let flags = flags.iter().fold(0, |bits, flag| bits << 1 | u64::from(*flag));
    let purpose = instance.stop_purpose().map_or(0, |p| p as u64 + 1);
    (u64::from(key.revision.0) << 32) | (instance.phase() as u64) << 24 | purpose << 16 | flags
}

fn rollout(app: &App, state: &AppState, last: &Rollout, words: &mut Words) {
    words.push(last.state as u64);
    words.push(u64::from(last.back_to.is_some()) << 1 | u64::from(last.aborted));
    if last.state.is_terminal() {
        return;
    }
    // Past this many, one failure more changes nothing.
    words.push(u64::from(last.failures.min(app.max_failures)));
    words.extend([last.to.0, last.batches, last.stepped, last.to_restore].map(u64::from));
    words.push(u64::from(last.step) << 1 | u64::from(last.bake_since.is_some()));
    let book = state.book(last.to);
    let free = |slot: &u32| book.is_some_and(|b| b.slots().next_attempt(*slot).is_some());
    words.extend([last.skipped.len(), last.retries.len()].map(|n| n as u64));
    words.push(last.retries.iter().filter(|slot| free(slot)).count() as u64);
    words.extend([last.progress.best_available, last.progress.lowest_others].map(u64::from));
    words.push(u64::from(last.progress.running_since.is_some()));
}

/// The moments that belong to a rollout and not to one instance: delay, bake, deadline, and the patience after a reboot.
fn rollout_clocks(state: &AppState) -> impl Iterator<Item = Option<Millis>> {
    let of = state.settings().map(|s| &s.rollout);
    let open = state.open_rollout().zip(of);
    let delay = open.map(|(r, of)| r.batch_reached_at + of.delay_ms);
    let bake = open.and_then(|(r, of)| r.bake_since.map(|since| since + of.bake_time_ms));
    let deadline = open.and_then(|(r, of)| {
        let since = r.progress.running_since?;
        Some(since + of.progress_deadline_ms.saturating_sub(r.progress.spent_ms))
    });
    let patience = state.recovering_since().zip(of).map(|(since, of)| since + of.healthy_deadline_ms);
    [delay, bake, deadline, patience].into_iter()
}

fn revision(number: Option<RevisionNumber>) -> u64 {
    number.map_or(0, |n| u64::from(n.0))
}

/// Everything that is pending, in its order.
struct Clocks {
    now: Millis,
    pending: Vec<Millis>,
}

impl Clocks {
    fn of(app: &App, state: &AppState) -> Self {
        let now = state.now();
        let instances = state.instances().filter_map(Instance::timer_at);
        let places = state.books().values().filter_map(|b| b.slots().next_retry_at());
        let all = instances.chain(places).chain(rollout_clocks(state).flatten());
        let mut pending: Vec<_> = all.filter(|at| app.clocks && *at > now).collect();
        pending.sort_unstable();
        pending.dedup();
        Self { now, pending }
    }

    /// 0 when nothing is pending, else its place in the order, and whether it is about to be.
    fn rank(&self, at: Option<Millis>) -> u64 {
        let Some(at) = at.filter(|at| *at > self.now) else { return 0 };
        let Ok(place) = self.pending.binary_search(&at) else { return 64 };
        (place as u64) << 1 | u64::from(at == self.now + 1) | 64
    }
}

struct Words(Vec<u64>);

impl Words {
    fn push(&mut self, word: u64) {
        self.0.push(word);
    }

    fn extend(&mut self, words: impl IntoIterator<Item = u64>) {
        self.0.extend(words);
    }

    fn hash(&self) -> Key {
        let half = |salt: u64| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(salt);
            self.0.iter().for_each(|word| hasher.write_u64(*word));
            u128::from(hasher.finish())
        };
        half(1) << 64 | half(2)
    }
}
