//! `[traffic]` in the schema.

use serde_json::{Value, json};
use trundle_core::traffic::{Sticky, WhenGone};

use super::{count_or_percent, default, described, one_of, put, table, text, texts, time};

pub(super) fn traffic() -> Value {
    table(vec![
        (
            "sticky",
            default(
                described(
                    one_of::<Sticky>(),
                    "What a client stays with while two versions serve; by a signed cookie. It never goes back to the older one.",
                ),
                json!("none"),
            ),
        ),
        (
            "sticky_header",
            described(
                text(),
                "A header whose value stands for a client that keeps no cookies: Authorization.",
            ),
        ),
        (
            "asked_in",
            described(
                texts(),
                "Headers, and cookies as cookie:NAME, in which a client may ask for a version: 3.9, >=4.0.",
            ),
        ),
        (
            "when_gone",
            default(
                described(one_of::<WhenGone>(), "When nobody serves what was asked for; refuse is 406."),
                json!("fallback"),
            ),
        ),
        (
            "caller_header",
            described(text(), "The header that says who uses a format; User-Agent without it."),
        ),
        (
            "rules",
            described(
                json!({ "type": "array", "items": rule(), "maxItems": 16 }),
                "Which requests get which version, before everything else: for tests.",
            ),
        ),
        (
            "mirror",
            described(mirror(), "Some requests go to another version as well: `trundle mirrored` compares."),
        ),
        ("skew", described(skew(), "A page of one version keeps getting the files of its version.")),
    ])
}

fn rule() -> Value {
    let mut rule = table(vec![
        ("header", described(text(), "Requests with this header.")),
        ("cookie", described(text(), "Requests with this cookie.")),
        ("value", described(text(), "Only with this value.")),
        ("to", described(text(), "newest, oldest, or a range of versions.")),
    ]);
    put(&mut rule, "required", json!(["to"]));
    rule
}

fn skew() -> Value {
    let paths = "What one version has not under these is asked of the others: /assets/*.";
    let max_age =
        "So long after a page was loaded the last instance of its version is kept for what the page loads.";
    let mut skew = table(vec![("paths", described(texts(), paths)), ("max_age", time(max_age, 0))]);
    put(&mut skew, "required", json!(["paths"]));
    skew
}

fn mirror() -> Value {
    let mut mirror = table(vec![
        ("to", described(text(), "newest, oldest, or a range of versions.")),
        (
            "share",
            default(described(count_or_percent(), "Of the GETs and HEADs of the paths."), json!("100%")),
        ),
        ("paths", default(described(texts(), "Which paths: /api/*."), json!(["/*"]))),
    ]);
    put(&mut mirror, "required", json!(["to"]));
    mirror
}
