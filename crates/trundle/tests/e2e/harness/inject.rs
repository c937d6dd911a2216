//! strace at a running process: system calls that fail, or at which it dies. And file systems of a test's own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::procs::Proc;
use super::{Site, wait_for};

/// Whether this can be had here. It must in CI; elsewhere a test says loudly that it proves nothing.
pub fn can(what: &str, probe: &mut Command) -> bool {
    let probed = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let why = match probed {
        Ok(said) if said.status.success() => return true,
        Ok(said) => String::from_utf8_lossy(&said.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("CI").is_none(), "{what} is needed in CI: {why}");
    eprintln!("NOT TESTED: {what} cannot be had here: {why}");
    false
}

/// Attached until it is dropped, or until the process ends.
pub struct Strace(Child);

impl Strace {
    pub fn is_here() -> bool {
        can("strace", Command::new("strace").args(["-qq", "-e", "trace=none", "true"]))
    }

    /// `inject` as in `strace -e inject=`. Returns when every thread is traced.
    pub fn attach(site: &Site, to: &Proc, inject: &str) -> Self {
        let calls = inject.split(':').next().unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", &format!("trace={calls}"), "-e", &format!("inject={inject}")]);
        command.arg("-o").arg(site.dir().join("strace.log")).args(["-p", &to.pid.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let traced =
            |status: String| status.lines().any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"));
        wait_for("strace to attach", 10, || {
            let mut tasks = std::fs::read_dir(format!("/proc/{}/task", to.pid)).ok()?.flatten();
            let all = tasks.all(|task| std::fs::read_to_string(task.path().join("status")).is_ok_and(traced));
            all.then_some(())
        });
        Self(child)
    }

    /// What was traced, injected failures among it.
    pub fn log(site: &Site) -> String {
        std::fs::read_to_string(site.dir().join("strace.log")).unwrap_or_default()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // On SIGTERM it lets go of everybody in order. It may wait for ever for one that waits for a child of its own, which
        // waits for strace (vfork): then the kernel lets go of all at its SIGKILL.
        if let Some(strace) = super::procs::read(self.0.id()) {
            strace.signal(rustix::process::Signal::TERM);
        }
        let patience = Instant::now() + Duration::from_secs(5);
        while Instant::now() < patience && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the test `name` once more, in mounts of its own. True: this is that run.
pub fn in_mounts_of_its_own(name: &str) -> bool {
    const INSIDE: &str = "TRUNDLE_E2E_MOUNTS";
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return true;
    }
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare
    };
    let mount = "mount -t tmpfs -o size=64k tmpfs /mnt";
    if !can("a mount namespace", unshare().args(["sh", "-c", mount])) {
        return false;
    }
    let again = std::env::current_exe().unwrap();
    let ended =
        unshare().arg(again).args(["--exact", name, "--nocapture"]).env(INSIDE, name).status().unwrap();
    assert!(ended.success(), "{name} failed in its mounts: {ended}");
    false
}

/// A file system in memory.
pub fn mount(at: &Path, size: &str) {
    let options = format!("size={size},mode=700");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status().unwrap();
    assert!(mounted.success(), "{mounted}");
}

pub fn unmount(at: &Path) {
    let unmounted = Command::new("umount").arg("--lazy").arg(at).status().unwrap();
    assert!(unmounted.success(), "{unmounted}");
}
