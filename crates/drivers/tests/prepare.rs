//! From a draft to a template: what is kept, what is hidden, and what is refused under which key.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use trundle_core::revision::{Check, Health, HttpProbe, Port, Probe, Protocol, StopSignal};
use trundle_drivers::{Draft, DraftArtifact, Secret, prepare};

fn draft(cwd: &Path) -> Draft {
    Draft {
        version: "3.2".parse().unwrap(),
        command: vec!["sh".into(), "run.sh".into(), "{port}".into()],
        cwd: cwd.to_owned(),
        env: [("A".parse().unwrap(), "plain".into()), ("S".parse().unwrap(), "shadowed".into())].into(),
        env_file: Some(
            [("A".parse().unwrap(), "file".into()), ("B".parse().unwrap(), "canary".into())].into(),
        ),
        secrets: [("S".parse().unwrap(), Secret::new("canary".into()))].into(),
        artifact: None,
        stop_signal: StopSignal::Term,
        quiet: None,
        user: None,
        limits: trundle_core::revision::RunLimits::default(),
        protocol: Protocol::Http1,
        port: Port::Auto,
        health: Health { startup: None, ready: Check::new(Probe::Tcp), live: None, ready_assumed: true },
        compatible_with: None,
    }
}

#[test]
fn the_same_draft_gives_the_same_template_without_a_hidden_value() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("run.sh"), "exit 0").unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let template = prepare(&state, draft(dir.path())).unwrap();
    assert_eq!(prepare(&state, draft(dir.path())).unwrap(), template);
    let text = serde_json::to_string(&template).unwrap();
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(template.run.bytes.len(), 2, "the shell and the script");
    let keys: Vec<_> = template.run.sealed.unwrap().keys.into_keys().map(String::from).collect();
    assert_eq!(keys, ["B", "S"]);
    assert_eq!(template.run.env.into_values().collect::<Vec<_>>(), ["plain"]);
    std::fs::write(dir.path().join("run.sh"), "exit 1").unwrap();
    assert_ne!(prepare(&state, draft(dir.path())).unwrap().run.bytes, template.run.bytes);
}

#[test]
fn every_trouble_names_its_key() {
    let http = |path: &str| {
        Probe::Http(HttpProbe { path: path.into(), status: None, body: None, headers: BTreeMap::new() })
    };
    type Spoil = Box<dyn Fn(&mut Draft)>;
    let cases: [(&str, &str, Spoil); 7] = [
        ("run.command", "no program nope", Box::new(|d| d.command = vec!["nope".into()])),
        ("run.command", "{prot}", Box::new(|d| d.command.push("{prot}".into()))),
        ("run.command", "empty", Box::new(|d| d.command.clear())),
        ("run.cwd", "is not there", Box::new(|d| d.cwd = "/no/such".into())),
        ("run.env", "NUL", Box::new(|d| drop(d.env.insert("Z".parse().unwrap(), "a\0b".into())))),
        ("health.ready", "path", Box::new(move |d| d.health.ready.probe = http("a b"))),
        (
            "run.artifact",
            "does not name it",
            Box::new(|d| {
                let path = d.cwd.join("other.jar");
                std::fs::write(&path, "x").unwrap();
                d.artifact = Some(DraftArtifact { path, as_written: "other.jar".into() });
            }),
        ),
    ];
    for (key, text, spoil) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut draft = draft(dir.path());
        spoil(&mut draft);
        let error = prepare(&dir.path().join("state"), draft).unwrap_err();
        assert_eq!((error.key(), error.to_string().contains(text)), (key, true), "{error}");
    }
}
