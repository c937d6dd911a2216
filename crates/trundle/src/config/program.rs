//! The command: whether its program can be run from where it will be run, and whether its placeholders are known.
//!
//! The rules are the driver's own; here stand the words for whoever writes the file, and what he may have meant.

use std::path::Path;

use trundle_drivers::placeholder::{self, BadPlaceholder, PLACEHOLDERS};
use trundle_drivers::program::{NotRunnable, check_program_file, find_program, folders};

use super::section::Section;
use super::similar;
use super::source::shown;

const ARGUMENTS_MAX: usize = 1_000;
const ARGUMENT_BYTES_MAX: usize = 4_096;

/// Message and hint.
pub type Refusal = (String, String);

/// Whether every brace of an argument is a placeholder or a doubled one.
pub fn check_placeholders(text: &str) -> Result<(), Refusal> {
    const LIST: &str =
        "{port}, {version}, {revision} and {instance} are filled in; a brace is written {{ or }}";
    match placeholder::check(text) {
        Ok(_) => Ok(()),
        Err(BadPlaceholder::Unbalanced { text }) => {
            Err((format!("a brace in \"{}\" has no partner", shown(&text)), LIST.to_owned()))
        }
        Err(BadPlaceholder::Unknown { name, .. }) => {
            let near = similar::nearest(&name, PLACEHOLDERS).map(|near| format!("did you mean {{{near}}}? "));
            let hint = format!("{}{LIST}", near.unwrap_or_default());
            Err((format!("unknown placeholder {{{}}}", shown(&name)), hint))
        }
    }
}

/// Whether every argument can be given to a program, and its placeholders filled in.
pub fn check_arguments(section: &Section<'_>, key: &str, arguments: &[String]) {
    if arguments.len() > ARGUMENTS_MAX {
        let message =
            format!("{} arguments are too many: at most {ARGUMENTS_MAX} are possible", arguments.len());
        return section.refuse(key, message, "put them into a file that the program reads");
    }
    for (index, argument) in arguments.iter().enumerate() {
        let result = if argument.len() > ARGUMENT_BYTES_MAX {
            let message = format!(
                "an argument of {} bytes is too long: at most {ARGUMENT_BYTES_MAX} are possible",
                argument.len()
            );
            Err((message, "put it into a file that the program reads".to_owned()))
        } else {
            check_placeholders(argument)
        };
        if let Err((message, hint)) = result {
            section.refuse_item(key, index, message, hint);
        }
    }
}

/// Whether `program` can be run from `cwd`: a path with a slash, or a name in `path_variable`.
pub fn check_program(program: &str, cwd: &Path, path_variable: &str) -> Result<(), Refusal> {
    if program.contains(['{', '}']) {
        let hint = "write its name in full; arguments may have placeholders".to_owned();
        return Err((format!("the program itself cannot hold a placeholder: {}", shown(program)), hint));
    }
    find_program(program, cwd, path_variable)
        .map(drop)
        .map_err(|why| in_words(program, why, || near_name(program, cwd, path_variable)))
}

/// Whether the file is there and may be executed; `written` is what people read.
pub fn check_file(written: &str, path: &Path) -> Result<(), Refusal> {
    check_program_file(path).map_err(|why| in_words(written, why, || None))
}

fn in_words(written: &str, why: NotRunnable, near_name: impl Fn() -> Option<String>) -> Refusal {
    let shown = shown(written);
    match why {
        NotRunnable::NotAFile(_) => (format!("{shown} is not a file"), "name the program itself".to_owned()),
        NotRunnable::NotExecutable(path) => {
            (format!("{shown} may not be executed"), format!("try: chmod +x {}", path.display()))
        }
        NotRunnable::Unreadable { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            let hint = near_file(&path).map_or_else(
                || format!("it is looked for at {}: build it first, or correct the path", path.display()),
                |near| format!("did you mean {near}? It is looked for at {}", path.display()),
            );
            (format!("there is no file {shown}"), hint)
        }
        NotRunnable::Unreadable { path, source } => {
            (format!("cannot use {shown}: {source}"), format!("look at {}", path.display()))
        }
        NotRunnable::NotInPath { beside, .. } => {
            let hint = if beside {
                format!("to run the file beside it, write ./{shown}")
            } else if let Some(near) = near_name() {
                format!("did you mean {near}?")
            } else {
                "install it, or write the path to it, such as ./server".to_owned()
            };
            (format!("there is no program {shown} in PATH"), hint)
        }
    }
}

fn is_runnable(path: &Path) -> bool {
    check_program_file(path).is_ok()
}

/// A program with a similar name in PATH.
fn near_name(name: &str, cwd: &Path, path_variable: &str) -> Option<String> {
    folders(cwd, path_variable).find_map(|folder| similar::nearest_in(&folder, name, is_runnable))
}

/// A program with a similar name in the same folder, as it would be written.
fn near_file(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    similar::nearest_in(path.parent()?, name, is_runnable).map(|near| format!("./{near}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_placeholders_or_doubled() {
        for good in ["", "plain", "--port={port}", "{version}/{revision}/{instance}", "{{x}}", "{{{port}}}"] {
            assert!(check_placeholders(good).is_ok(), "{good}");
        }
        let check = |text: &str| check_placeholders(text).unwrap_err();
        assert_eq!(check("{prot}").0, "unknown placeholder {prot}");
        assert!(check("{prot}").1.starts_with("did you mean {port}?"));
        for bad in ["{", "}", "{port", "port}"] {
            assert!(check(bad).0.contains("no partner"), "{bad}");
        }
    }
}
