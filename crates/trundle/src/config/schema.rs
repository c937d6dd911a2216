//! The JSON Schema of `trundle.toml`, for editors: keys, types, words, bounds and defaults.
//!
//! Words and defaults are taken from the types that the reader fills. A test holds the keys against the reader's own list.
//! It is no second reader: whether values fit together, and whether files are there, only `validate` knows.

mod formats;
mod listen;
mod run;
mod traffic;

use serde::de::value::{Error as ChoiceError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer as _};
use serde_json::{Map, Value, json};
use trundle_core::limits::Order;
use trundle_core::revision::{Check, Probe};
use trundle_core::settings::{MAX_REPLICAS, OnFailure, RolloutSettings};

use super::duration;
use formats::formats;
use listen::listen;
use run::run;
use traffic::traffic;

const ADDRESS: &str = r"^([0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$";

/// Draft 7 is what the TOML language servers read.
pub fn document() -> Value {
    let check = || json!({ "$ref": "#/definitions/check" });
    let mut root = table(vec![
        ("name", described(name(), "The name of the app: part of the names of instances, such as web-2-3.")),
        ("version", described(version(), "A label for people. `--set version=3.2` says it from outside.")),
        ("replicas", default(described(whole(0, MAX_REPLICAS), "How many instances serve."), json!(1))),
        ("run", described(run(), "What runs.")),
        (
            "listen",
            described(listen(), "Where clients come in. Leave it out for a worker that takes no requests."),
        ),
        (
            "release",
            described(
                table(vec![(
                    "compatible_with",
                    described(
                        text(),
                        "Beside which older versions this one can run: >=3.9. Without it: beside all.",
                    ),
                )]),
                "What this version is to those before it.",
            ),
        ),
        ("gates", described(gates(), "Flags that the app reads at the path in TRUNDLE_GATES.")),
        ("formats", described(formats(), "What clients speak, until when, and which versions serve it.")),
        ("traffic", described(traffic(), "Which version a request gets while two serve.")),
        (
            "health",
            described(
                table(vec![
                    (
                        "startup",
                        described(check(), "Asked until its first success; the other checks begin after it."),
                    ),
                    ("ready", described(check(), "When an instance may get requests.")),
                    ("live", described(check(), "An instance that fails it is replaced.")),
                ]),
                "When an instance counts as up. Without `ready`: as soon as its port takes a connection.",
            ),
        ),
        ("rollout", described(rollout(), "How a new version replaces the old one.")),
    ]);
    // `version` may come from `--set`, and most often does.
    put(&mut root, "required", json!(["name", "run"]));
    put(&mut root, "$schema", json!("http://json-schema.org/draft-07/schema#"));
    put(&mut root, "title", json!("trundle.toml"));
    put(&mut root, "description", json!("What runs, and how a new version replaces the old one."));
    put(&mut root, "definitions", json!({ "check": a_check() }));
    root
}

fn gates() -> Value {
    let mut gate = table(vec![
        ("name", described(text(), "What the app knows it by.")),
        (
            "opens",
            described(
                json!({ "type": "string", "pattern": "^all instances " }),
                "When every instance, and what a rollback would bring, is of these versions: all instances >= 4.1.",
            ),
        ),
    ]);
    put(&mut gate, "required", json!(["name", "opens"]));
    json!({ "type": "array", "items": gate, "maxItems": 64 })
}

fn a_check() -> Value {
    let defaults = Check::new(Probe::Tcp);
    let in_a_row = || whole(1, 1_000);
    let mut check = table(vec![
        (
            "http",
            described(
                json!({ "type": "string", "pattern": "^/" }),
                "A path that is asked for; 200 to 299 is good.",
            ),
        ),
        ("tcp", described(json!({ "enum": [true] }), "The port takes a connection.")),
        (
            "grpc",
            described(
                json!({ "type": "string" }),
                "The health service of gRPC, asked for this service; \"\" asks for the server as a whole.",
            ),
        ),
        ("exec", described(command(), "A program that is run; exit 0 is good. {port} is filled in.")),
        ("status", described(whole(100, 599), "The one status that is good.")),
        ("body", described(text(), "A text that the answer must contain.")),
        ("headers", described(texts_by_name("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"), "Sent with the request.")),
        ("interval", time("From one question to the next.", defaults.interval_ms)),
        ("timeout", time("An answer must be there by then.", defaults.timeout_ms)),
        (
            "rise",
            default(
                described(in_a_row(), "Good answers in a row until it counts as up."),
                json!(defaults.rise),
            ),
        ),
        (
            "fall",
            default(
                described(in_a_row(), "Bad answers in a row until it counts as down."),
                json!(defaults.fall),
            ),
        ),
        (
            "eager",
            default(
                described(
                    json!({ "type": "boolean" }),
                    "While an instance starts, ask more often than interval.",
                ),
                json!(defaults.eager),
            ),
        ),
    ]);
    let kinds: Vec<Value> =
        ["http", "tcp", "grpc", "exec"].iter().map(|kind| json!({ "required": [kind] })).collect();
    put(&mut check, "oneOf", json!(kinds));
    check
}

