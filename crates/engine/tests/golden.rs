//! Journals of every format that was ever written, in `fixtures/journals/`: the reader that ships reads them, and makes of
//! them what was made of them when they were written.
//!
//! `UPDATE=1 cargo test -p trundle-engine --test golden` writes the one of the present format anew. Once a release has
//! written it, it stays: a new kind of record then gets a further folder.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use common::{World, daemon, deploy, run};
use rusqlite::Connection;
use serde_json::{Value, json};
use trundle_core::event::*;
use trundle_core::ids::{InstanceKey, RevisionNumber, RolloutId};
use trundle_core::limits::CountOrPercent;
use trundle_core::revision::{Revision, Template};
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_core::state::Request;
use trundle_engine::journal::{Entry, SqliteJournal, Store};
use trundle_engine::view::{self, AsOf, Traffic};
use trundle_engine::{Input, fold_all};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/journals")
}

/// Row 7 of docs/faults.md.
#[test]
fn every_format_is_read_and_means_what_it_meant() {
    let fresh = tempfile::tempdir().unwrap();
    drop(SqliteJournal::open(fresh.path()).unwrap());
    let format = format_of(&Connection::open(fresh.path().join(SqliteJournal::FILE)).unwrap());
    if std::env::var_os("UPDATE").is_some() {
        update(&fixtures().join(&format));
    }
    let mut kinds = BTreeSet::new();
    let mut formats = BTreeSet::new();
    for folder in fs::read_dir(fixtures()).unwrap().map(|folder| folder.unwrap().path()) {
        let entries = read(&folder.join("journal.sql"), &mut formats);
        assert!(!entries.is_empty(), "{}", folder.display());
        let meant = fs::read_to_string(folder.join("meaning.json")).unwrap();
        let meant: Value = serde_json::from_str(&meant).unwrap();
        assert_eq!(meaning(&entries), meant, "{}", folder.display());
        kinds.extend(entries.iter().flat_map(|entry| kinds_of(&entry.event)));
    }
    assert!(formats.contains(&format), "no journal of the format {format} that is written now");
    let missing: Vec<_> = all_kinds().difference(&kinds).copied().collect();
    assert!(missing.is_empty(), "no journal has a record with {missing:?}");
}

/// The text becomes a database, and the reader that ships reads that.
fn read(sql: &Path, formats: &mut BTreeSet<String>) -> Vec<Entry> {
    let dir = tempfile::tempdir().unwrap();
    let made = Connection::open(dir.path().join(SqliteJournal::FILE)).unwrap();
    made.execute_batch(&format!("BEGIN; {} COMMIT;", fs::read_to_string(sql).unwrap())).unwrap();
    formats.insert(format_of(&made));
    drop(made);
    let beside = SqliteJournal::open_to_read(dir.path()).unwrap().load().unwrap();
    let entries = SqliteJournal::open(dir.path()).unwrap().load().unwrap();
    assert_eq!(entries, beside);
    entries
}

fn format_of(database: &Connection) -> String {
    database.query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0)).unwrap()
}

/// What people are told of each app: `status --json` and `history --json`, as of the last record.
fn meaning(entries: &[Entry]) -> Value {
    let apps = fold_all(entries).into_iter().map(|(name, app)| {
        let time = |ms: u64| ms.to_string();
        let status = view::status(&app, &Traffic::default(), AsOf::LastRecord, time);
        let history = view::history(&app, &Traffic::default(), AsOf::LastRecord, time);
        (name.to_string(), json!({ "status": status, "history": history }))
    });
    apps.collect::<serde_json::Map<_, _>>().into()
}

// --- what a fixture is made of -------------------------------------------------------------------------------------------

fn update(folder: &Path) {
    let entries = written();
    let dir = tempfile::tempdir().unwrap();
    let mut journal = SqliteJournal::open(dir.path()).unwrap();
    journal.load().unwrap();
    journal.set_boot_id("boot 2").unwrap();
    journal.append(&entries).unwrap();
    journal.keep_time(entries.last().unwrap().at_ms + 10).unwrap();
    drop(journal);
    let database = Connection::open(dir.path().join(SqliteJournal::FILE)).unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("journal.sql"), dump(&database)).unwrap();
    let meaning = serde_json::to_string_pretty(&meaning(&entries)).unwrap();
    fs::write(folder.join("meaning.json"), meaning + "\n").unwrap();
}

