//! Which format a request speaks, and what its answer says of that format.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use trundle_versions::Range;

use super::paths::Paths;
use crate::table;

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// In the order in which they are tried.
#[derive(Default)]
pub struct Formats(Vec<Format>);

pub struct Format {
    /// Under which its uses are counted.
    pub key: Box<str>,
    path: Option<Paths>,
    header: Option<(HeaderName, Option<Box<[u8]>>)>,
    query: Option<Box<str>>,
    pub served: Option<Range>,
    says: Vec<(HeaderName, HeaderValue)>,
}

impl Formats {
    pub fn new(told: &[table::Format]) -> Self {
        Self(told.iter().map(Format::new).collect())
    }

    /// Its place among them.
    pub fn of(&self, headers: &HeaderMap, path: &str, query: Option<&str>) -> Option<usize> {
        self.0.iter().position(|format| format.fits(headers, path, query))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Format> {
        self.0.iter()
    }

    pub fn get(&self, at: usize) -> Option<&Format> {
        self.0.get(at)
    }
}

impl Format {
    fn new(told: &table::Format) -> Self {
        let header = told.header.as_ref().and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        let value = told.value.as_ref().map(|value| value.as_bytes().into());
        let deprecation = told.deprecated_at_s.map(|at| (DEPRECATION, format!("@{at}")));
        let sunset = told.sunset_s.and_then(http_date).map(|date| (SUNSET, date));
        let link = told.link.as_ref().map(|to| (header::LINK, format!("<{to}>; rel=\"successor-version\"")));
        let says = [deprecation, sunset, link].into_iter().flatten();
        Self {
            key: told.key().into(),
            path: told.path.as_ref().map(|path| Paths::new(std::slice::from_ref(path))),
            header: header.map(|name| (name, value)),
            served: told.served.as_ref().and_then(|range| Range::parse(range).ok()),
            query: told.query.as_deref().map(Box::from),
            says: says.filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?))).collect(),
        }
    }

    /// On which header of a request it depends where that goes.
    pub fn depends_on(&self) -> Option<&str> {
        let header = self.header.as_ref().filter(|_| self.served.is_some());
        header.map(|(name, _)| name.as_str())
    }

    fn fits(&self, headers: &HeaderMap, path: &str, query: Option<&str>) -> bool {
        let has_header = |(name, value): &(HeaderName, Option<Box<[u8]>>)| {
            headers.get_all(name).iter().any(|found| value.as_ref().is_none_or(|value| holds(found, value)))
        };
        let has_query = |wanted: &str| {
            let mut pairs = query.unwrap_or_default().split('&');
            pairs.any(|pair| pair == wanted || pair.split('=').next() == Some(wanted))
        };
        self.path.as_ref().is_none_or(|paths| paths.cover(path))
            && self.header.as_ref().is_none_or(has_header)
            && self.query.as_deref().is_none_or(has_query)
    }

    /// What the app has said by itself stays.
    pub fn say(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.says {
            if *name == header::LINK || !headers.contains_key(name) {
                headers.append(name.clone(), value.clone());
            }
        }
    }
}

/// The whole value, or one of a list, without what stands behind its `;`.
fn holds(found: &HeaderValue, wanted: &[u8]) -> bool {
    let found = found.as_bytes();
    let elements = found.split(|byte| *byte == b',');
    let bare = |element: &[u8]| {
        let end = element.iter().position(|byte| *byte == b';').unwrap_or(element.len());
        element[..end].trim_ascii().eq_ignore_ascii_case(wanted)
    };
    found.trim_ascii().eq_ignore_ascii_case(wanted) || elements.into_iter().any(bare)
}

/// As HTTP writes it (RFC 9110 §5.6.7).
fn http_date(at_s: i64) -> Option<String> {
    let at = jiff::Timestamp::from_second(at_s).ok()?;
    Some(at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(change: impl FnOnce(&mut table::Format)) -> Format {
        let mut told = table::Format { name: "v1".to_owned(), ..table::Format::default() };
        change(&mut told);
        Format::new(&told)
    }

    fn check(format: &Format, lines: &[(&str, &str)], target: &str, expect: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        assert_eq!(format.fits(&headers, path, query), expect, "{lines:?} {target}");
    }

    #[test]
    fn a_request_belongs_to_the_format_whose_conditions_hold() {
        let media = format(|told| {
            told.header = Some("Accept".to_owned());
            told.value = Some("application/vnd.shop.v1+json".to_owned());
        });
        check(&media, &[("accept", "application/vnd.shop.v1+json")], "/", true);
        check(&media, &[("accept", "text/html, application/vnd.shop.v1+json;q=0.9, */*")], "/", true);
        check(&media, &[("accept", "text/html"), ("accept", "application/vnd.shop.v1+json")], "/", true);
        check(&media, &[("accept", "application/vnd.shop.v10+json")], "/", false);
        check(&media, &[], "/", false);
        let any = format(|told| told.header = Some("X-Old".to_owned()));
        check(&any, &[("x-old", "")], "/", true);
        check(&any, &[("x-new", "1")], "/", false);
        let path = format(|told| told.path = Some("/v1/*".to_owned()));
        check(&path, &[], "/v1/orders?x=1", true);
        check(&path, &[], "/v2/orders", false);
        let query = format(|told| told.query = Some("format=1".to_owned()));
        check(&query, &[], "/?a=b&format=1", true);
        check(&query, &[], "/?format=10", false);
        check(&query, &[], "/", false);
        let named = format(|told| told.query = Some("old".to_owned()));
        check(&named, &[], "/?old=1", true);
        check(&named, &[], "/?older=1", false);
        let both = format(|told| (told.path, told.query) = (Some("/x".to_owned()), Some("old".to_owned())));
        check(&both, &[], "/x?old", true);
        check(&both, &[], "/x", false);
        check(&format(|_| ()), &[], "/anything", true);
    }

    #[test]
    fn its_answers_say_how_long_it_will_be_there() {
        let old = format(|told| {
            told.deprecated_at_s = Some(1_764_547_200);
            told.sunset_s = Some(1_767_225_600);
            told.link = Some("/v2".to_owned());
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::LINK, HeaderValue::from_static("</a>; rel=\"next\""));
        old.say(&mut headers);
        assert_eq!(headers["deprecation"], "@1764547200");
        assert_eq!(headers["sunset"], "Thu, 01 Jan 2026 00:00:00 GMT");
        let links: Vec<_> = headers.get_all(header::LINK).iter().collect();
        assert_eq!(links, ["</a>; rel=\"next\"", "</v2>; rel=\"successor-version\""]);
        let mut said = HeaderMap::new();
        said.insert("sunset", HeaderValue::from_static("never"));
        old.say(&mut said);
        assert_eq!(said["sunset"], "never");
    }
}
