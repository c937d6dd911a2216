//! The way of one request: check it, choose an endpoint, connect, send, hand the answer on.
//!
//! Invariant: a request is given to another endpoint only when it comes back whole, which it does only when not one
//! byte of it was written, or when its kept connection was provably closed before a byte of it came there, or when its stream was
//! refused. In every other case it is never sent again, whatever its method.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use thiserror::Error;

use crate::access::Entry;
use crate::answer;
use crate::ask::{self, Shape};
use crate::body::{BodyFault, RequestBody, ResponseBody};
use crate::challenge;
use crate::classes::{AppCell, Lost, Mixed};
use crate::connection::Connection;
use crate::counts::VersionRow;
use crate::endpoint::Flag;
use crate::exchange::Exchange;
use crate::hold::Held;
use crate::refusal::{self, Refusal};
use crate::request_id;
use crate::routes::{Route, Tried};
use crate::sites::Nobody;
use crate::table::Protocol;
use crate::turn::{Expired, Turn};
use crate::upgrade;
use crate::upstream::{AnswerBody, Upstream};
use crate::window::across::{Copy, elsewhere};
use crate::window::mirror::{self, Shadow};
use crate::window::{How, Window, Wish};

/// Between two tries to reach somebody who is in the table.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A proxy that finishes may be a table behind the one that serves: so often it looks, and so long it waits each time.
pub const MOST_BEHIND: u32 = 20;
pub const LOOK_BEHIND: Duration = Duration::from_millis(25);

/// The client is gone: there is nobody to answer.
#[derive(Debug, Error)]
#[error("the client has gone away")]
pub struct Gone;

/// What was known of a request before it was sent to anybody.
struct Known {
    shape: Shape,
    /// Where several versions may serve: which it shall get.
    wish: Option<Wish>,
    /// It may be sent to another version as well.
    copy: Option<Box<Copy>>,
}

impl Known {
    /// Of this table. `is_new`: it is looked at for the first time.
    fn of(
        route: &Route,
        request: &Request<RequestBody>,
        shape: Shape,
        connection: &Connection,
        is_new: bool,
    ) -> Self {
        let Some(window) = &route.window else { return Self { shape, wish: None, copy: None } };
        let wish = Wish::of(window, request, connection, is_new);
        let copy = Copy::of(window, &wish, request, shape).map(Box::new);
        Self { shape, wish: Some(wish), copy }
    }

    fn refusal(&self, route: &Route) -> Option<Refusal> {
        route.window.as_ref().zip(self.wish.as_ref()).and_then(|(window, wish)| window.refuses(wish))
    }
}

/// What became of one try.
enum Sent {
    Answered(Response<ResponseBody>),
    /// What one version has not, another may have.
    Missing(Box<(Exchange, Response<AnswerBody>)>),
    /// Not a byte was written: here it is again.
    Back(Request<RequestBody>),
    /// Already counted.
    Failed(Refusal),
    Gone,
}

/// Answers one request, which has begun with this call and not when it is looked at for the first time: the task that serves it
/// is told right after it.
pub fn serve(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Gone>> {
    let started = Instant::now();
    let client = Turn::begin(connection, started, !request.body().is_end_stream());
    take(client, request, started)
}

async fn take(
    client: Rc<Turn>,
    request: Request<Incoming>,
    started: Instant,
) -> Result<Response<ResponseBody>, Gone> {
    let connection = &client.connection;
    let shared = &connection.worker.shared;
    let route = match choose_app(connection, &request) {
        Ok(route) => route,
        Err((app_row, refusal)) => {
            shared.counts.app_cell(app_row, refusal.class).fetch_add(1, Relaxed);
            return Ok(refusal.answer(&client));
        }
    };
    client.belongs_to(&route.limits);
    let count = |class| shared.counts.app_cell(route.app_row, class).fetch_add(1, Relaxed);
    if let Some(entry) = Entry::of(&route, &request, connection, started) {
        client.logs_as(entry);
    }
    if let Some(folder) = &route.challenges
        && let Some(text) = challenge::find(request.uri().path(), folder)
    {
        count(AppCell::Rejected);
        return Ok(challenge::answer(&client, text));
    }
    if let Some(to) = route.secure.redirect_to.filter(|_| !connection.is_secure) {
        count(AppCell::Rejected);
        return Ok(refusal::redirect(&client, &request, to));
    }
    if let Some(closed) = &route.closed {
        count(AppCell::Rejected);
        return Ok(closed.answer(&client));
    }
    let (mut request, shape) = match ask::prepare(&client, &route, request) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            count(refusal.class);
            return Ok(refusal.answer(&client));
        }
    };
    client.is_known_as(request_id::of(request.headers_mut(), &mut connection.worker.random.borrow_mut()));
    client.log(|entry| entry.goes_on_in(request.headers_mut()));
    match forward(&client, &route, request, shape, started).await {
        Sent::Answered(response) => Ok(response),
        Sent::Failed(refusal) => Ok(refusal.answer(&client)),
        Sent::Missing(_) | Sent::Back(_) | Sent::Gone => Err(Gone),
    }
}

