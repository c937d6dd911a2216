//! A control group of its own with little memory, of whichever version the machine has. Needs root.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
const LIMIT_BYTES: u64 = 48 * 1024 * 1024;

pub struct Group(PathBuf);

impl Group {
    /// None: it cannot be had here, which is told; where everything must run (`CI`) that is a failure.
    pub fn new(name: &str) -> Option<Self> {
        let name = format!("trundle-test-{name}-{}", std::process::id());
        match Self::make(&name) {
            Ok(group) => Some(group),
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "no group with a limit of memory: {why}");
                println!("NOT TESTED: no control group with a limit of memory can be made here: {why}");
                None
            }
        }
    }

    fn make(name: &str) -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let below =
            |part: &str| groups.lines().find_map(|l| l.split_once(part)).map(|(_, path)| path.to_owned());
        let (parent, limit) = match (below(":memory:/"), below("0::/")) {
            (Some(path), _) => (Path::new(ROOT).join("memory").join(path), "memory.limit_in_bytes"),
            (None, Some(path)) => (Path::new(ROOT).join(path), "memory.max"),
            (None, None) => return Err(format!("neither version is there: {groups}")),
        };
        if limit == "memory.max" {
            // There already, or refused in a group that has processes: what counts is whether the limit is there.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        let place = parent.join(name);
        fs::create_dir(&place).map_err(|e| format!("{}: {e}", place.display()))?;
        let group = Self(place);
        fs::write(group.0.join(limit), LIMIT_BYTES.to_string()).map_err(|e| format!("{limit}: {e}"))?;
        // Nothing shall be moved to a disk instead. Neither is there on every machine.
        let _ = fs::write(group.0.join("memory.memsw.limit_in_bytes"), LIMIT_BYTES.to_string());
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        Ok(group)
    }

    /// Where a process writes its number to get in.
    pub fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was killed may need a moment to be out of it.
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        println!("left behind: {}", self.0.display());
    }
}
