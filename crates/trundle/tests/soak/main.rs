//! The soak: what people do all day and what a bad night does, at random, under load of a client that never retries. 60 s
//! in `cargo test`; `TRUNDLE_SOAK=2h` for longer, `TRUNDLE_SOAK_SEED` for what was done before. See docs/proof.md.
//!
//! A request may be lost only where DESIGN.md says so, in flight in a proxy or an instance that is killed at that moment.
//! Every third part is calm: only the daemon is struck, and not one request may be lost.

#![allow(clippy::unwrap_used, reason = "a test")]

mod apps;
mod diary;
mod ending;
#[allow(dead_code, reason = "shared with the tests of e2e, which use the rest")]
#[path = "../e2e/harness/mod.rs"]
mod harness;
mod judge;
mod night;
mod observer;
mod past;
mod person;
mod table;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apps::{APPS, Counted};
use diary::{Diary, Replicas, What, now_ms};
use harness::chaos::Dice;
use harness::load::{self, Load};
use harness::procs::Proc;
use harness::{Site, wait_for};
use night::Night;
use observer::{Observer, Weight};
use past::Past;
use person::Person;

const USUAL: Duration = Duration::from_secs(60);
/// So much of a bad or calm time at once; after a bad one both apps must settle.
const PART_MS: u64 = 12_000;
/// For all that is not part of the time asked for: to begin, to settle, to be judged.
const LONGEST_SETTLING: Duration = Duration::from_secs(5 * 60);
/// Between an answer and the next request of a connection of the client.
const CLIENT_PAUSE_MS: u32 = 20;
/// Of the requests so many of a hundred last 1 to 2 seconds.
const SLOW_PERCENT: u32 = 10;
/// More than this in one soak is a leak.
const GROWS_AT_MOST_KIB: u64 = 48 * 1024;
const DESCRIPTORS_MORE: usize = 16;

#[test]
fn what_people_and_a_bad_night_do() {
    let (lasts, seed) = (duration(), seed());
    println!("TRUNDLE_SOAK_SEED={seed}, {} s", lasts.as_secs());
    let mut dice = Dice(seed);
    let diary = Diary::new(seed);
    let site = Site::for_at_most(lasts * 2 + LONGEST_SETTLING);
    for app in &APPS {
        app.write(&site);
        diary.scaled(app.name, Replicas { from_ms: 0, to_ms: 0, old: app.replicas, new: app.replicas });
    }
    let [mut web, mut api] =
        APPS.each_ref().map(|app| Person::new(&site, &diary, app, Dice(dice.below(u64::MAX))));
    let mut night = Night::new(&site, &diary, Dice(dice.below(u64::MAX)));
    settle([&mut web, &mut api]);
    let light = weights(&site);

    let observer = Observer::start(&site);
    let loads = APPS.each_ref().map(|app| {
        load::start_at(&site, &app.address(&site), app.connections, CLIENT_PAUSE_MS, SLOW_PERCENT)
    });
    let began_ms = now_ms();
    let ends_ms = began_ms + u64::try_from(lasts.as_millis()).unwrap();
    let mut parts = 0;
    while now_ms() + PART_MS / 2 < ends_ms {
        let calm = parts % 3 == 1;
        diary.note(format!("part {parts}, {}", if calm { "calm" } else { "bad" }));
        let from_ms = now_ms();
        let until_ms = ends_ms.min(from_ms + PART_MS);
        std::thread::scope(|scope| {
            scope.spawn(|| web.run(until_ms, calm));
            scope.spawn(|| api.run(until_ms, calm));
            scope.spawn(|| night.run(until_ms, calm));
        });
        if calm {
            diary.calm(from_ms, now_ms());
        } else {
            settle([&mut web, &mut api]);
        }
        parts += 1;
    }
    if parts % 3 == 2 {
        // The last part was calm.
        settle([&mut web, &mut api]);
    }
    let told = table::last_rollout(&site, &diary, &mut web, &mut night);

    let tallies = loads.map(Load::finish);
    let seconds = (now_ms() - began_ms) / 1000;
    ending::nothing_too_many(&site);
    let mut seen = observer.finish();
    assert!(seen.twins.is_empty(), "two processes of one name: {:?}", seen.twins);
    let heavy = settled_weights(&site, &light);

    let mut rows = Vec::new();
    for ((app, person), tally) in APPS.iter().zip([&web, &api]).zip(&tallies) {
        let counted = Counted::of(&site, app.name).unwrap();
        let past = Past::of(&site, app);
        seen.deaths.extend(past.planted.iter().cloned());
        let causes = judge::causes(&diary, app, tally, &seen);
        let proxy_kills = diary.deeds().iter().filter(|d| d.what == What::ProxyKilled).count() as u64;
        let ids = judge::ids(&site, app, &past);
        let unread = judge::counts(app, tally, &counted, &causes, &ids, proxy_kills);
        judge::floor_and_ceiling(&diary, app, &seen);
        rows.push(table::Row {
            app,
            person,
            tally,
            counted,
            causes,
            unread,
            rollouts: ending::rollouts(&site, app),
        });
    }
    table::told_is_counted(&told, &rows[0].counted);
    let logs = ending::logs(&site);
    ending::down(&site);
    table::print(&table::Whole {
        seconds,
        parts,
        diary: &diary,
        seen: &seen,
        rows,
        night: &night,
        light,
        heavy,
        logs,
    });
}

fn settle(people: [&mut Person; 2]) {
    std::thread::scope(|scope| {
        for person in people {
            scope.spawn(|| person.settle());
        }
    });
}

/// Of daemon and proxy.
type Weights = BTreeMap<&'static str, Weight>;

fn weights(site: &Site) -> Weights {
    let of = |is_it| wait_for("a weight", 10, || Weight::of(&ending::only(site, is_it)));
    [("daemon", of(Proc::is_daemon)), ("proxy", of(Proc::is_proxy))].into()
}

/// Kept connections to instances are closed when they have lain idle.
fn settled_weights(site: &Site, light: &Weights) -> Weights {
    let mut heavy = weights(site);
    for _ in 0..100 {
        let fits =
            |(name, now): (&&str, &Weight)| now.descriptors <= light[*name].descriptors + DESCRIPTORS_MORE;
        if heavy.iter().all(fits) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        heavy = weights(site);
    }
    for (name, now) in &heavy {
        let then = light[name];
        let fits =
            now.descriptors <= then.descriptors + DESCRIPTORS_MORE && now.kib <= then.kib + GROWS_AT_MOST_KIB;
        assert!(fits, "the {name} has grown from {then:?} to {now:?}");
    }
    heavy
}

/// `TRUNDLE_SOAK`: `90s`, `20m`, `2h`.
fn duration() -> Duration {
    let Ok(text) = std::env::var("TRUNDLE_SOAK") else { return USUAL };
    let (number, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => panic!("TRUNDLE_SOAK={text}: write 90s, 20m or 2h"),
    };
    Duration::from_secs(number.parse::<u64>().unwrap() * unit)
}

fn seed() -> u64 {
    let given = std::env::var("TRUNDLE_SOAK_SEED").ok().map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()))
}
