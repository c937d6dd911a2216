//! The values of a file and of the flags in one tree, each with the place it was written at.
//!
//! Absent here: what a value should be. That is known where it is read.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Bytes of the file.
    File(Range<usize>),
    /// A flag of the command line; it is named by its key.
    Flag,
}

pub type Table = BTreeMap<String, Node>;

#[derive(Debug, Clone)]
pub struct Node {
    pub value: Value,
    /// Of the value; of the key for a table, whose value may be scattered.
    pub place: Place,
    pub key_place: Place,
}

#[derive(Debug, Clone)]
pub enum Value {
    Text(String),
    /// None: it does not fit.
    Integer(Option<i64>, Raw),
    Float(f64, Raw),
    Bool(bool, Raw),
    Date(String, Raw),
    List(Vec<Node>),
    Table(Table),
}

/// As it was written on the command line, where a text needs no quotes. None in a file.
pub type Raw = Option<String>;

impl Value {
    /// What was found, for a message.
    pub fn described(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(..) => "a number",
            Self::Float(..) => "a number with a point",
            Self::Bool(true, _) => "true",
            Self::Bool(false, _) => "false",
            Self::Date(..) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// The text of a value that is no text, if it came without quotes from the command line.
    pub fn raw(&self) -> Option<&str> {
        match self {
            Self::Integer(_, raw) | Self::Float(_, raw) | Self::Bool(_, raw) | Self::Date(_, raw) => {
                raw.as_deref()
            }
            Self::Text(_) | Self::List(_) | Self::Table(_) => None,
        }
    }
}

/// The tree of a parsed file.
pub fn of_file(table: &DeTable<'_>) -> Table {
    of_table(table, &|span| Place::File(span), None)
}

/// The tree of a value from a flag, written as `raw`.
pub fn of_flag(value: &DeValue<'_>, raw: &str) -> Node {
    Node { value: of_value(value, &|_| Place::Flag, Some(raw)), place: Place::Flag, key_place: Place::Flag }
}

fn of_table(table: &DeTable<'_>, place: &dyn Fn(Range<usize>) -> Place, raw: Option<&str>) -> Table {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &Spanned<std::borrow::Cow<'_, str>> = key;
        let key_place = place(key.span());
        let own = if value.get_ref().is_table() { key_place.clone() } else { place(value.span()) };
        (
            key.get_ref().to_string(),
            Node { value: of_value(value.get_ref(), place, raw), place: own, key_place },
        )
    };
    table.iter().map(entry).collect()
}

fn of_value(value: &DeValue<'_>, place: &dyn Fn(Range<usize>) -> Place, raw: Option<&str>) -> Value {
    let own_raw = || raw.map(str::to_owned);
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok(), own_raw())
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN), own_raw()),
        DeValue::Boolean(flag) => Value::Bool(*flag, own_raw()),
        DeValue::Datetime(date) => Value::Date(date.to_string(), own_raw()),
        // What stands inside brackets is TOML: there a text has its quotes.
        DeValue::Array(items) => {
            let item = |item: &Spanned<DeValue<'_>>| {
                let at = place(item.span());
                Node { value: of_value(item.get_ref(), place, None), place: at.clone(), key_place: at }
            };
            Value::List(items.iter().map(item).collect())
        }
        DeValue::Table(table) => Value::Table(of_table(table, place, None)),
    }
}
