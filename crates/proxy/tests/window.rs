//! Two versions serve at once: who gets which, and that nobody goes back.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::two::*;
use common::*;
use trundle_proxy::{Endpoint, EndpointState, Field, Rule, Sticky, Traffic, Wanted, WhenGone};

fn header_named(name: &str) -> Field {
    Field::Header(name.to_owned())
}

#[test]
fn who_asks_for_a_version_gets_it_while_it_lives() {
    let asked_in =
        vec![header_named("X-App-Version"), header_named("Accept-Version"), Field::Cookie("v".to_owned())];
    let mut two = Two::with(Traffic { asked_in, share: Some(50), ..Traffic::default() });
    for (header, version) in [
        ("X-App-Version: 3.9", "3.9"),
        ("X-App-Version: 4.0", "4.0"),
        ("x-app-version: 4", "4.0"),
        ("Accept-Version: >=4.0", "4.0"),
        ("Accept-Version: <4", "3.9"),
        ("Accept-Version: >=3", "4.0"), // the newest of those that are meant
        ("Cookie: a=1; v=3.9", "3.9"),
        ("X-App-Version: 3.9\r\nAccept-Version: 4.0", "3.9"),
    ] {
        for _ in 0..3 {
            let answer = asks(&two.proxy, header);
            assert_eq!(answer.text(), version, "{header}");
            assert_eq!(answer.header("vary"), Some("accept-version, cookie, x-app-version"));
        }
    }
    assert_eq!(two.mixed("asked"), 24);
    // Nobody serves it: as if it had not been asked for.
    for header in ["X-App-Version: 5.0", "X-App-Version: ???", "X-App-Version: "] {
        assert_eq!(asks(&two.proxy, header).status, 200, "{header}");
    }
    assert_eq!(two.mixed("asked_gone"), 3);
    two.change(|traffic| traffic.when_gone = WhenGone::Refuse);
    let refused = asks(&two.proxy, "X-App-Version: 5.0");
    assert_eq!(
        (refused.status, refused.text()),
        (406, "version 5.0 is served by no instance; there is 4.0, 3.9\n")
    );
    assert_eq!(refused.header("vary"), Some("accept-version, cookie, x-app-version"));
    assert_eq!(asks(&two.proxy, "X-App-Version: 4.0").status, 200);
    let counts = two.proxy.control.app_with(29);
    assert_eq!((counts.rejected, counts.lost), (1, 0));
}

#[test]
fn rules_send_test_traffic_where_it_shall_go() {
    let rule = |field, value: Option<&str>, to| Rule { field, value: value.map(str::to_owned), to };
    let rules = vec![
        rule(header_named("X-Canary"), Some("never"), Wanted::Oldest),
        rule(header_named("X-Canary"), None, Wanted::Newest),
        rule(Field::Cookie("tester".to_owned()), Some("yes"), Wanted::Versions(">=4".to_owned())),
    ];
    let two = Two::with(Traffic { rules, share: Some(0), ..Traffic::default() });
    for (header, version) in [
        ("X-Canary: never", "3.9"),
        ("X-Canary: always", "4.0"),
        ("Cookie: tester=yes", "4.0"),
        ("Cookie: tester=no", "3.9"),
        ("X-Other: 1", "3.9"),
    ] {
        let answer = asks(&two.proxy, header);
        assert_eq!(answer.text(), version, "{header}");
        assert_eq!(answer.header("vary"), Some("cookie, x-canary"));
    }
}

#[test]
fn a_share_is_exact_over_any_hundred_requests() {
    let mut two = Two::with(Traffic::default());
    for share in [1, 20, 37, 99, 0, 100] {
        two.change(|traffic| traffic.share = Some(share));
        let mut client = Client::of(&two.proxy);
        let new: Vec<bool> = (0..350).map(|_| client.version() == "4.0").collect();
        for hundred in new.windows(100) {
            assert_eq!(hundred.iter().filter(|is_new| **is_new).count(), share as usize, "{share} of 100");
        }
    }
}

