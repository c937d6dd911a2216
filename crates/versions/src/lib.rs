//! Labels of versions as people write them, `3.9` or `v4.0.1-rc1`, their order, and ranges over them.
//!
//! A label is free text. One that reads as one to three numbers is a semantic version, what is missing being 0; every other one
//! is equal to itself only.

use std::cmp::Ordering;

use semver::{Version, VersionReq};

/// At most this many bytes in a range.
pub const MAX_RANGE_BYTES: usize = 100;

/// Which versions are meant.
///
/// - `3.9` means 3.9 and all of 3.9.x; `3.9.1` only itself. A label that is no number, such as `blue`, means itself.
/// - `>=4.0`, `<5`, `^4.1`, `~4.1`, `=4.0.2`, `4.*` as in Cargo and npm; several with a space or a comma between them must all hold.
/// - `||` between two of them: one must hold.
/// - A label with more behind its numbers, `4.1-3f2a9c1` or `4.1-rc1`, counts as its numbers where the range names none such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range(Vec<Alternative>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Alternative {
    /// This label, and those that begin with its numbers.
    Named(String),
    Within(VersionReq),
}

/// A text that is no range: why, and how one is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRange(String);

impl std::fmt::Display for NoRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; write it like \"3.9\", \">=4.0\", \">=3.9 <5\" or \"^4.1\"", self.0)
    }
}

impl std::error::Error for NoRange {}

impl Range {
    /// # Errors
    /// [`NoRange`] when the text is empty, too long, or no range.
    pub fn parse(text: &str) -> Result<Self, NoRange> {
        if text.len() > MAX_RANGE_BYTES {
            return Err(NoRange(format!("a range has at most {MAX_RANGE_BYTES} characters")));
        }
        text.split("||").map(|part| Alternative::parse(part.trim())).collect::<Result<_, _>>().map(Self)
    }

    /// No version at all.
    #[must_use]
    pub fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Whether it covers the version with this label.
    #[must_use]
    pub fn covers(&self, label: &str) -> bool {
        self.0.iter().any(|alternative| alternative.covers(label))
    }
}

impl Alternative {
    fn parse(text: &str) -> Result<Self, NoRange> {
        if text.is_empty() {
            return Err(NoRange("a range is empty".to_owned()));
        }
        let is_range = |c: char| "<>=^~*,".contains(c) || c.is_whitespace();
        if !text.contains(is_range) {
            return Ok(Self::Named(text.to_owned()));
        }
        let wrong = |error: semver::Error| NoRange(format!("\"{text}\" is no range: {error}"));
        VersionReq::parse(&comparators(text)).map(Self::Within).map_err(wrong)
    }

    fn covers(&self, label: &str) -> bool {
        match self {
            Self::Named(name) => name == label || is_within(name, label),
            Self::Within(range) => number(label).is_some_and(|version| {
                let names_such = range.comparators.iter().any(|comparator| !comparator.pre.is_empty());
                let plain = Version::new(version.major, version.minor, version.patch);
                range.matches(&version) || !names_such && range.matches(&plain)
            }),
        }
    }
}

/// npm has spaces between comparators, and Cargo commas.
fn comparators(text: &str) -> String {
    let mut joined = String::with_capacity(text.len() + 4);
    let is_operator = |word: &str| word.chars().all(|c| "<>=^~".contains(c));
    for word in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()) {
        if !joined.is_empty() && !is_operator(joined.rsplit(',').next().unwrap_or_default()) {
            joined.push(',');
        }
        let number = word.trim_start_matches(['<', '>', '=', '^', '~']);
        joined.push_str(&word[..word.len() - number.len()]);
        joined.push_str(number.trim_start_matches('v'));
    }
    joined
}

/// `3.9` is all of 3.9.x, `4` all of 4.x, and 3.9.0 is 3.9.
fn is_within(name: &str, label: &str) -> bool {
    let (Some(wanted), Some(found)) = (number(name), number(label)) else { return false };
    if wanted == found {
        return true;
    }
    let parts = name.trim_start_matches('v').split('.').count();
    let is_plain = wanted.pre.is_empty() && wanted.build.is_empty() && found.pre.is_empty();
    is_plain && wanted.major == found.major && (parts < 2 || wanted.minor == found.minor) && parts < 3
}

