//! The decision, exhaustively: every order in which things can happen to a small app, over the shipping `apply` and
//! `decide`. What is run, what it prints and what it found: `docs/proof.md`.

#![allow(clippy::unwrap_used)]

mod app;
mod apps;
#[path = "../common/mod.rs"]
mod common;
mod counts;
mod fair;
mod fences;
mod happening;
mod key;
mod node;
mod planted;
mod replay;
mod search;
mod sometimes;

use app::App;
use search::Order;
use sometimes::Sometimes;

/// One state in so many is the beginning of a fair world; where apps are asked for, each is, or as `TRUNDLE_MODEL_FAIR` says.
const FAIR_EVERY: u128 = 20;

#[test]
fn no_order_of_events_breaks_a_rule() {
    // `full` for the night, or the line of one app to search only that.
    let asked = std::env::var("TRUNDLE_MODEL").ok();
    let lines: Vec<String> = match asked.as_deref() {
        None => apps::ROUTINE.iter().map(|line| (*line).to_owned()).collect(),
        Some("full") => apps::full(),
        Some(one) => one.split(';').map(str::to_owned).collect(),
    };
    let apps: Vec<App> = lines.iter().map(|line| line.parse().unwrap()).collect();
    let fair_every = std::env::var("TRUNDLE_MODEL_FAIR").ok().map(|every| every.parse().unwrap());
    let fair_every = fair_every.unwrap_or(if asked.is_some() { 1 } else { FAIR_EVERY });
    // A search whose layers do not fit into memory.
    let order = match std::env::var("TRUNDLE_MODEL_ORDER").as_deref() {
        Ok("depth") => Order::Depth,
        Ok("breadth") | Err(_) => Order::Breadth,
        Ok(other) => panic!("TRUNDLE_MODEL_ORDER is {other:?}; it can be breadth or depth"),
    };
    let mut met = Sometimes::default();
    let mut found = Vec::new();
    for result in search::search_all(&apps, fair_every, order) {
        match result {
            Ok(one) => {
                met.and(&one.sometimes);
                found.push(one);
            }
            Err(counterexample) => panic!(
                "{}\nThe way there, as a file of crates/core/tests/model/replays:\n\n{}",
                counterexample.broken.0,
                counterexample.scenario()
            ),
        }
    }
    let total = |of: fn(&search::Found) -> usize| found.iter().map(of).sum::<usize>();
    println!(
        "{} apps: {} states, {} transitions, {} fair runs; {} of {} moments met",
        found.len(),
        total(|f| f.states),
        total(|f| f.transitions),
        total(|f| f.fair_runs),
        met.0.len(),
        sometimes::MUST.len()
    );
    met.0.iter().for_each(|moment| println!("met: {moment}"));
    if asked.as_deref().is_none_or(|asked| asked == "full") {
        assert!(met.missing().is_empty(), "never met, so nothing is proven about it: {:?}", met.missing());
    }
    if asked.is_none() {
        counts::compare(&found);
    }
}
