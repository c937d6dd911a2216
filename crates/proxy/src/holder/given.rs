//! The sockets that a service manager has given to the holder.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::net::SocketAddrUnix;

use crate::sys;
use crate::table::Listen;

/// Whoever asks whether an address is free cannot bind these, and is told so.
pub fn note(state_dir: &Path, given: &[(Listen, OwnedFd)]) {
    let path = state_dir.join(crate::GIVEN);
    let lines: String = given.iter().map(|(listen, _)| format!("{listen}\n")).collect();
    let noted = if given.is_empty() { std::fs::remove_file(&path) } else { std::fs::write(&path, lines) };
    match noted {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log_line!("trundle shim proxy: cannot note the sockets of the service manager: {error}");
        }
        Ok(()) | Err(_) => {}
    }
}

/// The sockets of a service manager (`LISTEN_FDS`, `LISTEN_PID`), by the address they listen on.
pub fn sockets() -> Vec<(Listen, OwnedFd)> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).min(64);
    (3..3 + count as i32)
        .filter_map(|fd| {
            let socket = sys::adopt_descriptor(fd).ok()?;
            let listen = address_of(&socket);
            if listen.is_none() {
                log_line!(
                    "trundle shim proxy: descriptor {fd} of LISTEN_FDS is not a listening TCP or Unix socket"
                );
            }
            rustix::io::ioctl_fionbio(&socket, true).ok()?;
            Some((listen?, socket))
        })
        .collect()
}

fn address_of(socket: &OwnedFd) -> Option<Listen> {
    if !rustix::net::sockopt::socket_acceptconn(socket).ok()? {
        return None;
    }
    let address = rustix::net::getsockname(socket).ok()?;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Some(Listen::Http(address));
    }
    let address = SocketAddrUnix::try_from(address).ok()?;
    Some(Listen::Unix(PathBuf::from(String::from_utf8(address.path_bytes()?.to_vec()).ok()?)))
}
