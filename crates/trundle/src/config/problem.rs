//! What is wrong with a configuration: every problem with its place, its message and what to do about it.
//!
//! It must never hold a value of a secret or of an environment file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, NamedSource, SourceCode,
    SourceSpan, SpanContents, ThemeCharacters, ThemeStyles,
};
use serde::Serialize;

use super::source::harmless;

/// One thing to correct.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// The file, or `--set` for what was given on the command line.
    pub file: String,
    /// From 1; none for a flag, or where there is no text to point at.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// Dotted: `rollout.max_surge`. None where the text could not be read that far.
    pub key: Option<String>,
    pub message: String,
    pub hint: String,
    #[serde(skip)]
    pub span: Option<Range<usize>>,
}

impl fmt::Display for Problem {
    /// One line. A place that a snippet will show is not repeated.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.span.is_none() {
            // Without a key the message names the file.
            match (&self.key, self.line) {
                (Some(key), None) => write!(f, "{} {key}: ", self.file)?,
                (Some(_), Some(line)) => write!(f, "{}:{line}: ", self.file)?,
                (None, _) => {}
            }
        }
        f.write_str(&self.message)
    }
}

/// All problems of one configuration: at least one.
#[derive(Debug)]
pub struct ConfigError {
    file: String,
    problems: Vec<Problem>,
    shown: Vec<Shown>,
}

impl ConfigError {
    /// `text` is what the spans point into.
    pub(super) fn new(file: String, text: String, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.as_ref().map_or(usize::MAX, |span| span.start));
        for problem in &mut problems {
            problem.message = harmless(&problem.message);
            problem.hint = harmless(&problem.hint);
        }
        let source = Arc::new(WholeLines(NamedSource::new(&file, text)));
        let shown = problems
            .iter()
            .map(|problem| Shown { problem: problem.clone(), source: source.clone() })
            .collect();
        Self { file, problems, shown }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// For people. Lines are not wrapped, so that they can be searched.
    pub fn rendered(&self, look: Look) -> String {
        let theme = match look {
            Look { unicode: true, color: true } => GraphicalTheme::unicode(),
            Look { unicode: true, color: false } => GraphicalTheme::unicode_nocolor(),
            Look { unicode: false, color: true } => {
                GraphicalTheme { characters: ThemeCharacters::ascii(), styles: ThemeStyles::ansi() }
            }
            Look { unicode: false, color: false } => GraphicalTheme::none(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_context_lines(1)
            .with_wrap_lines(false)
            .with_links(false)
            .without_cause_chain();
        let mut out = String::new();
        // Writing into a String cannot fail; what is there so far is still the best answer.
        let _ = handler.render_report(&mut out, self);
        out
    }
}

/// What the place of printing can show.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub color: bool,
    pub unicode: bool,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "1 problem in {}", self.file),
            n => write!(f, "{n} problems in {}", self.file),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Diagnostic for ConfigError {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.shown.iter().map(|shown| -> &dyn Diagnostic { shown })))
    }
}

/// Shows the whole line of a problem, and not its neighbours: an environment may stand there.
#[derive(Debug)]
struct WholeLines(NamedSource<String>);

impl SourceCode for WholeLines {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        // Asked for no lines around, miette wants the place alone.
        if lines_before == 0 && lines_after == 0 {
            return self.0.read_span(span, 0, 0);
        }
        let text = self.0.inner();
        let (before, after) = (text.get(..span.offset()), text.get(span.offset() + span.len()..));
        let start = before.and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
        let rest_of_line = after.map_or(0, |after| after.find('\n').unwrap_or(after.len()));
        let lines = (start, span.offset() + span.len() + rest_of_line - start);
        self.0.read_span(&lines.into(), 0, 0)
    }
}

/// A problem beside the line it is about.
#[derive(Debug)]
struct Shown {
    problem: Problem,
    source: Arc<WholeLines>,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for Shown {}

impl Diagnostic for Shown {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.problem.hint))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.problem.span.as_ref().map(|_| -> &dyn SourceCode { &*self.source })
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.problem.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(self.problem.key.clone(), span))))
    }
}
