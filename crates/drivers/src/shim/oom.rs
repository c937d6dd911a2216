//! Whether the kernel killed a process for want of memory: by its own log where that may be read, else by the count
//! of the process's control group, of either version.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::groups::{self, Group};

/// The count of such kills in the instance's control group, or in ours, to be compared later. None: it cannot be read.
pub(super) fn group_kills(group: Option<&Group>) -> Option<u64> {
    if let Some(kills) = group.and_then(Group::kills) {
        return Some(kills);
    }
    kills_of(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// `groups` as in `/proc/PID/cgroup`, `root` where the groups are mounted. A machine may have both versions; the memory is
/// counted by one of them.
fn kills_of(groups: &str, root: &Path) -> Option<u64> {
    groups::memberships(groups).find_map(|(controllers, path)| {
        let file = if controllers.is_empty() {
            root.join(path).join("memory.events")
        } else if controllers.split(',').any(|name| name == "memory") {
            root.join("memory").join(path).join("memory.oom_control")
        } else {
            return None;
        };
        groups::kills_in(&file)
    })
}

/// Asked after a death by SIGKILL. `kills_before` is what [`group_kills`] said when the process started.
pub(super) fn was_killed(pid: u32, group: Option<&Group>, kills_before: Option<u64>) -> bool {
    match kernel_log_names(pid) {
        Some(answer) => answer,
        None => kills_before.zip(group_kills(group)).is_some_and(|(before, now)| now > before),
    }
}

/// `Some(true)`: the kernel's log says so. `Some(false)`: it was read and does not. None: it may not be read, or somebody put
/// an empty one in its place.
fn kernel_log_names(pid: u32) -> Option<bool> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let needle = format!("Killed process {pid} (");
    let mut record = [0; 8192];
    let mut is_empty = true;
    // One read is one record. The kernel's buffer is bounded; so is our patience, should it be filled while we read.
    for _ in 0..100_000 {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(n) => {
                is_empty = false;
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
    (!is_empty).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLS_OF_NONE: &str = "low 0\nhigh 0\nmax 7\noom 3\noom_kill 0\noom_group_kill 0\n";

    /// Row 26 of the faults: the files as the kernels write them.
    #[test]
    fn the_kills_of_a_group_are_counted_with_either_version() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let kills = |groups: &str| kills_of(groups, dir.path());
        write("system.slice/web.service/memory.events", &KILLS_OF_NONE.replace("oom_kill 0", "oom_kill 2"));
        write("memory.events", KILLS_OF_NONE);
        assert_eq!(kills("0::/system.slice/web.service\n"), Some(2));
        assert_eq!(kills("0::/\n"), Some(0));
        assert_eq!(kills("0::/gone\n"), None);

        write("memory/docker/a:b/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n");
        let both =
            "9:name=systemd:/\n5:cpu,cpuacct:/docker/a:b\n4:hugetlb,memory:/docker/a:b\n0::/docker/a:b\n";
        assert_eq!(kills(both), Some(5));
        // Kernels before 4.13 do not count them.
        write("memory/old/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n");
        assert_eq!(kills("4:memory:/old\n"), None);
        assert_eq!(kills(""), None);
    }
}
