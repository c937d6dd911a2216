//! When a version may stop serving a format, and what is said when it may not.

#![allow(clippy::unwrap_used)]

mod common;

use common::{World, counts, settings, template};
use trundle_core::event::Command;
use trundle_core::formats::{Asked, Caller, Format, Match, Watched, objections, quiet_for_ms};
use trundle_core::settings::{AppSettings, Listen};
use trundle_core::state::{DeployRequest, Known, Request};

const DAY_MS: u64 = 24 * 3_600_000;

fn format(name: &str, served: &str) -> Format {
    Format {
        name: name.to_owned(),
        matches: Match::default(),
        served: served.to_owned(),
        successor: None,
        link: None,
        deprecated_at_s: None,
        sunset_s: None,
        remove_after_s: None,
        quiet_for_ms: quiet_for_ms(),
    }
}

/// v1 until 4.0, v2 from 4.0 on.
fn both() -> Vec<Format> {
    vec![Format { successor: Some("v2".to_owned()), ..format("v1", "<4.1") }, format("v2", ">=4.0")]
}

fn watched(for_ms: u64, callers: &[(&str, u64, u64)]) -> Vec<Watched> {
    let caller = |(name, count, ago_ms): &(&str, u64, u64)| Caller {
        name: (*name).to_owned(),
        count: *count,
        ago_ms: *ago_ms,
    };
    let callers = callers.iter().map(caller).collect();
    vec![Watched { format: "v1".to_owned(), for_ms: Some(for_ms), callers }]
}

fn check(formats: &[Format], to: &str, running: &[&str], watched: Option<&[Watched]>, expect: &[&str]) {
    let running: Vec<String> = running.iter().map(|v| (*v).to_owned()).collect();
    let asked = Asked { to, running: &running, watched, now_s: Some(1_000_000) };
    assert_eq!(objections(formats, &[], &asked), expect, "to {to} from {running:?}");
}

#[test]
fn a_format_may_go_when_its_successor_is_everywhere_and_it_is_quiet() {
    let quiet = watched(DAY_MS, &[("curl", 9, DAY_MS)]);
    check(&both(), "4.1", &["4.0"], Some(&quiet), &[]);
    check(&both(), "4.0", &["3.9"], Some(&watched(0, &[("curl", 1, 0)])), &[]);
    check(&both(), "4.2", &["4.1"], None, &[]); // it is gone already
    let everywhere =
        "its successor v2 is not on every instance: 3.9 still runs; roll a version first that serves both";
    check(&both(), "4.1", &["3.9", "4.0"], Some(&quiet), &[everywhere]);
    let used = watched(DAY_MS, &[("curl", 9, 3_000), ("ios/1", 1, 61_000), ("old", 2, DAY_MS)]);
    let by = "v1 was used within 24 h by curl (9 times, last 3 s ago), ios/1 (once, last 1 min 1 s ago)";
    check(&both(), "4.1", &["4.0"], Some(&used), &[by]);
    check(&both(), "4.1", &["3.9"], Some(&used), &[everywhere, by]);
    let short = watched(60_000, &[]);
    check(
        &both(),
        "4.1",
        &["4.0"],
        Some(&short),
        &["v1 has been looked at for 1 min only; it must be quiet for 24 h"],
    );
    check(&both(), "4.1", &["4.0"], Some(&[]), &["v1 has not been looked at yet; it must be quiet for 24 h"]);
    check(&both(), "4.1", &["4.0"], None, &["nobody can tell who uses v1: the proxy does not answer"]);
    let at_once = [Format { quiet_for_ms: 0, ..format("v1", "<4.1") }];
    check(&at_once, "4.1", &["4.0"], None, &[]);
    let promised = [Format { remove_after_s: Some(1_000_060), quiet_for_ms: 0, ..format("v1", "<4.1") }];
    check(&promised, "4.1", &["4.0"], None, &["v1 is promised until its remove_after, which is in 1 min"]);
    let kept = [Format { remove_after_s: Some(1_000_000), quiet_for_ms: 0, ..format("v1", "<4.1") }];
    check(&kept, "4.1", &["4.0"], None, &[]);
    let many: Vec<_> =
        (0..8).map(|n| (["a", "b", "c", "d", "e", "f", "g", "h"][n], 2, 1_000 * (n as u64 + 1))).collect();
    let asked = watched(DAY_MS, &many);
    let running = ["4.0".to_owned()];
    let said =
        objections(&both(), &[], &Asked { to: "4.1", running: &running, watched: Some(&asked), now_s: None });
    assert!(said[0].ends_with("e (2 times, last 5 s ago) and 3 more"), "{said:?}");
}

fn deploy(version: &str, formats: Vec<Format>, known: Known, force: bool) -> Request {
    let listen = Listen { formats, ..Listen::http("127.0.0.1:80") };
    let settings = AppSettings { listen: Some(listen), ..settings(2, counts(1, 0)) };
    Request::Deploy(Box::new(DeployRequest {
        force,
        known,
        ..DeployRequest::new(template(version), settings)
    }))
}