fn clients_of(two: &Two, many: usize) -> Vec<Client> {
    (0..many).map(|_| Client::of(&two.proxy)).collect()
}

/// Clients that keep no cookie and are told apart by what they are authorized with.
fn clients_with_a_bearer(two: &Two, many: usize) -> Vec<Client> {
    let mut clients = clients_of(two, many);
    for (n, client) in clients.iter_mut().enumerate() {
        client.more = format!("Authorization: Bearer {n}\r\n");
    }
    clients
}

/// Who of them is with the new version, after a request of each.
fn ask_all(clients: &mut [Client]) -> Vec<bool> {
    clients.iter_mut().map(|client| client.version() == "4.0").collect()
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|flag| **flag).count()
}

#[test]
fn a_client_never_goes_back_and_stays_while_the_share_is_held() {
    let mut two = Two::with(Traffic { sticky: Sticky::Version, share: Some(30), ..Traffic::default() });
    let mut clients = clients_of(&two, 100);
    let first = ask_all(&mut clients);
    assert_eq!(count(&first), 30);
    for _ in 0..5 {
        assert_eq!(ask_all(&mut clients), first, "both ways");
    }
    let mut before = first;
    for share in [50, 20, 80] {
        two.change(|traffic| traffic.share = Some(share));
        let now = ask_all(&mut clients);
        assert!(before.iter().zip(&now).all(|(before, now)| *now || !before), "nobody went back");
        assert_eq!(count(&now), count(&before).max(share as usize));
        before = now;
    }
    assert!(two.mixed("held_from_going_back") >= 30, "those of the new one while it had 20 of 100");
    assert_eq!(two.mixed("went_back"), 0);

    // A way back: the same order turned round, and what clients were told means nothing any more.
    two.change(|traffic| {
        (traffic.window, traffic.newest, traffic.share) = (2, Some(1), Some(100));
    });
    assert_eq!(count(&ask_all(&mut clients)), 0, "released");
}

#[test]
fn what_a_client_keeps_is_good_over_a_restart_and_a_new_key_and_nothing_else_is() {
    let mut two = Two::with(Traffic { sticky: Sticky::Version, share: Some(50), ..Traffic::default() });
    let mut client = Client::of(&two.proxy);
    until("a client of the new version", || {
        client = Client::of(&two.proxy);
        (client.version() == "4.0").then_some(())
    });
    let kept = client.cookie.clone().unwrap();
    assert!(kept.starts_with("trundle-web-newest="), "{kept}");
    two.change(|traffic| traffic.share = Some(0));
    let stays = |two: &Two, cookie: &str| {
        let mut again = Client::of(&two.proxy);
        again.cookie = Some(cookie.to_owned());
        (0..5).all(|_| again.version() == "4.0")
    };
    assert!(stays(&two, &kept));
    two.proxy.restart();
    assert!(stays(&two, &kept), "the key is on the disk");

    let path = two.proxy.dir.path().join("proxy-keys");
    let old = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{}\n{old}", "5a".repeat(32))).unwrap();
    two.proxy.restart();
    assert!(stays(&two, &kept), "the old key stands below the new one");
    std::fs::write(&path, "5a".repeat(32)).unwrap();
    two.proxy.restart();
    assert!(!stays(&two, &kept), "a key that is gone is believed no more");

    let forged = kept.replace("newest=A", "newest=B");
    assert_ne!(forged, kept);
    for cookie in [forged.as_str(), "trundle-web-newest=", "trundle-web=AAAA", "trundle-api-newest=x"] {
        assert!(!stays(&two, cookie), "{cookie}");
    }
    assert_eq!(two.proxy.control.app().lost, 0);
}

