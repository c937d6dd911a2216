//! Who listens on a port: `/proc/net/tcp` for the socket, `/proc/PID/fd` for its owner.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::Ipv4Addr;

use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, socket, sockopt};

use crate::procfs;

/// The state of a socket that listens, in the kernel's table.
const LISTEN: &str = "0A";

/// The sockets that would answer a connection to 127.0.0.1:`port`. The kernel prefers the exact address to the
/// wildcard, and that to the one of IPv6; only the preferred are answered, for they are who we talk to.
pub(crate) fn listeners(port: u16) -> io::Result<BTreeSet<u64>> {
    // An address is printed as words in the machine's order: 127.0.0.1 is 0100007F on a little-endian one.
    let local = format!("{:08X}", u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()));
    let v4 = table("/proc/net/tcp", port)?;
    let v6 = match table("/proc/net/tcp6", port) {
        Ok(rows) => rows,
        // A machine without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let of = |rows: &[(String, u64)], address: &str| -> BTreeSet<u64> {
        rows.iter().filter(|(a, _)| a == address).map(|(_, inode)| *inode).collect()
    };
    let mapped = format!("0000000000000000{:08X}{local}", u32::from_ne_bytes([0, 0, 0xff, 0xff]));
    let choices = [of(&v4, &local), of(&v6, &mapped), of(&v4, "00000000"), of(&v6, &"0".repeat(32))];
    Ok(choices.into_iter().find(|found| !found.is_empty()).unwrap_or_default())
}

/// The listening rows of one table. They come before all others, so a machine with many connections costs no more.
fn table(path: &str, port: u16) -> io::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    let suffix = format!("{port:04X}");
    for line in BufReader::new(File::open(path)?).lines().skip(1) {
        let line = line?;
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else { continue };
        if state != LISTEN {
            break;
        }
        let Some((address, port)) = local.split_once(':') else { continue };
        if port == suffix
            && let Ok(inode) = inode.parse()
        {
            found.push((address.to_owned(), inode));
        }
    }
    Ok(found)
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
    procfs::all().iter().map(|stat| stat.pid).find(|pid| held_by(*pid).is_ok_and(|held| !held.is_disjoint(inodes)))
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
