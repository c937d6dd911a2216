//! What changes in the headers on the way through (RFC 9110 §7.6.1), and nothing else.
//!
//! Order matters: the headers that belong to one connection are removed first, those that `Connection` names among
//! them, and only then are our own `X-Forwarded-*` set: otherwise `Connection: X-Forwarded-For` would remove them.

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY: HeaderName = HeaderName::from_static("proxy");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers that say who the client was, and that apps believe.
/// Whatever begins so is one too: Rack believes `X-Forwarded-Scheme`, Gunicorn `X-Forwarded-Ssl`, and others come.
const IDENTITY: [&str; 2] = ["forwarded", "x-real-ip"];
const IDENTITY_BEGINS: &str = "x-forwarded-";

fn is_identity(name: &str) -> bool {
    name.starts_with(IDENTITY_BEGINS) || IDENTITY.contains(&name)
}

/// How CGI, WSGI and their like would read a name that is not only letters, digits and `-`: they make `_` of the rest.
fn alias(name: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.bytes().all(is_plain) {
        return None;
    }
    Some(name.bytes().map(|byte| if is_plain(byte) { char::from(byte) } else { '-' }).collect())
}

/// What is known of the connection that a request came by.
pub struct Origin<'a> {
    /// The peer's address as text; `None` for a Unix socket.
    pub peer_value: Option<&'a HeaderValue>,
    pub trusted: bool,
    /// It came with TLS.
    pub is_secure: bool,
}

/// Whether the only coding of a message is chunked, once; or it has none.
pub fn is_chunked_at_most(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    encodings.next().is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && encodings.next().is_none()
}

/// Makes the headers of a client's request those of ours to the endpoint. False: one of them could pass for a length or a coding
/// with somebody behind us, and the request must be refused.
#[must_use]
pub fn to_endpoint(headers: &mut HeaderMap, origin: &Origin<'_>) -> bool {
    let mut seen = Seen::default();
    headers.keys().for_each(|name| seen.note(name));
    if seen.hop_by_hop {
        remove_hop_by_hop(headers);
        headers.remove(PROXY); // CGI makes HTTP_PROXY of it (CVE-2016-5385)
        headers.remove(EXPECT); // hyper answers 100 when the body is wanted
    }
    if seen.alias {
        if headers.keys().any(|name| is_framing_alias(name.as_str())) {
            return false;
        }
        remove_aliases(headers);
    }
    if seen.identity && !origin.trusted {
        remove_all(headers, is_identity);
    }
    set_forwarded(headers, origin);
    true
}

/// Who a client was, and where a message ends, is said at its beginning or not at all (RFC 9110 §6.5.1).
pub fn trailers_to_endpoint(trailers: &mut HeaderMap) {
    remove_all(trailers, |name| {
        let alias = alias(name);
        is_identity(alias.as_deref().unwrap_or(name)) || is_framing_alias(name)
    });
    for name in
        [HOST, CONTENT_LENGTH, CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE]
    {
        trailers.remove(name);
    }
    // So are these: what a request is, and for whom, has been decided before they come.
    for name in [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_RANGE,
        CONTENT_TYPE,
        MAX_FORWARDS,
        SET_COOKIE,
        TRAILER,
    ] {
        trailers.remove(name);
    }
}

/// The trailers that a head has announced: in HTTP/1.1 nobody expects others.
pub fn announced_trailers(headers: &HeaderMap) -> Vec<HeaderName> {
    let lists =
        headers.get_all(TRAILER).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    lists.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

/// Makes the headers of an endpoint's response those of ours to the client.
pub fn to_client(headers: &mut HeaderMap) {
    let mut seen = Seen::default();
    headers.keys().for_each(|name| seen.note(name));
    if seen.hop_by_hop {
        remove_hop_by_hop(headers);
    }
    say_length_once(headers);
}

/// A length that is said twice, as two lines or as a list, is the same by now; where there is no body it may be anything.
pub fn say_length_once(headers: &mut HeaderMap) {
    let is_number = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some()
        || headers.get(CONTENT_LENGTH).is_some_and(|length| !is_number(length))
    {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.split(',').next()?.trim().parse::<u64>().ok());
        match length {
            Some(length) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length))),
            None => drop(headers.remove(CONTENT_LENGTH)),
        }
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
            | "expect" | "proxy" => {
                self.hop_by_hop = true;
            }
            _ => {
                self.identity |= is_identity(name);
                self.alias |= name.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-');
            }
        }
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
            // These belong to the message whatever a client writes, and the app relies on them. Of a stranger what says who
            // it is goes anyway; a proxy that we trust may hand on the Connection of its client (CVE-2024-45410).
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH && !is_identity(name.as_str()))
            .collect();
        named.iter().for_each(|name| drop(headers.remove(name)));
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// `X_Forwarded_For` becomes the same variable as `X-Forwarded-For` in CGI and WSGI: nobody may send it.
fn remove_aliases(headers: &mut HeaderMap) {
    remove_all(headers, |name| alias(name).is_some_and(|alias| is_identity(&alias)));
}

/// Almost `Content-Length` or `Transfer-Encoding`.
fn is_framing_alias(name: &str) -> bool {
    alias(name).is_some_and(|alias| alias == "content-length" || alias == "transfer-encoding")
}

fn remove_all(headers: &mut HeaderMap, is_meant: impl Fn(&str) -> bool) {
    let meant: Vec<HeaderName> = headers.keys().filter(|name| is_meant(name.as_str())).cloned().collect();
    meant.iter().for_each(|name| drop(headers.remove(name)));
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
        assert!(to_endpoint(
            &mut headers,
            &Origin { peer_value: Some(&peer_value), trusted, is_secure: false }
        ));
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
