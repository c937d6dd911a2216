//! The views over a small journal that is written here record by record.

use trundle_core::decide::decide;
use trundle_core::event::{
    Action, DrainProof, Event, Evidence, Exit, Fact, FailureCause, Outcome, PauseCause, RefusalCode, Requests,
};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::limits::CountOrPercent;
use trundle_core::revision::Template;
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_core::state::{DeployRequest, Request};

use super::*;
use crate::engine::fold_all;
use crate::journal::Entry;

struct World {
    entries: Vec<Entry>,
    now: Millis,
    settings: AppSettings,
    /// None: the router cannot be asked.
    counted: Option<u64>,
    /// Instances of this version start and stay unready.
    sick: Option<&'static str>,
}

fn name() -> AppName {
    "web".parse().unwrap()
}

fn web() -> World {
    let listen = Listen::http("127.0.0.1:80");
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Count(1)),
        max_unavailable: Some(CountOrPercent::Count(0)),
        healthy_deadline_ms: 60_000,
        ..RolloutSettings::default()
    };
    let settings =
        AppSettings { replicas: 2, rollout, listen: Some(listen), fixed_port: false, gates: Vec::new() };
    World { entries: Vec::new(), now: 0, settings, counted: Some(0), sick: None }
}

fn worker() -> World {
    let mut world = web();
    world.settings.listen = None;
    world
}

fn template(version: &str) -> Template {
    Template::plain(version.parse().unwrap(), vec!["app".into()])
}

impl World {
    fn app(&self) -> App {
        fold_all(&self.entries).remove(&name()).unwrap()
    }

    fn note(&mut self, event: Event) {
        self.now += 10;
        let n = self.entries.len() as u64 + 1;
        self.entries.push(Entry { n, epoch: 1, app: name(), at_ms: self.now, wall_ms: self.now, event });
    }

    fn see(&mut self, instance: InstanceKey, fact: Fact) {
        self.note(Event::Observed { instance, fact });
    }

    /// As the engine does: a rollout is counted as it begins and as it ends.
    fn count(&mut self) {
        if let Some(total) = self.counted {
            self.note(Event::Counted { requests: Box::new(Requests { total, ..Requests::default() }) });
        }
    }

    fn ask(&mut self, request: Request) {
        let state = match self.entries.is_empty() {
            true => AppState::new(name()),
            false => self.app().state,
        };
        for command in state.permit(&request).unwrap().commands {
            let rolls = matches!(command, trundle_core::event::Command::Roll { .. });
            self.note(Event::Commanded { by: "ann".into(), command });
            if rolls {
                self.count();
            }
        }
        self.settle();
    }

    fn deploy(&mut self, version: &str) {
        let settings = self.settings.clone();
        let deploy = DeployRequest::new(template(version), settings);
        self.ask(Request::Deploy(Box::new(deploy)));
    }

    /// Decides until it is at rest; everything works but what is sick.
    fn settle(&mut self) {
        for _ in 0..100 {
            let actions = decide(&self.app().state).actions;
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.note(Event::Decided(action.clone()));
                match action {
                    Action::Start { instance, .. } => self.started(instance),
                    Action::Drain { instance, .. } => {
                        self.see(instance, Fact::Drained { proof: DrainProof::Proven });
                    }
                    Action::Stop { instance, .. } => self.see(instance, Fact::Gone),
                    Action::Conclude { .. } => self.count(),
                    _ => {}
                }
            }
        }
        panic!("it never rests");
    }

    fn started(&mut self, instance: InstanceKey) {
        let address = Some("127.0.0.1:1".into());
        self.see(instance, Fact::Started { pid: 1, address, incarnation: instance.to_string().into() });
        let version = self.app().state.version_of(instance.revision);
        if self.sick != Some(version.as_str()) {
            self.see(instance, Fact::Ready);
            self.see(instance, Fact::Routed(true));
        }
    }

    fn status(&self) -> Status {
        status(&self.app(), &self.traffic(), AsOf::LastRecord, |ms| ms.to_string())
    }

    fn traffic(&self) -> Traffic {
        let requests = self.counted.map(|total| Requests { total, ..Requests::default() });
        Traffic { requests, ..Traffic::default() }
    }

    fn rows(&self) -> Vec<HistoryRow> {
        history(&self.app(), &self.traffic(), AsOf::LastRecord, |ms| ms.to_string()).rollouts
    }

    fn last_line(&self, kind: &str) -> String {
        let app = self.app();
        let mut lines = self.entries.iter().filter_map(|e| line(e, &app, |ms| ms.to_string()));
        lines.rfind(|l| l.kind == kind).unwrap().text
    }
}

fn total(status: &Status) -> Option<u64> {
    status.requests.as_ref().map(|r| r.total)
}

