//! Scenarios as text: what is set up and done above the line, what comes of it below. `UPDATE=1` writes what comes of it now.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use trundle_core::Millis;
use trundle_core::limits::{CountOrPercent, Order};
use trundle_core::settings::{AppSettings, Listen, OnFailure, RolloutSettings};
use trundle_core::state::Request;
use trundle_sim::{Disk, Fate, Setup, Sim, Spread, Trace};

const LINE: &str = "---";

#[test]
fn every_scenario_comes_to_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 10, "{names:?}");
    let mut wrong = Vec::new();
    for path in &names {
        let text = fs::read_to_string(path).unwrap();
        let (asked, expected) = text.split_once(LINE).unwrap_or((&text, ""));
        let came = play(asked);
        if std::env::var("UPDATE").is_ok() {
            fs::write(path, format!("{}{LINE}\n{came}\n", asked)).unwrap();
        } else if came.trim() != expected.trim() {
            wrong.push(format!("{}:\n{came}\n\ninstead of\n{}", path.display(), expected.trim()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What is said in the upper part, line by line.
struct Script {
    setup: Setup,
    /// (revision, which start of it, fate)
    fates: Vec<(u32, u32, Fate)>,
    /// (seconds after the first version is up, command)
    acts: Vec<(Millis, String)>,
}

fn play(text: &str) -> String {
    let script = read(text);
    let (start, fates) = (script.setup.start, script.fates);
    let fate =
        move |revision: u32, nth: u32| fates.iter().find(|f| (f.0, f.1) == (revision, nth)).map(|f| f.2);
    let mut sim = Sim::with_fates(
        script.setup,
        Disk::default(),
        Box::new(move |key, nth, dice| fate(key.revision.0, nth).unwrap_or(Fate::Ready(start.draw(dice)))),
    );
    sim.start_daemon().unwrap();
    sim.deploy("1").unwrap().unwrap();
    assert!(sim.run(100_000));
    sim.reset_marks();
    let began = sim.now();
    let trace = Trace::of(&mut sim);
    for (after, act) in script.acts {
        let at = began + after;
        while sim.next_at().is_some_and(|next| next <= at) {
            sim.step();
        }
        sim.wait_until(at);
        do_it(&mut sim, &act);
    }
    assert!(sim.run(100_000), "it does not come to its end");
    let outcome = sim.outcome().unwrap();
    let mut lines = trace.lines_since(began);
    let mix: Vec<_> = outcome.peak_mix.iter().map(|(version, n)| format!("{n} × {version}")).collect();
    lines.push(format!(
        "{:?}: available never below {}, never more than {} alive, peak mix {}",
        outcome.state,
        outcome.lowest_available,
        outcome.highest_total,
        mix.join(" + ")
    ));
    lines.join("\n")
}

fn do_it(sim: &mut Sim, act: &str) {
    let mut words = act.split_whitespace();
    let (verb, object) = (words.next().unwrap(), words.next());
    let request = match (verb, object) {
        ("deploy", Some(version)) => {
            sim.deploy(version).unwrap().unwrap();
            return;
        }
        ("kill", Some(instance)) => {
            let key = instance.parse().unwrap();
            sim.world.borrow_mut().kill(key);
            return;
        }
        ("pause", None) => Request::Pause,
        ("resume", None) => Request::Resume,
        ("abort", None) => Request::Abort,
        ("rollback", None) => Request::Rollback(None),
        ("scale", Some(n)) => Request::Scale(n.parse().unwrap()),
        ("retry", Some(instance)) => Request::Retry(instance.parse().unwrap()),
        ("skip", Some(instance)) => Request::Skip(instance.parse().unwrap()),
        _ => panic!("nobody knows how to «{act}»"),
    };
    sim.ask(request).unwrap();
}

fn read(text: &str) -> Script {
    let rollout = RolloutSettings::default();
    let listen = Listen::http("127.0.0.1:1");
    let mut settings =
        AppSettings { replicas: 1, rollout, listen: Some(listen), fixed_port: false, gates: Vec::new() };
    let mut script = Script { setup: Setup::new(settings.clone()), fates: Vec::new(), acts: Vec::new() };
    script.setup.stop = Spread::Always(0);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let count = || value.parse::<CountOrPercent>().unwrap();
        let time = || value.parse::<Spread>().unwrap();
        match key {
            "replicas" => settings.replicas = value.parse().unwrap(),
            "surge" => settings.rollout.max_surge = Some(count()),
            "unavailable" => settings.rollout.max_unavailable = Some(count()),
            "batch" => settings.rollout.batch = Some(value.parse().unwrap()),
            "delay" => settings.rollout.delay_ms = time().mean(),
            "order" if value == "stop-first" => settings.rollout.order = Some(Order::StopFirst),
            "order" => settings.rollout.order = Some(Order::StartFirst),
            "fixed-port" => settings.fixed_port = true,
            "on-failure" if value == "rollback" => settings.rollout.on_failure = OnFailure::Rollback,
            "on-failure" if value == "continue" => settings.rollout.on_failure = OnFailure::Continue,
            "max-failures" => settings.rollout.max_failures = count(),
            "healthy-deadline" => settings.rollout.healthy_deadline_ms = time().mean(),
            "start" => script.setup.start = time(),
            "stop" => script.setup.stop = time(),
            "drain" => script.setup.drain = time(),
            // `fail 2 3 never`: the third start of revision 2 is never ready.
            "fail" => {
                let words: Vec<_> = value.split_whitespace().collect();
                let [revision, nth, how] = words[..] else { panic!("{line}") };
                let fate = if how == "never" {
                    Fate::Never
                } else {
                    Fate::Exits(how.parse::<Spread>().unwrap().mean())
                };
                script.fates.push((revision.parse().unwrap(), nth.parse().unwrap(), fate));
            }
            "at" => {
                let (after, act) = value.split_once(' ').unwrap();
                script.acts.push((after.parse::<Spread>().unwrap().mean(), act.to_owned()));
            }
            _ => panic!("nobody knows what «{line}» means"),
        }
    }
    assert_eq!(settings.problems(), []);
    script.setup.settings = settings;
    script
}