/// A hint and never a trap.
#[test]
fn a_version_without_anybody_gives_no_error() {
    let mut two = Two::with(Traffic { sticky: Sticky::Version, share: Some(100), ..Traffic::default() });
    let mut client = Client::of(&two.proxy);
    assert_eq!(client.version(), "4.0");
    let kept = client.cookie.clone();
    two.proxy.route(vec![of(1, "3.9", 1, two.old.address)]);
    assert_eq!(client.version(), "3.9");
    assert_eq!(client.cookie, kept, "it has still seen the new one");
    two.change(|_| ());
    assert_eq!(client.version(), "4.0", "and is there again with it");

    // In the table, and not to be reached.
    let (_socket, refuses) = refusing();
    two.proxy.route(vec![of(1, "3.9", 1, two.old.address), of(2, "4.0", 7, refuses)]);
    assert_eq!(client.version(), "3.9");
    let counts = two.proxy.control.app_with(4);
    assert_eq!((counts.lost, counts.mixed.get("went_back")), (0, Some(&2)));
}

#[test]
fn who_keeps_no_cookie_is_known_by_a_header() {
    let mut two = Two::with(Traffic {
        sticky: Sticky::Version,
        sticky_header: Some("Authorization".to_owned()),
        share: Some(0),
        ..Traffic::default()
    });
    let mut clients = clients_with_a_bearer(&two, 300);
    let mut before = ask_all(&mut clients);
    assert_eq!(count(&before), 0);
    for (share, most) in [(20, 20), (60, 60), (30, 60), (70, 70)] {
        two.change(|traffic| traffic.share = Some(share));
        let now = ask_all(&mut clients);
        assert!(before.iter().zip(&now).all(|(before, now)| *now || !before), "nobody went back at {share}");
        let (least, most) = (300 * most * 8 / 1000, 300 * most * 12 / 1000);
        assert!((least..=most).contains(&count(&now)), "{} of 300 at {share}", count(&now));
        before = now;
        two.proxy.restart();
        clients.iter_mut().for_each(|client| client.http = Http::connect(two.proxy.address));
        assert_eq!(ask_all(&mut clients), before, "also after a restart");
    }
    assert!(clients.iter().all(|client| client.cookie.is_none()));
}

#[test]
fn a_client_stays_with_its_instance() {
    let mut two = Two::with(Traffic { sticky: Sticky::Instance, ..Traffic::default() });
    let names = ["a", "b", "c", "d"];
    let apps = names.map(Upstream::says);
    let endpoints =
        |left: &[usize]| left.iter().map(|n| of(1, "3.9", 10 + *n as u32, apps[*n].address)).collect();
    two.proxy.route(endpoints(&[0, 1, 2, 3]));
    let mut clients = clients_of(&two, 12);
    let first: Vec<String> = clients.iter_mut().map(Client::version).collect();
    for _ in 0..3 {
        let again: Vec<String> = clients.iter_mut().map(Client::version).collect();
        assert_eq!(again, first);
    }
    // It is gone: another one, and that for good.
    two.proxy.route(endpoints(&[1, 2, 3]));
    let then: Vec<String> = clients.iter_mut().map(Client::version).collect();
    let stayed = first.iter().zip(&then).filter(|(first, then)| first == then).count();
    assert_eq!(stayed, first.iter().filter(|name| *name != "a").count());
    let again: Vec<String> = clients.iter_mut().map(Client::version).collect();
    assert_eq!(again, then);
}

