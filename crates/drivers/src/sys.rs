//! The system calls that need `unsafe`, each with its argument. Nothing else in this crate may use it.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cores;
use crate::user::RunAs;

/// For the record of a user or a group.
const ROOM: usize = 1024 * 1024;

/// Closes every descriptor from 3 on. Only for the first moment of a process that opened nothing itself.
pub(crate) fn close_inherited() {
    // SAFETY: called before anything in this process opened a descriptor, so no Rust value owns one of them.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if closed == 0 {
        return;
    }
    // A kernel before 5.9. The listing itself uses a descriptor: collect first, close then.
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: as above; the descriptor of the listing is closed already, and closing it again is only an error.
        unsafe { libc::close(fd) };
    }
}

/// Nothing of whoever started this process is held open: the three standard streams become `/dev/null`.
pub(crate) fn leave_standard_streams() {
    let Ok(null) = fs::OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
    for stream in 0..=2 {
        // SAFETY: the standard streams are never owned by a Rust value, and dup2 replaces them atomically.
        unsafe { libc::dup2(null.as_raw_fd(), stream) };
    }
}

/// Blocks every signal that can be blocked, and answers a descriptor that becomes readable when a child ends.
pub(crate) fn block_signals() -> io::Result<OwnedFd> {
    // SAFETY: the sets are initialised by the calls that fill them before they are read, and signalfd answers a new
    // descriptor that nobody else owns, or -1.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        let failed = libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        let mut child: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut child);
        libc::sigaddset(&raw mut child, libc::SIGCHLD);
        match libc::signalfd(-1, &raw const child, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// The command gets a session of its own, no blocked signal, the default answer to each, and this limit for core dumps.
pub(crate) fn own_session(command: &mut Command, core_bytes_max: Option<u64>) {
    // SAFETY: between fork and exec only async-signal-safe calls are made (setsid, signal, sigprocmask, prlimit), and nothing
    // is allocated. Signals that cannot be changed (KILL, STOP, those of libc) answer with an error, which is fine.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() == -1 {
                return Err(io::Error::last_os_error());
            }
            cores::set(core_bytes_max);
            for signal in 1..=64 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            Ok(())
        });
    }
}