/// Whose request it is, where several apps have the address; or what is said, and in whose name it is counted.
fn choose_app(
    connection: &Connection,
    request: &Request<Incoming>,
) -> Result<Arc<Route>, (VersionRow, Refusal)> {
    let door = &connection.door;
    let snapshot = connection.worker.shared.snapshot.load();
    let Some(site) = snapshot.sites.get(&door.listen) else {
        let reason = format!("{} is served no longer\n", door.listen);
        let refusal = Refusal::lost(StatusCode::SERVICE_UNAVAILABLE, Lost::NoEndpoint, reason);
        return Err((door.app_row, Refusal { close: true, ..refusal }));
    };
    site.route(request.uri(), request.headers()).map(Arc::clone).map_err(|nobody| {
        let refusal = match nobody {
            Nobody::Here => {
                let refusal = Refusal::rejected(StatusCode::NOT_FOUND, "no app has this host and path\n");
                Refusal { close: false, ..refusal }
            }
            Nobody::Ambiguous => Refusal::bad("the path can be read in two ways, which lead to two apps\n"),
        };
        (site.owner().app_row, refusal)
    })
}

/// Tries endpoints until one has taken the request.
async fn forward(
    client: &Rc<Turn>,
    route: &Arc<Route>,
    mut request: Request<RequestBody>,
    shape: Shape,
    started: Instant,
) -> Sent {
    let connection = &client.connection;
    let worker = &connection.worker;
    let counts = &worker.shared.counts;
    let fail = |refusal: Refusal| {
        counts.app_cell(route.app_row, refusal.class).fetch_add(1, Relaxed);
        Sent::Failed(refusal)
    };
    let connect_timeout = Duration::from_millis(route.limits.connect_timeout_ms);
    let mut route = Arc::clone(route);
    if route.window.as_ref().is_some_and(Window::is_mirrored) {
        mirror::remove_marks(request.headers_mut());
    }
    let mut known = Known::of(&route, &request, shape, connection, true);
    if let Some(refusal) = known.refusal(&route) {
        counts.app_cell(route.app_row, AppCell::Mixed(Mixed::AskedGone)).fetch_add(1, Relaxed);
        return fail(refusal);
    }
    let mut tried = Tried::default();
    let mut unreachable = false;
    // A kept connection failed: from then on only new ones are used.
    let mut stale = false;
    let mut held = None;
    let mut behind = 0;
    loop {
        let chosen = if tried.is_full() {
            None
        } else {
            route.choose_for(known.wish.as_ref(), &mut worker.random.borrow_mut(), &tried)
        };
        let Some((claim, how)) = chosen else {
            // A newer table may have taken all of ours away, and brought others, since we looked.
            let newest = worker.shared.snapshot.load().apps.get(&route.app).cloned();
            match newest {
                Some(newest) if !tried.is_full() && !Arc::ptr_eq(&newest, &route) => {
                    route = newest;
                    known = Known::of(&route, &request, shape, connection, false);
                    continue;
                }
                Some(newest) if known.refusal(&newest).is_some() => {
                    let Some(refusal) = known.refusal(&newest) else { continue };
                    counts.app_cell(route.app_row, AppCell::Mixed(Mixed::AskedGone)).fetch_add(1, Relaxed);
                    return fail(refusal);
                }
                Some(newest) if worker.finishes() && behind < MOST_BEHIND => {
                    behind += 1;
                    let _ = tokio::time::timeout(LOOK_BEHIND, worker.changed.notified()).await;
                    route = newest;
                    known = Known::of(&route, &request, shape, connection, false);
                    tried = Tried::default();
                    continue;
                }
                Some(newest) if Box::pin(hold(connection, &newest, &mut held)).await => {
                    route = worker.shared.snapshot.load().apps.get(&route.app).cloned().unwrap_or(newest);
                    known = Known::of(&route, &request, shape, connection, false);
                    tried = Tried::default();
                    continue;
                }
                Some(_) | None => return fail(nowhere_to_go(&route.app, unreachable)),
            }
        };
        if tried.len() > 0 {
            counts.app_cell(route.app_row, AppCell::Retried).fetch_add(1, Relaxed);
        }
        let endpoint = Arc::clone(claim.endpoint());
        // A WebSocket begins with a request of HTTP/1.1, also where others go by HTTP/2; behind TLS there is none.
        if shape.websocket && endpoint.protocol == Protocol::Http2Tls {
            let reason = "the app takes no WebSockets: its instances speak HTTP/2 behind TLS\n";
            return fail(Refusal::rejected(StatusCode::NOT_IMPLEMENTED, reason));
        }
        let protocol = if shape.websocket { Protocol::Http1 } else { endpoint.protocol };
        let mut now = Instant::now();
        let kept = if stale { None } else { worker.pools.take(&endpoint, protocol, now) };
        let was_kept = kept.is_some();
        let upstream = match kept {
            Some(upstream) => upstream,
            // What is rare is boxed: the future of each request is moved to where it runs, as large as it is.
            None => match Box::pin(worker.pools.connect(&endpoint, protocol, connect_timeout)).await {
                Ok(upstream) => {
                    now = Instant::now();
                    upstream
                }
                Err(_) => {
                    unreachable = true;
                    tried.add(&endpoint);
                    continue;
                }
            },
        };
        // Connecting took time; nothing is sent yet, so that an endpoint that is leaving need not get it.
        if endpoint.flag() != Flag::Routed {
            tried.add(&endpoint);
            continue;
        }
        let exchange = Exchange::new(claim, upstream, Rc::clone(worker), started);
        client.sent_to(exchange.claim().endpoint(), now);
        let shadow = Shadow::of(&route, &request, shape, &endpoint, worker);
        match send(client, &route, exchange, request, &known, was_kept).await {
            Sent::Missing(first) => {
                count_how(connection, &route, how);
                let (exchange, response) = match (&known.copy, &route.window) {
                    (Some(copy), Some(window)) => {
                        Box::pin(elsewhere(client, &route, window, copy, *first)).await
                    }
                    _ => *first,
                };
                return Sent::Answered(answer::passed(
                    client,
                    &route,
                    known.wish.as_ref(),
                    exchange,
                    response,
                ));
            }
            // A kept connection that the instance had closed says nothing of the instance: it may be the only one.
            Sent::Back(unsent) if was_kept => {
                request = unsent;
                stale = true;
            }
            Sent::Back(unsent) => {
                request = unsent;
                unreachable = true;
                tried.add(&endpoint);
            }
            Sent::Answered(mut response) => {
                count_how(connection, &route, how);
                if let Some(shadow) = shadow {
                    shadow.begin(&route, worker, &endpoint, &mut response);
                }
                return Sent::Answered(response);
            }
            sent @ (Sent::Failed(_) | Sent::Gone) => {
                count_how(connection, &route, how);
                return sent;
            }
        }
    }
}

