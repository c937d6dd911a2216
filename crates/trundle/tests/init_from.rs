//! `trundle init --from`: what is made of a Deployment, a compose file and a Procfile, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const DEPLOYMENT: &str = include_str!("init_from/deployment.yaml");
const COMPOSE: &str = include_str!("init_from/compose.yaml");
/// What is said of an image alone.
const IMAGE_ONLY: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  template:\n    spec:\n      containers: [{name: web, image: 'web:3.1', args: [--port, '8000'], ports: [{containerPort: 8000}]}]\n";

fn trundle(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trundle"));
    command.args(arguments).current_dir(dir).env("TRUNDLE_STATE_DIR", dir.join("state")).output().unwrap()
}

/// A folder with the file, and what came of reading it.
fn init(name: &str, text: &str, more: &[&str]) -> (TempDir, Output) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), text).unwrap();
    let arguments = [&["init", "--from", name], more].concat();
    let output = trundle(dir.path(), &arguments);
    (dir, output)
}

/// The written file, and its values.
fn written(name: &str, text: &str, more: &[&str]) -> (TempDir, String, toml::Table) {
    let (dir, output) = init(name, text, more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = fs::read_to_string(dir.path().join("trundle.toml")).unwrap();
    let values = file.parse().unwrap_or_else(|error| panic!("{error}\n{file}"));
    (dir, file, values)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn toml_of(text: &str) -> toml::Value {
    text.parse::<toml::Table>().unwrap()["x"].clone()
}

fn check(values: &toml::Table, expect: &[(&str, &str)]) {
    for (path, text) in expect {
        let found =
            path.split('.').try_fold(&toml::Value::Table(values.clone()), |at, key| at.get(key)).cloned();
        assert_eq!(found, Some(toml_of(&format!("x = {text}"))), "{path} in {values}");
    }
}

#[test]
fn a_deployment_keeps_its_floor_and_its_ceiling() {
    let (dir, _, values) = written("web.yaml", DEPLOYMENT, &[]);
    let expect = [
        ("name", "\"shop-web\""),
        ("version", "\"3.1\""),
        ("replicas", "8"),
        (
            "run.command",
            r#"["env", "HTTP_PORT={port}", "python3", "-m", "http.server", "--bind", "0.0.0.0:{port}", "--mode=fast", "{{x}}"]"#,
        ),
        ("run.env", r#"{ MODE = "fast", LEVEL = "info" }"#),
        ("run.secrets", r#"["DB"]"#),
        ("listen.http", "\"127.0.0.1:8000\""),
        (
            "health.startup",
            r#"{ exec = ["cat", "/tmp/x"], interval = "10s", timeout = "1s", rise = 1, fall = 60 }"#,
        ),
        (
            "health.ready",
            r#"{ http = "/ready", headers = { X-A = "b" }, interval = "2s", timeout = "1s", rise = 1, fall = 3 }"#,
        ),
        ("health.live", r#"{ grpc = "", interval = "10s", timeout = "1s", rise = 1, fall = 3 }"#),
        ("rollout.max_surge", "1"),
        ("rollout.max_unavailable", "1"),
        ("rollout.min_healthy_time", "\"5s\""),
        // The startup probe gives an instance ten minutes.
        ("rollout.healthy_deadline", "\"10m\""),
        ("rollout.history_limit", "3"),
        ("rollout.stop_grace_period", "\"45s\""),
    ];
    check(&values, &expect);
    let validated = trundle(dir.path(), &["validate"]);
    assert!(validated.status.success(), "{}", String::from_utf8_lossy(&validated.stderr));
    let plan = json(&trundle(dir.path(), &["plan", "--json"]));
    assert_eq!((&plan["floor"], &plan["ceiling"]), (&7.into(), &9.into()), "{plan}");
}

#[test]
fn what_is_not_taken_over_is_named_everywhere() {
    let (dir, output) = init("web.yaml", DEPLOYMENT, &["--json"]);
    let answer = json(&output);
    let file = fs::read_to_string(dir.path().join("trundle.toml")).unwrap();
    assert_eq!(answer["file"], dir.path().canonicalize().unwrap().join("trundle.toml").to_str().unwrap());
    let dropped = answer["dropped"].as_array().unwrap();
    let (_other, told) = init("web.yaml", DEPLOYMENT, &[]);
    let told = String::from_utf8(told.stderr).unwrap();
    for entry in dropped {
        let line = format!("- {}: {}", entry["what"].as_str().unwrap(), entry["why"].as_str().unwrap());
        assert!(file.contains(&format!("\n# {line}\n")), "{line} in {file}");
        assert!(told.contains(&line), "{line} in {told}");
    }
    for part in [
        "preStop",
        "resources",
        "volumes",
        "volumeMounts",
        "affinity",
        "initContainer migrate",
        "container sidecar",
        "readinessProbe.initialDelaySeconds",
        "readinessProbe.httpGet.scheme",
        "env POD",
        "HorizontalPodAutoscaler web",
        "metadata.namespace",
        "annotations of the pods",
    ] {
        assert!(dropped.iter().any(|entry| entry["what"] == part), "{part} in {dropped:?}");
    }
    let kept = answer["kept"].as_array().unwrap();
    for part in ["spec.replicas", "Service web", "ConfigMap conf", "readinessProbe", "env PORT", "secret DB"]
    {
        assert!(
            kept.iter().any(|entry| entry["what"] == part && entry["as"].is_string()),
            "{part} in {kept:?}"
        );
    }
}

#[test]
fn the_defaults_of_kubernetes_are_written_and_the_command_is_asked_for() {
    let (dir, file, values) = written("web.yaml", IMAGE_ONLY, &[]);
    let expect = [
        ("replicas", "1"),
        ("rollout.max_surge", "\"25%\""),
        ("rollout.max_unavailable", "\"25%\""),
        ("rollout.stop_grace_period", "\"30s\""),
        ("run.command", r#"["TODO-write-your-command", "--port", "{port}"]"#),
    ];
    check(&values, &expect);
    let output = trundle(dir.path(), &["validate", "--json"]);
    let problems = json(&output)["problems"].as_array().unwrap().clone();
    let line = file.lines().position(|line| line.starts_with("command = ")).unwrap() + 1;
    assert_eq!(
        (problems.len(), &problems[0]["line"], &problems[0]["key"]),
        (1, &line.into(), &"run.command".into())
    );
    assert!(file.lines().nth(line - 2).unwrap().starts_with("# TODO: "), "{file}");
}

#[test]
fn what_says_nothing_is_not_named() {
    let text = IMAGE_ONLY.replace("args:", "resources: {}, lifecycle: null, volumeMounts: [], args:");
    let (_dir, file, _) = written("web.yaml", &text, &[]);
    assert!(["resources", "lifecycle", "volumeMounts"].iter().all(|part| !file.contains(part)), "{file}");
}

#[test]
fn recreate_is_said_in_our_words() {
    let text = IMAGE_ONLY.replace("spec:\n  template", "spec:\n  strategy: {type: Recreate}\n  template");
    let (_dir, file, values) = written("web.yaml", &text, &[]);
    check(&values, &[("rollout.max_surge", "0"), ("rollout.max_unavailable", "\"100%\"")]);
    assert!(file.contains("# - strategy Recreate: "), "{file}");
}

#[test]
fn a_value_of_a_secret_is_never_written() {
    let from = "envFrom: [{secretRef: {name: s}}, {configMapRef: {name: gone}}], ports";
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {TOKEN: canary}\n";
    let text = format!("{}{secret}", IMAGE_ONLY.replace("ports", from));
    let (_dir, file, values) = written("web.yaml", &text, &[]);
    check(&values, &[("run.secrets", "[\"TOKEN\"]")]);
    assert!(!file.contains("canary") && file.contains("envFrom ConfigMap gone"), "{file}");
}

#[test]
fn of_several_deployments_one_is_chosen() {
    let text = format!("{IMAGE_ONLY}---\n{}", IMAGE_ONLY.replace("name: web", "name: worker"));
    let (_dir, file, values) = written("all.yaml", &text, &[]);
    check(&values, &[("name", "\"web\"")]);
    assert!(file.contains("# - Deployment worker: "), "{file}");
    let (_dir, _, values) = written("all.yaml", &text, &["--process", "worker"]);
    check(&values, &[("name", "\"worker\"")]);
    refused("all.yaml", &text, &["--process", "no"], "there are: web, worker");
}

#[test]
fn a_service_of_a_compose_file_keeps_its_update_rules() {
    let (dir, file, values) = written("compose.yaml", COMPOSE, &[]);
    let expect = [
        ("name", "\"api\""),
        ("version", "\"2.4\""),
        ("replicas", "6"),
        ("run.env", r#"{ LOG = "info", DEBUG = "false", MODE = "fast" }"#),
        ("run.secrets", r#"["API_KEY", "TOKEN"]"#),
        ("run.env_file", "\"prod.env\""),
        ("run.stop_signal", "\"SIGINT\""),
        (
            "run.command",
            r#"["env", "ADDR=0.0.0.0:{port}", "sh", "-c", "exec ./api --port {port} --db {DB_HOST}"]"#,
        ),
        ("listen.http", "\"127.0.0.1:8080\""),
        ("health.ready", r#"{ http = "/health", interval = "10s", timeout = "2s", fall = 5 }"#),
        ("rollout.batch", "2"),
        ("rollout.delay", "\"5s\""),
        ("rollout.order", "\"start-first\""),
        ("rollout.on_failure", "\"continue\""),
        ("rollout.min_healthy_time", "\"20s\""),
        ("rollout.max_failures", "\"25%\""),
        ("rollout.stop_grace_period", "\"90s\""),
    ];
    check(&values, &expect);
    for part in [
        "service db",
        "volumes",
        "build",
        "depends_on",
        "deploy.rollback_config",
        "deploy.resources",
        "env_file common.env",
        "environment WHERE",
        "healthcheck.start_period",
        "port 9090:9090",
    ] {
        assert!(file.contains(&format!("# - {part}: ")), "{part} in {file}");
    }
    // What only compose knew must be written by a person: validate names it.
    fs::write(dir.path().join("prod.env"), "").unwrap();
    let problems = json(&trundle(dir.path(), &["validate", "--json"]));
    let problems = problems["problems"].as_array().unwrap();
    assert_eq!((problems.len(), &problems[0]["message"]), (1, &"unknown placeholder {DB_HOST}".into()));
    refused("compose.yaml", COMPOSE, &["--service", "no"], "there are: db, api");
}

#[test]
fn what_would_be_refused_later_is_named_at_once() {
    let text = COMPOSE.replace("SIGINT", "SIGWINCH").replace("entrypoint: [\"sh\"]", "entrypoint: ['']");
    let (_dir, file, values) = written("compose.yaml", &text, &[]);
    assert!(
        file.contains("# - stop_signal SIGWINCH: ")
            && !values["run"].as_table().unwrap().contains_key("stop_signal")
    );
    assert!(file.contains("command = [\"TODO-write-your-command\""), "{file}");
    let text = DEPLOYMENT.replace("{name: X-A, value: b}", "{name: 'X A', value: b}");
    let (_dir, file, _) = written("web.yaml", &text, &[]);
    assert!(
        file.contains("# - readinessProbe.httpGet header X A: ") && !file.contains("headers ="),
        "{file}"
    );
}

#[test]
fn a_procfile_gives_its_web_process_or_the_one_that_is_named() {
    let text = "# all\nweb: LOG=info ./server --port $PORT\nworker: ./work && ./rest\nrelease: ./migrate\n";
    let (_dir, file, values) = written("Procfile", text, &[]);
    check(
        &values,
        &[
            ("run.command", r#"["./server", "--port", "{port}"]"#),
            ("run.env.LOG", "\"info\""),
            ("listen.http", "\"127.0.0.1:8080\""),
        ],
    );
    assert!(file.contains("# - process worker: ") && file.contains("# - process release: "), "{file}");
    let (dir, _, values) = written("Procfile", text, &["--process", "worker"]);
    check(
        &values,
        &[("run.command", r#"["sh", "-c", "./work && ./rest"]"#), ("health.ready.exec", "[\"true\"]")],
    );
    assert!(!values.contains_key("listen"));
    let validated = trundle(dir.path(), &["validate"]);
    assert!(validated.status.success(), "{}", String::from_utf8_lossy(&validated.stderr));
    // Told by its content where the name says nothing.
    written("processes.txt", text, &[]);
    refused("Procfile", text, &["--process", "no"], "there are: web, worker, release");
    refused("Procfile", "web ./server\n", &[], "each line is TYPE: COMMAND");
}

#[test]
fn a_file_that_is_there_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Procfile"), "web: ./server\n").unwrap();
    fs::write(dir.path().join("trundle.toml"), "mine").unwrap();
    let output = trundle(dir.path(), &["init", "--from", "Procfile"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("was not touched"));
    assert_eq!(fs::read_to_string(dir.path().join("trundle.toml")).unwrap(), "mine");
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    refused("a.yaml", "services:\n  a: [1, 2\n  b: 3\n", &[], "a.yaml:3: this is not YAML");
    refused("a.yaml", "just: one\nlist: [1]\n", &[], "it is not known what this is");
    refused(
        "a.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n",
        &[],
        "there is no Deployment in it, only: Service s",
    );
    refused(
        "a.yaml",
        &IMAGE_ONLY.replace("spec:\n  t", "spec:\n  replicas: eight\n  t"),
        &[],
        "replicas is eight: not a whole number",
    );
    refused("a.yaml", &"a: b\n".repeat(300_000), &[], "is larger than 1024 KiB");
    refused("no.yaml/", "", &[], "");
    let mut bomb = "services: {a: {image: x}}\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", ")));
    }
    refused("bomb.yaml", &bomb, &[], "this is not YAML that can be read");
    // A terminal is not given what the file says it should obey.
    let (_dir, output) =
        init("a.yaml", "apiVersion: v1\nkind: \"\\e[31mX\"\nmetadata: {name: \"\\a\"}\n", &[]);
    assert!(!output.stderr.contains(&0x1b) && !output.stderr.contains(&7));
}

fn refused(name: &str, text: &str, more: &[&str], expect: &str) {
    let name = name.trim_end_matches('/');
    let (dir, output) = if text.is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let output = trundle(dir.path(), &["init", "--from", name]);
        (dir, output)
    } else {
        init(name, text, more)
    };
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.starts_with("error: ") && told.contains(expect), "{expect} in {told}");
    assert!(!dir.path().join("trundle.toml").exists());
}
