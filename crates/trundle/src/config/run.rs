//! `[run]` without its environment: what runs, and where.
//!
//! It judges what is there now, and must never start or change anything.

use std::path::{Path, PathBuf};

use trundle_core::revision::{Port, Protocol, Quiet, QuietBy, QuietSignal, RunLimits, StopSignal};
use trundle_drivers::prepare::DraftArtifact;
use trundle_drivers::user::{self, UserError};

use super::node::{Node, Value};
use super::program;
use super::section::Section;
use super::similar;
use super::source::shown;
use super::value::{self, Wrong};

pub const PATH_BYTES_MAX: usize = 4_096;

/// The part of a draft that says what is started.
pub struct Run {
    pub command: Vec<String>,
    pub cwd: PathBuf,
    pub artifact: Option<DraftArtifact>,
    pub stop_signal: StopSignal,
    pub protocol: Protocol,
    pub quiet: Option<Quiet>,
    pub user: Option<String>,
    pub limits: RunLimits,
}

/// `path_variable` is what PATH will say to the program.
pub fn read(section: &Section<'_>, folder: &Path, path_variable: &str) -> Option<Run> {
    let command = read_command(section);
    let cwd = section
        .get("cwd", value::text_up_to(PATH_BYTES_MAX))
        .map_or_else(|| folder.to_owned(), |cwd| super::absolute(folder, &cwd));
    let cwd_is_there = cwd.is_dir();
    if !cwd_is_there {
        let message = format!("there is no folder {}", cwd.display());
        section.refuse("cwd", message, "create it, or correct run.cwd");
    }
    let artifact = section.get("artifact", |node| read_artifact(node, folder));
    let artifact_is_good = artifact.is_some() || !section.has("artifact");
    if let Some(command) = command.as_ref().filter(|_| cwd_is_there && artifact_is_good) {
        check_program(section, command, &cwd, artifact.as_ref(), path_variable);
    }
    let stop_signal = section.get("stop_signal", value::choice).unwrap_or(StopSignal::Term);
    let protocol = section.get("protocol", value::choice).unwrap_or(Protocol::Http1);
    let quiet = section.table("run.quiet").and_then(|section| read_quiet(&section));
    let user = section.get("user", read_user);
    let limits = section.table("run.limits").map(|section| read_limits(&section)).unwrap_or_default();
    Some(Run { command: command?, cwd, artifact, stop_signal, protocol, quiet, user, limits })
}

fn read_user(node: &Node) -> Result<String, Wrong> {
    let written = value::text_up_to(PATH_BYTES_MAX)(node)?;
    match user::check(&written) {
        Ok(()) => Ok(written),
        Err(error @ UserError::NotRoot { .. }) => Err(Wrong::Value(
            error.to_string(),
            "run the daemon, and this command, as root; or leave run.user out".to_owned(),
        )),
        Err(error) => Err(Wrong::Value(
            error.to_string(),
            "write a user, or user:group, of this machine, by name or number".to_owned(),
        )),
    }
}

fn read_limits(section: &Section<'_>) -> RunLimits {
    let memory = |node: &Node| match value::bytes(node)? {
        bytes if bytes < RunLimits::MEMORY_BYTES_MIN => Err(Wrong::Value(
            format!("{bytes} bytes of memory are too few for any process"),
            "use \"1MiB\" or more".to_owned(),
        )),
        bytes => Ok(bytes),
    };
    RunLimits {
        memory_bytes: section.get("memory", memory),
        cpu_millis: section.get("cpu", value::cores_millis),
        open_files: section
            .get("open_files", value::whole(RunLimits::OPEN_FILES_MIN, RunLimits::OPEN_FILES_MAX))
            .map(u64::from),
    }
}

