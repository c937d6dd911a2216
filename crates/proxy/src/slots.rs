//! The proxies of one state directory: the one that serves, and those before it that finish what they have. Each has a slot
//! of its own, which is a kernel lock and ends with it however it ends, and counts in it what it has in flight.

use std::path::Path;
use std::time::Duration;

use crate::error::ProxyError;
use crate::lock::{self, Lock};

/// Which of them one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// One's own; held as long as it lives.
pub struct Taken {
    pub slot: Slot,
    _lock: Lock,
}

impl Slot {
    /// One serves, seven may finish.
    pub const COUNT: usize = 8;
    pub const FIRST: Self = Self(0);

    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }

    fn lock(self) -> String {
        format!("proxy-{}.lock", self.0)
    }

    /// Whether a process has it.
    #[must_use]
    pub fn is_taken(self, state_dir: &Path) -> bool {
        lock::is_held(state_dir, &self.lock())
    }
}

/// Takes a free one. Only who serves, or is about to, may ask.
pub fn take(state_dir: &Path) -> Result<Taken, ProxyError> {
    for slot in Slot::all() {
        match lock::take(state_dir, &slot.lock(), Duration::ZERO) {
            Ok(lock) => return Ok(Taken { slot, _lock: lock }),
            Err(ProxyError::AlreadyRunning { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ProxyError::TooManyFinish)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_another_and_gives_it_back_with_its_life() {
        let dir = tempfile::tempdir().unwrap();
        let mut taken: Vec<Taken> = Slot::all().map(|_| take(dir.path()).unwrap()).collect();
        assert!(taken.iter().map(|taken| taken.slot).eq(Slot::all()));
        assert!(Slot::all().all(|slot| slot.is_taken(dir.path())));
        assert!(matches!(take(dir.path()), Err(ProxyError::TooManyFinish)));
        let gone = taken.remove(3);
        drop(gone);
        assert!(!Slot(3).is_taken(dir.path()));
        assert_eq!(take(dir.path()).unwrap().slot, Slot(3));
    }
}