/// The label as a semantic version, if it is one.
fn number(label: &str) -> Option<Version> {
    let label = label.trim_start_matches('v');
    let core = label.find(['-', '+']).unwrap_or(label.len());
    let (numbers, rest) = label.split_at(core);
    let missing = 3usize.checked_sub(numbers.split('.').count())?;
    Version::parse(&format!("{numbers}{}{rest}", ".0".repeat(missing))).ok()
}

/// The order of two labels; `None` where one of them is no number and they differ.
#[must_use]
pub fn compare(a: &str, b: &str) -> Option<Ordering> {
    if a == b {
        return Some(Ordering::Equal);
    }
    Some(number(a)?.cmp_precedence(&number(b)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: &str, covered: &[&str], not: &[&str]) {
        let parsed = Range::parse(range).unwrap_or_else(|wrong| panic!("{range}: {wrong}"));
        for label in covered {
            assert!(parsed.covers(label), "{range} covers {label}");
        }
        for label in not {
            assert!(!parsed.covers(label), "{range} does not cover {label}");
        }
    }

    #[test]
    fn a_name_means_itself_and_what_is_within_it() {
        check("3.9", &["3.9", "3.9.0", "3.9.4", "v3.9"], &["3.10", "3.90", "4.0", "3", "3.9.1-rc1", "blue"]);
        check("3.9.1", &["3.9.1", "v3.9.1"], &["3.9", "3.9.10", "3.9.2"]);
        check("4", &["4", "4.0", "4.7.1"], &["40", "5"]);
        check("4.0-rc1", &["4.0-rc1", "4.0.0-rc1"], &["4.0", "4.0-rc2"]);
        check("blue", &["blue"], &["green", "blue.1"]);
        check("2026-11-29", &["2026-11-29"], &["2026-11-30", "2026"]);
    }

    #[test]
    fn ranges_are_those_of_cargo_and_npm() {
        check(">=4.0", &["4", "4.0", "4.0.1", "5.2", "4.0-rc1", "4.1-3f2a9c1"], &["3.9", "3.9.9", "blue"]);
        check("<4.1", &["4.0-3f2a9c1"], &["4.1-3f2a9c1"]);
        check(">=4.0.0-rc2", &["4.0-rc2", "4.0"], &["4.0-rc1", "3.9-rc9"]);
        check(">=3.9 <5", &["3.9", "4.9.9"], &["3.8", "5.0"]);
        check(">= 3.9, < 5", &["3.9", "4.9.9"], &["3.8", "5.0"]);
        check("^4.1", &["4.1", "4.9"], &["4.0", "5.0"]);
        check("~4.1", &["4.1.7"], &["4.2"]);
        check("=4.0.2", &["4.0.2"], &["4.0.3", "4.0"]);
        check("4.*", &["4.0", "4.9.1"], &["5.0"]);
        check("*", &["1", "99.1"], &["blue"]);
        check("3.9 || >=4.1", &["3.9", "4.1"], &["4.0"]);
        check(">=v4.0", &["4.0", "v4.1"], &["3.9"]);
    }

    #[test]
    fn what_is_no_range_is_said() {
        for text in ["", " ", ">=", ">=blue", "3.9 ||", "<>3", &"1".repeat(101)] {
            let wrong = Range::parse(text).expect_err(text).to_string();
            assert!(wrong.contains("write it like"), "{text}: {wrong}");
        }
    }

    #[test]
    fn labels_are_ordered_by_their_numbers() {
        assert_eq!(compare("3.9", "3.10"), Some(Ordering::Less));
        assert_eq!(compare("v4", "4.0.0"), Some(Ordering::Equal));
        assert_eq!(compare("4.0-rc1", "4.0"), Some(Ordering::Less));
        assert_eq!(compare("blue", "blue"), Some(Ordering::Equal));
        assert_eq!(compare("blue", "4.0"), None);
    }
}
