//! Errors of TOML itself, with a hint each. While there are some, nothing else is judged: it would be guessing.

use toml::de::Error;

use super::findings::Findings;
use super::node::Place;

/// One for each line: what follows on the same line is mostly an echo.
pub fn report(errors: &[Error], findings: &Findings<'_>, line_of: impl Fn(usize) -> usize) {
    let mut spans: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    spans.sort_by_key(|(span, _)| (line_of(span.start), span.start));
    spans.dedup_by_key(|(span, _)| line_of(span.start));
    for (span, message) in spans {
        findings.refuse(
            &Place::File(span),
            "",
            format!("this is not TOML: {}", without_echo(message)),
            hint(message),
        );
    }
}

/// Two expectations of the parser that say nothing to people.
fn without_echo(message: &str) -> &str {
    message.trim_end_matches(", expected nothing").trim_end_matches(", expected literal string")
}

fn hint(message: &str) -> &'static str {
    match message {
        m if m.contains("must be quoted") => "put the value in quotes: key = \"text\"",
        m if m.contains("duplicate key") => "keep one of them",
        m if m.contains("invalid float") => "put a version in quotes: version = \"3.1.0\"",
        m if m.contains("string") => "close the quote on the same line, and write \\\\ for a backslash",
        m if m.contains("key with no value") => "write key = value, and [name] for a table",
        m if m.contains("array") => "close the list with ], with a comma between its items",
        m if m.contains("table") => "close the table: [name], or { key = value }",
        _ => "correct this line; the rest is judged after that",
    }
}
