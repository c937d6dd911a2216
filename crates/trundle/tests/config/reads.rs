//! What a good file is read as: every key, the defaults, the flags, and the file that `init` writes.

use std::fs;
use std::path::Path;

use trundle_core::formats::Match;
use trundle_core::limits::{CountOrPercent, Order};
use trundle_core::revision::{Port, Probe, Protocol, Quiet, QuietBy, RunLimits, StopSignal};
use trundle_core::settings::{AccessFormat, AccessLog, OnFailure, RolloutSettings};
use trundle_core::traffic::{Field, Mirror, Rule, Sticky, Traffic, WhenGone};

use crate::config::{self, Loaded, Secrets};
use crate::{GOOD, PLAIN, folder, init, load, told};

fn good(text: &str, sets: &[(&str, &str)]) -> Loaded {
    let dir = folder();
    load(dir.path(), text, sets, Secrets::Require).unwrap_or_else(|error| panic!("{}", error.rendered(PLAIN)))
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn which_version_a_request_gets() {
    let listen = "[listen]\nhttp = \"127.0.0.1:80\"\n";
    let text = format!(
        r#"{GOOD}{listen}[traffic]
sticky = "version"
sticky_header = "Authorization"
asked_in = ["X-App-Version", "cookie:version"]
when_gone = "refuse"
rules = [{{ header = "X-Canary", to = "newest" }}, {{ cookie = "tester", value = "yes", to = ">=4.0" }}]
skew = {{ paths = ["/assets/*", "/app.js"], max_age = "1h" }}
mirror = {{ to = "newest", share = "10%" }}
"#
    );
    let traffic = good(&text, &[]).settings.listen.unwrap().traffic.unwrap();
    let header = |name: &str| Field::Header(name.to_owned());
    let cookie = |name: &str| Field::Cookie(name.to_owned());
    let expect = Traffic {
        sticky: Sticky::Version,
        sticky_header: Some("Authorization".to_owned()),
        asked_in: vec![header("X-App-Version"), cookie("version")],
        when_gone: WhenGone::Refuse,
        rules: vec![
            Rule { field: header("X-Canary"), value: None, to: "newest".to_owned() },
            Rule { field: cookie("tester"), value: Some("yes".to_owned()), to: ">=4.0".to_owned() },
        ],
        skew_paths: texts(&["/assets/*", "/app.js"]),
        skew_max_age_ms: 3_600_000,
        mirror: Some(Mirror { to: "newest".to_owned(), share: 10, paths: texts(&["/*"]) }),
    };
    assert_eq!(traffic, expect);
    let empty = good(&format!("{GOOD}{listen}[traffic]\n"), &[]).settings.listen.unwrap();
    assert_eq!(empty.traffic, Some(Traffic::default()));
}

#[test]
fn what_clients_speak() {
    let text = format!(
        r#"{GOOD}[listen]
http = "127.0.0.1:80"
[traffic]
caller_header = "X-Client"
[[formats]]
name = "v1"
match = {{ path = "/v1/*", header = "Accept", value = "text/x", query = "a=1" }}
served = "<4.1"
successor = "v2"
link = "/v2"
deprecated_at = 2025-12-01
sunset = "2026-01-01T00:00:00Z"
remove_after = 2026-01-01
quiet_for = "0s"
[[formats]]
name = "v2"
served = ">=4.0"
"#
    );
    let listen = good(&text, &[]).settings.listen.unwrap();
    assert_eq!(listen.caller_header.as_deref(), Some("X-Client"));
    let [v1, v2] = &listen.formats[..] else { panic!("{:?}", listen.formats) };
    let some = |text: &str| Some(text.to_owned());
    let matches =
        Match { path: some("/v1/*"), header: some("Accept"), value: some("text/x"), query: some("a=1") };
    assert_eq!((&v1.matches, &v2.matches), (&matches, &Match::default()));
    assert_eq!((v1.deprecated_at_s, v1.sunset_s), (Some(1_764_547_200), Some(1_767_225_600)));
    assert_eq!((v1.remove_after_s, v1.quiet_for_ms), (v1.sunset_s, 0));
    assert_eq!((v1.successor.as_deref(), v1.link.as_deref()), (Some("v2"), Some("/v2")));
    assert_eq!((v2.quiet_for_ms, v2.deprecated_at_s), (24 * 3_600_000, None));
}

#[test]
fn an_address_of_bytes_stands_alone() {
    let loaded = good(
        "name = \"db\"\nversion = \"1\"\n[run]\ncommand = [\"./server\"]\n[listen]\ntcp = \"127.0.0.1:5432\"\n",
        &[],
    );
    let listen = loaded.settings.listen.unwrap();
    assert_eq!((listen.tcp.as_deref(), listen.http), (Some("127.0.0.1:5432"), None));
}

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

const FULL: &str = r#"
name = "web"
version = "3.1"
replicas = 8
[run]
command = ["./server", "--port={port}", "{{}}"]
cwd = "dist/.."
env = { GREETING = "hello" }
env_file = ".env"
artifact = "server"
secrets = ["SET", "EMPTY"]
stop_signal = "SIGINT"
protocol = "h2c"
[run.limits]
memory = "512MiB"
cpu = 1.5
open_files = 65536
[run.quiet]
exec = ["./ctl", "{port}"]
finished = ["./ctl", "idle"]
timeout = "90s"
[listen]
http = "[::]:80"
https = "[::]:443"
unix = "web.sock"
hosts = ["Shop.example", "*.shop.example"]
paths = ["/api/", "/~me"]
access_log = "combined"
access_log_file = "dist/../requests.log"
trusted_proxies = ["127.0.0.1/32", "unix"]
version_header = ""
hold = "20s"
drain_spread = "500ms"
[listen.tls]
cert = "chain.pem"
key = "dist/key.pem"
redirect = true
hsts = "8760h"
[listen.limits]
header_size = 4096
headers = 50
body_size = "10MiB"
header_timeout = "5s"
idle_timeout = "30s"
body_rate = 1000
response_timeout = "2m"
connect_timeout = "250ms"
connections = 500
[health.startup]
exec = ["./check", "{port}"]
[health.ready]
http = "/ready?deep=1"
status = 204
body = "ok"
headers = { Host = "example.com" }
interval = "250ms"
timeout = "2s"
rise = 2
fall = 5
eager = false
[health.live]
tcp = true
[rollout]
strategy = "rolling"
max_surge = 1
max_unavailable = "50%"
batch = 2
delay = "1s"
order = "stop-first"
bake_time = "1m"
min_healthy_time = "3s"
healthy_deadline = "1m30s"
progress_deadline = "1h"
on_failure = "continue"
max_failures = "10%"
drain_timeout = "1s"
stop_grace_period = "0s"
history_limit = 3
"#;

#[test]
fn every_key_is_read() {
    let dir = folder();
    for file in ["chain.pem", "dist/key.pem"] {
        fs::write(dir.path().join(file), PEM).unwrap();
    }
    let loaded =
        load(dir.path(), FULL, &[], Secrets::Require).unwrap_or_else(|e| panic!("{}", e.rendered(PLAIN)));
    let rollout = RolloutSettings {
        max_surge: Some(CountOrPercent::Count(1)),
        max_unavailable: Some(CountOrPercent::Percent(50)),
        batch: Some(2),
        delay_ms: 1_000,
        order: Some(Order::StopFirst),
        bake_time_ms: 60_000,
        min_healthy_time_ms: 3_000,
        healthy_deadline_ms: 90_000,
        progress_deadline_ms: 3_600_000,
        on_failure: OnFailure::Continue,
        max_failures: CountOrPercent::Percent(10),
        drain_timeout_ms: 1_000,
        stop_grace_period_ms: 0,
        history_limit: 3,
    };
    assert_eq!(
        (loaded.name.as_str(), loaded.settings.replicas, loaded.settings.fixed_port),
        ("web", 8, false)
    );
    assert_eq!(loaded.settings.rollout, rollout);
    let listen = loaded.settings.listen.unwrap();
    assert_eq!(listen.http.as_deref(), Some("[::]:80"));
    assert_eq!(listen.unix, Some(dir.path().join("web.sock").display().to_string()));
    assert_eq!(
        (&listen.hosts, &listen.paths),
        (&texts(&["Shop.example", "*.shop.example"]), &texts(&["/api/", "/~me"]))
    );
    let log = AccessLog {
        format: AccessFormat::Combined,
        file: Some(dir.path().join("requests.log").display().to_string()),
    };
    assert_eq!((listen.access_log.as_ref(), &listen.maintenance, &listen.tcp), (Some(&log), &None, &None));
    assert_eq!((listen.trusted_proxies.len(), listen.version_header.as_ref()), (2, None));
    let limits = trundle_proxy::Limits {
        header_bytes: 4096,
        headers: 50,
        body_bytes: Some(10 << 20),
        header_timeout_ms: 5_000,
        idle_timeout_ms: 30_000,
        body_rate: 1_000,
        response_timeout_ms: 120_000,
        connect_timeout_ms: 250,
        drain_spread_ms: 500,
        hold_ms: 20_000,
        max_connections: 500,
        ..trundle_proxy::Limits::default()
    };
    assert_eq!(config::proxy_limits(&listen), limits);
    assert_eq!(listen.https.as_deref(), Some("[::]:443"));
    let tls = listen.tls.unwrap();
    assert_eq!(tls.cert, dir.path().join("chain.pem").display().to_string());
    assert_eq!(tls.key, dir.path().join("dist/key.pem").display().to_string());
    assert_eq!((tls.redirect, tls.hsts_ms), (true, Some(8_760 * 3_600_000)));
    let draft = loaded.draft;
    assert_eq!(draft.command, ["./server", "--port={port}", "{{}}"]);
    assert_eq!(draft.cwd, dir.path());
    assert_eq!(draft.env.into_values().collect::<Vec<_>>(), ["hello"]);
    let env_file = draft.env_file.unwrap();
    assert_eq!(env_file.into_values().collect::<Vec<_>>(), ["canary three", "canary two", "1"]);
    assert_eq!(draft.secrets.keys().map(|key| key.as_str()).collect::<Vec<_>>(), ["EMPTY", "SET"]);
    let artifact = draft.artifact.unwrap();
    assert_eq!((artifact.path, artifact.as_written.as_str()), (dir.path().join("server"), "server"));
    assert_eq!((draft.stop_signal, draft.port), (StopSignal::Int, Port::Auto));
    assert_eq!(draft.protocol, Protocol::H2c);
    let quiet = Quiet {
        by: QuietBy::Exec(texts(&["./ctl", "{port}"])),
        finished: Some(texts(&["./ctl", "idle"])),
        timeout_ms: 90_000,
    };
    assert_eq!(draft.quiet, Some(quiet));
    let limits =
        RunLimits { memory_bytes: Some(512 << 20), cpu_millis: Some(1_500), open_files: Some(65_536) };
    assert_eq!(draft.limits, limits);
    let health = draft.health;
    assert_eq!(health.startup.unwrap().probe, Probe::Exec(vec!["./check".into(), "{port}".into()]));
    assert_eq!(health.live.unwrap().probe, Probe::Tcp);
    let ready = health.ready;
    assert_eq!(
        (ready.interval_ms, ready.timeout_ms, ready.rise, ready.fall, ready.eager),
        (250, 2_000, 2, 5, false)
    );
    let Probe::Http(http) = ready.probe else { panic!("{:?}", ready.probe) };
    assert_eq!(
        (http.path.as_str(), http.status, http.body.as_deref()),
        ("/ready?deep=1", Some(204), Some("ok"))
    );
    assert_eq!(http.headers["Host"], "example.com");
    let notes = loaded.notes.join("\n");
    for part in [".env:3: A is written again", "PORT in the environment", "EMPTY is set, but empty"] {
        assert!(notes.contains(part), "{part} in {notes}");
    }
    assert!(!notes.contains("canary"), "{notes}");
}

#[test]
fn what_is_not_written_has_the_defaults_of_the_contract() {
    let loaded = good(GOOD, &[]);
    assert_eq!(loaded.settings.replicas, 1);
    assert_eq!(loaded.settings.rollout, RolloutSettings::default());
    assert_eq!(loaded.settings.listen, None);
    assert!(loaded.draft.health.ready_assumed && loaded.draft.env_file.is_none());
    assert_eq!((loaded.draft.stop_signal, loaded.draft.port), (StopSignal::Term, Port::Auto));
    assert_eq!(loaded.draft.cwd, loaded.path.parent().unwrap());
    assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
    let listen = good(&format!("{GOOD}[listen]\nhttp = \"127.0.0.1:80\""), &[]).settings.listen.unwrap();
    assert_eq!(listen.version_header.as_deref(), Some("X-App-Version"));
    assert_eq!(config::proxy_limits(&listen), trundle_proxy::Limits::default());
    // Who can run only once lets clients wait meanwhile, unless it is written otherwise.
    let fixed = good(&format!("{GOOD}port = 90\n[listen]\nhttp = \"127.0.0.1:80\""), &[]);
    assert_eq!(fixed.settings.listen.unwrap().hold_ms, 30_000);
    let fixed = good(&format!("{GOOD}port = 90\n[listen]\nhttp = \"127.0.0.1:80\"\nhold = \"0s\""), &[]);
    assert_eq!(fixed.settings.listen.unwrap().hold_ms, 0);
    let fixed = good(&format!("{GOOD}port = 80"), &[]);
    assert_eq!((fixed.settings.fixed_port, fixed.draft.port), (true, Port::Fixed(80)));
    assert_eq!(config::parse_duration("1m30s"), Ok(90_000));
}

#[test]
fn flags_prevail_and_texts_need_no_quotes_there() {
    let sets = [
        ("version", "9"),
        ("version", "3.10"),
        ("replicas", "4"),
        ("run.env.DB_POOL", "40"),
        ("run.env.DEBUG", "true"),
        ("run.env.QUOTED", "\"a b\""),
        ("run.env.EMPTY", ""),
        ("run.stop_signal", "SIGHUP"),
        ("run.command", "[\"./server\", \"{port}\"]"),
        ("rollout.max_surge", "50%"),
        ("rollout.drain_timeout", "5s"),
        ("health.ready.tcp", "true"),
        ("listen.http", "127.0.0.1:80"),
    ];
    let loaded = good(GOOD, &sets);
    assert_eq!((loaded.draft.version.as_str(), loaded.settings.replicas), ("3.10", 4));
    let env: Vec<_> = loaded.draft.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(env, ["DB_POOL=40", "DEBUG=true", "EMPTY=", "QUOTED=a b"]);
    assert_eq!(loaded.draft.command, ["./server", "{port}"]);
    assert_eq!(loaded.draft.stop_signal, StopSignal::Hup);
    let rollout = loaded.settings.rollout;
    assert_eq!((rollout.max_surge, rollout.drain_timeout_ms), (Some(CountOrPercent::Percent(50)), 5_000));
    assert!(!loaded.draft.health.ready_assumed && loaded.settings.listen.is_some());
    assert_eq!(loaded.draft.protocol, Protocol::Http1);
    let grpc = good(GOOD, &[("health.ready.grpc", "shop.v1.Orders"), ("run.protocol", "h2c")]);
    assert_eq!(grpc.draft.health.ready.probe, Probe::Grpc("shop.v1.Orders".into()));
}

#[test]
fn programs_are_found_where_they_will_run() {
    for text in [
        GOOD.replace("./server", "sh"),
        GOOD.replace("./server", "./app") + "artifact = \"dist\"",
        GOOD.replace("./server", "./app") + "cwd = \"dist\"",
        GOOD.replace("./server", "sh\", \"data.txt") + "artifact = \"data.txt\"",
        GOOD.replace("./server", "server") + "env.PATH = \".\"",
    ] {
        good(&text, &[]);
    }
}

#[test]
fn a_missing_secret_is_a_note_unless_it_is_deployed() {
    let dir = folder();
    let text = format!("{GOOD}secrets = [\"DATABASE_URL\", \"SET\"]");
    let loaded =
        load(dir.path(), &text, &[], Secrets::Optional).unwrap_or_else(|e| panic!("{}", e.rendered(PLAIN)));
    assert!(
        loaded.notes.iter().any(|note| note.contains("DATABASE_URL is not set here")),
        "{:?}",
        loaded.notes
    );
    assert_eq!(loaded.draft.secrets.len(), 1);
    assert!(load(dir.path(), &text, &[], Secrets::Require).is_err());
}

#[test]
fn what_init_writes_is_good_and_says_the_defaults() {
    let dir = folder();
    let path = init::write_template(dir.path()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let refused = init::write_template(dir.path()).unwrap_err();
    assert!(refused.contains("was not touched") && refused.contains("hint: "), "{refused}");
    assert!(init::write_template(Path::new("/no/such/folder")).unwrap_err().contains("hint: "));
    let quarter = Some(CountOrPercent::Percent(25));
    let defaults =
        RolloutSettings { max_surge: quarter, max_unavailable: quarter, ..RolloutSettings::default() };
    assert_eq!(good(&text, &[]).settings.rollout, defaults);
    // Every example that is commented out is good too.
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key)
                if key.starts_with('[') && key.ends_with(']')
                    || key.contains(" = ") && !key.contains("`") =>
            {
                key
            }
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    fs::copy(dir.path().join("server"), dir.path().join("dist/server")).unwrap();
    for file in ["fullchain.pem", "privkey.pem"] {
        fs::write(dir.path().join(file), PEM).unwrap();
    }
    let loaded =
        load(dir.path(), &all, &[], Secrets::Optional).unwrap_or_else(|e| panic!("{}", e.rendered(PLAIN)));
    let check = loaded.draft.health.ready;
    assert_eq!(
        (check.interval_ms, check.timeout_ms, check.rise, check.fall, check.eager),
        (1_000, 1_000, 1, 3, true)
    );
}

#[test]
fn what_the_machine_says_of_a_key_later_has_the_place_of_the_key() {
    let dir = folder();
    let text = format!("{GOOD}[listen]\nhttp = \"127.0.0.1:8080\"\n");
    let refused = |sets: &[(&str, &str)]| {
        let loaded = load(dir.path(), &text, sets, Secrets::Require)
            .unwrap_or_else(|e| panic!("{}", e.rendered(PLAIN)));
        told(&loaded.origin.refuse("listen.http", "cannot listen".to_owned(), "free it"), dir.path())
    };
    assert_eq!(refused(&[]), ["6:listen.http: cannot listen | free it"]);
    assert_eq!(refused(&[("listen.http", "127.0.0.1:8081")]), ["--set:listen.http: cannot listen | free it"]);
}
