//! A page that one version has given loads files that only this version has. What the version that was asked has not, the others
//! are asked for, before the client hears of it.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Body as _;

use super::{Window, Wish};
use crate::ask::{self, Shape};
use crate::body::RequestBody;
use crate::classes::{AppCell, Mixed};
use crate::endpoint::Claim;
use crate::exchange::Exchange;
use crate::forward::in_time;
use crate::routes::{Route, Tried};
use crate::turn::Turn;
use crate::upstream::{AnswerBody, Upstream};

/// Of an answer that nobody gets so much is read, and so long.
const MOST_READ: usize = 64 * 1024;
const LONGEST_READ: Duration = Duration::from_millis(100);

/// A request that can be made once more: it changes nothing, and nothing of it comes after its head.
pub struct Copy {
    request: Request<RequestBody>,
    shape: Shape,
}

impl Copy {
    /// `None`: it is not one of those, or there is nobody else to ask.
    pub fn of(window: &Window, wish: &Wish, request: &Request<RequestBody>, shape: Shape) -> Option<Self> {
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD) && !shape.websocket;
        if !wish.is_asset
            || window.groups.len() + window.kept.len() < 2
            || !is_safe
            || !request.body().is_end_stream()
        {
            return None;
        }
        Some(Self { request: again(request), shape })
    }
}

fn again(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(request.body().again());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Asks the other versions, the newest first, until one has it; else what the first one said stands.
pub async fn elsewhere(
    client: &Rc<Turn>,
    route: &Route,
    window: &Window,
    copy: &Copy,
    first: (Exchange, Response<AnswerBody>),
) -> (Exchange, Response<AnswerBody>) {
    let worker = &client.connection.worker;
    let count = |what| {
        worker.shared.counts.app_cell(route.app_row, AppCell::Mixed(what)).fetch_add(1, Relaxed);
    };
    let asked = first.0.claim().endpoint().revision;
    for group in window.others(asked) {
        let (mut tried, mut fresh) = (Tried::default(), false);
        // One that cannot be reached says nothing of the others of its version.
        while !tried.is_full() {
            let claim = group.choice.choose(&mut worker.random.borrow_mut(), &tried);
            let Some(claim) = claim else { break };
            let endpoint = Arc::clone(claim.endpoint());
            match ask(client, route, claim, copy, fresh).await {
                Asked::Has(found) => {
                    count(Mixed::Across);
                    pass_over(first).await;
                    return *found;
                }
                Asked::HasNothing => break,
                // A kept connection that was closed says nothing of the instance.
                Asked::Stale if !fresh => fresh = true,
                Asked::Stale | Asked::Unreachable => tried.add(&endpoint),
            }
        }
    }
    count(Mixed::Missing);
    client.sent_to(first.0.claim().endpoint(), Instant::now());
    first
}

/// What came of one try.
enum Asked {
    Has(Box<(Exchange, Response<AnswerBody>)>),
    HasNothing,
    /// A kept connection failed.
    Stale,
    Unreachable,
}

/// An answer that nobody gets: a short one is read, so that its connection serves others. It counts nowhere.
async fn pass_over((mut exchange, answer): (Exchange, Response<AnswerBody>)) {
    let mut body = answer.into_body();
    let mut bytes = 0;
    let read = async {
        while !body.is_end_stream(exchange.upstream_ref()) {
            let frame = poll_fn(|cx| body.poll_frame(exchange.upstream(), cx)).await;
            let Some(frame) = frame else { return true };
            bytes += frame.ok().map_or(MOST_READ, |frame| frame.data_ref().map_or(0, Bytes::len));
            if bytes >= MOST_READ {
                return false;
            }
        }
        true
    };
    if tokio::time::timeout(LONGEST_READ, read).await == Ok(true) {
        exchange.response_read();
    }
    exchange.undo();
}

/// One try at one endpoint; `fresh`: on a new connection.
async fn ask(client: &Rc<Turn>, route: &Route, claim: Claim, copy: &Copy, fresh: bool) -> Asked {
    let worker = &client.connection.worker;
    let endpoint = Arc::clone(claim.endpoint());
    let timeout = Duration::from_millis(route.limits.connect_timeout_ms);
    let now = Instant::now();
    let kept = if fresh { None } else { worker.pools.take(&endpoint, endpoint.protocol, now) };
    let was_kept = kept.is_some();
    let upstream = match kept {
        Some(upstream) => upstream,
        None => match Box::pin(worker.pools.connect(&endpoint, endpoint.protocol, timeout)).await {
            Ok(upstream) => upstream,
            Err(_) => return Asked::Unreachable,
        },
    };
    let mut exchange = Exchange::new(claim, upstream, Rc::clone(worker), client.begun());
    client.sent_to(&endpoint, now);
    let mut request = again(&copy.request);
    let answer = match exchange.upstream() {
        None => return Asked::Unreachable,
        Some(Upstream::Http1(connection)) => {
            ask::as_http1(&mut request, copy.shape);
            in_time(client, pin!(connection.send(request, was_kept))).await
        }
        Some(Upstream::Http2(stream)) => {
            if ask::as_http2(&mut request, copy.shape).is_err() {
                return Asked::HasNothing;
            }
            in_time(client, pin!(stream.send(request))).await
        }
    };
    match answer {
        Ok(Ok(response)) if has_it(response.status()) => Asked::Has(Box::new((exchange, response))),
        Ok(Ok(response)) => {
            pass_over((exchange, response)).await;
            Asked::HasNothing
        }
        // The client has an answer in any case: this one counts nowhere.
        Ok(Err(_)) => {
            exchange.undo();
            if was_kept { Asked::Stale } else { Asked::Unreachable }
        }
        Err(_) => {
            exchange.undo();
            Asked::HasNothing
        }
    }
}

fn has_it(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}