fn dump(database: &Connection) -> String {
    let mut text = String::new();
    let mut each = |query: &str, line: &str| {
        let mut select = database.prepare(query).unwrap();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            writeln!(text, "{}", line.replace('?', &row.get::<_, String>(0).unwrap())).unwrap();
        }
    };
    each("SELECT sql FROM sqlite_schema WHERE sql NOT NULL ORDER BY rowid", "?;");
    each("SELECT quote(key) || ', ' || quote(value) FROM meta ORDER BY key", "INSERT INTO meta VALUES (?);");
    each(
        "SELECT concat_ws(', ', n, epoch, quote(app), at_ms, wall_ms, quote(event), quote(sum)) FROM journal ORDER BY n",
        "INSERT INTO journal VALUES (?);",
    );
    text
}

/// Two rollouts of `web` as an engine made them, a reboot in the second, and of `all` one record of each kind.
fn written() -> Vec<Entry> {
    let world = World::default();
    let mut engine = daemon(&world, "boot 1");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    run(&mut engine, &world, vec![deploy("2")], 5);
    drop(engine);
    world.borrow_mut().reports.clear();
    world.borrow_mut().running.clear();
    let mut engine = daemon(&world, "boot 2");
    run(&mut engine, &world, vec![], usize::MAX);
    let scale = Input::Request {
        app: common::app(),
        by: "bob".into(),
        request: Request::Scale(3),
        reply: Box::new(|answer| assert!(answer.is_ok())),
    };
    run(&mut engine, &world, vec![scale], usize::MAX);
    let mut entries = world.borrow().journal.entries.clone();
    let last = entries.last().unwrap().clone();
    entries.extend((1..).zip(one_of_each()).map(|(more, event)| Entry {
        n: last.n + more,
        epoch: last.epoch,
        app: "all".parse().unwrap(),
        at_ms: last.at_ms + more * 10,
        wall_ms: more * 1_000,
        event,
    }));
    entries
}

fn key(revision: u32, n: u32) -> InstanceKey {
    format!("{revision}-{n}").parse().unwrap()
}

