//! The kernel's tables of sockets, for a machine whose kernel cannot be asked directly.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Listener;

/// The state of a socket that listens.
const LISTEN: &str = "0A";

pub(super) fn listeners(port: u16) -> io::Result<Vec<Listener>> {
    let mut rows = read("/proc/net/tcp", port)?;
    match read("/proc/net/tcp6", port) {
        Ok(more) => rows.extend(more),
        // A machine without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(rows)
}

/// Those that listen come before all others.
fn read(path: &str, port: u16) -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    let wanted = format!("{port:04X}");
    for line in BufReader::new(File::open(path)?).lines().skip(1) {
        let line = line?;
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else { continue };
        if state != LISTEN {
            break;
        }
        let Some((address, port)) = local.split_once(':') else { continue };
        if port == wanted
            && let (Some(address), Ok(inode)) = (parse(address), inode.parse())
        {
            found.push(Listener { address, inode });
        }
    }
    Ok(found)
}

/// Words of 32 bits, each printed in the machine's own order: 127.0.0.1 is 0100007F on a little-endian one.
fn parse(address: &str) -> Option<IpAddr> {
    let word = |n: usize| Some(u32::from_str_radix(address.get(8 * n..8 * n + 8)?, 16).ok()?.to_ne_bytes());
    match address.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into())
        }
        _ => None,
    }
}
