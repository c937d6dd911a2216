//! One table while it is read: asks for typed values, and turns everything else into problems.
//!
//! Every key is looked up in [`super::keys`]; one that is not there is a problem as soon as the table is opened.

use super::findings::Findings;
use super::keys;
use super::node::{Node, Place, Table, Value};
use super::source::shown;
use super::value::Wrong;

pub struct Section<'a> {
    pub findings: &'a Findings<'a>,
    /// Dotted; empty at the top.
    path: &'static str,
    /// One of several, each written `[[path]]`.
    is_one_of_many: bool,
    place: Place,
    table: &'a Table,
}

impl<'a> Section<'a> {
    pub fn top(table: &'a Table, findings: &'a Findings<'a>) -> Self {
        Self::open(findings, "", false, Place::File(0..0), table)
    }

    fn open(
        findings: &'a Findings<'a>,
        path: &'static str,
        is_one_of_many: bool,
        place: Place,
        table: &'a Table,
    ) -> Self {
        let section = Self { findings, path, is_one_of_many, place, table };
        for (key, node) in table.iter().filter(|(key, _)| !keys::is_known(path, key)) {
            let place_in = if path.is_empty() { String::new() } else { format!(" in {}", section.header()) };
            let message = format!("unknown key `{}`{place_in}", shown(key));
            findings.refuse(
                &node.key_place,
                &section.dotted(&shown(key)),
                message,
                keys::hint_for_unknown(path, key),
            );
        }
        section
    }

    /// The table `path`, which is dotted from the top. None: not written, or not a table.
    pub fn table(&self, path: &'static str) -> Option<Section<'a>> {
        let key = path.rsplit('.').next().unwrap_or(path);
        let node = self.table.get(key)?;
        match &node.value {
            Value::Table(table) => Some(Section::open(self.findings, path, false, node.place.clone(), table)),
            _ => {
                self.wrong(key, node, Wrong::Type("a table"));
                None
            }
        }
    }

    /// The tables of a list, each written `[[path]]`. Empty: not written, or not such a list.
    pub fn tables(&self, path: &'static str) -> Vec<Section<'a>> {
        let key = path.rsplit('.').next().unwrap_or(path);
        let Some(node) = self.table.get(key) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            self.wrong(key, node, Wrong::Type("a list of tables"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match &item.value {
                Value::Table(table) => {
                    tables.push(Section::open(self.findings, path, true, item.place.clone(), table))
                }
                other => {
                    let message = format!("only tables can stand here, found {}", other.described());
                    self.refuse_item(key, index, message, format!("write each of them under [[{path}]]"));
                }
            }
        }
        tables
    }

    /// The value of a key, if it is written and is what it should be.
    pub fn get<T>(&self, key: &'static str, read: impl FnOnce(&Node) -> Result<T, Wrong>) -> Option<T> {
        debug_assert!(keys::is_known(self.path, key), "{}.{key} is not in the list of keys", self.path);
        let node = self.table.get(key)?;
        read(node).map_err(|wrong| self.wrong(key, node, wrong)).ok()
    }

    /// The same for a key that must be written.
    pub fn require<T>(&self, key: &'static str, read: impl FnOnce(&Node) -> Result<T, Wrong>) -> Option<T> {
        if !self.has(key) {
            let example = keys::example(self.path, key);
            let hint = if self.path.is_empty() {
                format!("write at the top: {example}, or give --set {}", example.replace([' ', '"'], ""))
            } else {
                format!("write under {}: {example}", self.header())
            };
            self.refuse(key, format!("{} is missing", self.dotted(key)), hint);
        }
        self.get(key, read)
    }

    pub fn path(&self) -> &'static str {
        self.path
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn header(&self) -> String {
        if self.is_one_of_many { format!("[[{}]]", self.path) } else { format!("[{}]", self.path) }
    }

    fn dotted(&self, key: &str) -> String {
        match (self.path, key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// A problem with the value of a key, or with the table where the key is not written.
    pub fn refuse(&self, key: &str, message: String, hint: impl Into<String>) {
        let place = self.table.get(key).map_or(&self.place, |node| &node.place);
        self.findings.refuse(place, &self.dotted(key), message, hint);
    }

    /// A problem with one item of a list.
    pub fn refuse_item(&self, key: &str, index: usize, message: String, hint: impl Into<String>) {
        let node = self.table.get(key);
        let item = node.and_then(|node| match &node.value {
            Value::List(items) => items.get(index),
            _ => Some(node),
        });
        let place = item.or(node).map_or(&self.place, |node| &node.place);
        self.findings.refuse(place, &self.dotted(key), message, hint);
    }

    fn wrong(&self, key: &str, node: &Node, wrong: Wrong) {
        let path = self.dotted(key);
        match wrong {
            Wrong::Type(expected) => {
                let message = format!("{path} must be {expected}, found {}", node.value.described());
                self.findings.refuse(
                    &node.place,
                    &path,
                    message,
                    format!("for example: {}", keys::example(self.path, key)),
                );
            }
            Wrong::Value(message, hint) => self.findings.refuse(&node.place, &path, message, hint),
            Wrong::Entries(entries) => {
                for entry in entries {
                    let key = entry.key.map_or_else(|| path.clone(), |key| format!("{path}.{}", shown(&key)));
                    self.findings.refuse(&entry.place, &key, entry.message, entry.hint);
                }
            }
        }
    }
}
