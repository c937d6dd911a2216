//! Which version a request gets while several serve, as a table says it.

use http::HeaderName;
use serde::{Deserialize, Serialize};
use trundle_versions::Range;

/// At most so many rules, paths, and places where a client says what it wants.
pub const MOST_ENTRIES: usize = 16;
/// At most this many bytes in the name of a cookie, in a value that is compared, and in a path.
const MOST_BYTES: usize = 200;

/// All of it is off in an empty object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Where a client says which versions it wants, as a range; the first that is there counts.
    pub asked_in: Vec<Field>,
    pub when_gone: WhenGone,
    /// Looked at before everything else; the first that fits counts.
    pub rules: Vec<Rule>,
    pub sticky: Sticky,
    /// A header whose value stands for a client: for those that keep no cookies.
    pub sticky_header: Option<String>,
    /// Paths, `*` at their end for all that begins so: what one version has not is looked for at the others.
    pub skew_paths: Vec<String>,
    /// So long a page may load what belongs to it, from when it was loaded: then nobody is kept for it.
    pub skew_max_age_s: u32,
    /// Some requests go to another version as well, and what that answers is compared.
    pub mirror: Option<Mirror>,
    /// This revision is the newest, and the others are in the order of their numbers: no client goes back in it.
    pub newest: Option<u32>,
    /// What a client was told under another number says nothing of this order.
    pub window: u64,
    /// A rollout goes on: who is answered now may meet another version soon.
    pub open: bool,
    /// Of a hundred, so many get the newest. Without it each gets what its endpoints weigh.
    pub share: Option<u32>,
}

/// Where something is written in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    Header(String),
    Cookie(String),
}

/// What becomes of a request that asks for a version that nobody serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenGone {
    /// It is as if it had not asked.
    #[default]
    Fallback,
    /// 406.
    Refuse,
}

/// Requests that have the field, with the value if one is written, get these versions while one of them serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub field: Field,
    #[serde(default)]
    pub value: Option<String>,
    pub to: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Of those that serve.
    Newest,
    Oldest,
    /// A range of versions.
    Versions(String),
}

/// Of a hundred GETs and HEADs of these paths so many go to these versions too, if they came to another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    pub to: Wanted,
    pub share: u32,
    pub paths: Vec<String>,
}

/// What a client stays with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    #[default]
    Nothing,
    Version,
    Instance,
}

impl Traffic {
    pub(super) fn validate(&self) -> Result<(), String> {
        for (what, count) in
            [("asked_in", self.asked_in.len()), ("rules", self.rules.len()), ("skew", self.skew_paths.len())]
        {
            if count > MOST_ENTRIES {
                return Err(format!("{what} has {count} entries, at most {MOST_ENTRIES} are possible"));
            }
        }
        self.asked_in.iter().try_for_each(Field::validate)?;
        for rule in &self.rules {
            rule.field.validate()?;
            if let Some(value) = rule.value.as_ref().filter(|value| value.len() > MOST_BYTES) {
                return Err(format!("a value has {} bytes, at most {MOST_BYTES} are possible", value.len()));
            }
            if let Wanted::Versions(range) = &rule.to {
                Range::parse(range).map_err(|wrong| wrong.to_string())?;
            }
        }
        if let Some(name) = &self.sticky_header {
            check_header(name)?;
        }
        if let Some(mirror) = &self.mirror {
            mirror.paths.iter().try_for_each(|path| check_pattern(path))?;
            if mirror.share > 100 || mirror.paths.len() > MOST_ENTRIES {
                return Err("a mirror takes up to a hundred of a hundred, and not many paths".to_owned());
            }
            if let Wanted::Versions(range) = &mirror.to {
                Range::parse(range).map_err(|wrong| wrong.to_string())?;
            }
        }
        self.skew_paths.iter().try_for_each(|path| check_pattern(path))?;
        match self.share {
            Some(share @ 101..) => Err(format!("{share} of a hundred are too many")),
            Some(0..=100) | None => Ok(()),
        }
    }
}

impl Field {
    fn validate(&self) -> Result<(), String> {
        match self {
            Self::Header(name) => check_header(name),
            Self::Cookie(name) => check_cookie(name),
        }
    }
}

/// Whether a header can have this name; why not, and after `; ` what helps.
pub fn check_header(name: &str) -> Result<(), String> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) if name == http::header::COOKIE => {
            Err("the header Cookie holds many things; name the cookie instead".to_owned())
        }
        Ok(_) => Ok(()),
        Err(_) => Err(format!("{name:?} is not the name of a header; write it like X-App-Version")),
    }
}

/// The same of a cookie (RFC 6265 §4.1.1: a token).
pub fn check_cookie(name: &str) -> Result<(), String> {
    let is_token = !name.is_empty() && name.len() <= MOST_BYTES && name.bytes().all(is_token_byte);
    if is_token {
        return Ok(());
    }
    Err(format!("{name:?} is not the name of a cookie; use letters, digits, - and _"))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The same of a path, with a `*` at its end for all that begins so.
pub fn check_pattern(path: &str) -> Result<(), String> {
    let stem = path.strip_suffix('*').unwrap_or(path);
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"*?#\\".contains(&byte);
    if path.starts_with('/') && path.len() <= MOST_BYTES && stem.bytes().all(is_plain) {
        return Ok(());
    }
    Err(format!("{path:?} is not a path; write it like /assets/* or /app.js"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: fn(&mut Traffic), expect: &str) {
        let mut traffic = Traffic::default();
        change(&mut traffic);
        let said = traffic.validate().err().unwrap_or_default();
        assert!(said.contains(expect) && expect.is_empty() == said.is_empty(), "{said:?}, not {expect:?}");
    }

    #[test]
    fn what_cannot_hold_is_said() {
        let rule = |to| Rule { field: Field::Cookie("tester".to_owned()), value: Some("yes".to_owned()), to };
        assert_eq!(Traffic { rules: vec![rule(Wanted::Newest)], ..Traffic::default() }.validate(), Ok(()));
        check(|t| t.asked_in = vec![Field::Header("a b".to_owned())], "not the name of a header");
        check(|t| t.asked_in = vec![Field::Header("Cookie".to_owned())], "name the cookie instead");
        check(|t| t.asked_in = vec![Field::Cookie("a=b".to_owned())], "not the name of a cookie");
        check(|t| t.asked_in = vec![Field::Header("a".to_owned()); 17], "17 entries, at most 16");
        check(|t| t.skew_paths = vec!["/assets/*".to_owned(), "/app.js".to_owned()], "");
        check(|t| t.skew_paths = vec!["assets/*".to_owned()], "not a path");
        check(|t| t.skew_paths = vec!["/a*/b".to_owned()], "not a path");
        check(|t| t.share = Some(100), "");
        check(|t| t.share = Some(101), "101 of a hundred");
        let wrong = Traffic { rules: vec![rule(Wanted::Versions(">=".to_owned()))], ..Traffic::default() };
        assert!(wrong.validate().unwrap_err().contains("is no range"));
    }
}
