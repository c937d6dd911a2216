//! The audit of a journal: it finds nothing in a sound one, and each kind of damage by the number of its invariant.

#![allow(clippy::unwrap_used)]

mod common;

use common::{World, daemon, deploy, run};
use trundle_core::event::{
    Action, Command, Event, Fact, FailureCause, Outcome, PauseCause, StartPurpose, StopPurpose,
};
use trundle_core::ids::{InstanceKey, RevisionNumber, RolloutId};
use trundle_engine::audit::audit;
use trundle_engine::journal::Entry;

/// A checker that never fires is no evidence: each of these journals has one thing in it that must not be.
#[test]
fn a_journal_that_breaks_an_invariant_is_found_out() {
    let world = World::default();
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![deploy("1")], usize::MAX);
    run(&mut engine, &world, vec![deploy("2")], usize::MAX);
    let sound = world.borrow().journal.entries.clone();
    assert_eq!(audit(&sound), []);

    let key = |revision, slot| InstanceKey { revision: RevisionNumber(revision), slot, attempt: 1 };
    let at = |wanted: &dyn Fn(&Event) -> bool| sound.iter().position(|e| wanted(&e.event)).unwrap();
    let second =
        at(&|e| matches!(e, Event::Commanded { command: Command::Roll { rollout: RolloutId(2), .. }, .. }));
    let end = sound.len();
    let insert = |at: usize, event: Event| {
        let mut entries = sound.clone();
        let like = entries[at - 1].clone();
        entries.insert(at, Entry { event, ..like });
        for (n, entry) in entries.iter_mut().enumerate() {
            entry.n = n as u64 + 1;
        }
        entries
    };
    let decided = |at: usize, action: Action| insert(at, Event::Decided(action));
    let seen = |at: usize, instance, fact| insert(at, Event::Observed { instance, fact });
    let said = |at: usize, command| insert(at, Event::Commanded { by: "ann".into(), command });
    let drain =
        |revision, slot| Action::Drain { instance: key(revision, slot), purpose: StopPurpose::Replaced };
    let start = |slot, purpose| Action::Start { instance: key(2, slot), purpose };
    let mut twice = sound.clone();
    for (n, slot) in (end..).zip(1..=2) {
        let like = sound[end - 1].clone();
        twice.push(Entry { n: n as u64 + 1, event: Event::Decided(drain(2, slot)), ..like });
    }
    let mut late = sound.clone();
    late[end - 1].at_ms = 0;
    let mut old = sound.clone();
    old[end - 1].epoch = 0;
    let started = at(&|e| matches!(e, Event::Decided(Action::Start { .. })));
    let mut orphan = sound.clone();
    orphan.remove(started);
    let turn_back =
        |to| Action::TurnBack { to: RevisionNumber(to), cause: PauseCause::Person { by: "ann".into() } };
    let table: Vec<(&str, Vec<Entry>)> = vec![
        ("S1", twice),
        ("S2", decided(second + 1, start(9, StartPurpose::Roll))),
        ("S4", decided(end, drain(2, 1))),
        ("S9", old),
        ("S10", orphan),
        ("S10", seen(end, key(2, 77), Fact::Gone)),
        ("S11", decided(end, start(1, StartPurpose::Roll))),
        (
            "S12",
            decided(end, Action::Stop { instance: key(2, 1), purpose: StopPurpose::Surplus, cut: false }),
        ),
        ("S13", decided(end, Action::Fail { instance: key(1, 1), cause: FailureCause::NotLive })),
        (
            "S16",
            decided(
                second + 1,
                Action::Start {
                    instance: InstanceKey { attempt: 2, ..key(1, 1) },
                    purpose: StartPurpose::Repair,
                },
            ),
        ),
        ("S17", decided(end, Action::Bake)),
        ("S18", decided(second + 1, Action::Conclude { outcome: Outcome::Succeeded, cause: None })),
        ("S19", decided(second + 1, start(1, StartPurpose::Repair))),
        ("S21", late),
        ("S5", {
            let mut entries = said(second + 1, Command::Pause);
            let like = entries[second + 1].clone();
            entries.insert(second + 2, Entry { event: Event::Decided(drain(1, 1)), ..like });
            entries
        }),
        ("S3", {
            let mut entries = said(second + 1, Command::TurnBack { to: RevisionNumber(1), aborted: false });
            let like = entries[second + 1].clone();
            entries.insert(second + 2, Entry { event: Event::Decided(start(1, StartPurpose::Roll)), ..like });
            entries
        }),
        ("S4", {
            let mut entries = said(second + 1, Command::TurnBack { to: RevisionNumber(1), aborted: false });
            let like = entries[second + 1].clone();
            entries.insert(second + 2, Entry { event: Event::Decided(turn_back(2)), ..like });
            entries
        }),
    ];
    for (invariant, entries) in table {
        let found = audit(&entries);
        assert!(
            found.iter().any(|f| f.violation.invariant == invariant),
            "{invariant} did not fire: {found:?}"
        );
    }
}