#[test]
fn requests_are_those_since_the_beginning() {
    let mut world = web();
    world.deploy("1");
    assert_eq!(total(&world.status()), Some(0), "an app's first begins at nothing");
    world.counted = Some(100);
    world.sick = Some("2");
    world.deploy("2");
    world.counted = Some(130);
    assert_eq!(total(&world.status()), Some(30));
    world.counted = None;
    assert_eq!(total(&world.status()), None, "nobody can tell now");
}

#[test]
fn a_beginning_that_was_not_counted_gives_no_count() {
    let mut world = web();
    world.deploy("1");
    world.counted = None;
    world.sick = Some("2");
    world.deploy("2");
    world.counted = Some(1_000);
    assert_eq!(total(&world.status()), None, "not those of the app's life");
}

#[test]
fn counts_that_began_anew_in_between_are_no_counts() {
    let mut world = web();
    world.deploy("1");
    world.counted = Some(100);
    world.sick = Some("2");
    world.deploy("2");
    world.counted = Some(30);
    assert_eq!(total(&world.status()), None);
}

#[test]
fn a_superseded_rollout_ends_as_the_next_begins() {
    let mut world = web();
    world.deploy("1");
    world.counted = Some(100);
    world.sick = Some("2");
    world.deploy("2");
    world.counted = Some(150);
    world.deploy("3");
    world.counted = Some(900);
    let of = |row: &HistoryRow| row.requests.as_ref().map(|r| r.total);
    let rows = world.rows();
    assert_eq!(rows[1].state, "superseded");
    assert_eq!(of(&rows[1]), Some(50), "later ones are not its");
}

#[test]
fn a_worker_has_no_requests() {
    let mut world = worker();
    world.deploy("1");
    world.deploy("2");
    assert_eq!(total(&world.status()), None);
}

#[test]
fn time_goes_on_while_a_daemon_watches_and_only_then() {
    let mut world = web();
    world.deploy("1");
    world.sick = Some("2");
    world.deploy("2");
    let left = |status: &Status| -> u64 {
        status.reasons.iter().find(|r| r["code"] == "starting").unwrap()["left_ms"].as_u64().unwrap()
    };
    let at = |as_of| status(&world.app(), &Traffic::default(), as_of, |ms| ms.to_string());
    let (then, later) =
        (at(AsOf::LastRecord), at(AsOf::Now { watched_ms: world.now + 7_000, wall_ms: 99_000 }));
    assert_eq!(left(&then) - left(&later), 7_000);
    let took = |status: &Status| status.rollout.as_ref().unwrap().duration_ms;
    assert_eq!(took(&later) - took(&then), 7_000);
    assert_eq!(then.as_of, Some(world.now.to_string()), "that of the last record");
    assert_eq!(later.as_of.as_deref(), Some("99000"));
    let same =
        |a: &Status, b: &Status| serde_json::to_string(a).unwrap() == serde_json::to_string(b).unwrap();
    assert!(!same(&then, &later) && same(&then.still(), &later.still()), "but nothing happened");
    assert!(later.is_timed());
    world.sick = None;
    world.deploy("3");
    assert!(!world.status().is_timed());
    assert!(!same(&then.still(), &world.status().still()));
}

#[test]
fn the_lowest_counts_only_where_there_was_something_to_keep() {
    let mut world = web();
    world.deploy("1");
    assert_eq!(world.status().lowest_available, None, "an app's first");
    world.deploy("2");
    assert_eq!((world.status().lowest_available, world.status().highest_total), (Some(2), Some(3)));
    world.ask(Request::Scale(5));
    let (status, rows) = (world.status(), world.rows());
    assert_eq!((status.floor, status.lowest_floor, status.highest_ceiling), (5, Some(2), Some(3)), "of then");
    assert_eq!((rows[1].lowest_floor, rows[1].highest_ceiling), (Some(2), Some(3)));
    assert_eq!(rows[0].lowest_floor, None);
    world.ask(Request::Scale(2));
    world.ask(Request::Down);
    world.sick = Some("3");
    world.deploy("3");
    assert_eq!(world.status().lowest_available, None, "after down");
    world.deploy("4");
    assert_eq!(
        world.status().lowest_available,
        None,
        "the one that took over from it began with nothing too"
    );
    assert_eq!(world.rows().last().unwrap().highest_total, None);
    world.deploy("5");
    assert_eq!(world.status().lowest_available, Some(2));
}

#[test]
fn only_what_would_do_something_is_allowed() {
    let mut world = web();
    world.sick = Some("1");
    world.deploy("1");
    assert_eq!(world.status().allowed, ["pause"], "there is nothing to go back to");
    let mut world = web();
    world.deploy("1");
    assert!(world.status().allowed.is_empty(), "{:?}", world.status().allowed);
    world.sick = Some("2");
    world.deploy("2");
    assert_eq!(world.status().allowed, ["pause", "abort", "rollback"]);
    world.note(Event::Decided(Action::PauseRollout { cause: PauseCause::Person { by: "ann".into() } }));
    assert_eq!(world.status().allowed, ["resume", "abort", "rollback"]);
}

