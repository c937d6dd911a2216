//! Some requests go to another version as well, whose answer nobody gets: it is compared with the one that the client has got.
//!
//! Only what changes nothing is mirrored, when the client's answer has begun, in a task of its own that knows nothing of the client;
//! few at a time, and those that would be too many are left out and counted.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use hyper::body::Body as _;
use tokio::sync::oneshot;

use super::paths::Paths;
use super::{To, Window};
use crate::ask::{self, Shape};
use crate::body::{RequestBody, ResponseBody};
use crate::classes::{AppCell, Mixed};
use crate::compared::{Comparison, Recorder, Side};
use crate::endpoint::LiveEndpoint;
use crate::routes::Route;
use crate::table;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// What tells a mirrored request from others. Of a client it is not believed.
pub const MARK: HeaderName = HeaderName::from_static("x-shadow");
/// At a time, of each thread.
const MOST_AT_ONCE: u32 = 8;
/// An answer that takes longer is none.
const LONGEST: Duration = Duration::from_secs(5);
/// Until the client has taken its own.
const LONGEST_LIVE: Duration = Duration::from_secs(60);
/// More of an answer is not read.
const MOST_BYTES: u64 = 1 << 20;

/// Which requests are mirrored, and to whom.
pub struct Mirror {
    to: To,
    /// Of a hundred.
    share: u32,
    paths: Paths,
}

impl Mirror {
    pub fn of(told: &table::Mirror) -> Option<Self> {
        Some(Self { to: To::of(&told.to)?, share: told.share, paths: Paths::new(&told.paths) })
    }
}

/// A request that is on its way to a client's version, and will go to another one.
pub struct Shadow {
    request: Request<RequestBody>,
    shape: Shape,
    live: u32,
    started: Instant,
}

/// How many a thread has on their way.
#[derive(Default)]
pub struct OnTheirWay(Cell<u32>);

struct One(Rc<Worker>);

impl Drop for One {
    fn drop(&mut self) {
        self.0.mirrors.0.set(self.0.mirrors.0.get() - 1);
    }
}

impl Shadow {
    /// `None`: it is none of those, or there are too many already.
    pub fn of(
        route: &Route,
        request: &Request<RequestBody>,
        shape: Shape,
        live: &LiveEndpoint,
        worker: &Worker,
    ) -> Option<Box<Self>> {
        let window = route.window.as_ref()?;
        let mirror = window.mirror.as_ref()?;
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD) && !shape.websocket;
        if !is_safe || !request.body().is_end_stream() || !mirror.paths.cover(request.uri().path()) {
            return None;
        }
        let is_other = window.meant(&mirror.to).any(|at| window.groups[at].revision != live.revision);
        if !is_other || worker.random.borrow_mut().below(100) >= u64::from(mirror.share) {
            return None;
        }
        let mut copy = Request::new(RequestBody::nothing());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        copy.headers_mut().insert(MARK, HeaderValue::from_static("1"));
        Some(Box::new(Self { request: copy, shape, live: live.revision, started: Instant::now() }))
    }

    /// The client's answer has begun.
    pub fn begin(
        self,
        route: &Arc<Route>,
        worker: &Rc<Worker>,
        from: &LiveEndpoint,
        live: &mut Response<ResponseBody>,
    ) {
        let skipped = || {
            let cell = AppCell::Mixed(Mixed::MirrorSkipped);
            worker.shared.counts.app_cell(route.app_row, cell).fetch_add(1, Relaxed);
        };
        let Some(to) = self.choose(route, worker).filter(|_| worker.mirrors.0.get() < MOST_AT_ONCE) else {
            return skipped();
        };
        let (mut recorder, seen) = Recorder::of(from, self.started);
        recorder.head(live.status(), live.headers());
        live.body_mut().record(recorder);
        worker.mirrors.0.set(worker.mirrors.0.get() + 1);
        let one = One(Rc::clone(worker));
        tokio::task::spawn_local(self.run(Arc::clone(route), one, to, seen));
    }

    /// It holds no place in it: nobody waits for the answer, so no drain does either, and nobody loses it.
    fn choose(&self, route: &Route, worker: &Worker) -> Option<Arc<LiveEndpoint>> {
        let window = route.window.as_ref()?;
        let mirror = window.mirror.as_ref()?;
        let groups = window.meant(&mirror.to).map(|at| &window.groups[at]);
        let random = &mut worker.random.borrow_mut();
        groups.filter(|group| group.revision != self.live).find_map(|group| group.choice.any(random))
    }

    async fn run(self, route: Arc<Route>, one: One, to: Arc<LiveEndpoint>, live: oneshot::Receiver<Side>) {
        let worker = Rc::clone(&one.0);
        let (method, target) = (self.request.method().to_string(), self.request.uri().to_string());
        let (mut recorder, seen) = Recorder::of(&to, Instant::now());
        // Too late or not at all: what was recorded until then says so.
        let _ = tokio::time::timeout(LONGEST, self.ask(&to, &route, &worker, &mut recorder)).await;
        drop(recorder);
        let count = |what| {
            worker.shared.counts.app_cell(route.app_row, AppCell::Mixed(what)).fetch_add(1, Relaxed);
        };
        let (Ok(Ok(live)), Ok(mirrored)) = (tokio::time::timeout(LONGEST_LIVE, live).await, seen.await)
        else {
            return;
        };
        let comparison = Comparison::new(&route.app, method, target, live, mirrored);
        count(Mixed::Mirrored);
        if !comparison.same {
            count(Mixed::MirrorDiffers);
        }
        worker.shared.compared.push(comparison);
    }

    async fn ask(
        self,
        endpoint: &Arc<LiveEndpoint>,
        route: &Route,
        worker: &Rc<Worker>,
        recorder: &mut Recorder,
    ) -> Option<()> {
        let Self { mut request, shape, .. } = self;
        let timeout = Duration::from_millis(route.limits.connect_timeout_ms);
        let kept = worker.pools.take(endpoint, endpoint.protocol, Instant::now());
        let was_kept = kept.is_some();
        let mut upstream = match kept {
            Some(upstream) => upstream,
            None => worker.pools.connect(endpoint, endpoint.protocol, timeout).await.ok()?,
        };
        let answer = match &mut upstream {
            Upstream::Http1(connection) => {
                ask::as_http1(&mut request, shape);
                connection.send(request, was_kept).await.ok()?
            }
            Upstream::Http2(stream) => {
                ask::as_http2(&mut request, shape).ok()?;
                stream.send(request).await.ok()?
            }
        };
        recorder.head(answer.status(), answer.headers());
        let mut body = answer.into_body();
        let mut bytes = 0;
        while !body.is_end_stream(Some(&upstream))
            && let Some(frame) = poll_fn(|cx| body.poll_frame(Some(&mut upstream), cx)).await
        {
            if let Some(data) = frame.ok()?.data_ref() {
                bytes += data.len() as u64;
                recorder.bytes(data);
            }
            if bytes > MOST_BYTES {
                return None;
            }
        }
        recorder.whole();
        worker.pools.put(endpoint, upstream);
        Some(())
    }
}

/// What a client says of itself is not believed, however an app would read it.
pub fn remove_marks(headers: &mut HeaderMap) {
    headers.remove(MARK);
    headers.remove("x_shadow");
}

impl Window {
    pub fn is_mirrored(&self) -> bool {
        self.mirror.is_some()
    }
}