#[test]
fn what_one_version_has_not_another_is_asked_for() {
    let mut two = Two::with(Traffic {
        skew_paths: vec!["/assets/*".to_owned()],
        sticky: Sticky::Version,
        share: Some(100),
        ..Traffic::default()
    });
    let mut client = Client::of(&two.proxy);
    assert_eq!(client.version(), "4.0");
    for _ in 0..3 {
        let answer = client.ask("/assets/3.9.js");
        assert_eq!((answer.status, answer.text()), (200, "3.9"));
        assert_eq!(client.ask("/assets/4.0.js").text(), "4.0");
    }
    assert_eq!((two.mixed("across_versions"), two.old.count()), (3, 3));
    assert_eq!(client.ask("/assets/none.js").text(), "nothing here");
    assert_eq!(client.ask("/other/3.9.js").status, 200);
    // What changes something is sent once, whatever comes of it.
    let posted = client.http.post("/assets/3.9.js", b"x").unwrap();
    assert_eq!(posted.status, 404);
    assert_eq!((two.old.count(), two.mixed("across_versions"), two.mixed("missing_everywhere")), (4, 3, 1));
    // What a page loads is no sign of which page it is.
    assert_eq!(client.version(), "4.0");
    let counts = two.proxy.control.app_with(11);
    assert_eq!((counts.lost, counts.by_version["3.9"], counts.by_version["4.0"]), (0, 3, 8));
}

#[test]
fn a_page_of_the_old_version_loads_from_the_old_one() {
    let mut two = Two::with(Traffic {
        skew_paths: vec!["/assets/*".to_owned()],
        sticky: Sticky::Version,
        share: Some(0),
        ..Traffic::default()
    });
    let mut client = Client::of(&two.proxy);
    assert_eq!(client.version(), "3.9");
    two.change(|traffic| traffic.share = Some(100));
    assert_eq!(client.ask("/assets/3.9.js").status, 200);
    assert_eq!(client.ask("/assets/4.0.js").status, 200);
    assert_eq!(
        (two.new.count(), two.mixed("across_versions")),
        (1, 1),
        "the first went to the old one at once"
    );
    assert_eq!(client.version(), "4.0");
}

