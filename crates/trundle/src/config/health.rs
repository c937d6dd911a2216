//! `[health.startup]`, `[health.ready]` and `[health.live]`: when an instance counts as up.

use hyper::http::uri::PathAndQuery;
use hyper::http::{HeaderName, HeaderValue};
use trundle_core::Millis;
use trundle_core::revision::{Check, Health, HttpProbe, Probe};

use super::node::Node;
use super::program;
use super::section::Section;
use super::source::shown;
use super::value::{self, Wrong};

/// Closer together, probing would be the load.
const INTERVAL_MIN_MS: Millis = Check::SHORTEST_INTERVAL_MS;
/// More in a row are never meant.
const IN_A_ROW_MAX: u32 = 1_000;
const GRPC_NAME_BYTES_MAX: usize = 200;
const TEXT_BYTES_MAX: usize = 4_096;
const KINDS: &str = "choose one of: http = \"/ready\", tcp = true, grpc = \"\", exec = [\"./check\"]";
/// Only an http check has these.
const OF_HTTP: [&str; 3] = ["status", "body", "headers"];

/// `takes_requests` is false for an app without `[listen]`.
pub fn read(top: &Section<'_>, takes_requests: bool) -> Health {
    let section = top.table("health");
    let check =
        |path| section.as_ref().and_then(|section| section.table(path)).map(|section| read_check(&section));
    let written = section.as_ref().is_some_and(|section| section.has("ready"));
    let ready = check("health.ready").flatten();
    if !written {
        let mut note =
            "no readiness check is configured: a TCP connection to the port counts as ready".to_owned();
        if !takes_requests {
            note.push_str("; an app that opens no port needs one, such as [health.ready] exec = [\"true\"]");
        }
        top.findings.note(note);
    }
    Health {
        startup: check("health.startup").flatten(),
        ready: ready.unwrap_or_else(|| Check::new(Probe::Tcp)),
        live: check("health.live").flatten(),
        ready_assumed: !written,
    }
}

fn read_check(section: &Section<'_>) -> Option<Check> {
    let probe = read_probe(section);
    let mut check = Check::new(probe.clone().unwrap_or(Probe::Tcp));
    if let Some(ms) = section.get("interval", value::duration_ms) {
        if ms < INTERVAL_MIN_MS {
            let message = format!("an interval of {ms} ms would be a load of its own");
            section.refuse("interval", message, format!("use at least \"{INTERVAL_MIN_MS}ms\""));
        }
        check.interval_ms = ms;
    }
    if let Some(ms) = section.get("timeout", value::duration_ms) {
        if ms == 0 {
            section.refuse("timeout", "nothing answers in no time".to_owned(), "try \"1s\"");
        }
        check.timeout_ms = ms;
    }
    if let Some(rise) = section.get("rise", value::whole(1, IN_A_ROW_MAX)) {
        check.rise = rise;
    }
    if let Some(fall) = section.get("fall", value::whole(1, IN_A_ROW_MAX)) {
        check.fall = fall;
    }
    if let Some(eager) = section.get("eager", value::flag) {
        check.eager = eager;
    }
    probe.map(|_| check)
}

fn read_probe(section: &Section<'_>) -> Option<Probe> {
    let written: Vec<_> =
        ["http", "tcp", "grpc", "exec"].into_iter().filter(|kind| section.has(kind)).collect();
    match written[..] {
        [] => section.refuse("", format!("[{}] does not say what to check", section.path()), KINDS),
        [_] => {}
        [first, second, ..] => {
            let message = format!(
                "a check is one of http, tcp, grpc and exec, but {first} and {second} are both written"
            );
            section.refuse(second, message, "keep one of them");
        }
    }
    let http = section.has("http").then(|| read_http(section));
    let tcp = section.has("tcp").then(|| read_tcp(section));
    let grpc = section.has("grpc").then(|| section.get("grpc", grpc_service).map(Probe::Grpc));
    let exec = section.has("exec").then(|| read_exec(section));
    if http.is_none() && !written.is_empty() {
        for key in OF_HTTP.into_iter().filter(|key| section.has(key)) {
            section.refuse(
                key,
                format!("{key} belongs to an http check"),
                "add http = \"/ready\", or remove it",
            );
        }
    }
    http.flatten().map(Probe::Http).or(tcp.flatten()).or(grpc.flatten()).or(exec.flatten().map(Probe::Exec))
}

/// A name such as `shop.v1.Orders`; the empty one is the server as a whole.
fn grpc_service(node: &Node) -> Result<String, Wrong> {
    let name = value::text(node)?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if name.len() > GRPC_NAME_BYTES_MAX || !name.chars().all(is_name) {
        let message = format!("\"{}\" is not the name of a gRPC service", shown(&name));
        return Err(Wrong::Value(
            message,
            "write it like \"shop.v1.Orders\", or \"\" for the server".to_owned(),
        ));
    }
    Ok(name)
}

fn read_tcp(section: &Section<'_>) -> Option<Probe> {
    let on = section.get("tcp", value::flag)?;
    if !on {
        section.refuse("tcp", "tcp = false checks nothing".to_owned(), KINDS);
    }
    Some(Probe::Tcp)
}

fn read_http(section: &Section<'_>) -> Option<HttpProbe> {
    let path = section.get("http", http_path);
    let status = section.get("status", value::whole(100, 599));
    let body = section.get("body", value::text_up_to(TEXT_BYTES_MAX));
    let headers = section.get("headers", value::text_table(header_name)).unwrap_or_default();
    for (name, text) in &headers {
        if text.len() > TEXT_BYTES_MAX || text.parse::<HeaderValue>().is_err() {
            let message = format!("the value of {name} cannot stand in a header");
            section.refuse("headers", message, format!("use one line of at most {TEXT_BYTES_MAX} bytes"));
        }
    }
    Some(HttpProbe { path: path?, status: status.and_then(|s| u16::try_from(s).ok()), body, headers })
}

fn http_path(node: &Node) -> Result<String, Wrong> {
    let path = value::text_up_to(TEXT_BYTES_MAX)(node)?;
    let refused = |why: &str, hint: String| Err(Wrong::Value(format!("\"{}\" {why}", shown(&path)), hint));
    if !path.starts_with('/') {
        return refused(
            "is not a path",
            "write the path alone, such as \"/ready\"; the port is known".to_owned(),
        );
    }
    match path.parse::<PathAndQuery>() {
        Ok(_) => Ok(path),
        Err(error) => {
            refused(&format!("is refused: {error}"), "write such characters percent-encoded: %20".to_owned())
        }
    }
}

fn header_name(name: &str) -> Result<String, Wrong> {
    match name.parse::<HeaderName>() {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err(Wrong::Value(
            "this is not the name of a header".to_owned(),
            "such as Host or X-Probe".to_owned(),
        )),
    }
}

fn read_exec(section: &Section<'_>) -> Option<Vec<String>> {
    let command = section.get("exec", value::texts)?;
    if command.first().is_none_or(String::is_empty) {
        section.refuse(
            "exec",
            "the command of the check is empty".to_owned(),
            "name a program: exec = [\"./check\"]",
        );
    }
    program::check_arguments(section, "exec", &command);
    Some(command)
}
