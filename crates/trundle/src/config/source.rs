//! The text of a configuration file, and where in it a byte stands.
//!
//! It must never hold a file that is not text, nor one that is too big to be a description.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// The most bytes a configuration or an environment file may have.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// Why there is no text.
pub struct Unreadable {
    pub message: String,
    pub hint: Option<&'static str>,
    /// Where the text stops being text.
    pub line: Option<usize>,
}

impl Source {
    /// Reads the whole file; the caller adds a hint where the error brings none.
    pub fn read(path: &Path) -> Result<Self, Unreadable> {
        let shown = path.display();
        let trouble = |message: String, hint| Unreadable { message, hint, line: None };
        let mut bytes = Vec::new();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(trouble(format!("there is no file {shown}"), None));
            }
            Err(error) => {
                return Err(trouble(
                    format!("cannot read {shown}: {error}"),
                    Some("check the permissions of the file"),
                ));
            }
        };
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(trouble(format!("{shown} is a folder"), Some("name the file in it")));
        }
        // Bounded while reading: a pipe or a device has no size of its own.
        if let Err(error) = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
            return Err(trouble(
                format!("cannot read {shown}: {error}"),
                Some("check the file and its disk"),
            ));
        }
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let message = format!("{shown} is larger than {} KiB", FILE_BYTES_MAX / 1024);
            return Err(trouble(message, Some("a description is small: is this the right file?")));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path: path.to_owned(), text }),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
                let message = format!("{shown} is not UTF-8 text");
                Err(Unreadable { message, hint: Some("save the file as UTF-8"), line: Some(line) })
            }
        }
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub fn line_column(&self, byte: usize) -> (usize, usize) {
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or("");
        (before.matches('\n').count() + 1, line.chars().filter(|c| *c != '\u{feff}').count() + 1)
    }

    /// The text with everything a terminal would obey made harmless; every byte keeps its place.
    pub fn printable(&self) -> String {
        let harmless = |c: char| match c {
            '\n' | '\t' => c,
            '\r' => ' ',
            c if c.is_ascii_control() => '?',
            // Two bytes each, as '·' is.
            '\u{80}'..='\u{9f}' => '·',
            c => c,
        };
        self.text.chars().map(harmless).collect()
    }
}

/// A message in which a path or a name may stand: what a terminal would obey is escaped.
pub fn harmless(message: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_debug().collect() } else { c.to_string() };
    message.chars().map(escaped).collect()
}

/// Input as it may be shown: escaped, and cut to a length a terminal can bear.
pub fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().count() > SHOWN_CHARS_MAX {
        shown.push('…');
    }
    shown
}
