//! What was found while a configuration was read: all problems, and what is good to know.

use std::cell::RefCell;

use super::node::{Place, Table, Value};
use super::problem::{ConfigError, Problem};
use super::sets;
use super::source::{Source, harmless};

/// More than this helps nobody.
const PROBLEMS_MAX: usize = 200;

pub struct Findings<'a> {
    source: &'a Source,
    problems: RefCell<Vec<Problem>>,
    notes: RefCell<Vec<String>>,
}

impl<'a> Findings<'a> {
    pub fn new(source: &'a Source) -> Self {
        Self { source, problems: RefCell::default(), notes: RefCell::default() }
    }

    /// A problem at a place of the file, or with a flag. `key` is dotted; empty where there is none.
    pub fn refuse(&self, place: &Place, key: &str, message: String, hint: impl Into<String>) {
        let key = (!key.is_empty()).then(|| key.to_owned());
        let problem = match place {
            Place::File(span) => {
                let (line, column) = self.source.line_column(span.start);
                // A label over many lines hides the message: the first line says enough.
                let first_line = self
                    .source
                    .text
                    .get(span.clone())
                    .map_or(0, |text| text.lines().next().map_or(0, str::len));
                Problem {
                    file: self.source.path.display().to_string(),
                    line: Some(line),
                    column: Some(column),
                    key,
                    message,
                    hint: hint.into(),
                    span: Some(span.start..span.start + first_line),
                }
            }
            Place::Flag => Problem {
                file: sets::FLAG.to_owned(),
                line: None,
                column: None,
                key,
                message,
                hint: hint.into(),
                span: None,
            },
        };
        self.push(problem);
    }

    pub fn push(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS_MAX {
            problems.push(problem);
        }
    }

    pub fn note(&self, text: impl Into<String>) {
        self.notes.borrow_mut().push(harmless(&text.into()));
    }

    /// What core says about settings that cannot hold. A key that was refused already got a value of its own accord.
    pub fn refuse_setting(&self, tree: &Table, problem: trundle_core::settings::Problem) {
        let known = self.problems.borrow().iter().any(|known| known.key.as_deref() == Some(problem.key));
        if !known {
            self.refuse(&place_of(tree, problem.key), problem.key, problem.message, problem.hint);
        }
    }

    /// What was read with what is good to know, if nothing is wrong with it.
    pub fn finish<T>(self, read: Option<T>) -> Result<(T, Vec<String>), ConfigError> {
        debug_assert!(
            read.is_some() || !self.problems.borrow().is_empty(),
            "nothing was read, nobody said why"
        );
        match read {
            Some(read) if self.problems.borrow().is_empty() => Ok((read, self.notes.into_inner())),
            _ => Err(self.refused()),
        }
    }

    pub fn refused(self) -> ConfigError {
        let file = self.source.path.display().to_string();
        ConfigError::new(file, self.source.printable(), self.problems.into_inner())
    }
}

/// Where a dotted key is written; where it is not, the nearest table around it.
pub fn place_of(tree: &Table, key: &str) -> Place {
    let mut place = Place::File(0..0);
    let mut table = tree;
    for part in key.split('.') {
        let Some(node) = table.get(part) else { break };
        place = node.place.clone();
        match &node.value {
            Value::Table(inner) => table = inner,
            _ => break,
        }
    }
    place
}
