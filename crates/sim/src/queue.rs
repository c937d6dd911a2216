//! What will happen, by time; of equal times first what was foreseen first.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use trundle_core::Millis;

#[derive(Debug)]
pub struct Queue<T>(BTreeMap<Millis, VecDeque<T>>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Queue<T> {
    pub fn push(&mut self, at: Millis, what: T) {
        self.0.entry(at).or_default().push_back(what);
    }

    pub fn next_at(&self) -> Option<Millis> {
        self.0.keys().next().copied()
    }

    /// What is due by `now`, one at a time.
    pub fn pop(&mut self, now: Millis) -> Option<T> {
        let mut first = self.0.first_entry().filter(|due| *due.key() <= now)?;
        let what = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        what
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