#[test]
fn after_a_way_back_that_failed_no_rollback_is_allowed_if_there_is_nowhere_to_go() {
    let mut world = web();
    world.deploy("1");
    world.sick = Some("2");
    world.deploy("2");
    world.ask(Request::Abort);
    world.deploy("2");
    let to = world.app().state.base().unwrap();
    let cause = PauseCause::Failures { failures: 1, max_failures: 1 };
    world.note(Event::Decided(Action::TurnBack { to, cause }));
    world.note(Event::Decided(Action::Conclude { outcome: Outcome::Failed, cause: None }));
    assert_eq!(world.status().rollout.unwrap().state, "failed");
    assert_eq!(world.status().allowed, Vec::<String>::new());
}

#[test]
fn one_that_takes_the_place_of_a_dead_one_is_told_as_that() {
    let mut world = web();
    world.deploy("1");
    assert_eq!(world.last_line("start"), "starts web-1-2 (1)");
    let dead = world.app().state.instances().next().unwrap().key();
    world.see(dead, Fact::Exited(Exit { code: None, signal: Some(9) }));
    world.settle();
    assert!(
        world.last_line("start").ends_with(" (1) in place of one that died"),
        "{}",
        world.last_line("start")
    );
    world.ask(Request::Scale(3));
    assert!(world.last_line("start").ends_with(" (1)"), "{}", world.last_line("start"));
    assert_eq!(world.last_line("configured"), "3 replicas");
    world.ask(Request::Scale(1));
    assert_eq!(world.last_line("configured"), "1 replica");
}

#[test]
fn a_start_that_was_refused_is_told_as_that() {
    let text = "/srv/app was changed since it was deployed".to_owned();
    let cause = FailureCause::Refused { code: RefusalCode::ArtifactChanged, text };
    let told = failure::cause_line(&cause, &Evidence::default());
    assert_eq!(told, "could not start: /srv/app was changed since it was deployed");
}

#[test]
fn a_timeline_has_each_instance_with_its_stages_and_each_decision_with_its_why() {
    let mut world = web();
    world.deploy("1");
    world.settings.rollout.min_healthy_time_ms = 5;
    world.now += 60_000;
    world.deploy("2");
    // Long after: no part of it.
    world.now += 60_000;
    world.ask(Request::Scale(3));
    let of = |rollout| {
        timeline(&world.entries, &world.app(), RolloutId(rollout), None, |ms| ms.to_string()).unwrap()
    };
    let shown = of(2);
    assert!(timeline(&world.entries, &world.app(), RolloutId(3), None, |ms| ms.to_string()).is_none());
    let began = |stage: Stage, life: &Life| life.stays.iter().any(|stay| stay.stage == stage);
    let names: Vec<_> = shown.lives.iter().map(|life| life.name.as_str()).collect();
    assert_eq!(names, ["web-1-1", "web-1-2", "web-2-1", "web-2-2"], "oldest first, and none of later");
    let stages: Vec<_> = shown.lives[2].stays.iter().map(|stay| stay.stage).collect();
    assert_eq!(
        stages,
        [Stage::Starting, Stage::Maturing, Stage::Available],
        "by time alone it becomes available"
    );
    assert!(began(Stage::Draining, &shown.lives[0]) && began(Stage::Stopping, &shown.lives[0]));
    for life in &shown.lives {
        let joined = life.stays.windows(2).all(|two| two[0].until_ms == two[1].from_ms);
        assert!(joined && life.stays.iter().all(|stay| stay.from_ms < stay.until_ms), "{life:?}");
    }
    let first = shown.levels.first().unwrap();
    assert_eq!((first.at_ms, first.live, first.floor, first.ceiling), (shown.from_ms, 2, 2, 3));
    let lowest = shown.levels.iter().map(|level| level.available.values().sum::<u32>()).min();
    assert_eq!(lowest, world.rows()[1].lowest_available, "as the state counts it");
    let start = shown.told.iter().find(|told| told.line.kind == "start").unwrap();
    let why = "starts 1 and takes out 0: 2 available (floor 2), 2 live (ceiling 3)";
    assert_eq!(start.why.as_deref(), Some(why));
    assert_eq!(shown.told.last().unwrap().line.kind, "end");
}

#[test]
fn what_had_changed_is_told_against_what_ran_then() {
    let mut world = web();
    world.deploy("1");
    world.sick = Some("2");
    world.deploy("2");
    let key: InstanceKey = "2-1".parse().unwrap();
    let cause = FailureCause::Exited(Exit { code: Some(1), signal: None });
    world.note(Event::Decided(Action::Fail { instance: key, cause }));
    world.deploy("3");
    let failure = world.rows()[1].failure.clone().unwrap();
    assert_eq!(failure.base_version.as_deref(), Some("1"), "not against what came after");
}
