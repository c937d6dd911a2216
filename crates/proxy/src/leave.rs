//! When a stream without an end has to move: its instance drains, its address is closed, or this proxy ends. The moment
//! is drawn from the app's `drain_spread`, so that those who come again do not all come at once.

use std::time::Duration;

use tokio::time::Instant;

use crate::connection::Connection;
use crate::endpoint::{Flag, LiveEndpoint};

/// All are told within this part of the time that a stop leaves them, counted from when they may be told at all.
const PART_OF_A_STOP: u32 = 4;

/// What is next for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Its client shall be told to come again. Said once.
    Tell,
    /// The drain's deadline is over.
    Cut,
}

#[derive(Debug, Default)]
pub struct Leave {
    /// It has so long to end by itself before it is told.
    first: Duration,
    tell_at: Option<Instant>,
    said: bool,
}

impl Leave {
    pub fn not_before(first: Duration) -> Self {
        Self { first, ..Self::default() }
    }

    /// Waits for the next word; for ever, if there is none.
    pub async fn next(&mut self, endpoint: &LiveEndpoint, client: &Connection) -> Word {
        let worker = &client.worker;
        loop {
            // Before the look, so that no change falls between.
            let changed = worker.changed.notified();
            let flag = endpoint.flag();
            if flag == Flag::Cut {
                return Word::Cut;
            }
            if client.is_closing() || matches!(flag, Flag::Draining | Flag::Removed) {
                let spread = || Instant::now() + self.first + worker.draw_below(client.drain_spread());
                self.tell_at.get_or_insert_with(spread);
            }
            // Whose proxy ends is told early enough to act on it, however far its app would spread this.
            if let (Some(at), Some(left)) = (&mut self.tell_at, worker.time_left()) {
                let (from, spread) = (Instant::now() + self.first, left / PART_OF_A_STOP);
                if *at > from + spread {
                    *at = from + worker.draw_below(spread);
                }
            }
            match self.tell_at.filter(|_| !self.said) {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {
                        self.said = true;
                        return Word::Tell;
                    }
                },
                None => changed.await,
            }
        }
    }
}
