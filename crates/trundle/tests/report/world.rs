//! A state directory whose journal tells of two rollouts: one that worked, and one whose first instance never became ready.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use trundle_core::decide::decide;
use trundle_core::event::{Action, Event, Evidence, Fact, ProbeEvidence, Requests};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::limits::CountOrPercent;
use trundle_core::revision::Template;
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_core::state::{AppState, DeployRequest, Request};
use trundle_engine::journal::{Entry, SqliteJournal, Store};

const BEGAN_WALL_MS: u64 = 1_763_892_000_000;

pub fn bad_rollout(dir: &Path) -> PathBuf {
    let state_dir = dir.join("state");
    fs::create_dir(&state_dir).unwrap();
    let mut world = World { entries: Vec::new(), now: 0, state: AppState::new(app()), counted: 0 };
    world.deploy("1", "10");
    world.settle(false);
    world.now += 10_000;
    world.deploy("2", "40");
    world.settle(true);
    let second = world.entries.iter().rfind(|e| is_roll(e)).unwrap().wall_ms;
    // The deadline passes; then somebody deploys a fix, which ends that one.
    world.now += 60_000;
    world.state.advance(world.now);
    world.settle(true);
    world.deploy("3", "12");
    SqliteJournal::open(&state_dir).unwrap().append(&world.entries).unwrap();
    samples(&state_dir, second);
    state_dir
}

fn app() -> AppName {
    "web".parse().unwrap()
}

fn is_roll(entry: &Entry) -> bool {
    matches!(&entry.event, Event::Commanded { command: trundle_core::event::Command::Roll { .. }, .. })
}

struct World {
    entries: Vec<Entry>,
    now: u64,
    state: AppState,
    counted: u64,
}

impl World {
    fn note(&mut self, event: Event) {
        self.now += 10;
        self.state.apply(self.now, &event);
        let n = self.entries.len() as u64 + 1;
        let wall_ms = BEGAN_WALL_MS + self.now;
        self.entries.push(Entry { n, epoch: 1, app: app(), at_ms: self.now, wall_ms, event });
    }

    fn see(&mut self, instance: InstanceKey, fact: Fact) {
        self.note(Event::Observed { instance, fact });
    }

    fn deploy(&mut self, version: &str, pool: &str) {
        let request = DeployRequest::new(template(version, pool), settings());
        for command in self.state.permit(&Request::Deploy(Box::new(request))).unwrap().commands {
            self.note(Event::Commanded { by: "ann<script>alert(4)</script>".into(), command });
        }
        self.count();
    }

    fn count(&mut self) {
        let requests = Requests { total: self.counted, ..Requests::default() };
        self.note(Event::Counted { requests: Box::new(requests) });
        self.counted += 7;
    }

    /// Decides until it is at rest. A sick one starts, and no more.
    fn settle(&mut self, sick: bool) {
        while let [action, ..] = decide(&self.state).actions.as_slice() {
            let action = action.clone();
            self.note(Event::Decided(action.clone()));
            match action {
                Action::Start { instance, .. } => {
                    let address = Some("127.0.0.1:1".into());
                    self.see(
                        instance,
                        Fact::Started { pid: 1, address, incarnation: instance.to_string().into() },
                    );
                    if !sick {
                        self.see(instance, Fact::Ready);
                        self.see(instance, Fact::Routed(true));
                    }
                }
                Action::Fail { instance, .. } => {
                    self.note(Event::Evidence { instance, evidence: Box::new(evidence()) })
                }
                Action::Conclude { .. } => self.count(),
                _ => {}
            }
        }
    }
}

fn evidence() -> Evidence {
    let probe = ProbeEvidence {
        request: "GET /ready".into(),
        status: Some(503),
        body: Some("<script>alert(2)</script>".into()),
        error: None,
    };
    let log = "\u{1b}[2J\u{202e}</pre></details><script>alert(1)</script><img src=x onerror=alert(1)>";
    Evidence { probe: Some(probe), logs: vec!["listening".into(), log.into()], base_shows_it_too: None }
}

/// As a proxy would have counted that was told a version of this name.
fn samples(state_dir: &Path, began_ms: u64) {
    let folder = state_dir.join("traffic/web");
    fs::create_dir_all(&folder).unwrap();
    let line = |n: u64| {
        let by_version = BTreeMap::from([("1", n * 100), ("<script>alert(3)</script>", n * n)]);
        let requests = serde_json::json!({ "total": n * 100 + n * n, "lost": n / 40, "crashed": 0, "cut": 0, "told": 0,
            "app_errors": 0, "at_ms": began_ms + n * 1000, "by_version": by_version });
        requests.to_string() + "\n"
    };
    let text: String = (0..60).map(line).collect();
    fs::write(folder.join("2.jsonl"), text + "{\"at_ms\":1,").unwrap();
}

fn settings() -> AppSettings {
    let listen = Listen::http("127.0.0.1:80");
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Count(1)),
        max_unavailable: Some(CountOrPercent::Count(0)),
        healthy_deadline_ms: 60_000,
        ..RolloutSettings::default()
    };
    AppSettings { replicas: 2, rollout, listen: Some(listen), fixed_port: false, gates: Vec::new() }
}

fn template(version: &str, pool: &str) -> Template {
    let mut template = Template::plain(version.parse().unwrap(), vec!["app".into()]);
    template.run.env.insert("DB_POOL".parse().unwrap(), pool.to_owned());
    template
}
