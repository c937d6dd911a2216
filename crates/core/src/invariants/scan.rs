//! The full scan: for tests, the simulator and recovery.

use std::collections::BTreeSet;

use crate::state::{AppState, Phase};

use super::ensure;

/// Counts everything anew and compares with the maintained books: for tests, the simulator and recovery.
///
/// # Errors
/// The first difference, in words.
pub fn scan(state: &AppState) -> Result<(), String> {
    let open = state.rollouts().values().filter(|r| !r.state.is_terminal()).count();
    ensure(open <= 1, || format!("S8: {open} rollouts are open"))?;
    let mut held = BTreeSet::new();
    for instance in state.instances() {
        let key = instance.key();
        if instance.phase().is_held() {
            ensure(held.insert((key.revision, key.slot)), || {
                format!("S16: {key:?} is the second in its place")
            })?;
        }
    }
    let phase_count = |wanted: fn(Phase) -> bool| {
        u32::try_from(state.instances().filter(|i| wanted(i.phase())).count()).unwrap_or(u32::MAX)
    };
    let live = u32::try_from(state.instances().count()).unwrap_or(u32::MAX);
    let totals = state.totals();
    ensure(totals.live() == live, || format!("books say {} live, there are {live}", totals.live()))?;
    let held = phase_count(Phase::is_held);
    ensure(totals.held() == held, || format!("books say {} held, there are {held}", totals.held()))?;
    let ready = phase_count(|p| p == Phase::Ready);
    let booked: u32 = state.books().values().map(|b| b.ready()).sum();
    ensure(booked == ready, || format!("books say {booked} ready, there are {ready}"))?;
    let in_books: u32 = state.books().values().map(|b| b.counts().live()).sum();
    ensure(in_books == live, || format!("the books of revisions hold {in_books}, there are {live}"))
}
