//! Every file of `tests/http/`, sent raw, at once and in pieces: what the app sees of it, and what the client is told.

#![allow(clippy::unwrap_used)]

#[path = "corpus/case.rs"]
mod case;
mod common;
#[path = "corpus/frames.rs"]
mod frames;
#[path = "corpus/play.rs"]
mod play;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use case::{Case, escape};
use play::{Outcome, Pace, Stage, without_chance};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/http");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "case"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_file_ends_as_it_says() {
    let wanted = std::env::var("TRUNDLE_HTTP_CASE").unwrap_or_default();
    let mut stage = Stage::default();
    let (mut wrong, mut count) = (String::new(), 0);
    for path in files().iter().filter(|path| path.to_string_lossy().contains(&wanted)) {
        let case = Case::read(path);
        for pace in [Pace::Whole, Pace::Pieces(400)] {
            let outcome = stage.play(&case, pace);
            compare(&case, &outcome, pace, &mut wrong);
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(!wanted.is_empty() || count >= 80, "only {count} files");
}

/// Says with file and line what is not as the file says it.
fn compare(case: &Case, outcome: &Outcome, pace: Pace, wrong: &mut String) {
    let mut differs = |line: usize, what: &str, got: &str| {
        let path = case.path.canonicalize().unwrap();
        writeln!(wrong, "{}:{line}: ({pace:?}) {what}:\n{got}\n", path.display()).unwrap();
    };
    let expected: Vec<&String> = case.answers.1.iter().filter(|word| *word != "none").collect();
    if outcome.answers.iter().ne(expected) {
        differs(case.answers.0, "the client has answers", &outcome.answers.join(" "));
    }
    if case.closed.1 != Some(outcome.closed) {
        differs(case.closed.0, "the connection is", if outcome.closed { "closed" } else { "open" });
    }
    for at in 0..case.app_sees.len().max(outcome.app_saw.len()) {
        let (line, expected) = case.app_sees.get(at).map_or((0, None), |(line, bytes)| (*line, Some(bytes)));
        let saw = outcome.app_saw.get(at).map(|saw| without_chance(saw));
        if saw.as_ref() != expected {
            let shown = saw.map_or("nothing".into(), |saw| escape(&saw));
            differs(line, "the app sees", &shown);
        }
    }
    if let Some((line, expected)) = &case.client_sees {
        let saw = without_chance(&outcome.client_saw);
        if saw != *expected {
            differs(*line, "the client sees", &escape(&saw));
        }
    }
}
