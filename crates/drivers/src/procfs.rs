//! Reading `/proc`: who is a process, whose child, since when, and which label it carries.
//!
//! Invariant: a pid alone is never trusted; it goes together with the moment the process started.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

pub(crate) const INSTANCE_KEY: &str = "TRUNDLE_INSTANCE";
pub(crate) const STATE_DIR_KEY: &str = "TRUNDLE_STATE_DIR";

/// An environment longer than this is cut: the labels stand at its beginning or the process is found otherwise.
const ENVIRON_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The parts of `/proc/PID/stat` that tell who a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub pid: u32,
    pub parent: u32,
    pub session: u32,
    /// Clock ticks from boot to its start.
    pub start_ticks: u64,
    /// A zombie is dead: it only waits to be noticed.
    pub dead: bool,
}

pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in brackets may hold anything, brackets and newlines too: the fields begin after the last `)`.
fn parse_stat(pid: u32, text: &[u8]) -> Option<Stat> {
    let after_name = text.iter().rposition(|b| *b == b')')? + 1;
    let rest = str::from_utf8(text.get(after_name..)?).ok()?;
    // proc(5): 3 is the state, 4 the parent, 6 the session, 22 the start.
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start_ticks = fields.nth(22 - 7)?.parse().ok()?;
    Some(Stat { pid, parent, session, start_ticks, dead: matches!(state, "Z" | "X" | "x") })
}

/// Every process that can be seen and is not dead.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
        .filter(|stat| !stat.dead)
        .collect()
}

/// Whether this very process still runs.
pub(crate) fn lives(pid: u32, start_ticks: u64) -> bool {
    stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks && !stat.dead)
}

/// New at each boot of the machine.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The name of the program, for people.
pub(crate) fn name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().escape_debug().to_string())
}

/// What a process was started with as its instance name and state directory.
pub(crate) fn label(pid: u32) -> Option<(String, String)> {
    let mut environ = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ).ok()?;
    let value = |key: &str| {
        let found = environ
            .split(|b| *b == 0)
            .find_map(|entry| entry.strip_prefix(key.as_bytes())?.strip_prefix(b"="))?;
        String::from_utf8(found.to_owned()).ok()
    };
    Some((value(INSTANCE_KEY)?, value(STATE_DIR_KEY)?))
}

/// Whose it is.
pub(crate) fn uid(pid: u32) -> Option<u32> {
    Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

/// `root`'s children, their children, and so on; not itself.
pub(crate) fn descendants(root: u32, of: &[Stat]) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        found.extend(of.iter().filter(|stat| stat.parent == parent && stat.pid != root).map(|stat| stat.pid));
    }
    found.remove(0);
    found
}

/// Signals this very process, or nobody if the pid belongs to another one by now. Answers whether it was there.
pub(crate) fn signal(pid: u32, start_ticks: u64, signal: Signal) -> bool {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // The descriptor pins the process: what it is cannot change between the look and the signal.
    let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else { return false };
    lives(pid, start_ticks) && pidfd_send_signal(&handle, signal).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_newlines_does_not_move_the_fields() {
        let text = b"7 (a) R 1\n (x) S 3 4 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 987 0 0";
        let expect = Stat { pid: 7, parent: 3, session: 5, start_ticks: 987, dead: false };
        assert_eq!(parse_stat(7, text), Some(expect));
    }

    #[test]
    fn finds_itself_among_all() {
        let me = std::process::id();
        let mine = stat(me).expect("this process runs");
        assert!(all().contains(&mine));
        assert!(lives(me, mine.start_ticks));
        assert!(!lives(me, mine.start_ticks + 1));
        assert!(descendants(mine.parent, &all()).contains(&me));
    }
}
