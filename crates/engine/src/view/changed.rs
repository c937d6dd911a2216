//! What is different between two templates: the first place to look after a failure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trundle_core::revision::Template;

/// Only what differs is filled in. `null` is "not there".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub version: Option<[String; 2]>,
    /// Values, unless the key looks secret.
    pub env: BTreeMap<String, [Option<String>; 2]>,
    /// By key only: `added`, `removed` or `changed`.
    pub env_file: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, String>,
    pub command: Option<[String; 2]>,
    pub cwd: Option<[String; 2]>,
    /// Files whose bytes are others.
    pub bytes: Vec<String>,
    pub artifact: Option<[Option<String>; 2]>,
    /// The health checks, the stop signal, the user, the limits or the port.
    pub other: Vec<String>,
}

pub fn changed(old: &Template, new: &Template) -> Changed {
    let pair = |a: String, b: String| (a != b).then_some([a, b]);
    let (a, b) = (&old.run, &new.run);
    let digest =
        |t: &Template| t.run.artifact.as_ref().map(|x| format!("{} ({})", x.path, short(&x.digest.0)));
    let mut other = Vec::new();
    if old.health != new.health {
        other.push("health checks".to_owned());
    }
    if a.stop_signal != b.stop_signal {
        other.push("stop signal".to_owned());
    }
    if a.quiet != b.quiet {
        other.push("quiet".to_owned());
    }
    if a.user != b.user {
        other.push("user".to_owned());
    }
    if a.limits != b.limits {
        other.push("limits".to_owned());
    }
    if a.protocol != b.protocol {
        other.push("protocol".to_owned());
    }
    if a.port != b.port {
        other.push("port".to_owned());
    }
    Changed {
        version: pair(old.version.to_string(), new.version.to_string()),
        env: env(old, new),
        env_file: sealed(old, new, trundle_core::revision::SealedOrigin::EnvFile),
        secrets: sealed(old, new, trundle_core::revision::SealedOrigin::Secret),
        command: pair(a.command.join(" "), b.command.join(" ")),
        cwd: pair(a.cwd.clone(), b.cwd.clone()),
        bytes: union(a.bytes.keys(), b.bytes.keys())
            .into_iter()
            .filter(|path| a.bytes.get(*path).zip(b.bytes.get(*path)).is_some_and(|(x, y)| x != y))
            .cloned()
            .collect(),
        artifact: (a.artifact.as_ref().map(|x| &x.digest) != b.artifact.as_ref().map(|x| &x.digest))
            .then(|| [digest(old), digest(new)]),
        other,
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn union<'a, T: Ord>(a: impl Iterator<Item = &'a T>, b: impl Iterator<Item = &'a T>) -> BTreeSet<&'a T> {
    a.chain(b).collect()
}

fn env(old: &Template, new: &Template) -> BTreeMap<String, [Option<String>; 2]> {
    let (a, b) = (&old.run.env, &new.run.env);
    union(a.keys(), b.keys())
        .into_iter()
        .filter(|key| a.get(*key) != b.get(*key))
        .map(|key| {
            let show = |value: Option<&String>| {
                value.map(|v| if looks_secret(key.as_str()) { "***".into() } else { v.clone() })
            };
            (key.to_string(), [show(a.get(key)), show(b.get(key))])
        })
        .collect()
}

fn sealed(
    old: &Template,
    new: &Template,
    origin: trundle_core::revision::SealedOrigin,
) -> BTreeMap<String, String> {
    let of = |t: &Template| -> BTreeMap<String, String> {
        let keys = t.run.sealed.iter().flat_map(|s| &s.keys).filter(|(_, k)| k.origin == origin);
        keys.map(|(key, k)| (key.to_string(), k.fingerprint.clone())).collect()
    };
    let (a, b) = (of(old), of(new));
    let word = |key: &String| match (a.get(key), b.get(key)) {
        (None, Some(_)) => Some("added"),
        (Some(_), None) => Some("removed"),
        (x, y) if x != y => Some("changed"),
        _ => None,
    };
    union(a.keys(), b.keys())
        .into_iter()
        .filter_map(|key| Some((key.clone(), word(key)?.to_owned())))
        .collect()
}

/// Names whose values are not shown.
fn looks_secret(key: &str) -> bool {
    const WORDS: [&str; 9] =
        ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASS", "KEY", "CREDENTIAL", "PRIVATE", "DSN"];
    let key = key.to_ascii_uppercase();
    WORDS.iter().any(|word| key.split('_').any(|part| part == *word))
        || key.contains("PASSWORD")
        || key.contains("SECRET")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_keys_that_look_secret_are_hidden() {
        for key in ["DB_PASSWORD", "API_KEY", "SESSION_SECRET", "MYSECRETS", "X_TOKEN", "db_pass"] {
            assert!(looks_secret(key), "{key}");
        }
        for key in ["DB_POOL", "MONKEY", "TOKENIZER", "PASSENGERS"] {
            assert!(!looks_secret(key), "{key}");
        }
    }
}
