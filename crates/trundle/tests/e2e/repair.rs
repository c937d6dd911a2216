//! While nothing rolls: what dies is replaced by the same version, and only what was in flight in it is lost.

use std::sync::Arc;

use crate::harness::{Site, sample, wait_for};

#[test]
fn a_dead_instance_is_replaced_and_takes_only_its_own_requests_along() {
    let site = Arc::new(Site::with(&sample(3, r#"START_MS = "100""#, "max_surge = 1\nmax_unavailable = 0")));
    site.deploy("1.0", &[]).expect(0);
    let ask = |_| {
        let site = site.clone();
        std::thread::spawn(move || {
            site.get("/?ms=1900").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        })
    };
    let requests: Vec<_> = (0..12).map(ask).collect();
    let in_flight = |name: &str| -> u64 {
        let status = site.status();
        let instances = status["instances"].as_array().unwrap().iter();
        instances
            .filter(|i| i["id"].as_str().unwrap().contains(name))
            .filter_map(|i| i["in_flight"].as_u64())
            .sum()
    };
    wait_for("all to be in flight", 1, || (in_flight("web") == 12).then_some(()));
    let victim = site.apps().remove(0);
    let its_own = in_flight(victim.app().unwrap());
    victim.kill9();
    let lost = requests.into_iter().map(|request| request.join().unwrap()).filter(|ok| !ok).count() as u64;
    assert_eq!(lost, its_own, "of 12, {its_own} were in flight in the one that was killed");
    wait_for("the repair", 15, || {
        let apps = site.apps();
        let whole = site.status()["available"] == 3;
        (whole && apps.len() == 3 && apps.iter().all(|app| app.pid != victim.pid)).then_some(())
    });
    let report = site.run(&["report"]).expect(0).stdout;
    for told in ["killed by SIGKILL", "starts web-1-4 (1.0) in place of one that died"] {
        assert!(report.contains(told), "{told}: {report}");
    }
}
