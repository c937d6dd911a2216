//! What will happen, by time; of equal times first what was foreseen first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use trundle_core::Millis;

#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<Due<T>>>,
    foreseen: u64,
}

#[derive(Debug)]
struct Due<T> {
    at: Millis,
    nth: u64,
    what: T,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), foreseen: 0 }
    }
}

impl<T> Queue<T> {
    pub fn push(&mut self, at: Millis, what: T) {
        self.foreseen += 1;
        self.heap.push(Reverse(Due { at, nth: self.foreseen, what }));
    }

    pub fn next_at(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// What is due by `now`, one at a time.
    pub fn pop(&mut self, now: Millis) -> Option<T> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| due.what)
    }

    pub fn clear(&mut self) {
        self.heap.clear();
    }
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.nth) == (other.at, other.nth)
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.nth).cmp(&(other.at, other.nth))
    }
}
