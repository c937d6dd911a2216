//! YAML as it was written: maps keep their order. Bounded against files that are small and grow when they are read.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::config::source::shown;

#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    Null,
    Bool(bool),
    /// As people would write it.
    Number(String),
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

/// Why a text is no YAML that is read here.
pub struct BadYaml {
    /// From 1; none where the whole is meant.
    pub line: Option<u64>,
    pub message: String,
}

/// All documents of a file. Empty ones are left out.
pub fn read(text: &str) -> Result<Vec<Yaml>, BadYaml> {
    // A megabyte of text is the most that is read. What aliases and merges make of it is bounded here.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 200_000,
            max_nodes: 100_000,
            max_aliases: 1_000,
            max_documents: 200,
            max_depth: 40,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        // `yes`, `010` and `1_000` are texts, as compose has them: they are most often values of variables.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_multiple_with_options::<Yaml, Vec<Yaml>>(text, options).map_err(|error| BadYaml {
        line: error.location().map(|place| place.line()).filter(|line| *line > 0),
        message: error.to_string().lines().next().unwrap_or_default().to_owned(),
    })
}

impl Yaml {
    pub fn get(&self, key: &str) -> Option<&Yaml> {
        self.map().iter().find(|(name, _)| name == key).map(|(_, value)| value).filter(|v| **v != Yaml::Null)
    }

    /// Along a dotted path.
    pub fn at(&self, path: &str) -> Option<&Yaml> {
        path.split('.').try_fold(self, |yaml, key| yaml.get(key))
    }

    /// The entries of a map; none of anything else.
    pub fn map(&self) -> &[(String, Yaml)] {
        match self {
            Self::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The entries of a map that say something: exported objects are full of `{}` and `null`.
    pub fn said(&self) -> impl Iterator<Item = (&str, &Yaml)> {
        let says = |value: &Yaml| {
            !matches!(value, Self::Null)
                && *value != Self::Map(Vec::new())
                && *value != Self::List(Vec::new())
        };
        self.map().iter().filter(move |(_, value)| says(value)).map(|(key, value)| (key.as_str(), value))
    }

    /// The items of a list; none of anything else.
    pub fn list(&self) -> &[Yaml] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a scalar: a version `3.10` in quotes, a port without them.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) | Self::Number(text) => Some(text.clone()),
            Self::Bool(flag) => Some(flag.to_string()),
            Self::Null | Self::List(_) | Self::Map(_) => None,
        }
    }

    pub fn text_at(&self, path: &str) -> Option<String> {
        self.at(path).and_then(Yaml::text)
    }

    pub fn number(&self) -> Option<u64> {
        self.text()?.parse().ok()
    }

    /// The texts of a list of scalars.
    pub fn texts(&self) -> Vec<String> {
        self.list().iter().filter_map(Yaml::text).collect()
    }

    /// In a few words, for a line about what was not taken.
    pub fn in_short(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::List(items) => format!("{} of them", items.len()),
            Self::Map(entries) => {
                let keys: Vec<_> = entries.iter().take(5).map(|(key, _)| key.as_str()).collect();
                shown(&keys.join(", "))
            }
            Self::Bool(_) | Self::Number(_) | Self::Text(_) => shown(&self.text().unwrap_or_default()),
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsWritten)
    }
}

struct AsWritten;

impl<'de> Visitor<'de> for AsWritten {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        Yaml::deserialize(deserializer)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Yaml, E> {
        Ok(Yaml::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Yaml, E> {
        Ok(Yaml::Number(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Yaml, E> {
        Ok(Yaml::Number(number.to_string()))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Yaml, E> {
        Ok(Yaml::Number(number.to_string()))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Yaml, E> {
        Ok(Yaml::Number(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Yaml, E> {
        Ok(Yaml::Number(number.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Yaml, E> {
        Ok(Yaml::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Yaml::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Yaml, Yaml>()? {
            map.push((key.text().unwrap_or_default(), value));
        }
        Ok(Yaml::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Yaml {
        let mut all = read(text).unwrap_or_else(|bad| panic!("{:?}: {}", bad.line, bad.message));
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn scalars_maps_and_merges_are_read_in_order() {
        let yaml = one("b: &x {p: 1, q: 010}\na:\n  <<: *x\n  q: yes\n  r: true\n  s: ~\n2: 1.5\n");
        let keys: Vec<_> = yaml.map().iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["b", "a", "2"]);
        assert_eq!((yaml.text_at("a.p"), yaml.text_at("a.q")), (Some("1".into()), Some("yes".into())));
        assert_eq!((yaml.text_at("b.q"), yaml.text_at("a.r")), (Some("010".into()), Some("true".into())));
        assert_eq!((yaml.at("a.s"), yaml.text_at("2")), (None, Some("1.5".into())));
        assert_eq!(read("---\na: 1\n---\n---\nb: 2\n").map_err(|b| b.message).unwrap().len(), 2);
    }

    #[test]
    fn what_grows_is_refused_soon() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
        }
        let began = std::time::Instant::now();
        assert!(read(&bomb).is_err());
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read("a: &a [*a]\n").is_err());
        assert!(began.elapsed().as_secs() < 5);
    }

    #[test]
    fn a_mistake_has_its_line() {
        for (text, line) in [("a: 1\nb: [1, 2\nc: 3\n", 3), ("a:\n  b: 1\n c: 2\n", 3), ("a: 1\na: 2\n", 2)] {
            let bad = read(text).err().unwrap_or_else(|| panic!("{text:?} was taken"));
            assert_eq!(bad.line, Some(line), "{text:?}: {}", bad.message);
            assert!(!bad.message.is_empty());
        }
    }
}
