//! From HTTP to a WebSocket: who may ask for it, and what must be answered before anything else passes.
//!
//! Only `websocket` is handed on. Another protocol (`h2c` above all) would carry requests that nobody here has looked at.

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Version};
use hyper::body::Body;

const WEBSOCKET: &str = "websocket";

/// The client asks for a WebSocket, as RFC 6455 §4.1 wants it asked for.
pub fn is_wanted(head: &http::request::Parts, body: &impl Body) -> bool {
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && body.is_end_stream()
        && names_websocket(&head.headers)
}

/// The endpoint has agreed to what it was asked for.
pub fn is_agreed(headers: &HeaderMap) -> bool {
    names_websocket(headers)
}

/// Sets anew what was removed as belonging to one connection.
pub fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

fn names_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let only = upgrades.next().filter(|_| upgrades.next().is_none());
    let connection = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    only.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
        && connection
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}
