//! Who has a page of which version open: `STATE_DIR/proxy-pins`, a mapped file of 65,536 places for a client each.
//!
//! A client is noted when it is given what it keeps, and again when it has loaded a page of another version, which takes the
//! place of the first. With more clients than there are places the oldest are forgotten, so that a count is the least that there
//! are. The file outlives the process, and those that finish write to it as well: two at once at worst forget a client.

use std::hash::Hasher as _;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Fnv, mapped};
use crate::sys::Words;

/// In the state directory.
pub const FILE: &str = "proxy-pins";
const PLACES: usize = 1 << 16;
/// A client stands in one of so many places.
const NEAR: usize = 8;
/// Of a place: the client, and what it has.
const WORDS_EACH: usize = 2;
const REVISION_BITS: u32 = 24;
const APP_BITS: u32 = 8;

pub struct Pins(Words);

impl Pins {
    pub fn open(path: &Path) -> io::Result<Self> {
        mapped::open(path, PLACES * WORDS_EACH).map(Self)
    }

    /// The client has a page of this revision since then.
    pub fn note(&self, app: &str, client: u64, revision: u32, at_s: u32) {
        let (name, tag) = names(app, client);
        let places = || (0..NEAR).map(|near| self.place(name.wrapping_add(near as u64) as usize % PLACES));
        let own = places().find(|[of, _]| of.load(Relaxed) == name);
        let free = || places().find(|[of, _]| of.load(Relaxed) == 0);
        let oldest = || places().min_by_key(|[_, what]| when(what.load(Relaxed)));
        if let Some([of, what]) = own.or_else(free).or_else(oldest) {
            what.store(word(tag, revision, at_s), Relaxed);
            of.store(name, Relaxed);
        }
    }

    /// How many have a page of this revision that is not older than this.
    #[must_use]
    pub fn count(&self, app: &str, revision: u32, since_s: u32) -> u64 {
        let wanted = word(names(app, 0).1, revision, 0);
        let is_meant = |what: u64| what & u64::from(u32::MAX) == wanted && when(what) >= since_s;
        let all = (0..PLACES).map(|at| self.place(at));
        all.filter(|[of, what]| of.load(Relaxed) != 0 && is_meant(what.load(Relaxed))).count() as u64
    }

    fn place(&self, at: usize) -> [&AtomicU64; WORDS_EACH] {
        let words = self.0.words();
        [&words[at * WORDS_EACH], &words[at * WORDS_EACH + 1]]
    }
}

/// A client of an app, never 0, and what tells apps apart in the other word.
fn names(app: &str, client: u64) -> (u64, u64) {
    let mut hash = Fnv::default();
    hash.write(app.as_bytes());
    let tag = hash.finish() & ((1 << APP_BITS) - 1);
    hash.write(&client.to_le_bytes());
    (hash.finish() | 1, tag)
}

/// The time above, so that words compare as times do.
fn word(tag: u64, revision: u32, at_s: u32) -> u64 {
    let revision = u64::from(revision) & ((1 << REVISION_BITS) - 1);
    u64::from(at_s) << 32 | tag << REVISION_BITS | revision
}

fn when(word: u64) -> u32 {
    (word >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins() -> (tempfile::TempDir, Pins) {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::open(&dir.path().join(FILE)).unwrap();
        (dir, pins)
    }

    #[test]
    fn a_client_counts_for_the_page_that_it_loaded_last() {
        let (dir, pins) = pins();
        for client in 0..1_000 {
            pins.note("web", client, 1, 100);
        }
        assert_eq!(
            (pins.count("web", 1, 0), pins.count("web", 2, 0), pins.count("api", 1, 0)),
            (1_000, 0, 0)
        );
        (0..400).for_each(|client| pins.note("web", client, 2, 200));
        (0..10).for_each(|client| pins.note("api", client, 1, 200));
        assert_eq!(
            (pins.count("web", 1, 0), pins.count("web", 2, 0), pins.count("api", 1, 0)),
            (600, 400, 10)
        );
        assert_eq!((pins.count("web", 1, 100), pins.count("web", 1, 101)), (600, 0), "they grow old");
        let again = Pins::open(&dir.path().join(FILE)).unwrap();
        assert_eq!(again.count("web", 2, 200), 400, "it is in the file");
    }

    #[test]
    fn the_oldest_make_room() {
        let (_dir, pins) = pins();
        (0..100_000).for_each(|client| pins.note("web", client, 1, 1));
        let kept = pins.count("web", 1, 0);
        assert!((60_000..=65_536).contains(&kept), "{kept}");
        pins.note("web", 7_000_000, 1, 2);
        assert_eq!(pins.count("web", 1, 2), 1);
    }
}