/// In an order in which it could have come about, nearly.
fn one_of_each() -> Vec<Event> {
    let commanded = |command| Event::Commanded { by: "ann@host".into(), command };
    let seen = |instance, fact| Event::Observed { instance, fact };
    let revision = |number: u32| {
        let template = Template::plain(format!("{number}.0").parse().unwrap(), vec!["app".into()]);
        let revision = Box::new(Revision { number: RevisionNumber(number), template });
        commanded(Command::AddRevision { revision })
    };
    let roll = |rollout, target, kind| {
        let (rollout, target) = (RolloutId(rollout), RevisionNumber(target));
        commanded(Command::Roll { rollout, target, kind, step: rollout.0 == 2 })
    };
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Percent(25)),
        max_unavailable: Some(CountOrPercent::Count(1)),
        bake_time_ms: 1_000,
        min_healthy_time_ms: 500,
        ..RolloutSettings::default()
    };
    let listen = Some(Listen::http("127.0.0.1:8080"));
    let settings =
        Box::new(AppSettings { replicas: 4, rollout, listen, fixed_port: false, gates: Vec::new() });
    let started = |n: u32| Fact::Started {
        pid: 4_000 + n,
        address: Some(format!("127.0.0.1:{}", 20_000 + n).into()),
        incarnation: format!("incarnation {n}").into(),
    };
    let start = |instance, purpose| Event::Decided(Action::Start { instance, purpose });
    let drain = |instance, purpose| Event::Decided(Action::Drain { instance, purpose });
    let stop = |instance, purpose, cut| Event::Decided(Action::Stop { instance, purpose, cut });
    let fail = |instance, cause| Event::Decided(Action::Fail { instance, cause });
    let pause = |cause| Event::Decided(Action::PauseRollout { cause });
    let conclude = |outcome, cause| Event::Decided(Action::Conclude { outcome, cause });
    let refused = |instance, code| seen(instance, Fact::StartRefused { code, text: "no".into() });
    let exit = Exit { code: Some(3), signal: None };
    let requests =
        Requests { total: 9, lost: 1, by_version: [("1.0".into(), 8)].into(), ..Requests::default() };
    let probe = ProbeEvidence { request: "GET /ready".into(), status: Some(503), ..ProbeEvidence::default() };
    let evidence =
        Evidence { probe: Some(probe), logs: vec!["FATAL".into()], base_shows_it_too: Some(false) };
    vec![
        commanded(Command::Configure { settings }),
        revision(1),
        roll(1, 1, RolloutKind::Deploy),
        Event::Counted { requests: Box::new(requests) },
        start(key(1, 1), StartPurpose::Roll),
        seen(key(1, 1), started(1)),
        seen(key(1, 1), Fact::Ready),
        seen(key(1, 1), Fact::Routed(true)),
        start(key(1, 2), StartPurpose::Roll),
        seen(key(1, 2), started(2)),
        seen(key(1, 2), Fact::Ready),
        seen(key(1, 2), Fact::Unready),
        seen(key(1, 2), Fact::Exited(exit)),
        start(key(1, 3), StartPurpose::Repair),
        seen(key(1, 3), Fact::Unknown),
        Event::Decided(Action::BatchReached { batch: 1 }),
        Event::Decided(Action::Bake),
        conclude(Outcome::Succeeded, None),
        start(key(1, 4), StartPurpose::Scale),
        revision(2),
        roll(2, 2, RolloutKind::Deploy),
        start(key(2, 1), StartPurpose::Roll),
        refused(key(2, 1), RefusalCode::NotFound),
        Event::Evidence { instance: key(2, 1), evidence: Box::new(evidence) },
        stop(key(2, 1), StopPurpose::Failed, false),
        pause(PauseCause::Failures { failures: 1, max_failures: 1 }),
        commanded(Command::Retry { instance: key(2, 1) }),
        start(key(2, 2), StartPurpose::Retry),
        refused(key(2, 2), RefusalCode::ArtifactChanged),
        commanded(Command::Skip { instance: key(2, 2) }),
        start(key(1, 5), StartPurpose::Restore),
        commanded(Command::Share { of_a_hundred: Some(20) }),
        commanded(Command::Forced { against: vec!["v1 was used".into()] }),
        commanded(Command::Resume),
        start(key(2, 3), StartPurpose::Roll),
        fail(key(2, 3), FailureCause::NotReady { after_ms: 5_000 }),
        start(key(2, 4), StartPurpose::Roll),
        fail(key(2, 4), FailureCause::Unstable { after_ms: 40 }),
        start(key(2, 5), StartPurpose::Roll),
        fail(key(2, 5), FailureCause::NotLive),
        start(key(2, 6), StartPurpose::Roll),
        fail(key(2, 6), FailureCause::Exited(Exit { code: None, signal: Some(11) })),
        start(key(2, 7), StartPurpose::Roll),
        fail(key(2, 7), FailureCause::Refused { code: RefusalCode::PortInUse, text: "taken".into() }),
        start(key(2, 8), StartPurpose::Roll),
        seen(key(2, 8), Fact::NotLive),
        start(key(2, 9), StartPurpose::Roll),
        refused(key(2, 9), RefusalCode::IdentityUnverified),
        refused(key(2, 9), RefusalCode::Secrets),
        refused(key(2, 9), RefusalCode::System),
        commanded(Command::Pause),
        pause(PauseCause::Person { by: "ann@host".into() }),
        pause(PauseCause::ProgressDeadline { after_ms: 600_000 }),
        pause(PauseCause::Step { batch: 1 }),
        pause(PauseCause::Skipped { count: 1 }),
        pause(PauseCause::Invariant { invariant: "S1".into() }),
        Event::Decided(Action::TurnBack {
            to: RevisionNumber(1),
            cause: PauseCause::Failures { failures: 2, max_failures: 1 },
        }),
        conclude(Outcome::RolledBack, None),
        roll(3, 2, RolloutKind::Restart),
        commanded(Command::TurnBack { to: RevisionNumber(1), aborted: true }),
        conclude(Outcome::Aborted, None),
        roll(4, 1, RolloutKind::Rollback),
        conclude(Outcome::Failed, Some(PauseCause::Skipped { count: 1 })),
        drain(key(1, 1), StopPurpose::Replaced),
        seen(key(1, 1), Fact::Released),
        seen(key(1, 1), Fact::Drained { proof: DrainProof::Proven }),
        stop(key(1, 1), StopPurpose::Replaced, true),
        seen(key(1, 1), Fact::Gone),
        drain(key(1, 3), StopPurpose::Surplus),
        seen(key(1, 3), Fact::Drained { proof: DrainProof::Assumed }),
        stop(key(1, 4), StopPurpose::Skipped, false),
        Event::Rebooted,
        Event::Decided(Action::Recovered),
        Event::InvariantBroken { invariant: "S3".into(), detail: "too many".into() },
        commanded(Command::Down),
        stop(key(1, 5), StopPurpose::Down, false),
    ]
}

