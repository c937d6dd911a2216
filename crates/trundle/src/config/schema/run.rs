//! `[run]` in the schema.

use serde_json::{Value, json};
use trundle_core::revision::{Protocol, Quiet, QuietSignal, RunLimits, StopSignal};

use super::{command, default, described, one_of, put, size, table, text, texts_by_name, time, whole};

pub(super) fn run() -> Value {
    let mut run = table(vec![
        (
            "command",
            described(
                command(),
                "A program and its arguments; no shell. {port}, {version}, {revision} and {instance} are filled in, {{ is a brace.",
            ),
        ),
        ("cwd", default(described(text(), "Where it is run, seen from this file."), json!("."))),
        (
            "env",
            described(
                texts_by_name("^[A-Za-z_][A-Za-z0-9_]{0,127}$"),
                "Variables. PORT and TRUNDLE_* are set for each instance.",
            ),
        ),
        ("env_file", described(text(), "A file of lines KEY=VALUE; the values are sealed on disk.")),
        (
            "artifact",
            described(
                text(),
                "A file or folder that is copied and run from there, so that old versions stay runnable.",
            ),
        ),
        (
            "secrets",
            described(
                json!({ "type": "array", "items": { "type": "string" } }),
                "Names of variables that are taken from the environment of `trundle deploy`, and never shown.",
            ),
        ),
        (
            "stop_signal",
            default(
                described(one_of::<StopSignal>(), "Asks an instance to end, once its last request is done."),
                json!(StopSignal::Term),
            ),
        ),
        (
            "port",
            default(
                described(
                    json!({ "anyOf": [{ "enum": ["auto"] }, whole(1, u32::from(u16::MAX))] }),
                    "A free one for each instance, or a number: then one replica, stopped before the new one starts.",
                ),
                json!("auto"),
            ),
        ),
        (
            "protocol",
            default(
                described(
                    one_of::<Protocol>(),
                    "What an instance speaks: HTTP/1.1, HTTP/2 without TLS, as gRPC does, or HTTP/2 behind TLS, with any certificate.",
                ),
                json!(Protocol::Http1),
            ),
        ),
        (
            "quiet",
            described(quiet(), "How a worker is told to take no more work, before it is told to stop."),
        ),
        (
            "user",
            described(
                text(),
                "As whom it runs, by name or number, with :group in another than its own. Needs root.",
            ),
        ),
        ("limits", described(run_limits(), "The most that one instance may have.")),
    ]);
    put(&mut run, "required", json!(["command"]));
    run
}

fn run_limits() -> Value {
    table(vec![
        ("memory", size("With more the kernel ends it.")),
        (
            "cpu",
            described(
                json!({ "type": "number", "minimum": 0.01, "maximum": 1024 }),
                "Cores; a part of one is possible.",
            ),
        ),
        (
            "open_files",
            described(
                whole(RunLimits::OPEN_FILES_MIN, RunLimits::OPEN_FILES_MAX),
                "Open files and connections.",
            ),
        ),
    ])
}

fn quiet() -> Value {
    let mut quiet = table(vec![
        ("signal", described(one_of::<QuietSignal>(), "Tells it so.")),
        ("exec", described(command(), "A program that tells it so. {port} is filled in.")),
        (
            "finished",
            described(
                command(),
                "A program that is run each second: exit 0 says that nothing is at hand any more. Without it: until the app ends.",
            ),
        ),
        ("timeout", time("Then it is told to stop all the same.", Quiet::TIMEOUT_MS)),
    ]);
    put(&mut quiet, "oneOf", json!([{ "required": ["signal"] }, { "required": ["exec"] }]));
    quiet
}
