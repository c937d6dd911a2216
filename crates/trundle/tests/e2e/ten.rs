//! Ten servers, two at a time, stopped first: five batches, never fewer than eight serving.

use crate::harness::prober::Prober;
use crate::harness::turns::turn;
use crate::harness::{Site, load, sample};

pub fn config() -> String {
    let env = r#"START_MS = "300""#;
    sample(10, env, "batch = 2\norder = \"stop-first\"\nmin_healthy_time = \"100ms\"")
}

#[test]
fn ten_servers_in_five_batches_of_two() {
    let _turn = turn();
    let site = Site::with(&config());
    site.deploy("3.1", &[]).expect(0);
    let prober = Prober::start(&site);
    let load = load::start_quick(&site, 16, 20);

    let said = site.deploy("3.2", &["--json"]).expect(0);

    let tally = load.finish();
    let seen = prober.finish();
    let status = site.status();
    tally.expect_none_lost(100);
    assert_eq!((status["floor"].clone(), status["ceiling"].clone()), (8.into(), 10.into()));
    assert_eq!((status["lowest_available"].clone(), seen.lowest_serving), (8.into(), 8), "{seen:?}");
    assert_eq!((status["highest_total"].clone(), seen.highest_alive), (10.into(), 10), "{seen:?}");
    assert!(seen.twins.is_empty(), "{seen:?}");
    assert!(seen.looks > 20, "{seen:?}");

    // Inside and outside name the same mix: as many of both as can be, and as many at all.
    let mix: Vec<u64> =
        status["peak_mix"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).collect();
    let shape = |mix: &[u64]| (mix.iter().min().copied(), mix.iter().sum::<u64>());
    let outside: Vec<u64> = seen.mix.values().map(|n| *n as u64).collect();
    assert_eq!(shape(&mix), (Some(4), 10), "{status}");
    assert_eq!(shape(&outside), (Some(4), 10), "{seen:?}");

    two_verified_before_the_next_two(&said.json_lines());
}

/// In the order of the journal: at no moment are more started than the batches before have verified, plus two.
fn two_verified_before_the_next_two(lines: &[serde_json::Value]) {
    let (mut batches, mut started, mut ready) = (0, 0, 0);
    for line in lines {
        match line["type"].as_str().unwrap() {
            "batch" => batches += 1,
            "start" => {
                started += 1;
                assert!(started <= 2 * (batches + 1), "start {started} after {batches} batches: {line}");
            }
            "ready" => ready += 1,
            _ => {}
        }
        assert!(ready >= 2 * batches, "batch {batches} was called complete with {ready} ready: {line}");
    }
    assert_eq!((batches, started, ready), (5, 10, 10));
}
