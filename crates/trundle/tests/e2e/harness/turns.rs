//! Scenarios under load come a few at a time: they mostly wait, but too many on two cores would measure each other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

const AT_ONCE: u32 = 4;
static RUNNING: Mutex<u32> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Until it is dropped.
pub struct Turn;

pub fn turn() -> Turn {
    let mut running = lock();
    while *running >= AT_ONCE {
        running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
    }
    *running += 1;
    Turn
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock() -= 1;
        ENDED.notify_one();
    }
}

fn lock() -> MutexGuard<'static, u32> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