/// The command begins in these control groups: `doors` are their `cgroup.procs`, open for writing.
pub(crate) fn enter_groups(command: &mut Command, doors: Vec<File>) {
    // SAFETY: between fork and exec only write is called, on descriptors that the closure owns; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            for door in &doors {
                // 0 is whoever writes.
                if libc::write(door.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

pub(crate) fn limit_open_files(command: &mut Command, most: u64) {
    // SAFETY: between fork and exec only setrlimit is called, with a value on the stack; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// The command runs as another user, with its groups and with no way back.
pub(crate) fn become_user(command: &mut Command, run_as: &RunAs) {
    let (uid, gid, groups) = (run_as.uid, run_as.gid, run_as.groups.clone());
    // SAFETY: between fork and exec only close_range, setgroups, setgid and setuid are called, with memory that the closure owns; nothing is
    // allocated. The process has one thread then, so that the kernel's calls mean all of it.
    unsafe {
        command.pre_exec(move || {
            // What is open here and not meant for it stays here.
            libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            // One that is this user already may set no groups, and has its own.
            if libc::geteuid() == uid && uid != 0 {
                return Ok(());
            }
            let changed = libc::setgroups(groups.len(), groups.as_ptr()) == 0
                && libc::setgid(gid) == 0
                && libc::setuid(uid) == 0;
            if changed { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

/// A user as the machine knows it.
pub(crate) struct Account {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
    pub home: String,
}

/// By name or number. A number that no user has is one all the same, with the group of the same number.
pub(crate) fn account(written: &str) -> io::Result<Option<Account>> {
    // The last number stands for none.
    let number = written.parse::<u32>().ok().filter(|uid| *uid != u32::MAX);
    let mut room = vec![0; ROOM];
    let Some(name) = CString::new(written).ok().filter(|name| !name.is_empty()) else { return Ok(None) };
    // SAFETY: the record and the room outlive the calls, the room's length is its own, and the record's texts, which lie in
    // the room and end with NUL, are copied before either is touched again.
    unsafe {
        let mut record: libc::passwd = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        let failed = match number {
            Some(uid) => {
                libc::getpwuid_r(uid, &raw mut record, room.as_mut_ptr(), room.len(), &raw mut found)
            }
            None => libc::getpwnam_r(
                name.as_ptr(),
                &raw mut record,
                room.as_mut_ptr(),
                room.len(),
                &raw mut found,
            ),
        };
        if found.is_null() {
            is_answer(failed)?;
            let home = || "/".to_owned();
            return Ok(number.map(|uid| Account { uid, gid: uid, name: written.to_owned(), home: home() }));
        }
        let text = |text: *const c_char| CStr::from_ptr(text).to_string_lossy().into_owned();
        Ok(Some(Account {
            uid: record.pw_uid,
            gid: record.pw_gid,
            name: text(record.pw_name),
            home: text(record.pw_dir),
        }))
    }
}

/// Whether nobody was found because nobody is there: what the manual names for that, and what is seen of it.
fn is_answer(failed: c_int) -> io::Result<()> {
    match failed {
        0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => Ok(()),
        failed => Err(io::Error::from_raw_os_error(failed)),
    }
}

/// The number of a group, by name or number.
pub(crate) fn group(written: &str) -> io::Result<Option<u32>> {
    if let Ok(number) = written.parse::<u32>() {
        return Ok((number != u32::MAX).then_some(number));
    }
    let mut room = vec![0; ROOM];
    let Ok(name) = CString::new(written) else { return Ok(None) };
    // SAFETY: as in `account`; only a number is taken from the record.
    unsafe {
        let mut record: libc::group = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        let failed =
            libc::getgrnam_r(name.as_ptr(), &raw mut record, room.as_mut_ptr(), room.len(), &raw mut found);
        if found.is_null() {
            return is_answer(failed).map(|()| None);
        }
        Ok(Some(record.gr_gid))
    }
}

/// All groups of a user, `gid` among them.
pub(crate) fn groups_of(name: &str, gid: u32) -> Vec<u32> {
    let Ok(name) = CString::new(name) else { return vec![gid] };
    let mut groups = vec![0; 1024];
    let mut count = 1024;
    // SAFETY: `count` says how many the memory holds, and afterwards how many were written.
    let fits = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) } >= 0;
    groups.truncate(if fits { usize::try_from(count).unwrap_or(0) } else { 0 });
    if groups.is_empty() { vec![gid] } else { groups }
}

/// Registers a descriptor with the runtime this is called on, to wait until it can be read.
pub(crate) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open for as long as it lives, always names the same descriptor, and is moved in.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Gives back what start-up needed and rest does not: freed heap, and the pages of programs and libraries that are
/// exactly what stands on disk. The kernel brings one back when it is touched.
pub(crate) fn shrink() {
    let ranges = clean_mappings();
    // SAFETY: malloc_trim only returns free memory. Each range is a whole mapping of a file that cannot be written
    // and holds no page that differs from the file (`Anonymous: 0 kB`: no relocation was applied in it), this process
    // has one thread, and so dropping the pages changes no byte that anybody can read.
    unsafe {
        libc::malloc_trim(0);
        for (start, length) in ranges {
            libc::madvise(std::ptr::with_exposed_provenance_mut(start), length, libc::MADV_DONTNEED);
        }
    }
}

fn clean_mappings() -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in fs::read_to_string("/proc/self/smaps").unwrap_or_default().lines() {
        if let Some(range) = file_mapping(line) {
            candidate = range;
        } else if line.starts_with("Anonymous:") {
            found.extend(candidate.take().filter(|_| line.ends_with(" 0 kB")));
        }
    }
    found
}

/// `Some` for the first line of a mapping; within, where it lies if a file is mapped that cannot be written to.
fn file_mapping(line: &str) -> Option<Option<(usize, usize)>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let access = fields.next()?;
    let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
    Some((is_file && !access.contains('w')).then_some((start, end - start)))
}
