//! Which peers are believed when they say who the client was.
//!
//! The default is nobody: a client can write any `X-Forwarded-For` it likes.

use std::net::IpAddr;

/// A parsed list of `trusted_proxies`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    networks: Vec<(IpAddr, u8)>,
    unix: bool,
}

/// Who is at the other end of a client connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Ip(IpAddr),
    Unix,
}

impl Trust {
    /// Reads `10.0.0.0/8`, `::1` or `unix`; the error names the entry that is none of these.
    pub fn parse(list: &[String]) -> Result<Self, String> {
        let mut trust = Self::default();
        for entry in list {
            if entry == "unix" {
                trust.unix = true;
            } else {
                trust.networks.push(parse_network(entry)?);
            }
        }
        Ok(trust)
    }

    #[must_use]
    pub fn covers(&self, peer: Peer) -> bool {
        match peer {
            Peer::Unix => self.unix,
            Peer::Ip(ip) => self.networks.iter().any(|network| contains(*network, ip)),
        }
    }
}

fn parse_network(entry: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("`{entry}` is neither an address, a network like 10.0.0.0/8, nor `unix`");
    let (address, length) = match entry.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (entry, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        Some(text) => text.parse().map_err(|_| wrong())?,
        None => longest,
    };
    if length > longest {
        return Err(wrong());
    }
    Ok((address, length))
}

/// An IPv4 client on a dual-stack listener shows as `::ffff:a.b.c.d`: it is compared as IPv4.
fn contains((network, length): (IpAddr, u8), ip: IpAddr) -> bool {
    match (network.to_canonical(), ip.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let shift = 32 - u32::from(length.min(32));
            (u64::from(network.to_bits()) >> shift) == (u64::from(ip.to_bits()) >> shift)
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let shift = 128 - u32::from(length);
            network.to_bits().checked_shr(shift) == ip.to_bits().checked_shr(shift)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(entry: &str, ip: &str, expect: bool) {
        let trust = Trust::parse(&[entry.to_owned()]).unwrap();
        assert_eq!(trust.covers(Peer::Ip(ip.parse().unwrap())), expect, "{entry} and {ip}");
        assert!(!trust.covers(Peer::Unix));
    }

    #[test]
    fn networks_cover_their_addresses_only() {
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("127.0.0.1", "127.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("127.0.0.1", "::ffff:127.0.0.1", true);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "2001:db8::1", true);
        check("fd00::/8", "fd12::1", true);
        check("fd00::/8", "fe80::1", false);
    }

    #[test]
    fn a_unix_peer_is_trusted_only_when_listed() {
        assert!(Trust::parse(&["unix".to_owned()]).unwrap().covers(Peer::Unix));
        for bad in ["10.0.0.0/33", "x", "10.0.0.0/", "", "10.0.0.0/-1"] {
            assert!(Trust::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
