//! Asking the kernel who listens on a port: one question of `sock_diag(7)` for each kind of address.
//!
//! Invariant: only bytes that the kernel sent are read, and none beyond what a message says it holds.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::Listener;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const FLAGS: u16 = 0x301;
const NLMSG_DONE: u16 = 3;
const TCP_LISTEN: u32 = 10;
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_req_v2`, and in it `struct inet_diag_sockid`.
const REQUEST_BYTES: usize = 8 + SOCKET_ID_BYTES;
const SOCKET_ID_BYTES: usize = 48;
/// Where things stand in the body of an answer, `struct inet_diag_msg`.
const PORT_AT: usize = 4;
const ADDRESS_AT: usize = 8;
const INODE_AT: usize = 4 + SOCKET_ID_BYTES + 16;

pub(super) fn listeners(port: u16) -> io::Result<Vec<Listener>> {
    let mut found = of_family(libc::AF_INET, port)?;
    found.extend(of_family(libc::AF_INET6, port)?);
    Ok(found)
}

fn of_family(family: i32, port: u16) -> io::Result<Vec<Listener>> {
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&kernel, &question(family, port), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut answer = vec![0; 32 * 1024];
    loop {
        let (n, _) = recv(&kernel, &mut answer[..], RecvFlags::empty())?;
        let mut rest = &answer[..n];
        while !rest.is_empty() {
            let malformed = || io::Error::from(io::ErrorKind::InvalidData);
            let length = u32_at(rest, 0).ok_or_else(malformed)? as usize;
            let body = rest.get(HEADER_BYTES..length).ok_or_else(malformed)?;
            match u16_at(rest, 4) {
                Some(SOCK_DIAG_BY_FAMILY) => found.extend(listener(family, port, body)),
                Some(NLMSG_DONE) => return Ok(found),
                // An error, as where the kernel was built without this.
                _ => return Err(io::ErrorKind::Unsupported.into()),
            }
            // Messages begin at multiples of four.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn question(family: i32, port: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + REQUEST_BYTES);
    message.extend(((HEADER_BYTES + REQUEST_BYTES) as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    // Sequence and sender: there is one question on this socket.
    message.extend([0; 8]);
    message.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend((1_u32 << TCP_LISTEN).to_ne_bytes());
    message.extend(port.to_be_bytes());
    message.resize(HEADER_BYTES + REQUEST_BYTES, 0);
    message
}

fn listener(family: i32, port: u16, body: &[u8]) -> Option<Listener> {
    if body.get(PORT_AT..PORT_AT + 2)? != port.to_be_bytes() {
        return None;
    }
    let address = body.get(ADDRESS_AT..ADDRESS_AT + 16)?;
    let address = if family == libc::AF_INET {
        IpAddr::from(Ipv4Addr::from(*address.first_chunk::<4>()?))
    } else {
        IpAddr::from(Ipv6Addr::from(*address.first_chunk::<16>()?))
    };
    Some(Listener { address, inode: u32_at(body, INODE_AT)?.into() })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