/// How it came to its version, where it could have been another one.
fn count_how(connection: &Connection, route: &Route, how: How) {
    let counts = &connection.worker.shared.counts;
    for (is_so, what) in [
        (how.asked, Mixed::Asked),
        (how.gone, Mixed::AskedGone),
        (how.held, Mixed::Held),
        (how.back, Mixed::WentBack),
    ] {
        if is_so {
            counts.app_cell(route.app_row, AppCell::Mixed(what)).fetch_add(1, Relaxed);
        }
    }
}

/// Nobody can be reached: waits until another look may find somebody. False: it has waited long enough, or may not.
async fn hold(client: &Connection, route: &Arc<Route>, held: &mut Option<(Held, Instant)>) -> bool {
    if route.limits.hold_ms == 0 {
        return false;
    }
    let worker = &client.worker;
    let changed = worker.changed.notified();
    let is_newest = |newest: &Arc<Route>| Arc::ptr_eq(newest, route);
    if !worker.shared.snapshot.load().apps.get(&route.app).is_some_and(is_newest) {
        return true;
    }
    if held.is_none() {
        let Some(place) = route.hold.enter(&route.limits) else { return false };
        worker.shared.counts.app_cell(route.app_row, AppCell::Held).fetch_add(1, Relaxed);
        *held = Some((place, route.hold.until(&route.limits)));
    }
    let Some((_, until)) = held.as_ref().filter(|(_, until)| *until > Instant::now()) else { return false };
    // Who is in the table and could not be reached may be there again without a table that says so.
    let again = if route.has_nobody() { *until } else { (*until).min(Instant::now() + LOOK_AGAIN) };
    let _ = tokio::time::timeout_at(again.into(), changed).await;
    true
}

fn nowhere_to_go(app: &str, unreachable: bool) -> Refusal {
    if unreachable {
        let reason = format!("no instance of {app} could be reached\n");
        Refusal::lost(StatusCode::BAD_GATEWAY, Lost::ConnectFailed, reason)
    } else {
        let reason = format!("no instance of {app} is ready\n");
        Refusal::lost(StatusCode::SERVICE_UNAVAILABLE, Lost::NoEndpoint, reason)
    }
}

