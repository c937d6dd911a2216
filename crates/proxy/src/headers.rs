//! What changes in the headers on the way through (RFC 9110 §7.6.1), and nothing else.
//!
//! Order matters: the headers that belong to one connection are removed first, those that `Connection` names among
//! them, and only then are our own `X-Forwarded-*` set: otherwise `Connection: X-Forwarded-For` would remove them.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, Entry, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers that say who the client was, and that apps believe.
const IDENTITY: [&str; 8] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

/// What is known of the connection that a request came by.
pub struct Origin<'a> {
    /// The peer's address as text; `None` for a Unix socket.
    pub peer_value: Option<&'a HeaderValue>,
    pub trusted: bool,
    /// It came with TLS.
    pub is_secure: bool,
}

/// Makes the headers of a client's request those of ours to the endpoint.
pub fn to_endpoint(headers: &mut HeaderMap, origin: &Origin<'_>) {
    let mut seen = Seen::default();
    headers.keys().for_each(|name| seen.note(name));
    if seen.hop_by_hop {
        remove_hop_by_hop(headers);
        headers.remove(EXPECT); // hyper answers 100 when the body is wanted
    }
    if seen.alias {
        remove_aliases(headers);
    }
    if seen.identity && !origin.trusted {
        IDENTITY.iter().for_each(|name| drop(headers.remove(*name)));
        headers.remove(FORWARDED);
    }
    set_forwarded(headers, origin);
}

/// Makes the headers of an endpoint's response those of ours to the client.
pub fn to_client(headers: &mut HeaderMap) {
    let mut seen = Seen::default();
    headers.keys().for_each(|name| seen.note(name));
    if seen.hop_by_hop {
        remove_hop_by_hop(headers);
    }
}

/// One pass over the names decides what must be looked at more closely: most requests need nothing.
#[derive(Default)]
struct Seen {
    hop_by_hop: bool,
    identity: bool,
    alias: bool,
}

impl Seen {
    fn note(&mut self, name: &HeaderName) {
        let name = name.as_str();
        match name {
            "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
            | "expect" => {
                self.hop_by_hop = true;
            }
            _ if name.as_bytes().contains(&b'_') => self.alias = true,
            _ if name.starts_with('x') || name == "forwarded" => self.identity |= IDENTITY.contains(&name),
            _ => {}
        }
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
            // These belong to the message whatever a client writes, and the app relies on them.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
            .collect();
        named.iter().for_each(|name| drop(headers.remove(name)));
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// `X_Forwarded_For` becomes the same variable as `X-Forwarded-For` in CGI and WSGI: nobody may send it.
fn remove_aliases(headers: &mut HeaderMap) {
    let aliases: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            name.as_str().contains('_') && IDENTITY.contains(&name.as_str().replace('_', "-").as_str())
        })
        .cloned()
        .collect();
    aliases.iter().for_each(|name| drop(headers.remove(name)));
}

fn set_forwarded(headers: &mut HeaderMap, origin: &Origin<'_>) {
    if let Some(peer) = origin.peer_value {
        match headers.entry(FORWARDED_FOR) {
            Entry::Vacant(entry) => drop(entry.insert(peer.clone())),
            Entry::Occupied(mut entry) => {
                let mut list = Vec::new();
                for value in entry.iter() {
                    list.extend_from_slice(value.as_bytes());
                    list.extend_from_slice(b", ");
                }
                list.extend_from_slice(peer.as_bytes());
                if let Ok(value) = HeaderValue::from_bytes(&list) {
                    entry.insert(value);
                }
            }
        }
    }
    if let Entry::Vacant(entry) = headers.entry(FORWARDED_PROTO) {
        entry.insert(HeaderValue::from_static(if origin.is_secure { "https" } else { "http" }));
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `given` and `expect` are lines of `name: value`; the peer is 9.9.9.9.
    fn check(given: &str, trusted: bool, expect: &str) {
        let mut headers = HeaderMap::new();
        for line in given.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let peer_value = HeaderValue::from_static("9.9.9.9");
        to_endpoint(&mut headers, &Origin { peer_value: Some(&peer_value), trusted, is_secure: false });
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        assert_eq!(lines.join("\n"), expect, "{given}");
    }

    #[test]
    fn what_a_stranger_says_about_the_client_is_replaced() {
        check(
            "host: a\nx-forwarded-for: 6.6.6.6\nx-forwarded-proto: https\nx-forwarded-host: evil\nforwarded: for=6\n\
             x-real-ip: 6.6.6.6",
            false,
            "host: a\nx-forwarded-for: 9.9.9.9\nx-forwarded-host: a\nx-forwarded-proto: http",
        );
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_appended_to() {
        check(
            "host: a\nx-forwarded-for: 6.6.6.6\nx-forwarded-for: 7.7.7.7\nx-forwarded-proto: https\nforwarded: for=6",
            true,
            "forwarded: for=6\nhost: a\nx-forwarded-for: 6.6.6.6, 7.7.7.7, 9.9.9.9\nx-forwarded-host: a\n\
             x-forwarded-proto: https",
        );
    }

    #[test]
    fn aliases_are_removed_even_from_trusted_proxies() {
        check(
            "host: a\nx_forwarded_for: 6.6.6.6\nx_forwarded-proto: https\nmy_header: kept",
            true,
            "host: a\nmy_header: kept\nx-forwarded-for: 9.9.9.9\nx-forwarded-host: a\nx-forwarded-proto: http",
        );
    }

    #[test]
    fn headers_of_the_connection_stay_on_it() {
        check(
            "host: a\nconnection: close, x-forwarded-for, secret, host\nsecret: 1\nkeep-alive: 5\nte: trailers\n\
             upgrade: websocket\nproxy-connection: close\ntransfer-encoding: chunked\nexpect: 100-continue\n\
             authorization: b",
            false,
            "authorization: b\nhost: a\nx-forwarded-for: 9.9.9.9\nx-forwarded-host: a\nx-forwarded-proto: http",
        );
    }
}