// --- every kind of record --------------------------------------------------------------------------------------------------

/// Names the variants of an enum. A new one does not compile until it stands here, and then a journal must have it.
macro_rules! kinds {
    ($function:ident, $all:ident, $of:ty, { $($pattern:pat => $name:literal),+ $(,)? }) => {
        const $all: &[&str] = &[$($name),+];
        fn $function(of: &$of) -> &'static str {
            match of { $($pattern => $name),+ }
        }
    };
}

kinds!(event, EVENTS, Event, {
    Event::Commanded { .. } => "commanded", Event::Decided(_) => "decided", Event::Observed { .. } => "observed",
    Event::Evidence { .. } => "evidence", Event::Counted { .. } => "counted", Event::Rebooted => "rebooted",
    Event::InvariantBroken { .. } => "invariant broken",
});
kinds!(command, COMMANDS, Command, {
    Command::Configure { .. } => "command configure", Command::AddRevision { .. } => "command add revision",
    Command::Roll { .. } => "command roll", Command::TurnBack { .. } => "command turn back",
    Command::Pause => "command pause", Command::Resume => "command resume", Command::Retry { .. } => "command retry",
    Command::Share { .. } => "command share", Command::Forced { .. } => "command forced",
    Command::Skip { .. } => "command skip", Command::Down => "command down",
});
kinds!(rollout_kind, ROLLOUT_KINDS, RolloutKind, {
    RolloutKind::Deploy => "a deploy", RolloutKind::Rollback => "a rollback", RolloutKind::Restart => "a restart",
});
kinds!(action, ACTIONS, Action, {
    Action::Start { .. } => "start", Action::Drain { .. } => "drain", Action::Stop { .. } => "stop",
    Action::Fail { .. } => "fail", Action::BatchReached { .. } => "batch reached",
    Action::PauseRollout { .. } => "pause", Action::TurnBack { .. } => "turn back", Action::Bake => "bake",
    Action::Conclude { .. } => "conclude", Action::Recovered => "recovered",
});
kinds!(start_purpose, START_PURPOSES, StartPurpose, {
    StartPurpose::Roll => "start to roll", StartPurpose::Repair => "start to repair",
    StartPurpose::Retry => "start to retry", StartPurpose::Restore => "start to restore",
    StartPurpose::Scale => "start to scale",
});
kinds!(stop_purpose, STOP_PURPOSES, StopPurpose, {
    StopPurpose::Replaced => "stop replaced", StopPurpose::Surplus => "stop surplus",
    StopPurpose::Failed => "stop failed", StopPurpose::Skipped => "stop skipped", StopPurpose::Down => "stop down",
});
kinds!(outcome, OUTCOMES, Outcome, {
    Outcome::Succeeded => "succeeded", Outcome::RolledBack => "rolled back", Outcome::Aborted => "aborted",
    Outcome::Failed => "failed",
});
kinds!(pause_cause, PAUSE_CAUSES, PauseCause, {
    PauseCause::Person { .. } => "pause by a person", PauseCause::Failures { .. } => "pause by failures",
    PauseCause::ProgressDeadline { .. } => "pause by the deadline", PauseCause::Step { .. } => "pause of a step",
    PauseCause::Skipped { .. } => "pause of skipped", PauseCause::Invariant { .. } => "pause by an invariant",
});
kinds!(failure_cause, FAILURE_CAUSES, FailureCause, {
    FailureCause::Exited(_) => "failure exited", FailureCause::Refused { .. } => "failure refused",
    FailureCause::NotReady { .. } => "failure not ready", FailureCause::Unstable { .. } => "failure unstable",
    FailureCause::NotLive => "failure not live",
});
kinds!(refusal, REFUSALS, RefusalCode, {
    RefusalCode::ArtifactChanged => "refused: artifact", RefusalCode::NotFound => "refused: not found",
    RefusalCode::PortInUse => "refused: port", RefusalCode::IdentityUnverified => "refused: identity",
    RefusalCode::Secrets => "refused: secrets", RefusalCode::System => "refused: system",
});
kinds!(fact, FACTS, Fact, {
    Fact::Started { .. } => "seen started", Fact::StartRefused { .. } => "seen refused", Fact::Ready => "seen ready",
    Fact::Unready => "seen unready", Fact::NotLive => "seen not live", Fact::Exited(_) => "seen exited",
    Fact::Gone => "seen gone", Fact::Unknown => "seen unknown", Fact::Routed(_) => "seen routed",
    Fact::Released => "seen released",
    Fact::Drained { .. } => "seen drained",
});
kinds!(proof, PROOFS, DrainProof, {
    DrainProof::Proven => "proven", DrainProof::Assumed => "assumed",
});