fn read_quiet(section: &Section<'_>) -> Option<Quiet> {
    let words = |key| {
        let command = section.get(key, value::texts)?;
        if command.first().is_none_or(String::is_empty) {
            section.refuse_item(
                key,
                0,
                "the command is empty".to_owned(),
                "name a program: [\"./ctl\", \"quiet\"]",
            );
        }
        program::check_arguments(section, key, &command);
        Some(command)
    };
    let signal = section.get("signal", value::choice::<QuietSignal>).map(QuietBy::Signal);
    let exec = words("exec").map(QuietBy::Exec);
    let finished = words("finished");
    match (section.has("signal"), section.has("exec")) {
        (true, true) => section.refuse(
            "exec",
            "an app is told by a signal or by a command, and both are written".to_owned(),
            "keep one of them",
        ),
        (false, false) => section.refuse(
            "",
            "[run.quiet] does not say how the app is told to take no more work".to_owned(),
            "choose one of: signal = \"SIGTSTP\", exec = [\"./ctl\", \"quiet\"]",
        ),
        (true, false) | (false, true) => {}
    }
    let timeout_ms = section.get("timeout", value::duration_ms).unwrap_or(Quiet::TIMEOUT_MS);
    signal.or(exec).map(|by| Quiet { by, finished, timeout_ms })
}

pub fn read_port(section: &Section<'_>) -> Port {
    section.get("port", port).unwrap_or(Port::Auto)
}

fn port(node: &Node) -> Result<Port, Wrong> {
    match &node.value {
        Value::Text(text) if text == "auto" => Ok(Port::Auto),
        Value::Text(text) if text.parse::<u16>().is_ok() => {
            Err(Wrong::Value("a port is a number, without quotes".to_owned(), format!("write port = {text}")))
        }
        Value::Integer(..) => {
            let port = value::whole(1, u32::from(u16::MAX))(node)?;
            u16::try_from(port).map(Port::Fixed).map_err(|_| Wrong::Type("\"auto\" or a number"))
        }
        _ => Err(Wrong::Type("\"auto\" or a number")),
    }
}

fn read_command(section: &Section<'_>) -> Option<Vec<String>> {
    let command = section.require("command", |node| match &node.value {
        Value::Text(text) => Err(Wrong::Value(
            "run.command must be a list: there is no shell to split a text".to_owned(),
            format!("write command = {}", as_list(text)),
        )),
        _ => value::texts(node),
    })?;
    if command.first().is_none_or(String::is_empty) {
        section.refuse_item(
            "command",
            0,
            "the command is empty".to_owned(),
            "name a program: command = [\"./server\"]",
        );
        return None;
    }
    program::check_arguments(section, "command", &command);
    Some(command)
}

fn as_list(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().map(|word| format!("\"{}\"", shown(word))).collect();
    format!("[{}]", words.join(", "))
}

fn read_artifact(node: &Node, folder: &Path) -> Result<DraftArtifact, Wrong> {
    let as_written = value::text_up_to(PATH_BYTES_MAX)(node)?;
    let path = super::absolute(folder, &as_written);
    if path.exists() {
        return Ok(DraftArtifact { path, as_written });
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let near = path.parent().and_then(|parent| similar::nearest_in(parent, name, |_| true));
    let hint = near.map_or_else(
        || "build it first, or correct the path".to_owned(),
        |near| format!("did you mean {near}?"),
    );
    Err(Wrong::Value(format!("there is no file or folder {}", path.display()), hint))
}

/// An artifact that is a folder is run from; one that is a file is put where the command names it.
fn check_program(
    section: &Section<'_>,
    command: &[String],
    cwd: &Path,
    artifact: Option<&DraftArtifact>,
    path_variable: &str,
) {
    let Some(program) = command.first() else { return };
    let result = match artifact {
        Some(artifact) if artifact.path.is_dir() => {
            program::check_program(program, &artifact.path, path_variable)
        }
        Some(artifact) => {
            let is_it =
                |arg: &String| *arg == artifact.as_written || super::absolute(cwd, arg) == artifact.path;
            if !command.iter().any(is_it) {
                let message = format!(
                    "the artifact {} is a file, but the command does not name it",
                    shown(&artifact.as_written)
                );
                section.refuse("artifact", message, "write it in the command as it is written here");
            }
            if is_it(program) {
                program::check_file(program, &artifact.path)
            } else {
                program::check_program(program, cwd, path_variable)
            }
        }
        None => program::check_program(program, cwd, path_variable),
    };
    if let Err((message, hint)) = result {
        section.refuse_item("command", 0, message, hint);
    }
}
