//! Control groups of instances with limits, of either version of the kernel's interface. A group is removed when its instance has
//! ended.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use trundle_core::revision::{RunLimits, hex};

const ROOT: &str = "/sys/fs/cgroup";
/// Of version 2, at the top, as a container engine without systemd does it. It takes root.
const OURS: &str = "trundle";
const CPU_PERIOD_US: u64 = 100_000;

/// Of one instance. Its folders stay until [`Group::remove`].
#[derive(Debug)]
pub(crate) struct Group {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

impl Group {
    /// Makes the group with its limits. None: there is nothing to limit.
    pub fn make(name: &str, state_dir: &str, limits: &RunLimits) -> Result<Option<Self>, String> {
        Self::make_in(Path::new(ROOT), &own_groups(), &unique(name, state_dir), limits)
    }

    fn make_in(root: &Path, groups: &str, name: &str, limits: &RunLimits) -> Result<Option<Self>, String> {
        if limits.memory_bytes.is_none() && limits.cpu_millis.is_none() {
            return Ok(None);
        }
        let place = |controller: &'static str, is_wanted: bool| {
            is_wanted.then(|| Place::of(root, groups, controller)).transpose()
        };
        let memory = place("memory", limits.memory_bytes.is_some())?;
        let cpu = place("cpu", limits.cpu_millis.is_some())?;
        let group = Self {
            memory: memory.as_ref().map(|place| place.folder.join(name)),
            cpu: cpu.as_ref().map(|place| place.folder.join(name)),
        };
        let set = || -> Result<(), String> {
            for place in memory.iter().chain(&cpu) {
                place.prepare(root)?;
                make_folder(&place.folder.join(name))?;
            }
            if let (Some(place), Some(folder), Some(bytes)) = (&memory, &group.memory, limits.memory_bytes) {
                place.limit_memory(folder, bytes)?;
            }
            if let (Some(place), Some(folder), Some(millis)) = (&cpu, &group.cpu, limits.cpu_millis) {
                place.limit_cpu(folder, millis)?;
            }
            Ok(())
        };
        match set() {
            Ok(()) => Ok(Some(group)),
            Err(error) => {
                group.remove();
                Err(error)
            }
        }
    }

    /// To write a process into, one each; open for whoever is about to start it.
    pub fn doors(&self) -> io::Result<Vec<File>> {
        self.folders()
            .map(|folder| OpenOptions::new().write(true).open(folder.join("cgroup.procs")))
            .collect()
    }

    /// How often the kernel has killed in it for want of memory.
    pub fn kills(&self) -> Option<u64> {
        let folder = self.memory.as_ref()?;
        ["memory.events", "memory.oom_control"].iter().find_map(|file| kills_in(&folder.join(file)))
    }

    /// Nothing runs in it any more.
    pub fn remove(&self) {
        self.folders().for_each(|folder| drop(fs::remove_dir(folder)));
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        let cpu = self.cpu.iter().filter(|cpu| Some(*cpu) != self.memory.as_ref());
        self.memory.iter().chain(cpu)
    }
}

/// Removes what a killed shim has left of the group.
pub(crate) fn remove(name: &str, state_dir: &str) {
    let (groups, name) = (own_groups(), unique(name, state_dir));
    for controller in ["memory", "cpu"] {
        if let Ok(place) = Place::of(Path::new(ROOT), &groups, controller) {
            let _ = fs::remove_dir(place.folder.join(&name));
        }
    }
}

fn own_groups() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// Of the lines of `/proc/PID/cgroup`: controllers, of which version 2 names none, and the path below where they are mounted.
pub(crate) fn memberships(groups: &str) -> impl Iterator<Item = (&str, &str)> {
    groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?.trim_start_matches('/')))
    })
}

