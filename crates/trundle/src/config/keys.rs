//! The keys a file may have, each with an example: the one list behind "unknown key" and behind every hint.

use super::similar;

/// Table → its keys, each with a value as it may be written. Tables are written `[name]`.
pub(super) const KEYS: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            ("name", "\"web\""),
            ("version", "\"3.1\""),
            ("replicas", "8"),
            ("run", "[run]"),
            ("listen", "[listen]"),
            ("release", "[release]"),
            ("traffic", "[traffic]"),
            ("formats", "[[formats]]"),
            ("gates", "[[gates]]"),
            ("health", "[health.ready]"),
            ("rollout", "[rollout]"),
        ],
    ),
    (
        "run",
        &[
            ("command", "[\"./server\", \"--port\", \"{port}\"]"),
            ("cwd", "\".\""),
            ("env", "{ GREETING = \"hello\" }"),
            ("env_file", "\".env\""),
            ("artifact", "\"dist\""),
            ("secrets", "[\"DATABASE_URL\"]"),
            ("stop_signal", "\"SIGTERM\""),
            ("port", "\"auto\""),
            ("protocol", "\"http1\""),
            ("quiet", "[run.quiet]"),
            ("user", "\"www-data\""),
            ("limits", "[run.limits]"),
        ],
    ),
    ("run.limits", &[("memory", "\"512MiB\""), ("cpu", "1.5"), ("open_files", "65536")]),
    (
        "run.quiet",
        &[
            ("signal", "\"SIGTSTP\""),
            ("exec", "[\"./ctl\", \"quiet\"]"),
            ("finished", "[\"./ctl\", \"is-idle\"]"),
            ("timeout", "\"5m\""),
        ],
    ),
    (
        "listen",
        &[
            ("http", "\"127.0.0.1:8080\""),
            ("https", "\"0.0.0.0:443\""),
            ("tls", "[listen.tls]"),
            ("unix", "\"web.sock\""),
            ("tcp", "\"127.0.0.1:5432\""),
            ("hosts", "[\"shop.example\", \"*.shop.example\"]"),
            ("paths", "[\"/api\"]"),
            ("access_log", "\"json\""),
            ("access_log_file", "\"access.log\""),
            ("trusted_proxies", "[\"127.0.0.1/32\", \"unix\"]"),
            ("version_header", "\"X-App-Version\""),
            ("hold", "\"30s\""),
            ("drain_spread", "\"2s\""),
            ("limits", "[listen.limits]"),
        ],
    ),
    (
        "listen.tls",
        &[
            ("cert", "\"fullchain.pem\""),
            ("key", "\"privkey.pem\""),
            ("acme", "\"ops@shop.example\""),
            ("acme_directory", "\"https://acme-v02.api.letsencrypt.org/directory\""),
            ("acme_root", "\"ca.pem\""),
            ("redirect", "true"),
            ("hsts", "\"8760h\""),
        ],
    ),
    (
        "listen.limits",
        &[
            ("header_size", "\"64KiB\""),
            ("headers", "100"),
            ("body_size", "\"10MiB\""),
            ("header_timeout", "\"10s\""),
            ("idle_timeout", "\"75s\""),
            ("body_rate", "240"),
            ("response_timeout", "\"60s\""),
            ("connect_timeout", "\"5s\""),
            ("connections", "10000"),
        ],
    ),
    ("gates", &[("name", "\"new-orders\""), ("opens", "\"all instances >= 4.1\"")]),
    ("release", &[("compatible_with", "\">=3.9\"")]),
    (
        "traffic",
        &[
            ("sticky", "\"version\""),
            ("sticky_header", "\"Authorization\""),
            ("asked_in", "[\"X-App-Version\", \"cookie:version\"]"),
            ("when_gone", "\"fallback\""),
            ("caller_header", "\"X-Client\""),
            ("rules", "[[traffic.rules]]"),
            ("skew", "[traffic.skew]"),
            ("mirror", "[traffic.mirror]"),
        ],
    ),
    (
        "traffic.rules",
        &[("header", "\"X-Canary\""), ("cookie", "\"tester\""), ("value", "\"yes\""), ("to", "\"newest\"")],
    ),
    ("traffic.mirror", &[("to", "\"newest\""), ("share", "\"10%\""), ("paths", "[\"/api/*\"]")]),
    ("traffic.skew", &[("paths", "[\"/assets/*\"]"), ("max_age", "\"1h\"")]),
    (
        "formats",
        &[
            ("name", "\"orders-v1\""),
            ("match", "[formats.match]"),
            ("served", "\"<4.1\""),
            ("successor", "\"orders-v2\""),
            ("link", "\"/v2/orders\""),
            ("deprecated_at", "2026-12-01"),
            ("sunset", "2027-06-30"),
            ("remove_after", "2027-06-30"),
            ("quiet_for", "\"24h\""),
        ],
    ),
    (
        "formats.match",
        &[
            ("path", "\"/v1/*\""),
            ("header", "\"Accept\""),
            ("value", "\"application/vnd.shop.v1+json\""),
            ("query", "\"format=1\""),
        ],
    ),
    ("health", &[("startup", "[health.startup]"), ("ready", "[health.ready]"), ("live", "[health.live]")]),
    ("health.startup", CHECK),
    ("health.ready", CHECK),
    ("health.live", CHECK),
    (
        "rollout",
        &[
            ("strategy", "\"rolling\""),
            ("max_surge", "\"25%\""),
            ("max_unavailable", "1"),
            ("batch", "2"),
            ("delay", "\"0s\""),
            ("order", "\"start-first\""),
            ("bake_time", "\"0s\""),
            ("min_healthy_time", "\"0s\""),
            ("healthy_deadline", "\"5m\""),
            ("progress_deadline", "\"10m\""),
            ("on_failure", "\"pause\""),
            ("max_failures", "1"),
            ("drain_timeout", "\"30s\""),
            ("stop_grace_period", "\"10s\""),
            ("history_limit", "10"),
        ],
    ),
];

