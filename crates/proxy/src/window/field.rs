//! Where something is written in a request: in a header, or in one of its cookies.

use http::header::COOKIE;
use http::{HeaderMap, HeaderName};

use crate::table::Field;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Header(HeaderName),
    Cookie(Box<str>),
}

impl Place {
    /// `None`: no request can have it. A table with such a field is refused.
    pub fn of(field: &Field) -> Option<Self> {
        Some(match field {
            Field::Header(name) => Self::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
            Field::Cookie(name) => Self::Cookie(name.as_str().into()),
        })
    }

    /// What stands there; the first where it is written twice.
    pub fn value<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        match self {
            Self::Header(name) => headers.get(name).map(|value| value.as_bytes().trim_ascii()),
            Self::Cookie(name) => cookie(headers, name),
        }
    }

    /// The header that an answer says it depends on (RFC 9110 §12.5.5).
    pub fn header(&self) -> &str {
        match self {
            Self::Header(name) => name.as_str(),
            Self::Cookie(_) => "cookie",
        }
    }
}

/// The value of the first cookie with this name.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let value = |pair: &'a [u8]| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=");
    pairs.filter_map(value).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], expect: Option<&str>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, line.parse().unwrap());
        }
        assert_eq!(cookie(&headers, "v"), expect.map(str::as_bytes), "{lines:?}");
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        check(&["v=3.9"], Some("3.9"));
        check(&["a=1; v=3.9;b=2"], Some("3.9"));
        check(&["a=1", "b=2;v=4"], Some("4"));
        check(&["v=first; v=second"], Some("first"));
        check(&["vv=1; av=2; V=3; v"], None);
        check(&["v="], Some(""));
        check(&["a=\"x;v=1\""], Some("1\"")); // a ; ends a cookie, whatever stands around it
        check(&[], None);
    }
}
