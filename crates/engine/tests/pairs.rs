//! Two people ask at the same moment, knowing the same: one wins, and the other is told by what and by whom.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Barrier, mpsc};

use common::{World, app, daemon, outcome, run};
use trundle_core::revision::Template;
use trundle_core::settings::{AppSettings, Listen, RolloutSettings};
use trundle_core::state::{DeployRequest, Request, RolloutState};
use trundle_engine::Input;
use trundle_engine::audit::audit;

/// Row 56 of the faults: 50 pairs, each of two threads; who comes first and whether it is one turn or two is chance.
#[test]
fn of_fifty_pairs_one_wins_and_the_other_hears_by_whom() {
    let world = World::default();
    let mut engine = daemon(&world, "boot");
    run(&mut engine, &world, vec![common::deploy("1")], usize::MAX);
    let mut wins = [0, 0];
    for pair in 0..50 {
        let before = engine.apps()[&app()].state.last_rollout().unwrap().id;
        let (send, asked) = mpsc::channel();
        let start = Arc::new(Barrier::new(2));
        // Who was started last is often first.
        let names = if pair % 2 == 0 { ["ann", "bob"] } else { ["bob", "ann"] };
        let people: Vec<_> = names
            .into_iter()
            .map(|name| {
                let (send, start) = (send.clone(), Arc::clone(&start));
                std::thread::spawn(move || {
                    let template =
                        Template::plain(format!("{pair}-{name}").parse().unwrap(), vec![name.into()]);
                    let listen = Some(Listen::http("127.0.0.1:1"));
                    let rollout = RolloutSettings::default();
                    let settings =
                        AppSettings { replicas: 4, rollout, listen, fixed_port: false, gates: Vec::new() };
                    let deploy = DeployRequest {
                        seen_rollout: Some(before),
                        ..DeployRequest::new(template, settings)
                    };
                    let (answer, answered) = mpsc::channel();
                    let reply = Box::new(move |said| answer.send(said).unwrap());
                    let request = Request::Deploy(Box::new(deploy));
                    start.wait();
                    send.send(Input::Request { app: app(), by: name.to_owned(), request, reply }).unwrap();
                    answered.recv().unwrap()
                })
            })
            .collect();
        drop(send);
        while let Ok(first) = asked.recv() {
            let inputs: Vec<_> = [first].into_iter().chain(asked.try_iter()).collect();
            let at = engine.last_at();
            engine.turn(at + 10, 0, inputs);
        }
        let answers: Vec<_> = people.into_iter().map(|thread| thread.join().unwrap()).collect();
        let won = answers.iter().position(Result::is_ok).expect("one wins");
        wins[usize::from(names[won] == "bob")] += 1;
        let refusal = answers[1 - won].as_ref().unwrap_err().to_string();
        let winner = names[won];
        assert!(refusal.contains(&format!("{winner} was faster")), "{refusal}");
        assert!(refusal.contains(&format!("{pair}-{winner}")), "{refusal}");
        run(&mut engine, &world, vec![], usize::MAX);
        assert_eq!(outcome(&engine), (RolloutState::Succeeded, 4));
        let state = &engine.apps()[&app()].state;
        let last = state.last_rollout().unwrap();
        assert_eq!((last.id.0, last.by.as_str()), (before.0 + 1, winner), "one rollout for two who asked");
    }
    println!("ann won {} and bob {}", wins[0], wins[1]);
    assert_eq!(audit(&world.borrow().journal.entries), []);
}
