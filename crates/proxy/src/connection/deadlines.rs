//! The deadlines of a connection and of its requests, and what is to be done when one is over.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Connection, Phase};
use crate::body::earlier;
use crate::turn::Turn;

pub const NEVER: Duration = Duration::from_secs(86_400);

/// So long a connection that waits may wait for its next request when another proxy has taken over: the answer to that says
/// that it is the last. A client that had just sent it would lose it on a connection that closes.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// A client of HTTP/2 that waits and is told to go has so long to answer.
const GOODBYE: Duration = Duration::from_secs(2);

/// What is to be done with a connection now.
pub enum Verdict {
    GoOn,
    /// Tell the service that its deadline is over.
    Ask,
    /// Close, and say 408 first if a part of a head has come.
    CloseHead,
    /// Close, and say 414 first.
    CloseLine,
    Close,
    /// All is said, but the client still sends: it shall get the answer.
    Linger,
    /// HTTP has ended and a WebSocket begins.
    Tunnel,
}

impl Connection {
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.idle_timeout_ms)
    }

    fn deadline(&self) -> Option<Instant> {
        let idle = self.idle_timeout();
        let of_phase = match self.phase.get() {
            Phase::Idle(since) if self.has_streams() && self.closing.get() => Some(since + GOODBYE),
            Phase::Idle(since) if self.one_more.get() => Some(since + idle.min(LAST_WAIT)),
            Phase::Idle(since) => Some(since + idle),
            Phase::Head(since) => Some(since + Duration::from_millis(self.limits.header_timeout_ms)),
            Phase::Busy => None,
        };
        let blocked = self.write_blocked.get().map(|since| since + idle);
        let turns = self.turns.borrow();
        let of_turns = turns.iter().filter_map(|turn| turn.upgrade()?.deadline()).min();
        earlier(earlier(of_phase, blocked), of_turns)
    }

    /// A far one, if there is none.
    pub fn next_deadline(&self) -> Instant {
        self.deadline().unwrap_or_else(|| Instant::now() + NEVER)
    }

    pub fn verdict(&self, now: Instant) -> Verdict {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Verdict::GoOn;
        }
        if self.write_blocked.get().is_some_and(|since| since + self.idle_timeout() <= now) {
            return Verdict::Close;
        }
        match self.phase.get() {
            Phase::Head(_) if self.framing.borrow().is_mid_head() => return Verdict::CloseHead,
            Phase::Idle(_) | Phase::Head(_) => return Verdict::Close,
            Phase::Busy => {}
        }
        let is_due = |turn: &Rc<Turn>| turn.deadline().is_some_and(|deadline| deadline <= now);
        for turn in self.live_turns().iter().filter(|turn| is_due(turn)) {
            if !turn.expire() && !turn.reset() {
                return Verdict::Close;
            }
        }
        Verdict::Ask
    }

    /// A request was answered whose body the client still sends.
    fn body_is_open(&self) -> bool {
        self.body_left_open.get() || self.live_turns().iter().any(|turn| turn.body_is_open())
    }

    /// hyper is done with the connection.
    pub(super) fn last_verdict(&self, result: &hyper::Result<()>) -> Verdict {
        match result {
            _ if self.has_long_line() => Verdict::CloseLine,
            Ok(()) if self.tunnel.borrow().is_some() => Verdict::Tunnel,
            // Where it may ask once more, it may have asked twice.
            Ok(()) if self.body_is_open() || self.one_more.get() => Verdict::Linger,
            // It has said 400 or 431, and more of the head may be on its way.
            Err(error) if error.is_parse() => Verdict::Linger,
            Ok(()) | Err(_) => Verdict::Close,
        }
    }
}
