//! Whether the kernel killed a process for want of memory: by its own log where that may be read, else by the count
//! of the process's control group.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;

/// The count of such kills in our control group, to be compared later. None: it cannot be read.
pub(super) fn group_kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let events = fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.events")).ok()?;
    events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Asked after a death by SIGKILL. `kills_before` is what [`group_kills`] said when the process started.
pub(super) fn was_killed(pid: u32, kills_before: Option<u64>) -> bool {
    match kernel_log_names(pid) {
        Some(answer) => answer,
        None => kills_before.zip(group_kills()).is_some_and(|(before, now)| now > before),
    }
}

/// `Some(true)`: the kernel's log says so. `Some(false)`: it was read and does not. None: it may not be read.
fn kernel_log_names(pid: u32) -> Option<bool> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let needle = format!("Killed process {pid} (");
    let mut record = [0; 8192];
    // One read is one record. The kernel's buffer is bounded; so is our patience, should it be filled while we read.
    for _ in 0..100_000 {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(n) => {
                if record[..n].windows(needle.len()).any(|w| w == needle.as_bytes()) {
                    return Some(true);
                }
            }
            // Overwritten while we read: go on with the next.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(_) => return None,
        }
    }
    Some(false)
}