const CHECK: &[(&str, &str)] = &[
    ("http", "\"/ready\""),
    ("tcp", "true"),
    ("grpc", "\"\""),
    ("exec", "[\"./check\", \"{port}\"]"),
    ("status", "200"),
    ("body", "\"ok\""),
    ("headers", "{ Host = \"example.com\" }"),
    ("interval", "\"1s\""),
    ("timeout", "\"1s\""),
    ("rise", "1"),
    ("fall", "3"),
    ("eager", "true"),
];

fn keys_of(table: &str) -> &'static [(&'static str, &'static str)] {
    KEYS.iter().find(|(name, _)| *name == table).map_or(&[], |(_, keys)| *keys)
}

pub fn is_known(table: &str, key: &str) -> bool {
    keys_of(table).iter().any(|(known, _)| *known == key)
}

/// `replicas = 8`, or the header of a table.
pub fn example(table: &str, key: &str) -> String {
    match keys_of(table).iter().find(|(known, _)| *known == key) {
        Some((_, header)) if header.starts_with("[") && !header.contains('"') => (*header).to_owned(),
        Some((_, value)) => format!("{key} = {value}"),
        None => key.to_owned(),
    }
}

/// What to do about a key that is not known there.
pub fn hint_for_unknown(table: &str, key: &str) -> String {
    let known = keys_of(table).iter().map(|(known, _)| *known);
    if let Some(near) = similar::nearest(key, known.clone()) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere: Vec<_> = KEYS
        .iter()
        .filter(|(other, _)| *other != table && is_known(other, key))
        .map(|(other, _)| {
            if other.is_empty() {
                "at the top, before the first table".to_owned()
            } else {
                format!("under [{other}]")
            }
        })
        .collect();
    if !elsewhere.is_empty() {
        return format!("it belongs {}: move it there", elsewhere.join(" or "));
    }
    format!("the keys here are: {}", known.collect::<Vec<_>>().join(", "))
}
