//! Wall time as people read it, and the machine's monotonic time as the engine counts it.

use jiff::Timestamp;

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Milliseconds of the machine's monotonic clock: it never goes back, and stands still while the machine is suspended.
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(wall_ms: u64) -> String {
    let shown =
        i64::try_from(wall_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    format!("{shown:.3}")
}

/// Changes with each start of the machine.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