fn rollout() -> Value {
    let defaults = RolloutSettings::default();
    table(vec![
        (
            "strategy",
            default(
                described(json!({ "enum": ["rolling"] }), "A few instances at a time."),
                json!("rolling"),
            ),
        ),
        (
            "max_surge",
            default(
                described(count_or_percent(), "How many more than replicas may run meanwhile; rounded up."),
                json!("25%"),
            ),
        ),
        (
            "max_unavailable",
            default(
                described(count_or_percent(), "How many fewer may serve meanwhile; rounded down."),
                json!("25%"),
            ),
        ),
        (
            "batch",
            described(whole(1, MAX_REPLICAS), "Replace in groups of so many; without it, a continuous flow."),
        ),
        ("delay", time("A pause between groups.", defaults.delay_ms)),
        ("order", described(one_of::<Order>(), "Which of the two bounds is used when they are not written.")),
        (
            "bake_time",
            time("Watch the finished rollout this long before it counts as done.", defaults.bake_time_ms),
        ),
        ("min_healthy_time", time("Ready for this long counts as available.", defaults.min_healthy_time_ms)),
        (
            "healthy_deadline",
            time("An instance that is not ready by then has failed.", defaults.healthy_deadline_ms),
        ),
        (
            "progress_deadline",
            time("A rollout that gets no further for this long has failed.", defaults.progress_deadline_ms),
        ),
        (
            "on_failure",
            default(
                described(one_of::<OnFailure>(), "What a rollout does when its patience ends."),
                json!(defaults.on_failure),
            ),
        ),
        (
            "max_failures",
            default(described(count_or_percent(), "So many failed instances end the patience."), json!(1)),
        ),
        (
            "drain_timeout",
            time(
                "How long requests may take to finish before their instance is stopped.",
                defaults.drain_timeout_ms,
            ),
        ),
        ("stop_grace_period", time("From stop_signal to SIGKILL.", defaults.stop_grace_period_ms)),
        (
            "history_limit",
            default(
                described(whole(0, 10_000), "So many earlier revisions are kept to go back to."),
                json!(defaults.history_limit),
            ),
        ),
    ])
}

fn table(properties: Vec<(&str, Value)>) -> Value {
    let properties: Map<String, Value> =
        properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn put(schema: &mut Value, key: &str, value: Value) {
    if let Value::Object(schema) = schema {
        schema.insert(key.to_owned(), value);
    }
}

/// In draft 7 what stands beside a `$ref` is ignored: it gets a place of its own.
fn described(mut schema: Value, text: &str) -> Value {
    if schema.get("$ref").is_some() {
        schema = json!({ "allOf": [schema] });
    }
    put(&mut schema, "description", json!(text));
    schema
}

fn default(mut schema: Value, value: Value) -> Value {
    put(&mut schema, "default", value);
    schema
}

fn name() -> Value {
    json!({ "type": "string", "pattern": "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$" })
}

fn version() -> Value {
    json!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$" })
}

fn text() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

fn whole(least: u32, most: u32) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

fn command() -> Value {
    json!({ "type": "array", "minItems": 1, "items": { "type": "string" } })
}

fn count_or_percent() -> Value {
    json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+%?$" }] })
}

fn texts() -> Value {
    json!({ "type": "array", "items": text() })
}

fn texts_by_name(pattern: &str) -> Value {
    json!({ "type": "object", "propertyNames": { "pattern": pattern }, "additionalProperties": { "type": "string" } })
}

fn time(description: &str, default_ms: trundle_core::Millis) -> Value {
    // The empty text fits the pattern, and nothing that is shorter than a digit with a unit is a duration.
    let schema =
        json!({ "type": "string", "minLength": 2, "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$" });
    default(described(schema, description), json!(duration::text(default_ms)))
}

/// The words that a type knows. serde says them when it is given another: "unknown variant ``, expected `a` or `b`".
fn one_of<T: DeserializeOwned>() -> Value {
    let none: StrDeserializer<'_, ChoiceError> = "".into_deserializer();
    let said = T::deserialize(none).err().map(|error| error.to_string()).unwrap_or_default();
    let expected = said.split_once("expected").map_or("", |(_, words)| words);
    let words: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    json!({ "enum": words })
}

/// A number of bytes.
fn size(text: &str) -> Value {
    let size = json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": "^[0-9]+ ?([KMG]iB)?$" }] });
    described(size, text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::keys::KEYS;
    use super::*;

    /// The properties of a table, by the name that the reader's list has for it.
    fn properties(path: &str) -> Map<String, Value> {
        let document = document();
        let way = path.split('.').filter(|part| !part.is_empty());
        let table = way.fold(document.clone(), |schema, part| {
            let inner = schema["properties"][part].clone();
            if inner["allOf"][0]["$ref"] == "#/definitions/check" {
                document["definitions"]["check"].clone()
            } else if inner["type"] == "array" {
                inner["items"].clone() // a list of tables
            } else {
                inner
            }
        });
        assert_eq!(table["additionalProperties"], false, "{path}");
        table["properties"].as_object().unwrap_or_else(|| panic!("{path}")).clone()
    }

    #[test]
    fn the_keys_are_those_of_the_reader() {
        for (path, keys) in KEYS {
            let here = properties(path);
            let ours: BTreeSet<&str> = here.keys().map(String::as_str).collect();
            assert_eq!(ours, keys.iter().map(|(key, _)| *key).collect(), "[{path}]");
            for (key, schema) in &here {
                assert!(
                    schema["description"].as_str().is_some_and(|text| text.ends_with('.')),
                    "{path}.{key}"
                );
            }
        }
    }

    #[test]
    fn words_and_defaults_are_those_of_the_types() {
        let here = properties("rollout");
        assert_eq!(here["on_failure"]["enum"], json!(["pause", "rollback", "continue"]));
        assert_eq!(here["order"]["enum"], json!(["start-first", "stop-first"]));
        assert_eq!(here["progress_deadline"]["default"], "10m");
        assert_eq!(properties("run")["stop_signal"]["enum"].as_array().map(Vec::len), Some(7));
        assert_eq!(properties("health.live")["interval"]["default"], "1s");
    }
}
