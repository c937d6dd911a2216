//! What a request asks for: the form of its target and the name of its host. A name or a path that servers read in more
//! than one way is refused, so that whoever stands before us, we and the app mean the same.

use std::net::Ipv6Addr;

use http::uri::Scheme;
use http::{Method, Uri};

/// The target begins with a slash, or is the asterisk of OPTIONS. Returns why not.
///
/// A fragment is not seen here: of HTTP/1.1 it is refused by the raw bytes, of HTTP/2 it is cut off, and neither we nor the app
/// ever see it.
pub fn check_path(method: &Method, uri: &Uri) -> Result<(), &'static str> {
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err("the target is neither of http nor of https\n");
    }
    let Some(target) = uri.path_and_query() else { return Err("the target has no path\n") };
    if target.as_str() == "*" {
        return if *method == Method::OPTIONS { Ok(()) } else { Err("only OPTIONS may ask for *\n") };
    }
    if !target.path().starts_with('/') {
        return Err("the target does not begin with a slash\n");
    }
    if !target.as_str().is_ascii() {
        return Err("the target has bytes that must be written as %XX\n");
    }
    // A slash for browsers and for some servers. In a query browsers send it as it is.
    if target.path().contains('\\') {
        return Err("the path has a backslash, which must be written as %5C\n");
    }
    Ok(())
}

/// A name, an IPv4 address, or an IPv6 address in brackets; and a port, if there is a colon. Much narrower than RFC 3986: no
/// escapes, no user, no list.
pub fn is_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let (is_name, rest) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) => (address.parse::<Ipv6Addr>().is_ok(), rest),
            None => return false,
        },
        None => {
            let end = host.find(':').unwrap_or(host.len());
            (is_name(&host[..end]), &host[end..])
        }
    };
    is_name && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

/// Labels of letters, digits, `-` and `_` with dots between them; the last may be empty.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 255
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

/// 1 to 65535, written in one way only.
fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0') && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_everybody_reads_alike_are_hosts() {
        for good in [
            "a",
            "web.test",
            "Web.TEST:80",
            "web.test.",
            "my_app-1:65535",
            "127.0.0.1:8080",
            "[::1]",
            "[fe80::1]:80",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a:",
            ":80",
            "a:b",
            "a:65536",
            "a:0",
            "a:080",
            "a:+1",
            "a:80:80",
            "::1",
            "[::1",
            "[a]",
            "[::1]x",
            "[::1%25eth0]",
            "b@a",
            "a b",
            "a,b",
            "a/b",
            "a\\b",
            "a%2e",
            "a?b",
            "a#b",
            "<a>",
            "caf\u{e9}",
            " a",
            "a\t",
            "a\0",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
        assert!(!is_host(&[b'a', 0xff]) && !is_host("x".repeat(256).as_bytes()));
    }

    fn check(method: &str, target: &str, expect: Option<&str>) {
        let got = check_path(&Method::from_bytes(method.as_bytes()).unwrap(), &target.parse().unwrap());
        match expect {
            None => assert_eq!(got, Ok(()), "{method} {target}"),
            Some(part) => assert!(got.unwrap_err().contains(part), "{method} {target}: {got:?}"),
        }
    }

    #[test]
    fn only_paths_that_begin_with_a_slash_are_targets() {
        check("GET", "/", None);
        check("GET", "//a/../%2e%2e;x?\\{}|^", None);
        check("GET", "https://a/x", None);
        check("GET", "http://a?x", None);
        check("OPTIONS", "*", None);
        check("GET", "*", Some("OPTIONS"));
        check("GET", "a:80", Some("no path"));
        check("GET", "ftp://a/", Some("neither"));
        check("GET", "/a\\b", Some("backslash"));
        check("GET", "/\u{e9}", Some("%XX"));
        check("GET", "/?\u{e9}", Some("%XX"));
    }
}
