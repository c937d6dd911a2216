//! Scenarios: an app, then what happens, a line each. Every counterexample that was ever found stays here and must pass.

use std::path::Path;

use crate::app::App;
use crate::fair;
use crate::happening::Happening;
use crate::node::Node;
use crate::sometimes::Sometimes;

/// Plays one; afterwards a fair world ends it.
fn play(text: &str) -> Result<(), String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let app: App = lines.next().ok_or("the first line is the app")?.parse()?;
    let mut reached = Sometimes::default();
    let mut node = Node::first(&app).map_err(|b| b.0)?;
    for line in lines {
        let happening: Happening = line.parse()?;
        let after = node.after(&app, happening, &mut reached).map_err(|b| format!("{line}: {}", b.0))?;
        node = after.ok_or_else(|| format!("{line}: it cannot happen here, or changes nothing"))?;
    }
    fair::ends(&app, &node, &mut reached).map_err(|b| format!("in a fair world: {}", b.0))
}

#[test]
fn what_was_found_once_stays_away() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/replays");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        play(&text).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    }
}

#[test]
fn a_scenario_that_cannot_be_played_says_where() {
    let says = |text: &str| play(text).unwrap_err();
    assert!(says("replicas=1 surge=1\nresume").contains("resume: it cannot happen here"));
    assert!(says("replicas=1 surge=1\n1-1 asleep").contains("is no line of a scenario"));
    assert!(says("# nothing").contains("the first line is the app"));
}