#[test]
fn what_may_be_stored_for_everybody_carries_nothing_of_one_client() {
    let (old, new) = (
        app_of("3.9"),
        Upstream::start(|seen, stream| {
            let control = if seen.target() == "/" { "public, max-age=60" } else { "private" };
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncache-control: {control}\r\n\r\n4.0");
            std::io::Write::write_all(stream, answer.as_bytes()).is_ok()
        }),
    );
    let mut two = Two { proxy: Proxy::start(), old, new };
    two.set(Traffic {
        newest: Some(2),
        window: 1,
        open: true,
        sticky: Sticky::Version,
        share: Some(100),
        ..Traffic::default()
    });
    let mut client = Client::of(&two.proxy);
    assert_eq!(client.ask("/").header("set-cookie"), None);
    let given = client.ask("/mine").header("set-cookie").unwrap().to_owned();
    assert!(given.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{given}");
    assert_eq!(client.ask("/mine").header("set-cookie"), None, "it has it");
}

/// An old instance that nobody is sent to stays as long as somebody has a page of it.
#[test]
fn the_last_of_a_version_is_kept_for_its_pages() {
    let mut two = Two::with(Traffic {
        skew_paths: vec!["/assets/*".to_owned()],
        skew_max_age_s: 3_600,
        ..Traffic::default()
    });
    let old = of(1, "3.9", 1, two.old.address);
    let new = of(2, "4.0", 1, two.new.address);
    two.proxy.route(vec![old.clone()]);
    let (mut stays, mut leaves) = (Client::of(&two.proxy), Client::of(&two.proxy));
    assert_eq!((stays.version(), leaves.version()), ("3.9".to_owned(), "3.9".to_owned()));
    assert!(two.proxy.control.app().pinned.is_empty(), "nobody has shown that it keeps what it is given");
    assert_eq!((stays.ask("/api").text(), leaves.ask("/api").text()), ("3.9", "3.9"));
    assert_eq!(two.proxy.control.app().pinned, [(1, 2)].into());
    let kept = Endpoint { state: EndpointState::Kept, ..old.clone() };
    two.proxy.route(vec![kept.clone(), new.clone()]);
    // Nobody new comes there, and pages find what is theirs.
    assert!((0..20).all(|_| Client::of(&two.proxy).version() == "4.0"));
    assert_eq!(stays.ask("/assets/3.9.js").text(), "3.9");
    assert_eq!(stays.ask("/assets/4.0.js").text(), "4.0");
    assert_eq!(stays.ask("/api").text(), "4.0", "what a page asks for is no page");
    assert_eq!(stays.ask("/assets/3.9.js").text(), "3.9");
    assert_eq!((leaves.version(), leaves.version()), ("4.0".to_owned(), "4.0".to_owned()));
    assert_eq!(two.proxy.control.app().pinned, [(1, 1), (2, 1)].into());
    // Also in a proxy that was started anew, and in the next table.
    two.proxy.restart();
    let table = two.proxy.table.clone();
    two.proxy.control.set(&table);
    stays.http = Http::connect(two.proxy.address);
    assert_eq!(stays.ask("/assets/3.9.js").text(), "3.9");
    assert!(two.proxy.control.try_recv(Duration::from_millis(100)).is_none(), "it is not drained");
    // What is no page does not move it: an answer of HTML that a script has asked for.
    stays.more = "Sec-Fetch-Dest: empty\r\n".to_owned();
    assert_eq!((stays.version(), stays.version()), ("4.0".to_owned(), "4.0".to_owned()));
    assert_eq!(two.proxy.control.app().pinned, [(1, 1), (2, 1)].into());
    assert_eq!(stays.ask("/assets/3.9.js").text(), "3.9");
    // The last page of it is gone.
    stays.more = "Sec-Fetch-Dest: document\r\n".to_owned();
    assert_eq!((stays.version(), stays.version()), ("4.0".to_owned(), "4.0".to_owned()));
    assert_eq!(two.proxy.control.await_drained("web-1-1"), 0);
    // It is on its way out, whatever the next table says and whoever comes.
    two.proxy.route(vec![kept, new]);
    assert_eq!(two.proxy.control.await_drained("web-1-1"), 0);
    assert_eq!(stays.ask("/assets/3.9.js").status, 404);
    assert_eq!(two.proxy.control.app().lost, 0);
}

#[test]
fn a_page_grows_too_old_to_keep_anybody_for() {
    let mut two = Two::with(Traffic {
        skew_paths: vec!["/assets/*".to_owned()],
        skew_max_age_s: 2,
        ..Traffic::default()
    });
    let old = of(1, "3.9", 1, two.old.address);
    two.proxy.route(vec![old.clone()]);
    let mut client = Client::of(&two.proxy);
    assert_eq!((client.version(), client.ask("/api").text()), ("3.9".to_owned(), "3.9"));
    let kept = Endpoint { state: EndpointState::Kept, ..old };
    two.proxy.route(vec![kept, of(2, "4.0", 1, two.new.address)]);
    assert_eq!(client.ask("/assets/3.9.js").text(), "3.9");
    assert_eq!(two.proxy.control.await_drained("web-1-1"), 0);
    assert!(two.proxy.control.app().pinned.is_empty());
}

/// What was in its hands when it was released may be a page: that keeps it no more, or a drain would prove nothing.
#[test]
fn who_is_released_is_not_kept_again() {
    let mut two = Two::with(Traffic {
        skew_paths: vec!["/assets/*".to_owned()],
        skew_max_age_s: 3_600,
        ..Traffic::default()
    });
    let old = of(1, "3.9", 1, two.old.address);
    let new = of(2, "4.0", 1, two.new.address);
    two.proxy.route(vec![old.clone()]);
    let mut client = Client::of(&two.proxy);
    client.http.send("GET /slow HTTP/1.1\r\nHost: web.test\r\n\r\n");
    until("the request at the old one", || (two.old.count() == 1).then_some(()));
    let kept = Endpoint { state: EndpointState::Kept, ..old };
    two.proxy.route(vec![kept.clone(), new.clone()]);
    let page = client.http.answer().unwrap();
    assert_eq!(page.text(), "3.9");
    client.keep(page.header("set-cookie").unwrap().split(';').next().unwrap());
    assert_eq!(client.ask("/api").text(), "4.0");
    assert_eq!(two.proxy.control.app().pinned, [(1, 1)].into());
    two.proxy.route(vec![kept, new]);
    assert_eq!(client.ask("/assets/3.9.js").status, 404);
    assert_eq!(two.proxy.control.await_drained("web-1-1"), 0);
}

/// The old version has nobody for a moment: who was answered by the new one meanwhile does not go back, by whatever it is known.
#[test]
fn nobody_goes_back_when_the_old_version_was_away_for_a_moment() {
    let mut two = Two::with(Traffic {
        sticky: Sticky::Version,
        sticky_header: Some("Authorization".to_owned()),
        share: Some(10),
        ..Traffic::default()
    });
    let mut clients = clients_of(&two, 60);
    for (n, client) in clients.iter_mut().enumerate().skip(30) {
        client.more = format!("Authorization: Bearer {n}\r\n");
    }
    let first = ask_all(&mut clients);
    assert!(count(&first) < 30, "{first:?}");
    two.proxy.route(vec![of(2, "4.0", 1, two.new.address)]);
    assert_eq!(count(&ask_all(&mut clients)), 60);
    // Those who come only now as well.
    let mut late = clients_of(&two, 20);
    assert_eq!(count(&ask_all(&mut late)), 20);
    two.change(|_| ());
    assert_eq!((count(&ask_all(&mut clients)), count(&ask_all(&mut late))), (60, 20));
    assert_eq!(two.mixed("went_back"), 0);
}

/// Of two answers that a client waits for at once, the old one's comes last.
#[test]
fn an_old_answer_that_comes_late_undoes_nothing() {
    let mut two = Two::with(Traffic { sticky: Sticky::Version, share: Some(50), ..Traffic::default() });
    let cookie_of = |two: &Two, version: &str| {
        until("an answer of a version", || {
            let mut client = Client::of(&two.proxy);
            (client.version() == version).then(|| client.cookie.clone().unwrap())
        })
    };
    let (new, old) = (cookie_of(&two, "4.0"), cookie_of(&two, "3.9"));
    let mut client = Client::of(&two.proxy);
    client.keep(&new);
    client.keep(&old);
    assert!((0..10).all(|_| client.version() == "4.0"));
    // Another rollout supersedes in the same window: who has seen 4.0 meets it or what is newer.
    two.change(|traffic| (traffic.newest, traffic.share) = (Some(3), Some(0)));
    assert!((0..10).all(|_| client.version() == "4.0"));
}

/// Who is known by a header and has seen 4.0 does not go back behind it when 4.1 takes over, and is not the first to meet that.
#[test]
fn how_far_clients_have_come_is_kept_over_a_rollout_that_supersedes() {
    let mut two = Two::with(Traffic {
        sticky: Sticky::Version,
        sticky_header: Some("Authorization".to_owned()),
        share: Some(60),
        ..Traffic::default()
    });
    let mut clients = clients_with_a_bearer(&two, 100);
    let seen_new = ask_all(&mut clients);
    let newest = app_of("4.1");
    two.proxy.table.apps[0].traffic.as_mut().unwrap().newest = Some(3);
    two.proxy.table.apps[0].traffic.as_mut().unwrap().share = Some(5);
    two.proxy.route(vec![
        of(1, "3.9", 1, two.old.address),
        of(2, "4.0", 1, two.new.address),
        of(3, "4.1", 1, newest.address),
    ]);
    let now: Vec<String> = clients.iter_mut().map(Client::version).collect();
    for (seen, version) in seen_new.iter().zip(&now) {
        assert!(!*seen || version != "3.9", "went back");
    }
    assert!(now.iter().filter(|version| *version == "4.1").count() < 20, "{now:?}");
}
