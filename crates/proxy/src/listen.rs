//! Makes listening sockets, for the holder and for a proxy that runs without one.
//!
//! A socket file is taken away only when nobody answers on it: one that lives is never stolen.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::table::Listen;

/// Connections that may wait while no proxy runs. The kernel takes the smaller of this and `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds and listens. The error names the address and says what to do.
pub fn bind(listen: &Listen) -> Result<OwnedFd, String> {
    let result = match listen {
        Listen::Http(address) | Listen::Https(address) | Listen::Tcp(address) => bind_tcp(*address),
        Listen::Unix(path) => bind_unix(path, 0o660),
    };
    result.map_err(|error| format!("cannot listen on {listen}: {error}{}", hint(&error)))
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop the program that listens there, or choose another address",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        io::ErrorKind::PermissionDenied => "; ports below 1024 and foreign folders need more rights",
        io::ErrorKind::NotFound => "; its folder is not there",
        _ => "",
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn bind_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, FLAGS, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Binds a Unix socket whose file has exactly these permissions from its first moment.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path).map_err(|_| {
        io::Error::other(format!("the path has {} bytes, at most 107 are possible", path.as_os_str().len()))
    })?;
    remove_stale(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    // On Linux the file gets the socket's own mode, less the umask: never more than wanted, not even for a moment.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    rustix::net::bind(&socket, &address)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other(
            "a file that is not a socket is in the way; remove it or choose another path",
        ));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(&Listen::Http(address)).unwrap_err();
        assert!(error.contains(&address.to_string()) && error.contains("in use"), "{error}");
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.sock");
        let listen = Listen::Unix(path.clone());
        let first = bind(&listen).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(bind(&listen).unwrap_err().contains("in use"));
        drop(first);
        bind(&listen).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(bind(&listen).unwrap_err().contains("not a socket"));
        let long = Listen::Unix(dir.path().join("x".repeat(120)));
        assert!(bind(&long).unwrap_err().contains("at most 107"));
    }
}
