//! The kinds of values: each a function from what was written to what is meant, or to what is wrong with it.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::de::value::{Error as ChoiceError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer as _};
use trundle_core::Millis;
use trundle_core::ids::BadName;
use trundle_core::limits::CountOrPercent;
use trundle_core::revision::RunLimits;

use super::duration;
use super::node::{Node, Place, Value};
use super::source::shown;

pub enum Wrong {
    /// What it should have been: "a whole number".
    Type(&'static str),
    /// Message and hint.
    Value(String, String),
    /// Problems of single entries of a list or a table.
    Entries(Vec<WrongEntry>),
}

pub struct WrongEntry {
    pub key: Option<String>,
    pub place: Place,
    pub message: String,
    pub hint: String,
}

pub fn text(node: &Node) -> Result<String, Wrong> {
    let text = match &node.value {
        Value::Text(text) => text.as_str(),
        other => other.raw().ok_or(Wrong::Type("a text in quotes"))?,
    };
    if text.contains('\0') {
        let message = "a text with a NUL byte can be given to no program".to_owned();
        return Err(Wrong::Value(message, "remove the \\u0000".to_owned()));
    }
    Ok(text.to_owned())
}

/// A text of at least one and at most `longest` bytes.
pub fn text_up_to(longest: usize) -> impl Fn(&Node) -> Result<String, Wrong> {
    move |node| {
        let text = text(node)?;
        match text.len() {
            0 => Err(Wrong::Value(
                "an empty text means nothing here".to_owned(),
                "write it, or leave the key out".to_owned(),
            )),
            n if n > longest => {
                let message = format!("{n} bytes are too many: at most {longest} are possible");
                Err(Wrong::Value(message, "make it shorter".to_owned()))
            }
            _ => Ok(text),
        }
    }
}

/// A text that passes a check of the proxy, whose words are a message and, after `; `, a hint.
pub fn checked_by(check: fn(&str) -> Result<(), String>) -> impl Fn(&Node) -> Result<String, Wrong> {
    move |node| {
        let text = text(node)?;
        match check(&text) {
            Ok(()) => Ok(text),
            Err(why) => {
                let (message, hint) = why.split_once("; ").unwrap_or((&why, ""));
                Err(Wrong::Value(message.to_owned(), hint.to_owned()))
            }
        }
    }
}

/// A checked name; the rule is the hint.
pub fn name<T: FromStr<Err = BadName>>(node: &Node) -> Result<T, Wrong> {
    if let (Value::Integer(..) | Value::Float(..), None) = (&node.value, node.value.raw()) {
        return Err(Wrong::Type("a text in quotes"));
    }
    text(node)?.parse().map_err(|bad: BadName| Wrong::Value(refused(&bad), bad.rule().to_owned()))
}

/// The message of a bad name without its rule, which is shown as the hint.
pub fn refused(bad: &BadName) -> String {
    let whole = bad.to_string();
    let end = whole.len().saturating_sub(bad.rule().len());
    whole.get(..end).unwrap_or(&whole).trim_end_matches([':', ' ']).to_owned()
}

/// A whole number from `least` to `most`.
pub fn whole(least: u32, most: u32) -> impl Fn(&Node) -> Result<u32, Wrong> {
    move |node| {
        let Value::Integer(number, _) = &node.value else { return Err(Wrong::Type("a whole number")) };
        number.and_then(|n| u32::try_from(n).ok()).filter(|n| (least..=most).contains(n)).ok_or_else(|| {
            let found = number.map_or_else(|| "this number".to_owned(), |n| n.to_string());
            Wrong::Value(format!("{found} is out of range"), format!("use {least} to {most}"))
        })
    }
}

pub fn flag(node: &Node) -> Result<bool, Wrong> {
    match node.value {
        Value::Bool(flag, _) => Ok(flag),
        _ => Err(Wrong::Type("true or false")),
    }
}

pub fn duration_ms(node: &Node) -> Result<Millis, Wrong> {
    let no_unit = |number: &str| {
        let message = format!("{number} has no unit: is it milliseconds, seconds or minutes?");
        Err(Wrong::Value(message, format!("write \"{number}s\" for seconds; the units are ms, s, m and h")))
    };
    match &node.value {
        Value::Integer(Some(number), _) => no_unit(&number.to_string()),
        Value::Text(text) => match duration::parse(text) {
            Ok(ms) => Ok(ms),
            Err("has no unit") if text.bytes().all(|b| b.is_ascii_digit()) => no_unit(&shown(text)),
            Err(why) => {
                let hint = "write it like \"250ms\", \"1s\", \"5m\" or \"1h30m\"";
                Err(Wrong::Value(format!("\"{}\" {why}", shown(text)), hint.to_owned()))
            }
        },
        _ => Err(Wrong::Type("a duration in quotes")),
    }
}

/// A number of bytes: `4096`, `"64KiB"`, `"10MiB"`, `"2GiB"`.
pub fn bytes(node: &Node) -> Result<u64, Wrong> {
    let wrong = |what: &str| {
        let hint = "write a whole number of bytes, or one with KiB, MiB or GiB, such as \"64KiB\"";
        Err(Wrong::Value(format!("{what} is not a size"), hint.to_owned()))
    };
    let text = match &node.value {
        Value::Integer(Some(number), _) => number.to_string(),
        Value::Text(text) => text.clone(),
        _ => return Err(Wrong::Type("a size in bytes")),
    };
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((&text, 1));
    let digits = number.trim_end();
    let whole = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
    match whole.and_then(|n| n.checked_mul(factor)) {
        Some(bytes) => Ok(bytes),
        None => wrong(&format!("\"{}\"", shown(&text))),
    }
}

/// Cores: `2`, `0.5`; in thousandths of one.
pub fn cores_millis(node: &Node) -> Result<u32, Wrong> {
    let cores = match &node.value {
        Value::Integer(Some(number), _) => *number as f64,
        Value::Float(number, _) => *number,
        _ => return Err(Wrong::Type("a number of cores")),
    };
    let millis = (cores * 1_000.0).round();
    if RunLimits::CPU_MILLIS.contains(&(millis as u32)) {
        return Ok(millis as u32);
    }
    Err(Wrong::Value(format!("{cores} cores are not possible"), "use 0.01 to 1024, such as 1.5".to_owned()))
}

pub fn count_or_percent(node: &Node) -> Result<CountOrPercent, Wrong> {
    let hint = || "write a count such as 2, or a percentage such as \"25%\"".to_owned();
    match &node.value {
        Value::Integer(number, _) => {
            let count = number.and_then(|n| u32::try_from(n).ok()).map(CountOrPercent::Count);
            count.ok_or_else(|| Wrong::Value("this is not a number of instances".to_owned(), hint()))
        }
        Value::Text(text) => text.parse().map_err(|message| Wrong::Value(message, hint())),
        _ => Err(Wrong::Type("a count or a percentage")),
    }
}

/// One of the words that `T` knows.
pub fn choice<T: DeserializeOwned>(node: &Node) -> Result<T, Wrong> {
    let text = text(node)?;
    let word: StrDeserializer<'_, ChoiceError> = text.as_str().into_deserializer();
    T::deserialize(word).map_err(|error| {
        // serde knows the words: "unknown variant `x`, expected `a` or `b`".
        let error = error.to_string();
        let words = error.split_once("expected ").map_or("another word", |(_, words)| words);
        Wrong::Value(
            format!("\"{}\" is not possible here", shown(&text)),
            format!("use {}", words.replace("one of ", "")),
        )
    })
}

/// A list of texts; every item that is none is named.
pub fn texts(node: &Node) -> Result<Vec<String>, Wrong> {
    let Value::List(items) = &node.value else { return Err(Wrong::Type("a list of texts")) };
    let mut wrong = Vec::new();
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        match text(item) {
            Ok(text) => texts.push(text),
            Err(error) => wrong.push(entry(None, item, error)),
        }
    }
    if wrong.is_empty() { Ok(texts) } else { Err(Wrong::Entries(wrong)) }
}

