//! The crash matrix: daemon, shim, proxy and holder are killed at every named place of the code, and what comes of the
//! same night is compared with a night on which nobody died.
//!
//! The places are read from the source (`crash_point!`); one that no run reaches fails the test. A usual run kills at one
//! hit of each place, by the seed; `TRUNDLE_MATRIX=full` at every hit; `TRUNDLE_MATRIX="driver.shim.after 3"` at one.

mod night;
mod people;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;

use crate::harness::chaos::Dice;
use crate::harness::turns::turn;

use night::Night;

/// Runs wait more than they compute.
const SIDE_BY_SIDE: usize = 6;

#[test]
fn killed_at_every_place_it_ends_as_if_nobody_had_died() {
    if !cfg!(debug_assertions) {
        panic!("crash points are not built without debug assertions: run this in the dev profile");
    }
    let _turn = turn();
    let places = places_in_the_code();
    let calm = Night::run(None);
    let hits = calm.hits.clone();
    let unreached: Vec<_> = places.iter().filter(|place| !hits.contains_key(*place)).collect();
    assert!(unreached.is_empty(), "the night does not come by {unreached:?}");
    assert_eq!(calm.failed, 0, "requests failed with nobody killed");

    let all = hits.iter().flat_map(|(place, n)| (1..=*n).map(move |n| Kill { place: place.clone(), n }));
    let kills: Vec<Kill> = match std::env::var("TRUNDLE_MATRIX") {
        Ok(which) if which == "full" => all.collect(),
        Ok(one) => {
            let (place, n) = one.split_once(' ').expect("TRUNDLE_MATRIX is `full`, or a place and a number");
            vec![Kill { place: place.to_owned(), n: n.parse().unwrap() }]
        }
        Err(_) => {
            let mut dice = Dice::new("matrix");
            hits.iter().map(|(p, n)| Kill { place: p.clone(), n: 1 + dice.below(*n) }).collect()
        }
    };
    let tried = kills.len();
    let left = Mutex::new(kills);
    let done: Mutex<Vec<(Kill, Night)>> = Mutex::default();
    let complaints: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let Some(kill) = left.lock().unwrap().pop() else { return };
                    match try_it(kill.clone(), &calm) {
                        Ok(night) => done.lock().unwrap().push(night),
                        Err(wrong) => {
                            let wrong = format!("{} {}: {wrong}", kill.place, kill.n);
                            println!("{wrong}");
                            complaints.lock().unwrap().push(wrong);
                        }
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    print_table(&hits, &done);
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{} of {tried} nights:\n{}", complaints.len(), complaints.join("\n"));
}

fn try_it(kill: Kill, calm: &Night) -> Result<(Kill, Night), String> {
    let run = |kill: &Kill| {
        std::panic::catch_unwind(|| Night::run(Some(kill))).map_err(|why| {
            let text = why.downcast_ref::<String>().cloned();
            text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
        })
    };
    let night = run(&kill)?;
    // What comes late in a night may not come at all on a slower one.
    let (kill, night) = match night.died {
        Some(_) => (kill, night),
        None => {
            let first = Kill { n: 1, ..kill };
            let night = run(&first)?;
            (first, night)
        }
    };
    let wrong = judge(&kill, &night, calm);
    if wrong.is_empty() { Ok((kill, night)) } else { Err(wrong.join("; ")) }
}

/// One hit of one place.
#[derive(Debug, Clone)]
struct Kill {
    place: String,
    n: u64,
}

/// What is wrong with a night, compared with the calm one.
fn judge(kill: &Kill, night: &Night, calm: &Night) -> Vec<String> {
    let mut wrong = Vec::new();
    if night.died.is_none() {
        wrong.push("was not reached on its night, nor was its first hit".to_owned());
    }
    if night.asked < 50 {
        wrong.push(format!("only {} requests were sent", night.asked));
    }
    // One client, and so at most one request in the hands of who dies.
    let most = u32::from(matches!(role(&kill.place), Role::Proxy | Role::Shim));
    if night.failed > most {
        wrong.push(format!("{} of {} requests failed", night.failed, night.asked));
    }
    match role(&kill.place) {
        // An instance died with its shim, which is told: its place has another one, and a rollout may have paused for it.
        Role::Shim => differences("running", &night.running, &calm.running, &mut wrong),
        // The proxy has its sockets and goes on without a holder.
        Role::Holder => differences("", &night.told, &calm.told, &mut wrong),
        Role::Daemon | Role::Proxy => {
            differences("running", &night.running, &calm.running, &mut wrong);
            differences("", &night.told, &calm.told, &mut wrong);
        }
    }
    wrong
}

/// Where two of them differ, and how.
fn differences(at: &str, found: &Value, calm: &Value, into: &mut Vec<String>) {
    match (found, calm) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differences(&format!("{at}.{key}"), &of(a), &of(b), into);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{at}[{n}]"), a, b, into);
            }
        }
        _ if found == calm => {}
        _ => into.push(format!("{at} is {found}, on a calm night {calm}")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Daemon,
    Shim,
    Proxy,
    Holder,
}

/// Whose code the place is. Records are written by shims, but for the few that a daemon writes.
fn role(place: &str) -> Role {
    match place.split('.').next().unwrap() {
        "shim" | "record" => Role::Shim,
        "proxy" => Role::Proxy,
        "holder" => Role::Holder,
        _ => Role::Daemon,
    }
}

/// Every `crash_point!("…")` of the sources.
fn places_in_the_code() -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("tests") && !path.ends_with("crashpoint") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(path).unwrap();
                for piece in text.split("crash_point!(\"").skip(1) {
                    let place = piece.split('"').next().unwrap().to_owned();
                    assert!(places.insert(place.clone()), "{place} stands in two places");
                }
            }
        }
    }
    assert!(places.len() > 30, "{places:?}");
    places
}

fn print_table(hits: &BTreeMap<String, u64>, done: &[(Kill, Night)]) {
    println!("| place | hits of a calm night | killed at | requests | failed |");
    println!("| --- | --- | --- | --- | --- |");
    for (place, n) in hits {
        let of: Vec<_> = done.iter().filter(|(kill, _)| kill.place == *place).collect();
        let (asked, failed) =
            of.iter().fold((0, 0), |(a, f), (_, night)| (a + night.asked, f + night.failed));
        println!("| {place} | {n} | {} | {asked} | {failed} |", of.len());
    }
    let asked: u32 = done.iter().map(|(_, night)| night.asked).sum();
    println!("{} places, {} kills, {asked} requests", hits.len(), done.len());
}
