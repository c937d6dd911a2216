//! What clients speak: who uses it is counted, and it goes to those who serve it.

#![allow(clippy::unwrap_used)]

mod common;

use common::two::*;
use common::*;
use trundle_proxy::{Endpoint, Format, Sticky, Traffic};

#[test]
fn who_uses_which_format_is_counted_and_the_old_one_says_when_it_ends() {
    let app = app_of("4.0");
    let mut proxy = Proxy::start_with(|app| {
        let v2 = Format {
            name: "v2".to_owned(),
            header: Some("Accept".to_owned()),
            value: Some("application/vnd.shop.v2+json".to_owned()),
            ..Format::default()
        };
        let v1 = Format {
            name: "v1".to_owned(),
            path: Some("/orders*".to_owned()),
            deprecated_at_s: Some(1_764_547_200),
            sunset_s: Some(1_767_225_600),
            link: Some("/docs/v2".to_owned()),
            ..Format::default()
        };
        app.formats = vec![v2, v1];
    });
    proxy.route(vec![routed("a", app.address)]);
    let ask = |proxy: &Proxy, path: &str, lines: &str| {
        raw(proxy.address, &format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n{lines}\r\n"))
    };
    for _ in 0..3 {
        let old = ask(&proxy, "/orders/7", "User-Agent: ios/1\r\n");
        assert_eq!(old.header("deprecation"), Some("@1764547200"));
        assert_eq!(old.header("sunset"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
        assert_eq!(old.header("link"), Some("</docs/v2>; rel=\"successor-version\""));
    }
    let new = ask(&proxy, "/orders/7", "User-Agent: ios/2\r\nAccept: application/vnd.shop.v2+json\r\n");
    assert_eq!((new.header("deprecation"), new.header("link")), (None, None));
    ask(&proxy, "/orders/8", "");
    ask(&proxy, "/elsewhere", "User-Agent: ios/1\r\n");
    let uses = |proxy: &mut Proxy| {
        let formats = proxy.control.app().formats;
        let callers = |format: &str| -> Vec<(String, u64)> {
            formats[format].callers.iter().map(|(name, caller)| (name.clone(), caller.count)).collect()
        };
        assert!(formats.values().all(|uses| uses.since_s.is_some()), "{formats:?}");
        (callers("v1"), callers("v2"))
    };
    let counted = |name: &str, count: u64| (name.to_owned(), count);
    let expect = (vec![counted("127.0.0.1", 1), counted("ios/1", 3)], vec![counted("ios/2", 1)]);
    assert_eq!(uses(&mut proxy), expect);
    proxy.restart();
    assert_eq!(uses(&mut proxy), expect, "also in a proxy that was started anew");
    // By another header.
    proxy.table.apps[0].caller_header = Some("X-Client".to_owned());
    proxy.route(vec![routed("a", app.address)]);
    ask(&proxy, "/orders/9", "User-Agent: ios/1\r\nX-Client: warehouse\r\n");
    assert!(uses(&mut proxy).0.contains(&counted("warehouse", 1)));
}

/// Nobody else would understand it.
#[test]
fn a_format_goes_to_the_versions_that_serve_it() {
    let mut two = Two::with(Traffic::default());
    let format = |name: &str, served: &str| Format {
        name: name.to_owned(),
        header: Some("Accept".to_owned()),
        value: Some(name.to_owned()),
        served: Some(served.to_owned()),
        ..Format::default()
    };
    two.proxy.table.apps[0].formats =
        vec![format("v2", ">=4.0"), format("v1", "<4.1"), format("v0", "<4.0"), format("v9", ">=9")];
    two.change(|_| ());
    let seen = |two: &Two, accept: &str| -> std::collections::BTreeSet<String> {
        let answers = (0..30).map(|_| asks(&two.proxy, &format!("Accept: {accept}")));
        answers
            .inspect(|answer| assert_eq!(answer.header("vary"), Some("accept")))
            .map(|a| a.text().to_owned())
            .collect()
    };
    let of = |versions: &[&str]| versions.iter().map(|v| (*v).to_owned()).collect();
    for (accept, versions) in
        [("v2", of(&["4.0"])), ("v1", of(&["3.9", "4.0"])), ("v0", of(&["3.9"])), ("v9", of(&["3.9", "4.0"]))]
    {
        assert_eq!(seen(&two, accept), versions, "{accept}");
    }
    // Also where clients have places.
    two.change(|traffic| (traffic.sticky, traffic.share) = (Sticky::Version, Some(0)));
    assert_eq!((seen(&two, "v2"), seen(&two, "v1")), (of(&["4.0"]), of(&["3.9"])));
    // Somebody who does not understand it is better than nobody.
    two.proxy.route(vec![of_one(&two)]);
    assert_eq!(seen(&two, "v2"), of(&["3.9"]));
}

fn of_one(two: &Two) -> Endpoint {
    of(1, "3.9", 1, two.old.address)
}
