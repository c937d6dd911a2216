//! `[listen]` in the schema.

use serde_json::{Value, json};
use trundle_core::settings::{AccessFormat, Acme, Listen};
use trundle_proxy::Limits;

use super::{ADDRESS, default, described, one_of, put, size, table, text, texts, time, whole};

pub(super) fn listen() -> Value {
    let mut listen = table(vec![
        (
            "http",
            described(
                json!({ "type": "string", "pattern": ADDRESS }),
                "An address with a port, such as 127.0.0.1:8080.",
            ),
        ),
        (
            "https",
            described(
                json!({ "type": "string", "pattern": ADDRESS }),
                "An address with a port for clients with TLS, such as 0.0.0.0:443.",
            ),
        ),
        ("tls", described(tls(), "The certificate for https.")),
        ("unix", described(text(), "The path of a Unix socket, behind nginx.")),
        (
            "tcp",
            described(
                json!({ "type": "string", "pattern": ADDRESS }),
                "An address that carries bytes and no HTTP; instead of the others.",
            ),
        ),
        (
            "hosts",
            described(
                texts(),
                "Whose requests are this app's where others have the same address; *.shop.example is all below it.",
            ),
        ),
        ("paths", described(texts(), "The same of paths: /api is /api and all below it; the longest wins.")),
        ("access_log", described(one_of::<AccessFormat>(), "Write a line for each request.")),
        (
            "access_log_file",
            described(
                text(),
                "Where; without it access/NAME.log in the state directory. It may be moved away.",
            ),
        ),
        (
            "trusted_proxies",
            default(
                described(
                    json!({ "type": "array", "items": { "type": "string" } }),
                    "Whose X-Forwarded-* is believed: addresses, networks, \"unix\".",
                ),
                json!([]),
            ),
        ),
        (
            "version_header",
            default(
                described(
                    json!({ "type": "string" }),
                    "Says on every answer which version gave it; \"\" turns it off.",
                ),
                json!("X-App-Version"),
            ),
        ),
        (
            "hold",
            described(
                time("", 0),
                "Requests wait so long for an instance while there is none; 30s with a fixed port, else not at all.",
            ),
        ),
        (
            "drain_spread",
            time(
                "Streams that have to move are told at moments spread over this time.",
                Listen::default().drain_spread_ms,
            ),
        ),
        ("limits", described(limits(), "What one client may take.")),
    ]);
    put(
        &mut listen,
        "anyOf",
        json!([
            { "required": ["http"] },
            { "required": ["https"] },
            { "required": ["unix"] },
            { "required": ["tcp"] }
        ]),
    );
    listen
}

fn tls() -> Value {
    let mut tls = table(vec![
        ("cert", described(text(), "The chain of certificates, as PEM; read anew when it changes.")),
        ("key", described(text(), "Its key, as PEM.")),
        (
            "acme",
            described(
                text(),
                "Instead of both: fetch a certificate for the hosts and renew it. An address of mail, for when something is wrong.",
            ),
        ),
        (
            "acme_directory",
            default(
                described(json!({ "type": "string", "pattern": "^https://" }), "The authority's directory."),
                json!(Acme::DIRECTORY),
            ),
        ),
        (
            "acme_root",
            described(text(), "Who has signed the directory's own certificate, if the system does not know."),
        ),
        (
            "redirect",
            default(
                described(
                    json!({ "type": "boolean" }),
                    "Send requests to the address without TLS to the one with it.",
                ),
                json!(false),
            ),
        ),
        (
            "hsts",
            described(
                time("", 0),
                "Browsers shall come with TLS only, for so long; not at all, if it is not written.",
            ),
        ),
    ]);
    put(&mut tls, "oneOf", json!([{ "required": ["cert", "key"] }, { "required": ["acme"] }]));
    tls
}

fn limits() -> Value {
    let own = Limits::default();
    let count =
        |text: &str, default: usize| self::default(described(whole(1, 1_000_000), text), json!(default));
    table(vec![
        (
            "header_size",
            default(size("Request line and headers together; more is answered with 431."), json!("64KiB")),
        ),
        ("headers", count("So many headers; more are answered with 431.", own.headers)),
        ("body_size", size("A request's body; more is answered with 413. Without it there is no limit.")),
        (
            "header_timeout",
            time("From the first byte of a request to the end of its headers.", own.header_timeout_ms),
        ),
        (
            "idle_timeout",
            time("A connection without a request, or a body that does not move.", own.idle_timeout_ms),
        ),
        (
            "body_rate",
            default(
                described(
                    whole(0, 1 << 30),
                    "Bytes a second that a body of HTTP/1.1 has to bring on average, after header_timeout; 0: any.",
                ),
                json!(own.body_rate),
            ),
        ),
        (
            "response_timeout",
            time(
                "From the last byte that went to the instance to its answer; then 504.",
                own.response_timeout_ms,
            ),
        ),
        ("connect_timeout", time("For one attempt to reach an instance.", own.connect_timeout_ms)),
        ("connections", count("So many clients at once; above it, new ones wait.", own.max_connections)),
    ])
}
