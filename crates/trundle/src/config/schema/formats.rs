//! `[[formats]]` in the schema.

use serde_json::{Value, json};
use trundle_core::formats::quiet_for_ms;

use super::{described, put, table, text, time};

pub(super) fn formats() -> Value {
    let mut format = table(vec![
        ("name", described(text(), "What it is called where its callers are named.")),
        (
            "match",
            described(
                table(vec![
                    ("path", described(text(), "A path; * at its end stands for all that begins so.")),
                    ("header", described(text(), "The request has this header.")),
                    ("value", described(text(), "And this is its value, or an element of its list.")),
                    ("query", described(text(), "The query has this: format, or format=1.")),
                ]),
                "Which requests speak it; the first format that fits counts. Without it: all that are left.",
            ),
        ),
        ("served", described(text(), "The versions that serve it: <4.1.")),
        ("successor", described(text(), "The name of the format that comes after it.")),
        ("link", described(text(), "Where the successor is found; sent as Link with rel=successor-version.")),
        (
            "deprecated_at",
            described(moment(), "Since when, or from when on, it is deprecated; sent as Deprecation."),
        ),
        ("sunset", described(moment(), "When it will be gone; sent as Sunset.")),
        ("remove_after", described(moment(), "No version may stop serving it before.")),
        (
            "quiet_for",
            time("No version may stop serving it before nobody has used it for so long.", quiet_for_ms()),
        ),
    ]);
    put(&mut format, "required", json!(["name", "served"]));
    json!({ "type": "array", "items": format, "maxItems": 16 })
}

fn moment() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}" })
}
