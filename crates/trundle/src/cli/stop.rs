//! How a command ends when it could not be carried out, and the objects that `--json` prints.

use std::io::Write as _;

use crate::api::client::ClientError;
use crate::exit::Exit;

/// Why a command could not be carried out.
pub enum Stop {
    /// Told already, or a code of its own.
    Code(i32),
    Error(String),
    Refused(String),
}

impl Stop {
    /// Prints it, and answers with the exit code.
    pub fn tell(self, json: bool) -> i32 {
        let (text, exit) = match self {
            Self::Code(code) => return code,
            Self::Error(text) => (text, Exit::Error),
            Self::Refused(text) => (text, Exit::Refused),
        };
        // The code says enough when nobody reads.
        let _ = if json {
            writeln!(std::io::stdout(), "{}", error_object(&text, exit))
        } else {
            let word = if exit == Exit::Refused { "refused" } else { "error" };
            writeln!(std::io::stderr(), "{}: {text}", crate::term::red(word))
        };
        exit.code()
    }
}

pub fn error_object(text: &str, exit: Exit) -> serde_json::Value {
    serde_json::json!({ "at": at_now(), "type": "error", "error": text, "exit_code": exit.code() })
}

pub fn at_now() -> String {
    crate::clock::rfc3339(crate::clock::wall_ms())
}

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.to_string())
    }
}

/// An answer of the daemon: a refusal keeps its exit code.
pub fn told<T>(answer: Result<T, ClientError>) -> Result<T, Stop> {
    answer.map_err(|error| match error {
        ClientError::Refused(text) => Stop::Refused(text),
        other => Stop::Error(other.to_string()),
    })
}

/// Prints one object.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Stop> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
