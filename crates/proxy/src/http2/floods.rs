//! Work that a client of HTTP/2 makes and that leads nowhere, bounded for each connection.
//!
//! `h2` bounds what such work takes in memory: heads that go on for ever, streams that are reset before they are looked at. It
//! does not bound the time: frames that each want an answer (CVE-2019-9512, -9515) or carry nothing (CVE-2019-9513, -9518), and
//! requests that are given up as soon as an endpoint has them (CVE-2023-44487, done slowly).

use std::time::{Duration, Instant};

/// So many frames that bring nothing, within so long and with nothing in between that does.
const MOST_IDLE: u32 = 10_000;
const WITHIN: Duration = Duration::from_secs(10);
/// So many requests may be given up before it is asked whether they are more than half of all.
const MOST_GIVEN_UP: u32 = 200;

/// The bytes of the preface, which stand in front of the first frame.
const PREFACE: usize = super::PREFACE.len();

#[derive(Debug)]
pub struct Floods {
    /// Bytes of the preface, or of a frame's payload, that are still to come.
    skip: usize,
    head: [u8; 9],
    /// Bytes of the next frame's head that are here.
    have: usize,
    idle: u32,
    since: Instant,
    begun: u32,
    given_up: u32,
}

impl Floods {
    pub fn new() -> Self {
        let since = Instant::now();
        Self { skip: PREFACE, head: [0; 9], have: 0, idle: 0, since, begun: 0, given_up: 0 }
    }

    /// Takes the bytes that were just read. True: it is too much.
    pub fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let used = if self.skip > 0 {
                let used = self.skip.min(bytes.len());
                self.skip -= used;
                used
            } else {
                let used = (self.head.len() - self.have).min(bytes.len());
                self.head[self.have..self.have + used].copy_from_slice(&bytes[..used]);
                self.have += used;
                if self.have == self.head.len() {
                    self.have = 0;
                    self.frame();
                }
                used
            };
            bytes = &bytes[used..];
        }
        if self.idle <= MOST_IDLE {
            return false;
        }
        let is_flood = self.since.elapsed() < WITHIN;
        self.progress();
        is_flood
    }

    /// A request began, or a part of an answer went to the client: what came between belonged to that.
    pub fn progress(&mut self) {
        if self.idle > 0 {
            (self.idle, self.since) = (0, Instant::now());
        }
    }

    pub fn begun(&mut self) {
        self.begun = self.begun.saturating_add(1);
        self.progress();
    }

    /// A request has ended without an answer, by its client and at once. True: it is too much.
    pub fn given_up(&mut self) -> bool {
        self.given_up = self.given_up.saturating_add(1);
        self.given_up > MOST_GIVEN_UP && self.given_up > self.begun / 2
    }

    fn frame(&mut self) {
        let [long, mid, short, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, long, mid, short]) as usize;
        let has_end = flags & 1 != 0;
        match kind {
            // DATA
            0 if self.skip > 0 => self.progress(),
            0 if has_end => {}
            // HEADERS and RST_STREAM are counted as requests, CONTINUATION is bounded by the size of a head.
            1 | 3 | 9 => {}
            _ => self.idle = self.idle.saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(frames: &[u8], size: usize) -> bool {
        let mut floods = Floods::new();
        let bytes = [crate::http2::PREFACE, frames].concat();
        bytes.chunks(size).any(|piece| floods.feed(piece))
    }

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const EMPTY_DATA: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];
    const DATA: [u8; 10] = [0, 0, 1, 0, 0, 0, 0, 0, 1, b'x'];

    #[test]
    fn frames_that_bring_nothing_are_counted_however_they_come() {
        for size in [1, 7, 17, 100_000] {
            assert!(!fed(&PING.repeat(10_000), size) && fed(&PING.repeat(10_001), size), "by {size}");
            assert!(fed(&EMPTY_DATA.repeat(10_001), size), "by {size}");
            assert!(
                !fed(&[PING.repeat(9_000), DATA.to_vec(), PING.repeat(9_000)].concat(), size),
                "by {size}"
            );
        }
    }

    #[test]
    fn a_client_that_gives_most_of_its_requests_up_is_too_much() {
        let mut floods = Floods::new();
        (0..500).for_each(|_| floods.begun());
        assert!((0..250).all(|_| !floods.given_up()), "half of them");
        assert!(floods.given_up());
    }
}
