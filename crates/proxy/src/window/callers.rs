//! What a thread knows of where callers are counted, so that it is looked up once.

use std::collections::HashMap;
use std::hash::Hasher as _;

use super::Fnv;
use super::uses::{MOST_CALLER_BYTES, Row, Uses};

/// A client may say that it is somebody else each time.
const MOST: usize = 1_024;

#[derive(Default)]
pub struct Callers(HashMap<u64, (Box<[u8]>, Row)>);

impl Callers {
    /// A use of the format, by this caller, now.
    pub fn note(&mut self, uses: &Uses, (app, format): (&str, &str), caller: &[u8], now_s: u32) {
        let caller = &caller[..caller.len().min(MOST_CALLER_BYTES)];
        let mut name = Fnv::default();
        for part in [app.as_bytes(), format.as_bytes(), caller] {
            name.write(part);
            name.write(&[0]);
        }
        let name = name.finish();
        let known = self.0.get(&name).filter(|(known, _)| **known == *caller);
        if known.is_some_and(|(_, row)| uses.note(*row, now_s)) {
            return;
        }
        let Some(row) = uses.row(app, format, caller, now_s) else { return };
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(name, (caller.into(), row));
        uses.note(row, now_s);
    }
}
