//! The formats that an app's clients speak, as a table says them.

use std::hash::Hasher as _;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use trundle_versions::Range;

use crate::window::Fnv;

use super::traffic::{MOST_ENTRIES, check_header, check_pattern};

/// At most this many bytes in a name, a value that is compared, and a link.
const MOST_BYTES: usize = 200;

/// A request belongs to the first format all of whose conditions hold; one without any takes what is left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Format {
    pub name: String,
    /// `*` at its end stands for all that begins so.
    pub path: Option<String>,
    /// The request has this header.
    pub header: Option<String>,
    /// And its value, or one of the elements of its list, is this.
    pub value: Option<String>,
    /// The query has this: `format`, or `format=1`.
    pub query: Option<String>,
    /// The versions that serve it, a range: its requests go there, as long as one of them serves at all.
    pub served: Option<String>,
    /// Since when, or from when on, it is deprecated, in seconds since 1970: said with its answers (RFC 9745).
    pub deprecated_at_s: Option<i64>,
    /// When it will be gone (RFC 8594).
    pub sunset_s: Option<i64>,
    /// Where its successor is described or found (RFC 8288).
    pub link: Option<String>,
}

impl Format {
    /// Under which its uses are counted: what is matched otherwise was not looked at before.
    #[must_use]
    pub fn key(&self) -> String {
        let mut matched = Fnv::default();
        for part in [&self.path, &self.header, &self.value, &self.query] {
            matched.write(part.as_deref().unwrap_or("\0").as_bytes());
            matched.write(&[0]);
        }
        format!("{} {:016x}", self.name, matched.finish())
    }
}

pub(super) fn validate(formats: &[Format]) -> Result<(), String> {
    if formats.len() > MOST_ENTRIES {
        return Err(format!("{} formats, at most {MOST_ENTRIES} are possible", formats.len()));
    }
    for (at, format) in formats.iter().enumerate() {
        check_format_name(&format.name)?;
        if formats[..at].iter().any(|other| other.name == format.name) {
            return Err(format!("format `{}` appears twice", format.name));
        }
        format.path.iter().try_for_each(|path| check_pattern(path))?;
        format.header.iter().try_for_each(|name| check_header(name))?;
        format.link.iter().try_for_each(|link| check_link(link))?;
        if let Some(range) = &format.served {
            Range::parse(range).map_err(|wrong| format!("format `{}`: {wrong}", format.name))?;
        }
        if format.value.is_some() && format.header.is_none() {
            return Err(format!("format `{}` has a value and no header", format.name));
        }
        let texts = [&format.value, &format.query];
        if texts.into_iter().flatten().any(|text| text.is_empty() || text.len() > MOST_BYTES) {
            return Err(format!("format `{}`: a value has 1 to {MOST_BYTES} bytes", format.name));
        }
    }
    Ok(())
}

/// Whether a format can have this name; why not, and after `; ` what helps.
pub fn check_format_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !name.is_empty() && name.len() <= 64 && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(format!("{name:?} cannot be a name here; use 1 to 64 letters, digits and - _ ."))
}

/// The same of a link: it stands between `<` and `>` in a header.
pub fn check_link(link: &str) -> Result<(), String> {
    let is_plain = !link.is_empty() && link.len() <= MOST_BYTES && !link.contains(['<', '>', ' ', '"']);
    if is_plain && HeaderValue::from_str(link).is_ok() {
        return Ok(());
    }
    Err(format!("{link:?} is not a link; write it like /v2/orders or https://shop.example/docs/v2"))
}