/// A table of texts under names that `read_key` takes; every entry that is none is named.
pub fn text_table<K: Ord>(
    read_key: impl Fn(&str) -> Result<K, Wrong>,
) -> impl Fn(&Node) -> Result<BTreeMap<K, String>, Wrong> {
    move |node| {
        let Value::Table(table) = &node.value else { return Err(Wrong::Type("a table of texts")) };
        let mut wrong = Vec::new();
        let mut texts = BTreeMap::new();
        for (key, item) in table {
            match (read_key(key), text(item)) {
                (Ok(key), Ok(text)) => drop(texts.insert(key, text)),
                (name, value) => {
                    let named = Node { place: item.key_place.clone(), ..item.clone() };
                    wrong.extend(name.err().map(|error| entry(Some(key), &named, error)));
                    wrong.extend(value.err().map(|error| entry(Some(key), item, error)));
                }
            }
        }
        if wrong.is_empty() { Ok(texts) } else { Err(Wrong::Entries(wrong)) }
    }
}

fn entry(key: Option<&String>, item: &Node, wrong: Wrong) -> WrongEntry {
    let (message, hint) = match wrong {
        Wrong::Value(message, hint) => (message, hint),
        Wrong::Type(_) | Wrong::Entries(_) => {
            let hint = match (key, &item.value) {
                (Some(key), Value::Integer(Some(number), _)) => {
                    format!("put it in quotes: {key} = \"{number}\"")
                }
                (Some(key), Value::Bool(flag, _)) => format!("put it in quotes: {key} = \"{flag}\""),
                (None, Value::Integer(Some(number), _)) => format!("put it in quotes: \"{number}\""),
                _ => "put it in quotes".to_owned(),
            };
            (format!("only texts can stand here, found {}", item.value.described()), hint)
        }
    };
    WrongEntry { key: key.cloned(), place: item.place.clone(), message, hint }
}
