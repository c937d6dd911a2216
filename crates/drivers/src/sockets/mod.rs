//! Who listens on a port: the kernel's socket diagnosis (or `/proc/net/tcp`) for the socket, `/proc/PID/fd` for its
//! owner.

mod diag;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, socket, sockopt};

use crate::procfs;

/// The sockets that would answer a connection to 127.0.0.1:`port`. The kernel prefers the exact address to the
/// wildcard, and that to the one of IPv6; only the preferred are answered, for they are who we talk to.
pub(crate) fn listeners(port: u16) -> io::Result<BTreeSet<u64>> {
    // The kernel answers the question itself in microseconds; its tables take milliseconds to walk.
    let rows = diag::listeners(port).or_else(|_| table::listeners(port))?;
    let of = |address: IpAddr| -> BTreeSet<u64> {
        rows.iter().filter(|row| row.address == address).map(|row| row.inode).collect()
    };
    let choices = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    Ok(choices.into_iter().map(of).find(|found| !found.is_empty()).unwrap_or_default())
}

/// A socket that listens on the port that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listener {
    address: IpAddr,
    inode: u64,
}

/// The sockets a process holds.
pub(crate) fn held_by(pid: u32) -> io::Result<BTreeSet<u64>> {
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().filter_map(inode).collect())
}

/// Somebody who holds one of these sockets.
pub(crate) fn holder_of(inodes: &BTreeSet<u64>) -> Option<u32> {
    procfs::all()
        .iter()
        .map(|stat| stat.pid)
        .find(|pid| held_by(*pid).is_ok_and(|held| !held.is_disjoint(inodes)))
}

/// `pid 812 (nginx)`, or nothing if nobody can be named.
pub(crate) fn holder_text(port: u16) -> Option<String> {
    let pid = holder_of(&listeners(port).ok()?)?;
    let name = procfs::name(pid)?;
    let label = procfs::label(pid).map(|(instance, _)| format!(", {instance}")).unwrap_or_default();
    Some(format!("pid {pid} ({name}{label})"))
}

/// Whether an app could listen there now. With `SO_REUSEADDR`, as every server sets it, only listeners are in the way,
/// not connections that are fading out. Nothing listens for even a moment.
pub(crate) fn is_free(address: Ipv4Addr, port: u16) -> io::Result<bool> {
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    match bind(&fd, &SocketAddrV4::new(address, port)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::ADDRINUSE | rustix::io::Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn both_ways_of_asking_give_the_same_answer() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let local = listener.local_addr().unwrap();
            let by_table = table::listeners(local.port()).unwrap();
            assert_eq!(by_table.len(), 1);
            assert_eq!(by_table[0].address, local.ip());
            assert_eq!(diag::listeners(local.port()).unwrap(), by_table);
        }
    }

    #[test]
    fn a_listener_is_found_with_its_owner_and_blocks_the_port() {
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let found = listeners(port).unwrap();
            assert_eq!(found.len(), 1, "{address}");
            assert!(held_by(std::process::id()).unwrap().is_superset(&found));
            assert_eq!(holder_of(&found), Some(std::process::id()));
            assert!(!is_free(Ipv4Addr::LOCALHOST, port).unwrap());
            drop(listener);
            assert!(is_free(Ipv4Addr::LOCALHOST, port).unwrap());
        }
    }
}
