//! What safe Rust cannot say here: memory shared through a file, a descriptor that came by number, and one question to
//! the kernel about a socket.
//!
//! This is the only module with `unsafe`, and each use has its argument. Nothing else may live here.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU64;

use memmap2::MmapRaw;

/// A file of 64-bit words, mapped shared: what is stored survives the death of this process at any instant.
pub struct Words {
    map: MmapRaw,
    len: usize,
}

impl Words {
    /// Maps `len` words. The file must have at least that size and must never be truncated while it is mapped:
    /// the one who opens it holds the lock of the state directory, and only the lock's holder changes its size.
    pub fn map(file: &File, len: usize) -> io::Result<Self> {
        if file.metadata()?.len() < len as u64 * 8 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is too short to be mapped"));
        }
        Ok(Self { map: MmapRaw::map_raw(file)?, len })
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the map is readable and writable, at least `len` * 8 bytes long (checked above), aligned to a page,
        // and lives as long as `self`. Any bits are a valid `AtomicU64`. All access in this process and in others
        // that map the file goes through atomics, so there is no data race.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), self.len) }
    }
}

/// Takes a descriptor that the service manager passed by number (`LISTEN_FDS`).
///
/// Call it once per number, at the start of the process, before other descriptors are opened.
pub fn adopt_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    if !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()));
    }
    // SAFETY: the descriptor is open (checked above) and, by the protocol of LISTEN_FDS, given to this process to own;
    // the caller takes each number once, so nobody else will close it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Bytes that were written to a TCP socket and that its other side has not acknowledged.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    /// `SIOCOUTQ`; see tcp(7).
    const OUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: the kernel writes one int for this number, and nothing for a descriptor that has no such queue.
    let count = unsafe { rustix::ioctl::ioctl(socket, rustix::ioctl::Getter::<OUTQ, c_int>::new()) }?;
    u64::try_from(count).map_err(io::Error::other)
}
