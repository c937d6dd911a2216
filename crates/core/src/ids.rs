//! Names and numbers that reach a path, a label, a URL or a log: parsed once, never re-checked.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a name was refused; the text ends with the rule that holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {shown} is refused: {rule}")]
pub struct BadName {
    what: &'static str,
    /// The input with everything unprintable escaped, cut to a length a terminal can bear.
    shown: String,
    rule: &'static str,
}

impl BadName {
    fn new(what: &'static str, input: &str, rule: &'static str) -> Self {
        let mut shown: String = input.chars().take(60).flat_map(char::escape_debug).collect();
        if input.chars().count() > 60 {
            shown.push('…');
        }
        Self { what, shown: format!("\"{shown}\""), rule }
    }

    /// The rule alone, to be shown as a hint beside the place in a file.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(input: &str) -> Result<Self, BadName> {
                let accepts: fn(&str) -> bool = $ok;
                if accepts(input) { Ok(Self(input.into())) } else { Err(BadName::new($what, input, $rule)) }
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(input: String) -> Result<Self, BadName> {
                input.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_name!(
    /// The name of an app: part of instance names, paths and URLs.
    AppName,
    "app name",
    "1 to 40 of a-z, 0-9 and '-', beginning with a letter and not ending with '-'",
    |s| {
        s.len() <= 40
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && !s.ends_with('-')
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
);

checked_name!(
    /// The label people give to what they ship, such as `3.2`. Two revisions may carry the same label.
    VersionLabel,
    "version",
    "1 to 64 of letters, digits and . _ + -, beginning with a letter or digit",
    |s| {
        (1..=64).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
    }
);

checked_name!(
    /// The name of an environment variable.
    EnvKey,
    "environment variable",
    "1 to 128 of letters, digits and '_', not beginning with a digit",
    |s| {
        (1..=128).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    }
);

/// The number of a revision within its app: 1, 2, 3 … A number is a name, not an order of quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RevisionNumber(pub u32);

impl fmt::Display for RevisionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a rollout within its app: 1, 2, 3 …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RolloutId(pub u32);

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which copy of which revision, and the how-manieth try at that place. A key is used for one process only, ever:
/// that is why starting the same key twice can find the first one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceKey {
    pub revision: RevisionNumber,
    pub slot: u32,
    /// 1 for the first try; shown only from the second on.
    pub attempt: u32,
}

impl InstanceKey {
    /// The name that people see: `web-2-3`, and `web-2-3.2` for a second attempt.
    pub fn name(self, app: &AppName) -> String {
        format!("{app}-{self}")
    }

    /// The inverse of [`Self::name`].
    pub fn parse_name(app: &AppName, name: &str) -> Option<Self> {
        name.strip_prefix(app.as_str())?.strip_prefix('-')?.parse().ok()
    }

    /// The app and the key of a name.
    ///
    /// # Errors
    /// When it is not the name of an instance.
    pub fn read_name(name: &str) -> Result<(AppName, Self), BadName> {
        let parsed =
            name.rsplit_once('-').and_then(|(rest, _)| rest.rsplit_once('-')).and_then(|(app, _)| {
                let app: AppName = app.parse().ok()?;
                let key = Self::parse_name(&app, name)?;
                Some((app, key))
            });
        parsed.ok_or_else(|| {
            BadName::new("instance", name, "a name such as web-2-3, as `trundle status` shows them")
        })
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.revision, self.slot)?;
        if self.attempt > 1 { write!(f, ".{}", self.attempt) } else { Ok(()) }
    }
}

impl fmt::Debug for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InstanceKey {
    type Err = BadName;
    fn from_str(input: &str) -> Result<Self, BadName> {
        let parse = || {
            let (revision, rest) = input.split_once('-')?;
            let (slot, attempt) = rest.split_once('.').unwrap_or((rest, "1"));
            Some(Self {
                revision: RevisionNumber(revision.parse().ok()?),
                slot: slot.parse().ok()?,
                attempt: attempt.parse().ok()?,
            })
        };
        parse().filter(|key| key.to_string() == input).ok_or_else(|| {
            BadName::new("instance", input, "REVISION-SLOT or REVISION-SLOT.ATTEMPT, such as 2-3")
        })
    }
}

impl TryFrom<String> for InstanceKey {
    type Error = BadName;
    fn try_from(input: String) -> Result<Self, BadName> {
        input.parse()
    }
}

impl From<InstanceKey> for String {
    fn from(key: InstanceKey) -> String {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Row 51 of the faults. Anything at all, names that are nearly right, and right ones with something put in or added.
    fn input() -> impl Strategy<Value = String> {
        let nearly = "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,70}";
        let bad = prop_oneof![
            Just("/"),
            Just(".."),
            Just("-"),
            Just("\n"),
            Just("\0"),
            Just("\u{1b}[2J"),
            Just("\u{202e}"),
            Just(";"),
            Just(" "),
            Just("а"),
            Just("２"),
        ];
        let right = "[a-z][a-z0-9-]{0,20}[a-z0-9]";
        let spoilt = (prop_oneof![nearly, right], any::<prop::sample::Index>(), bad).prop_map(
            |(mut name, at, bad)| {
                name.insert_str(at.index(name.len() + 1), bad);
                name
            },
        );
        let instance = "[a-z][a-z0-9-]{0,45}-[0-9]{1,12}-[0-9]{1,12}([.][0-9]{1,12})?";
        prop_oneof![any::<String>(), "\\PC{0,80}", nearly, "[a-z][a-z0-9-]{0,45}", spoilt, instance]
    }

    /// What is accepted can stand in a path, an argument, a label, a URL and a line of a log as it is.
    fn is_harmless(name: &str, longest: usize) -> bool {
        let safe = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        !name.starts_with(['-', '.']) && (1..=longest).contains(&name.len()) && name.chars().all(safe)
    }

    /// What is refused is told in a line that moves no cursor and is not longer than a screen.
    fn told_harmlessly(error: &BadName) -> bool {
        let text = error.to_string();
        text.len() < 1000 && !text.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_accepted_as_a_name_is_harmless_and_reads_back(text in input()) {
            match text.parse::<AppName>() {
                Ok(name) => prop_assert!(name.as_str() == text && is_harmless(&text, 40), "{text:?}"),
                Err(error) => prop_assert!(told_harmlessly(&error), "{error}"),
            }
            match text.parse::<VersionLabel>() {
                Ok(label) => prop_assert!(label.as_str() == text && is_harmless(&text, 64), "{text:?}"),
                Err(error) => prop_assert!(told_harmlessly(&error), "{error}"),
            }
            if let Ok(key) = text.parse::<EnvKey>() {
                let word = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                prop_assert!(key.as_str() == text && word && text.len() <= 128, "{text:?}");
            }
            // Twice ten digits and a third number: no key is longer than 32 characters.
            match text.parse::<InstanceKey>() {
                Ok(key) => prop_assert!(key.to_string() == text && is_harmless(&text, 32), "{text:?}"),
                Err(error) => prop_assert!(told_harmlessly(&error), "{error}"),
            }
            match InstanceKey::read_name(&text) {
                Ok((app, key)) => {
                    prop_assert!(key.name(&app) == text && is_harmless(&text, 73), "{text:?}");
                }
                Err(error) => prop_assert!(told_harmlessly(&error), "{error}"),
            }
        }

        #[test]
        fn every_instance_has_one_name_and_every_name_one_instance(
            app in "[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
            revision: u32, slot: u32, attempt in 1..=u32::MAX,
        ) {
            let app: AppName = app.parse().unwrap();
            let key = InstanceKey { revision: RevisionNumber(revision), slot, attempt };
            let name = key.name(&app);
            prop_assert_eq!(InstanceKey::read_name(&name).unwrap(), (app.clone(), key));
            prop_assert_eq!(InstanceKey::parse_name(&app, &name), Some(key));
            let json = serde_json::to_string(&(&app, key)).unwrap();
            prop_assert_eq!(serde_json::from_str::<(AppName, InstanceKey)>(&json).unwrap(), (app, key));
        }
    }

    #[test]
    fn names_that_could_reach_a_path_or_a_shell_are_refused() {
        for bad in ["", "Web", "../x", "-rf", "a;b", "a\nb", "web-", "1web", "wéb", &"a".repeat(41)] {
            assert!(bad.parse::<AppName>().is_err(), "{bad:?}");
        }
        assert_eq!("web-2".parse::<AppName>().unwrap().as_str(), "web-2");
        let shown = "a\u{1b}]0;x".parse::<AppName>().unwrap_err().to_string();
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn an_instance_name_reads_back() {
        let app: AppName = "web-2".parse().unwrap();
        for (slot, attempt, name) in [(3, 1, "web-2-7-3"), (3, 2, "web-2-7-3.2")] {
            let key = InstanceKey { revision: RevisionNumber(7), slot, attempt };
            assert_eq!(key.name(&app), name);
            assert_eq!(InstanceKey::parse_name(&app, name), Some(key));
            assert_eq!(InstanceKey::read_name(name).unwrap(), (app.clone(), key));
        }
        assert_eq!(InstanceKey::parse_name(&app, "web-2-7-03"), None, "one name for one key");
        for bad in ["web", "web-2", "-2-3", "web-2-x", "web-2-3.1"] {
            assert!(InstanceKey::read_name(bad).is_err(), "{bad}");
        }
    }
}
