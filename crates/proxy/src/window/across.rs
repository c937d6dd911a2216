//! A page that one version has given loads files that only this version has. What the version that was asked has not, the others
//! are asked for, before the client hears of it.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

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
        let claim = group.choice.choose(&mut worker.random.borrow_mut(), &Tried::default());
        let Some(claim) = claim else { continue };
        if let Some(found) = ask(client, route, claim, copy).await {
            count(Mixed::Across);
            // Its connection goes with it: what is left of it is not read.
            first.0.abandoned();
            return found;
        }
    }
    count(Mixed::Missing);
    client.sent_to(first.0.claim().endpoint(), Instant::now());
    first
}

/// One try at one endpoint; `None`: it has nothing either, or cannot be asked.
async fn ask(
    client: &Rc<Turn>,
    route: &Route,
    claim: Claim,
    copy: &Copy,
) -> Option<(Exchange, Response<AnswerBody>)> {
    let worker = &client.connection.worker;
    let endpoint = Arc::clone(claim.endpoint());
    let timeout = Duration::from_millis(route.limits.connect_timeout_ms);
    let now = Instant::now();
    let kept = worker.pools.take(&endpoint, endpoint.protocol, now);
    let was_kept = kept.is_some();
    let upstream = match kept {
        Some(upstream) => upstream,
        None => Box::pin(worker.pools.connect(&endpoint, endpoint.protocol, timeout)).await.ok()?,
    };
    let mut exchange = Exchange::new(claim, upstream, Rc::clone(worker), client.begun());
    client.sent_to(&endpoint, now);
    let mut request = again(&copy.request);
    let answer = match exchange.upstream()? {
        Upstream::Http1(connection) => {
            ask::as_http1(&mut request, copy.shape);
            in_time(client, pin!(connection.send(request, was_kept))).await
        }
        Upstream::Http2(stream) => {
            ask::as_http2(&mut request, copy.shape).ok()?;
            in_time(client, pin!(stream.send(request))).await
        }
    };
    match answer {
        Ok(Ok(response)) if has_it(response.status()) => Some((exchange, response)),
        Ok(_) | Err(_) => {
            // The client has an answer in any case: this one counts nowhere.
            exchange.abandoned();
            None
        }
    }
}

fn has_it(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}
