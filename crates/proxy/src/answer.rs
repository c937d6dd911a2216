//! An endpoint's answer on its way to the client: what the proxy says in its head, and who takes its body.

use std::rc::Rc;

use http::header::{CONNECTION, Entry, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderValue, Response, Version};
use http_body_util::Full;

use crate::body::ResponseBody;
use crate::endless::Endless;
use crate::endpoint::LiveEndpoint;
use crate::exchange::Exchange;
use crate::headers;
use crate::request_id::REQUEST_ID;
use crate::routes::Route;
use crate::tunnel::Tunnel;
use crate::turn::Turn;
use crate::upgrade;
use crate::upstream::AnswerBody;
use crate::window::Wish;

/// Hands on that the endpoint has agreed; the WebSocket begins when the client's kernel has this. Back comes an exchange whose
/// connection cannot be taken over.
pub fn opened(
    client: &Rc<Turn>,
    route: &Route,
    wish: Option<&Wish>,
    mut exchange: Exchange,
    response: Response<AnswerBody>,
) -> Result<Response<ResponseBody>, Exchange> {
    let (mut head, _) = response.into_parts();
    let Some((endpoint, early)) = exchange.open() else { return Err(exchange) };
    headers::to_client(&mut head.headers);
    upgrade::ask(&mut head.headers);
    say_which(client, route, wish, exchange.claim().endpoint(), &mut head.headers);
    name_it(client, &mut head.headers);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    client.log(|entry| entry.status = head.status.as_u16());
    let entry = client.take_entry();
    client.tunnel_follows(Tunnel { exchange, endpoint, early, entry });
    Ok(Response::from_parts(head, ResponseBody::Made(Full::default())))
}

/// Hands an endpoint's answer on.
pub fn passed(
    client: &Rc<Turn>,
    route: &Route,
    wish: Option<&Wish>,
    mut exchange: Exchange,
    response: Response<AnswerBody>,
) -> Response<ResponseBody> {
    client.response_started();
    let (mut head, body) = response.into_parts();
    exchange.set_status(head.status);
    client.log(|entry| entry.status = head.status.as_u16());
    let endless = Endless::of(&head, exchange.claim().endpoint(), &client.connection);
    headers::to_client(&mut head.headers);
    say_which(client, route, wish, exchange.claim().endpoint(), &mut head.headers);
    name_it(client, &mut head.headers);
    if let Some(hsts) = route.secure.hsts.as_ref().filter(|_| client.connection.is_secure) {
        head.headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    if client.is_last() {
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    head.version = Version::HTTP_11;
    if let Some(endless) = &endless {
        exchange.set_kind(endless.kind());
    }
    Response::from_parts(head, ResponseBody::passed(body, exchange, Rc::clone(client), endless))
}

/// The client learns which version has answered, and what it shall keep of it.
fn say_which(
    client: &Turn,
    route: &Route,
    wish: Option<&Wish>,
    from: &LiveEndpoint,
    headers: &mut HeaderMap,
) {
    if let Some(name) = &route.version_header {
        headers.insert(name.clone(), from.version_value.clone());
    }
    if let (Some(window), Some(wish)) = (&route.window, wish) {
        let connection = &client.connection;
        window.tell(wish, from, &connection.worker, headers, connection.is_secure);
    }
}

/// The client learns by which name its request is in the logs, unless the app has said it.
fn name_it(client: &Turn, headers: &mut HeaderMap) {
    if let (Some(id), Entry::Vacant(entry)) = (client.request_id(), headers.entry(REQUEST_ID)) {
        entry.insert(id.clone());
    }
}
