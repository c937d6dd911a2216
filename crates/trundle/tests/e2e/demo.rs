//! The demo proves what it says, and finds a bug that was planted.

use crate::harness::Site;
use crate::harness::turns::turn;

#[test]
fn it_loses_nothing_and_says_so() {
    let _turn = turn();
    let site = Site::new();
    let proof = site.run(&["demo", "--json"]).expect(0).json();
    assert_eq!(proof["lost"], 0, "{proof}");
    assert!(proof["requests"].as_u64() > Some(1000), "{proof}");
    assert!(proof["lowest_available"].as_u64() >= proof["floor"].as_u64(), "{proof}");
    let outcomes: Vec<_> =
        proof["rollouts"].as_array().unwrap().iter().map(|r| (&r["to"], &r["outcome"])).collect();
    let expected = [("3.2", "succeeded"), ("3.3", "paused"), ("3.3", "succeeded")];
    assert_eq!(outcomes.len(), 3, "{proof}");
    for ((to, outcome), wanted) in outcomes.into_iter().zip(expected) {
        assert_eq!((to.as_str().unwrap(), outcome.as_str().unwrap()), wanted, "{proof}");
    }
    assert!(proof["peak_mix"].is_object(), "{proof}");
    let report = std::fs::read_to_string(proof["report"].as_str().unwrap()).unwrap();
    assert!(report.contains("3.3") && report.contains("DB_POOL"), "{report}");
    std::fs::remove_file(proof["report"].as_str().unwrap()).unwrap();
    assert!(site.procs().is_empty() && !site.state().exists(), "it keeps to its own state directory");
}

#[test]
fn it_finds_a_planted_bug() {
    let _turn = turn();
    let site = Site::new();
    let said = site.run(&["demo", "--json", "--plant", "stop-before-drain"]).expect(1);
    let proof = said.json();
    assert!(proof["lost"].as_u64() > Some(0), "{said}");
    std::fs::remove_file(proof["report"].as_str().unwrap()).unwrap();
}
