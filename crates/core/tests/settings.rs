//! Settings as older journals wrote them, and what a person says of an app beside its file.

#![allow(clippy::unwrap_used)]

mod common;

use common::{World, counts, settings, template};
use trundle_core::settings::{Listen, Maintenance};
use trundle_core::state::{DeployRequest, Request, RolloutState};

#[test]
fn what_an_older_journal_does_not_say_has_its_default() {
    let old = r#"{"http":"127.0.0.1:80","unix":null,"trusted_proxies":[],"version_header":null}"#;
    let listen: Listen = serde_json::from_str(old).unwrap();
    assert_eq!(listen, Listen::http("127.0.0.1:80"));
    assert_eq!((listen.http.as_deref(), listen.drain_spread_ms), (Some("127.0.0.1:80"), 2_000));
}

#[test]
fn a_deploy_leaves_closed_what_a_person_has_closed() {
    let mut world = World::with(settings(2, counts(1, 0)));
    let closed = |world: &World| world.state.settings().unwrap().listen.as_ref().unwrap().maintenance.clone();
    let page = Maintenance { page: Some("/page".into()), retry_after_ms: Some(60_000) };
    let on = Request::Maintenance(Some(page.clone()));
    assert_eq!(world.state.permit(&on).unwrap().says, "web is closed for maintenance");
    world.request(on.clone());
    let again = world.state.permit(&on).unwrap();
    assert_eq!((again.says.as_str(), again.commands.len()), ("web is closed for maintenance already", 0));
    // The file says nothing of it.
    let file = settings(2, counts(1, 0));
    let deploy = DeployRequest::new(template("2"), file);
    world.request(Request::Deploy(Box::new(deploy)));
    world.run();
    assert_eq!(world.state.last_rollout().unwrap().state, RolloutState::Succeeded);
    world.request(Request::Scale(3));
    assert_eq!(closed(&world), Some(page));
    world.request(Request::Maintenance(None));
    assert_eq!(closed(&world), None);
    let worker =
        { World::with(trundle_core::settings::AppSettings { listen: None, ..settings(1, counts(1, 0)) }) };
    let refused = worker.state.permit(&on).unwrap_err().to_string();
    assert!(refused.contains("takes no requests"), "{refused}");
    let refused = World::empty().state.permit(&on).unwrap_err().to_string();
    assert!(refused.contains("was never deployed"), "{refused}");
}
