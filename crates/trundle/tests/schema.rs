//! The JSON Schema: the one in `docs/` is current, all examples keep it, and a planted mistake breaks it as it breaks the
//! reader. What a value must be is checked here by a small reading of the schema's own words; an unknown word fails.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex_lite::Regex;
use serde_json::{Value, json};

const GOOD: &str = "name = \"web\"\nversion = \"3.1\"\n[run]\ncommand = [\"sh\"]\n[listen]\nhttp = \"127.0.0.1:8080\"\n[health.ready]\nhttp = \"/ready\"\n[rollout]\nbatch = 2\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn trundle(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_trundle")).args(arguments).current_dir(dir).output().unwrap();
    output.stdout
}

fn schema() -> Value {
    serde_json::from_slice(&trundle(&root(), &["schema"])).unwrap()
}

#[test]
fn the_file_in_docs_is_current() {
    let printed = String::from_utf8(trundle(&root(), &["schema"])).unwrap();
    let file = fs::read_to_string(root().join("docs/trundle.schema.json")).unwrap();
    assert!(printed == file, "write it anew: cargo run -- schema > docs/trundle.schema.json");
}

#[test]
fn what_init_writes_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    trundle(dir.path(), &["init"]);
    let text = fs::read_to_string(dir.path().join("trundle.toml")).unwrap();
    good(&schema(), &text, "the template");
    // With the keys that are commented out: each is in it.
    let whole: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key)
                if key.starts_with('[') && key.ends_with(']')
                    || key.contains(" = ") && !key.contains('`') =>
            {
                key
            }
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(whole, text);
    good(&schema(), &whole, "the whole template");
}

#[test]
fn every_example_keeps_it() {
    let whole = schema();
    let mut part = whole.clone();
    part.as_object_mut().unwrap().remove("required");
    part["properties"]["run"].as_object_mut().unwrap().remove("required");
    let mut seen = 0;
    let guide = fs::read_dir(root().join("docs/guide")).unwrap().map(|entry| entry.unwrap().path());
    for page in
        guide.chain([root().join("README.md")]).filter(|page| page.extension().is_some_and(|e| e == "md"))
    {
        for text in blocks(&fs::read_to_string(&page).unwrap()) {
            // Most of the guide shows one table.
            let schema = if text.contains("name = ") && text.contains("[run]") { &whole } else { &part };
            good(schema, &text, &page.display().to_string());
            seen += 1;
        }
    }
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            good(&whole, &fs::read_to_string(&path).unwrap(), &path.display().to_string());
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} examples were found");
}

/// The fenced blocks of TOML, without what they are indented by.
fn blocks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines().map(str::trim) {
        match &mut block {
            Some(lines) if line.starts_with("```") => {
                found.push(std::mem::take(lines));
                block = None;
            }
            Some(lines) => lines.extend([line, "\n"]),
            None if line == "```toml" => block = Some(String::new()),
            None => {}
        }
    }
    found
}

