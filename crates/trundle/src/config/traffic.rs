//! `[traffic]`: which version a request gets while two serve. What the proxy would refuse is refused here, by the proxy's own rule.

use trundle_core::Millis;
use trundle_core::limits::CountOrPercent;
use trundle_core::traffic::{Field, Mirror, Rule, Traffic};
use trundle_proxy as proxy;
use trundle_versions::Range;

use super::node::Node;
use super::section::Section;
use super::source::shown;
use super::value::{self, Wrong, checked_by};

/// In front of the name of a cookie.
const COOKIE: &str = "cookie:";
const MAX_AGE_MOST_MS: Millis = 30 * 24 * 3_600_000;

pub fn read(section: &Section<'_>) -> Traffic {
    let asked_in = section.get("asked_in", value::texts).unwrap_or_default();
    let mut fields = Vec::new();
    for (index, text) in asked_in.iter().enumerate() {
        match field(text) {
            Ok(field) => fields.push(field),
            Err((message, hint)) => section.refuse_item("asked_in", index, message, hint),
        }
    }
    at_most(section, "asked_in", fields.len());
    let rules: Vec<Rule> = section.tables("traffic.rules").iter().filter_map(rule).collect();
    at_most(section, "rules", rules.len());
    let skew = section.table("traffic.skew");
    let traffic = Traffic {
        sticky: section.get("sticky", value::choice).unwrap_or_default(),
        sticky_header: section.get("sticky_header", checked_by(proxy::check_header)),
        asked_in: fields,
        when_gone: section.get("when_gone", value::choice).unwrap_or_default(),
        rules,
        skew_paths: skew.as_ref().map(skew_paths).unwrap_or_default(),
        mirror: section.table("traffic.mirror").and_then(|section| mirror(&section)),
        skew_max_age_ms: skew.as_ref().and_then(|skew| skew.get("max_age", max_age)).unwrap_or(0),
    };
    if section.has("sticky_header") && !section.has("sticky") {
        let message = "no client stays with anything, so a header that stands for it says nothing".to_owned();
        section.refuse("sticky_header", message, "write beside it: sticky = \"version\"");
    }
    if section.has("when_gone") && !section.has("asked_in") {
        let message = "no client can ask for a version".to_owned();
        section.refuse("when_gone", message, "write beside it: asked_in = [\"X-App-Version\"]");
    }
    traffic
}

fn at_most(section: &Section<'_>, key: &str, count: usize) {
    if count > proxy::table::traffic::MOST_ENTRIES {
        let most = proxy::table::traffic::MOST_ENTRIES;
        section.refuse(key, format!("{count} are too many: at most {most} are possible"), "use fewer");
    }
}

/// `X-App-Version`, or `cookie:version`.
fn field(text: &str) -> Result<Field, (String, String)> {
    match text.strip_prefix(COOKIE) {
        Some(name) => good(name, proxy::check_cookie).map(Field::Cookie),
        None => good(text, proxy::check_header).map(Field::Header),
    }
}

fn good(text: &str, check: fn(&str) -> Result<(), String>) -> Result<String, (String, String)> {
    check(text).map(|()| text.to_owned()).map_err(|why| {
        let (message, hint) = why.split_once("; ").unwrap_or((&why, ""));
        (message.to_owned(), hint.to_owned())
    })
}

fn rule(section: &Section<'_>) -> Option<Rule> {
    let by_header = section.get("header", checked_by(proxy::check_header)).map(Field::Header);
    let by_cookie = section.get("cookie", checked_by(proxy::check_cookie)).map(Field::Cookie);
    match (section.has("header"), section.has("cookie")) {
        (true, true) => {
            let message = "a rule looks at one thing, this one has header and cookie".to_owned();
            section.refuse("cookie", message, "make two rules of it; the first that fits counts");
        }
        (false, false) => {
            let message = "this rule says of no request that it is meant".to_owned();
            section.refuse("", message, "write in it: header = \"X-Canary\", or cookie = \"tester\"");
        }
        (true, false) | (false, true) => {}
    }
    let value = section.get("value", value::text_up_to(200));
    let to = section.require("to", to)?;
    Some(Rule { field: by_header.or(by_cookie)?, value, to })
}

fn to(node: &Node) -> Result<String, Wrong> {
    let text = value::text(node)?;
    if [Rule::NEWEST, Rule::OLDEST].contains(&text.as_str()) {
        return Ok(text);
    }
    match Range::parse(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(Wrong::Value(
            format!("\"{}\" is no version, and no range of them", shown(&text)),
            "write \"newest\", \"oldest\", \"4.0\", \">=4.0\" or \">=3.9 <5\"".to_owned(),
        )),
    }
}

fn max_age(node: &Node) -> Result<Millis, Wrong> {
    match value::duration_ms(node)? {
        ms @ 0..=MAX_AGE_MOST_MS => Ok(ms),
        _ => {
            let message = "no page is open for longer than 30 days".to_owned();
            Err(Wrong::Value(
                message,
                "use less, such as \"1h\": so long a rollout may wait for its end".to_owned(),
            ))
        }
    }
}

fn mirror(section: &Section<'_>) -> Option<Mirror> {
    let to = section.require("to", to);
    let share = section.get("share", percent).unwrap_or(100);
    if share == 0 {
        let message = "nothing is mirrored with a share of 0".to_owned();
        section.refuse("share", message, "use \"1%\" or more, or remove [traffic.mirror]");
    }
    let paths = paths(section, section.get("paths", value::texts).unwrap_or_else(|| vec!["/*".to_owned()]));
    Some(Mirror { to: to?, share, paths })
}

/// A whole one: `"10%"`, or `10`.
fn percent(node: &Node) -> Result<u32, Wrong> {
    match value::count_or_percent(node)? {
        CountOrPercent::Percent(percent @ 0..=100) | CountOrPercent::Count(percent @ 0..=100) => Ok(percent),
        CountOrPercent::Percent(_) | CountOrPercent::Count(_) => {
            Err(Wrong::Value("more than all is not possible".to_owned(), "use at most \"100%\"".to_owned()))
        }
    }
}

fn skew_paths(section: &Section<'_>) -> Vec<String> {
    paths(section, section.require("paths", value::texts).unwrap_or_default())
}

fn paths(section: &Section<'_>, paths: Vec<String>) -> Vec<String> {
    for (index, path) in paths.iter().enumerate() {
        if let Err((message, hint)) = good(path, proxy::check_pattern) {
            section.refuse_item("paths", index, message, hint);
        }
    }
    at_most(section, "paths", paths.len());
    paths
}