/// The count of kills in a file of either version.
pub(crate) fn kills_in(file: &Path) -> Option<u64> {
    let counts = fs::read_to_string(file).ok()?;
    counts.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Several daemons may be in one group.
fn unique(name: &str, state_dir: &str) -> String {
    let digest = hex(&Sha256::digest(state_dir.as_bytes()));
    format!("trundle-{}-{name}", digest.get(..8).unwrap_or_default())
}

/// Where groups for a controller are made.
struct Place {
    folder: PathBuf,
    is_version_2: bool,
    controller: &'static str,
}

impl Place {
    /// `groups` as in `/proc/PID/cgroup`.
    fn of(root: &Path, groups: &str, controller: &'static str) -> Result<Self, String> {
        let missing = || missing(controller);
        let lines = || memberships(groups);
        // A machine may have both versions; a controller is with one of them.
        if let Some((_, path)) = lines().find(|(names, _)| names.split(',').any(|name| name == controller)) {
            let folder = root.join(controller).join(path);
            return folder
                .is_dir()
                .then_some(Self { folder, is_version_2: false, controller })
                .ok_or_else(missing);
        }
        if !lines().any(|(names, _)| names.is_empty()) {
            return Err(missing());
        }
        Ok(Self { folder: root.join(OURS), is_version_2: true, controller })
    }

    /// Version 2: the controller is handed on from the top. Not from our own group: one with groups below it may have no
    /// processes, and systemd could not start the daemon in it again.
    fn prepare(&self, root: &Path) -> Result<(), String> {
        if !self.is_version_2 {
            return Ok(());
        }
        let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if !offered.split_whitespace().any(|name| name == self.controller) {
            return Err(missing(self.controller));
        }
        make_folder(&self.folder)?;
        [root, &self.folder].into_iter().try_for_each(|folder| hand_on(folder, self.controller))
    }

    fn limit_memory(&self, folder: &Path, bytes: u64) -> Result<(), String> {
        if self.is_version_2 {
            write(&folder.join("memory.max"), &bytes.to_string())?;
            // Where it can be had: swapping beyond the limit would make it none, and half an instance is none.
            let _ = fs::write(folder.join("memory.swap.max"), "0");
            let _ = fs::write(folder.join("memory.oom.group"), "1");
            return Ok(());
        }
        write(&folder.join("memory.limit_in_bytes"), &bytes.to_string())?;
        let _ = fs::write(folder.join("memory.memsw.limit_in_bytes"), bytes.to_string());
        Ok(())
    }

    fn limit_cpu(&self, folder: &Path, millis: u32) -> Result<(), String> {
        let quota = (u64::from(millis) * CPU_PERIOD_US / 1_000).max(1_000);
        if self.is_version_2 {
            return write(&folder.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"));
        }
        write(&folder.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
        write(&folder.join("cpu.cfs_quota_us"), &quota.to_string())
    }
}

fn missing(controller: &str) -> String {
    format!("this machine has no control groups for {controller}, or none that are ours to use")
}

/// Lets the groups below this one have the controller.
fn hand_on(folder: &Path, controller: &str) -> Result<(), String> {
    let handed_on = folder.join("cgroup.subtree_control");
    let is_on = || {
        fs::read_to_string(&handed_on).is_ok_and(|on| on.split_whitespace().any(|name| name == controller))
    };
    if is_on() {
        return Ok(());
    }
    let written = write(&handed_on, &format!("+{controller}"));
    if is_on() { Ok(()) } else { written }
}

fn make_folder(folder: &Path) -> Result<(), String> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("the control group {} cannot be made: {error}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{} cannot be set to {text}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RunLimits =
        RunLimits { memory_bytes: Some(64 << 20), cpu_millis: Some(1_500), open_files: None };

    /// A kernel of version 2 as files: what is written where.
    #[test]
    fn version_2_has_its_groups_at_the_top_with_controllers_handed_on() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
            fs::write(root.path().join(path), text).unwrap();
        };
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        file("cgroup.controllers", "cpu io memory pids\n");
        file("cgroup.subtree_control", "cpu memory\n");
        file("trundle/cgroup.subtree_control", "");
        let groups = "0::/system.slice/trundle.service\n";
        let group = Group::make_in(root.path(), groups, "web-1-1", &LIMITS).unwrap().unwrap();
        assert_eq!(read("trundle/web-1-1/memory.max"), (64 << 20).to_string());
        assert_eq!(read("trundle/web-1-1/cpu.max"), "150000 100000");
        assert_eq!(read("cgroup.subtree_control"), "cpu memory\n", "there was nothing to do");
        assert_eq!(read("trundle/cgroup.subtree_control"), "+cpu", "the last one that was handed on");
        assert_eq!(group.folders().count(), 1);
        file("cgroup.controllers", "io pids\n");
        let error = Group::make_in(root.path(), groups, "web-1-2", &LIMITS).unwrap_err();
        assert!(error.contains("no control groups for memory"), "{error}");
        assert!(Group::make_in(root.path(), "", "web-1-2", &LIMITS).is_err());
        assert!(Group::make_in(root.path(), "", "x", &RunLimits::default()).unwrap().is_none());
    }
}