#[test]
fn a_deploy_is_refused_as_long_as_somebody_uses_what_it_drops() {
    let known = |watched: Vec<Watched>| Known { watched: Some(watched), now_s: Some(0) };
    let mut world = World::with(settings(2, counts(1, 0)));
    world.request(deploy("4.0", both(), Known::default(), false));
    world.run();
    let used = watched(DAY_MS, &[("curl", 9, 3_000)]);
    let refused =
        world.state.permit(&deploy("4.1", both(), known(used.clone()), false)).unwrap_err().to_string();
    assert_eq!(
        refused,
        "4.1 of web stops serving what clients speak: v1 was used within 24 h by curl (9 times, last 3 s ago); \
         wait until that is over, or deploy with --force"
    );
    // The file need not name it any more, or say that it was never served.
    let never = vec![Format { served: "<3.0".to_owned(), ..both().remove(0) }];
    assert!(world.state.permit(&deploy("4.1", never, known(used.clone()), false)).is_err());
    assert!(world.state.permit(&deploy("4.1", Vec::new(), known(used.clone()), false)).is_err());
    let forced = world.state.permit(&deploy("4.1", both(), known(used.clone()), true)).unwrap();
    let said = "v1 was used within 24 h by curl (9 times, last 3 s ago)".to_owned();
    let [.., Command::Roll { .. }, last] = &forced.commands[..] else { panic!("{forced:?}") };
    assert_eq!(*last, Command::Forced { against: vec![said] });
    // Forced without need it says nothing.
    let quiet = known(watched(DAY_MS, &[]));
    let free = world.state.permit(&deploy("4.1", both(), quiet, true)).unwrap();
    assert!(!matches!(free.commands.last(), Some(Command::Forced { .. })));
    let mut down = World::with(settings(2, counts(1, 0)));
    down.request(deploy("4.0", both(), Known::default(), false));
    down.run();
    down.request(Request::Down);
    while down.step() {}
    assert!(down.state.permit(&deploy("4.1", both(), known(used.clone()), false)).is_err());
    // The same version again is nothing to refuse.
    assert!(world.state.permit(&deploy("4.0", both(), known(used), false)).is_ok());
}

fn compatible(version: &str, with: Option<&str>) -> DeployRequest {
    let mut template = template(version);
    template.compatible_with = with.map(str::to_owned);
    DeployRequest::new(template, settings(2, counts(1, 0)))
}

fn ask(world: &World, request: DeployRequest) -> Result<usize, String> {
    let permitted = world.state.permit(&Request::Deploy(Box::new(request)));
    permitted.map(|step| step.commands.len()).map_err(|refusal| refusal.to_string())
}

#[test]
fn a_jump_over_a_needed_stop_is_refused_and_the_stop_is_named() {
    let mut world = World::with(settings(2, counts(1, 0)));
    let deploy = |world: &mut World, request: DeployRequest| {
        world.request(Request::Deploy(Box::new(request)));
        world.run();
    };
    deploy(&mut world, compatible("3.9", None));
    let jump = || compatible("4.1", Some(">=4.0"));
    let said = "4.1 of web skips a stop: 4.1 can run beside \">=4.0\", and 3.9 is there; \
                roll a version of \">=4.0\" first that can run beside 3.9, or deploy with --force";
    assert_eq!(ask(&world, jump()), Err(said.to_owned()));
    let forced = DeployRequest { force: true, ..jump() };
    let step = world.state.permit(&Request::Deploy(Box::new(forced))).unwrap();
    assert!(matches!(step.commands.last(), Some(Command::Forced { against }) if against.len() == 1));
    deploy(&mut world, compatible("4.0", Some(">=3.9")));
    // Beside the one that is gone back to as well: 3.9 is gone by now.
    assert!(ask(&world, jump()).is_ok());
    deploy(&mut world, jump());
    // Straight back to 3.9 the two would be alive at once.
    let revision = |version: &str| {
        let found = world.state.revisions().values().rev().find(|r| r.template.version.as_str() == version);
        Request::Rollback(Some(found.unwrap().number))
    };
    let refused = world.state.permit(&revision("3.9")).unwrap_err().to_string();
    assert!(refused.contains("4.1 can run beside \">=4.0\", and not beside 3.9"), "{refused}");
    assert!(world.state.permit(&revision("4.0")).is_ok());
    assert!(world.state.permit(&Request::Rollback(None)).is_ok());
}

/// Which of two is newer, their labels say, and not which was deployed later.
#[test]
fn the_newer_of_two_is_so_by_its_label() {
    let mut world = World::with(settings(2, counts(1, 0)));
    for (version, with) in [("4.0", None), ("4.1", Some(">=4.0"))] {
        world.request(Request::Deploy(Box::new(compatible(version, with))));
        world.run();
    }
    let said = ask(&world, compatible("3.9.1", None)).unwrap_err();
    assert!(said.contains("4.1 can run beside \">=4.0\", and not beside 3.9.1"), "{said}");
    // Nothing is beside it when all is down.
    world.request(Request::Down);
    while world.step() {}
    assert!(ask(&world, compatible("3.9.1", None)).is_ok());
}