/// Sends the request on one connection and waits for the head of the answer.
async fn send(
    client: &Rc<Turn>,
    route: &Route,
    mut exchange: Exchange,
    mut request: Request<RequestBody>,
    known: &Known,
    was_kept: bool,
) -> Sent {
    let shape = known.shape;
    let Some(upstream) = exchange.upstream() else { return Sent::Back(request) };
    let answer = match upstream {
        Upstream::Http1(connection) => {
            ask::as_http1(&mut request, shape);
            in_time(client, pin!(connection.send(request, was_kept))).await
        }
        Upstream::Http2(stream) => {
            if let Err(refusal) = ask::as_http2(&mut request, shape) {
                exchange.failed(refusal.class);
                return Sent::Failed(refusal);
            }
            in_time(client, pin!(stream.send(request))).await
        }
    };
    match answer {
        Ok(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            if shape.websocket && upgrade::is_agreed(response.headers()) {
                match answer::opened(client, route, known.wish.as_ref(), exchange, response) {
                    Ok(response) => Sent::Answered(response),
                    Err(exchange) => bad_response(exchange),
                }
            } else {
                // Nobody asked to switch: bytes after this would be anything.
                bad_response(exchange)
            }
        }
        Ok(Ok(response)) if known.copy.is_some() && response.status() == StatusCode::NOT_FOUND => {
            Sent::Missing(Box::new((exchange, response)))
        }
        Ok(Ok(response)) => {
            Sent::Answered(answer::passed(client, route, known.wish.as_ref(), exchange, response))
        }
        Ok(Err(unanswered)) => match unanswered.back {
            Some(request) => {
                exchange.undo();
                Sent::Back(request)
            }
            None => broken(client, exchange, unanswered.not_http),
        },
        Err(Expired::Response) => {
            let reason = format!("an instance of {} did not answer in time\n", app_of(&exchange));
            exchange.failed(AppCell::Lost(Lost::ResponseTimeout));
            Sent::Failed(Refusal {
                close: true,
                ..Refusal::lost(StatusCode::GATEWAY_TIMEOUT, Lost::ResponseTimeout, reason)
            })
        }
        Err(Expired::Body) => {
            exchange.failed(AppCell::Rejected);
            Sent::Failed(Refusal::rejected(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"))
        }
    }
}

/// The answer, or what there is no more time for: the deadline is the client's, which wakes us when it is over.
pub fn in_time<F: Future>(
    client: &Turn,
    mut answer: Pin<&mut F>,
) -> impl Future<Output = Result<F::Output, Expired>> {
    std::future::poll_fn(move |cx| match client.expired(cx) {
        Some(expired) => Poll::Ready(Err(expired)),
        None => answer.as_mut().poll(cx).map(Ok),
    })
}

/// The connection to the endpoint failed after it may have seen the request.
fn broken(client: &Turn, exchange: Exchange, not_http: bool) -> Sent {
    match client.body_fault() {
        Some(BodyFault::TooLarge) => {
            exchange.failed(AppCell::Rejected);
            return Sent::Failed(Refusal::rejected(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is longer than allowed\n",
            ));
        }
        Some(BodyFault::Malformed) => {
            exchange.failed(AppCell::Rejected);
            return Sent::Failed(Refusal::bad("the body is not framed as HTTP wants it\n"));
        }
        Some(BodyFault::ClientGone) => {
            exchange.abandoned();
            return Sent::Gone;
        }
        Some(BodyFault::EndpointGone | BodyFault::GivenUp) | None => {}
    }
    if not_http {
        return bad_response(exchange);
    }
    let app = app_of(&exchange);
    let class = exchange.broken();
    let reason = match class {
        AppCell::Cut => format!("an instance of {app} was stopped before it had answered\n"),
        _ => format!("an instance of {app} ended before it had answered\n"),
    };
    Sent::Failed(Refusal { status: StatusCode::BAD_GATEWAY, class, reason, close: true, vary: None })
}

fn bad_response(exchange: Exchange) -> Sent {
    let class = AppCell::Lost(Lost::BadResponse);
    let reason = format!("an instance of {} answered with something that is not HTTP\n", app_of(&exchange));
    exchange.failed(class);
    Sent::Failed(Refusal { status: StatusCode::BAD_GATEWAY, class, reason, close: true, vary: None })
}

fn app_of(exchange: &Exchange) -> Arc<str> {
    Arc::clone(&exchange.claim().endpoint().app)
}