#[test]
fn a_planted_mistake_breaks_it_as_it_breaks_the_reader() {
    let schema = schema();
    good(&schema, GOOD, "the good one");
    assert!(reads(GOOD));
    for (from, to) in [
        ("name = \"web\"", "name = \"Web\""),
        ("name = \"web\"", "name = 1"),
        ("name = \"web\"\n", ""),
        ("\"3.1\"", "3.1"),
        ("\"3.1\"", "\"3 1\""),
        ("[run]", "replica = 2\n[run]"),
        ("[run]", "replicas = -1\n[run]"),
        ("[run]", "replicas = 1000001\n[run]"),
        ("[run]", "replicas = \"2\"\n[run]"),
        ("[\"sh\"]", "\"sh\""),
        ("[\"sh\"]", "[]"),
        ("[\"sh\"]", "[1]"),
        ("command", "comand"),
        ("[listen]", "stop_signal = \"TERM\"\n[listen]"),
        ("[listen]", "port = 0\n[listen]"),
        ("[listen]", "port = \"any\"\n[listen]"),
        ("[listen]", "env = { A = 1 }\n[listen]"),
        ("[listen]", "env = { 1A = \"x\" }\n[listen]"),
        ("[listen]", "env_file = \"\"\n[listen]"),
        ("127.0.0.1:8080", "localhost"),
        ("http = \"127.0.0.1:8080\"", "trusted_proxies = []"),
        ("\"/ready\"", "\"ready\""),
        ("\"/ready\"", "\"/ready\"\ntcp = true"),
        ("http = \"/ready\"", "rise = 1"),
        ("http = \"/ready\"", "tcp = false"),
        ("\"/ready\"", "\"/ready\"\nstatus = 20"),
        ("\"/ready\"", "\"/ready\"\nfall = 0"),
        ("\"/ready\"", "\"/ready\"\ntimeout = 1"),
        ("\"/ready\"", "\"/ready\"\ninterval = \"1 s\""),
        ("\"/ready\"", "\"/ready\"\ninterval = \"\""),
        ("health.ready", "health.read"),
        ("batch = 2", "batch = 0"),
        ("batch = 2", "strategy = \"canary\""),
        ("batch = 2", "order = \"first\""),
        ("batch = 2", "on_failure = \"stop\""),
        ("batch = 2", "max_surge = \"25 %\""),
        ("batch = 2", "max_failures = 0.5"),
        ("batch = 2", "delay = \"1m1h\""),
        ("batch = 2", "history_limit = 10001"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        assert!(!mistakes(&schema, &text).is_empty(), "the schema takes: {to}");
        assert!(!reads(&text), "the reader takes: {to}");
    }
    // And what the reader takes, the schema takes.
    for (from, to) in [
        (
            "batch = 2",
            "on_failure = \"continue\"\nhistory_limit = 0\nmax_surge = 0\nmax_unavailable = \"100%\"",
        ),
        ("batch = 2", "delay = \"0s\"\nbake_time = \"1h30m\"\nmin_healthy_time = \"1m1s1ms\""),
        ("[\"sh\"]", "[\"sh\", \"{port}\"]\nport = \"auto\"\nstop_signal = \"SIGKILL\"\nenv = { _A = \"\" }"),
        ("http = \"/ready\"", "exec = [\"true\"]\neager = false"),
        (
            "\"127.0.0.1:8080\"",
            "\"[::1]:8080\"\nversion_header = \"\"\ntrusted_proxies = [\"unix\", \"10.0.0.0/8\"]",
        ),
    ] {
        let text = GOOD.replacen(from, to, 1);
        good(&schema, &text, to);
        assert!(reads(&text), "{to}");
    }
}

fn reads(text: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("trundle.toml"), text).unwrap();
    let answer: Value = serde_json::from_slice(&trundle(dir.path(), &["validate", "--json"])).unwrap();
    answer["ok"].as_bool().unwrap()
}

fn good(schema: &Value, text: &str, what: &str) {
    let found = mistakes(schema, text);
    assert!(found.is_empty(), "{what}: {found:?}\n{text}");
}

fn mistakes(schema: &Value, text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut found = Vec::new();
    check(schema, schema, &as_json(toml::Value::Table(table)), "", &mut found);
    found
}

/// As language servers see it: to them a date is a text.
fn as_json(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(date) => json!(date.to_string()),
        toml::Value::Array(items) => items.into_iter().map(as_json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, as_json(value))).collect(),
        other => serde_json::to_value(other).unwrap(),
    }
}

/// Every mistake of `value`, by its path. `whole` is where definitions are.
fn check(whole: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let keeps = |schema: &Value| {
        let mut inner = Vec::new();
        check(whole, schema, value, path, &mut inner);
        inner.is_empty()
    };
    for (word, rule) in schema.as_object().unwrap() {
        let ok = match word.as_str() {
            "$schema" | "title" | "description" | "default" | "definitions" => true,
            // Looked at with the properties.
            "additionalProperties" => true,
            "$ref" => keeps(whole.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap()),
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_i64(),
                "number" => value.is_number(),
                "boolean" => value.is_boolean(),
                other => panic!("{other} is a type that is not known"),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "required" => {
                rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some())
            }
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| text.len() as u64 >= rule.as_u64().unwrap()),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "pattern" => {
                value.as_str().is_none_or(|text| Regex::new(rule.as_str().unwrap()).unwrap().is_match(text))
            }
            "propertyNames" => value.as_object().is_none_or(|entries| {
                let names = entries.keys().map(|key| json!(key));
                names.into_iter().all(|name| {
                    let mut inner = Vec::new();
                    check(whole, rule, &name, path, &mut inner);
                    inner.is_empty()
                })
            }),
            "anyOf" => rule.as_array().unwrap().iter().any(keeps),
            "allOf" => rule.as_array().unwrap().iter().all(keeps),
            "oneOf" => rule.as_array().unwrap().iter().filter(|one| keeps(one)).count() == 1,
            "items" => {
                value.as_array().into_iter().flatten().for_each(|item| check(whole, rule, item, path, found));
                true
            }
            "properties" => true,
            other => panic!("{other} is a word of the schema that this test does not know"),
        };
        if !ok {
            found.push(format!("{path}: {word} {rule}, found {value}"));
        }
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        match (schema["properties"].get(key), schema.get("additionalProperties")) {
            (Some(rule), _) => check(whole, rule, inner, &path, found),
            (None, Some(Value::Bool(false))) => found.push(format!("{path} is not known")),
            (None, Some(rule)) => check(whole, rule, inner, &path, found),
            (None, None) => {}
        }
    }
}