fn all_kinds() -> BTreeSet<&'static str> {
    let all = [
        EVENTS,
        COMMANDS,
        ROLLOUT_KINDS,
        ACTIONS,
        START_PURPOSES,
        STOP_PURPOSES,
        OUTCOMES,
        PAUSE_CAUSES,
        FAILURE_CAUSES,
        REFUSALS,
        FACTS,
        PROOFS,
    ];
    all.into_iter().flatten().copied().collect()
}

fn kinds_of(of: &Event) -> Vec<&'static str> {
    let mut kinds = vec![event(of)];
    match of {
        Event::Commanded { command: said, .. } => {
            kinds.push(command(said));
            if let Command::Roll { kind, .. } = said {
                kinds.push(rollout_kind(kind));
            }
        }
        Event::Decided(decided) => {
            kinds.push(action(decided));
            match decided {
                Action::Start { purpose, .. } => kinds.push(start_purpose(purpose)),
                Action::Drain { purpose, .. } | Action::Stop { purpose, .. } => {
                    kinds.push(stop_purpose(purpose))
                }
                Action::Fail { cause, .. } => {
                    kinds.push(failure_cause(cause));
                    if let FailureCause::Refused { code, .. } = cause {
                        kinds.push(refusal(code));
                    }
                }
                Action::PauseRollout { cause } | Action::TurnBack { cause, .. } => {
                    kinds.push(pause_cause(cause))
                }
                Action::Conclude { outcome: with, cause } => {
                    kinds.push(outcome(with));
                    kinds.extend(cause.iter().map(pause_cause));
                }
                Action::BatchReached { .. } | Action::Bake | Action::Recovered => {}
            }
        }
        Event::Observed { fact: what, .. } => {
            kinds.push(fact(what));
            match what {
                Fact::StartRefused { code, .. } => kinds.push(refusal(code)),
                Fact::Drained { proof: how } => kinds.push(proof(how)),
                _ => {}
            }
        }
        Event::Evidence { .. } | Event::Counted { .. } | Event::Rebooted | Event::InvariantBroken { .. } => {}
    }
    kinds
}
