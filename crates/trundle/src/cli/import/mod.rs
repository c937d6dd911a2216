//! `trundle init --from FILE`: a `trundle.toml` made of what another tool was told.
//!
//! It must never overwrite a file, never write a value of a secret, and never leave something out in silence.

mod compose;
mod compose_parts;
mod container;
mod draft;
mod image;
mod kubernetes;
mod probes;
mod procfile;
mod words;
mod yaml;

use std::fmt::Write as _;
use std::path::Path;

use super::stop::{Stop, print_json};
use super::{init, print_text};
use crate::config::source::{Source, shown};
use crate::exit::Exit;
use draft::Draft;

const KINDS: &str = "what can be read: a Kubernetes Deployment, a compose file with services, a Procfile";

pub fn run(file: &Path, pick: Option<&str>, json: bool) -> Result<Exit, Stop> {
    let folder = std::env::current_dir().unwrap_or_default();
    let mut draft = read(file, pick)?;
    draft.settle();
    let name = file.file_name().map(|name| shown(&name.to_string_lossy())).unwrap_or_default();
    let written = init::write_new(&folder, &draft.text(&name)).map_err(Stop::Error)?;
    if json {
        let answer = serde_json::json!({ "file": written, "kept": draft.kept, "dropped": draft.dropped });
        print_json(&answer)?;
        return Ok(Exit::Done);
    }
    let mut dropped = String::new();
    for entry in &draft.dropped {
        // Writing into a String cannot fail.
        let _ = writeln!(dropped, "  - {}: {}", entry.what, entry.why);
    }
    if !dropped.is_empty() {
        eprint!(
            "not taken over ({} of {}; they stand at the end of the file too):\n{dropped}",
            draft.dropped.len(),
            draft.dropped.len() + draft.kept.len()
        );
    }
    let todo = if draft.todo.is_empty() { "" } else { "; first see to its TODO lines" };
    let steps = "  trundle validate    checks it\n  trundle plan        shows what a deploy would do\n  trundle deploy      does it\n";
    print_text(
        format!(
            "wrote {} from {name}, {} things kept{todo}\nnext:\n{steps}",
            written.display(),
            draft.kept.len()
        )
        .as_bytes(),
    )
}

fn read(file: &Path, pick: Option<&str>) -> Result<Draft, Stop> {
    let source = Source::read(file).map_err(|unreadable| {
        let place = unreadable.line.map(|line| format!("{}:{line}: ", file.display())).unwrap_or_default();
        let hint = unreadable.hint.unwrap_or("name a Procfile, a compose file or a Deployment");
        Stop::Error(format!("{place}{}\nhint: {hint}", unreadable.message))
    })?;
    let in_file = |why: String| Stop::Error(format!("{}: {why}", file.display()));
    let is_procfile =
        file.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().starts_with("procfile"));
    if is_procfile {
        let lines = procfile::lines(&source.text).ok_or_else(|| {
            in_file(
                "this is no Procfile\nhint: each line is TYPE: COMMAND, such as web: ./server --port $PORT"
                    .to_owned(),
            )
        })?;
        return of_procfile(file, &lines, pick).map_err(in_file);
    }
    let documents = match yaml::read(&source.text) {
        Ok(documents) => documents,
        Err(bad) => {
            let place = bad
                .line
                .map_or_else(|| file.display().to_string(), |line| format!("{}:{line}", file.display()));
            return Err(Stop::Error(format!(
                "{place}: this is not YAML that can be read: {}\nhint: {KINDS}",
                shown(&bad.message)
            )));
        }
    };
    if kubernetes::is_one(&documents) {
        return kubernetes::read(&documents, pick).map_err(in_file);
    }
    if let Some(document) = documents.iter().find(|document| compose::is_one(document)) {
        return compose::read(document, pick, &|path| beside(file, path)).map_err(in_file);
    }
    // A Procfile is called so, or has no kind in its name: almost any YAML of one level looks like one.
    let is_yaml = file
        .extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|yaml| extension == *yaml));
    match procfile::lines(&source.text).filter(|_| !is_yaml) {
        Some(lines) => of_procfile(file, &lines, pick).map_err(in_file),
        None => Err(in_file(format!("it is not known what this is\nhint: {KINDS}"))),
    }
}

fn of_procfile(file: &Path, lines: &[(&str, &str)], pick: Option<&str>) -> Result<Draft, String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let env_file = beside(file, ".env");
    let env_file = Path::new(&env_file).is_file().then_some(env_file);
    procfile::read(lines, pick, init::name_for(folder).as_str(), env_file)
}

/// A path that is written in `file`, as seen from the folder of the new file.
fn beside(file: &Path, path: &str) -> String {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or_else(|| path.to_owned(), |folder| folder.join(path).to_string_lossy().into_owned())
}
