//! Serves the API: few routes, each either a look at the engine or one request to it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, broadcast, mpsc};
use trundle_core::Millis;
use trundle_core::event::{Command, Requests};
use trundle_core::ids::{AppName, InstanceKey, RevisionNumber};
use trundle_core::settings::Listen;
use trundle_core::state::{Known, Request};
use trundle_engine::view::{self, AsOf, Line, Status};
use trundle_engine::{Denied, Input};

use super::types::{Ask, DaemonInfo, Problem, StatusLine, StatusWord, Told, Watched};
use crate::clock;
use crate::daemon::{DaemonError, Handle, Message, Traffic};

/// Between two looks for a watcher.
const STATUS_EVERY: Duration = Duration::from_millis(100);
/// A watcher is told at least this often how time goes by.
const TIME_EVERY: Duration = Duration::from_secs(1);
/// Bytes of the name of who asks: a user and a host fit.
const LONGEST_ASKER: usize = 512;
/// A `down` of everything waits this long for the last instance.
const LONGEST_DOWN: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Told by a signal: instances and proxy live on.
    Signal,
    /// Everything was taken down.
    Down,
}

#[derive(Clone)]
struct Served {
    handle: Handle,
    traffic: Traffic,
    state_dir: Arc<Path>,
    down: Arc<Notify>,
}

/// Opens the socket, 0600. A stale file is replaced; the socket of a living daemon is never stolen.
///
/// # Errors
/// When a daemon answers there, or the system refuses.
pub fn bind(path: &Path) -> Result<UnixListener, DaemonError> {
    let fail = |source| DaemonError::System { what: "cannot open the daemon's socket", source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(DaemonError::ForeignSocket(path.to_owned()));
    }
    // We hold the lock of the state directory and nobody answers: what is left is of a daemon that was killed.
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let listener =
        trundle_proxy::bind_private(&fresh).and_then(|socket| UnixListener::from_std(socket.into()));
    let listener = listener.map_err(fail)?;
    std::fs::rename(&fresh, path).map_err(fail)?;
    Ok(listener)
}

pub async fn serve(listener: UnixListener, handle: Handle, traffic: Traffic, state_dir: &Path) -> Ended {
    let down = Arc::new(Notify::new());
    let served = Served { handle, traffic, state_dir: state_dir.into(), down: down.clone() };
    let routes = Router::new()
        .route("/v1/daemon", get(daemon))
        .route("/metrics", get(metrics))
        .route("/v1/down", post(down_all))
        .route("/v1/apps", get(statuses))
        .route("/v1/apps/{app}", get(status).post(ask))
        .route("/v1/apps/{app}/gates", get(gates))
        .route("/v1/apps/{app}/history", get(history))
        .route("/v1/apps/{app}/watch", get(watch))
        .with_state(served);
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return Ended::Signal;
    };
    tokio::select! {
        _ = axum::serve(listener, routes) => Ended::Signal,
        _ = term.recv() => Ended::Signal,
        _ = int.recv() => Ended::Signal,
        () = down.notified() => Ended::Down,
    }
}

/// `/metrics`, for a Prometheus that cannot reach the socket, and `/gates/APP`, for an app that cannot read the file. Nothing else.
pub async fn serve_metrics(
    listener: tokio::net::TcpListener,
    handle: Handle,
    traffic: Traffic,
    state_dir: PathBuf,
) {
    let served = Served { handle, traffic, state_dir: state_dir.into(), down: Arc::default() };
    let routes = Router::new().route("/metrics", get(metrics)).route("/gates/{app}", get(gates));
    let routes = routes.with_state(served);
    let _ = axum::serve(listener, routes).await;
}

type Answer<T> = Result<Json<T>, Failed>;

/// Anything but success.
struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let refused = self.0 == StatusCode::CONFLICT;
        (self.0, Json(Problem { error: self.1, refused })).into_response()
    }
}

fn problem(status: StatusCode, error: String) -> Failed {
    Failed(status, error)
}

fn app_name(text: &str) -> Result<AppName, Failed> {
    text.parse().map_err(|e: trundle_core::ids::BadName| problem(StatusCode::BAD_REQUEST, e.to_string()))
}

fn ended() -> Failed {
    problem(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending; try again".to_owned())
}

async fn daemon(State(served): State<Served>) -> Answer<DaemonInfo> {
    let apps = served.handle.look(|engine| engine.apps().keys().map(ToString::to_string).collect()).await;
    let release = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Json(DaemonInfo { pid: std::process::id(), release, apps: apps.ok_or_else(ended)? }))
}

async fn ask(
    State(served): State<Served>,
    UrlPath(app): UrlPath<String>,
    Json(mut ask): Json<Ask>,
) -> Answer<Told> {
    let app = app_name(&app)?;
    check_asker(&ask.by)?;
    if let Request::Deploy(deploy) = &mut ask.request {
        door_is_free(&served, &app, deploy.settings.listen.clone()).await?;
        deploy.known = known(&served.traffic, &app).await;
    }
    if let Request::Rollback(Some(revision)) = ask.request {
        is_known(&served.handle, &app, revision).await?;
    }
    tell_engine(&served.handle, app, ask.by, ask.request).await.map(Json)
}

/// Which gates of an app are open, as its instances read it: `{"new-orders": true}`.
async fn gates(
    State(served): State<Served>,
    UrlPath(app): UrlPath<String>,
) -> Answer<BTreeMap<String, bool>> {
    let name = app_name(&app)?;
    let gates = served.handle.look(move |engine| {
        let gates = engine.apps().get(&name)?.state.gates();
        Some(gates.into_iter().map(|gate| (gate.name, gate.open)).collect())
    });
    let none = || problem(StatusCode::NOT_FOUND, format!("there is no app {app}"));
    gates.await.ok_or_else(ended)?.map(Json).ok_or_else(none)
}

/// It is kept in the journal for ever, and shown.
fn check_asker(by: &str) -> Result<(), Failed> {
    if by.len() <= LONGEST_ASKER {
        return Ok(());
    }
    let text = format!("who asks is named in {} bytes; use at most {LONGEST_ASKER}", by.len());
    Err(problem(StatusCode::BAD_REQUEST, text))
}

/// A revision that never was is a slip of the asker; no other state of the app would allow it.
async fn is_known(handle: &Handle, app: &AppName, revision: RevisionNumber) -> Result<(), Failed> {
    let name = app.clone();
    let known =
        handle.look(move |engine| Some(engine.apps().get(&name)?.state.revisions().contains_key(&revision)));
    if known.await.flatten() == Some(false) {
        let text = format!("{app} has no revision {revision}; see `trundle history {app}`");
        return Err(problem(StatusCode::BAD_REQUEST, text));
    }
    Ok(())
}

/// One of them begins the answer that is about this key of the file; the command line shows it at its line.
pub const DOOR_KEYS: [&str; 3] = ["listen.http", "listen.https", "listen.tcp"];

/// The addresses under these keys.
pub fn doors(listen: Option<&Listen>) -> [Option<&str>; 3] {
    let of = |key: fn(&Listen) -> &Option<String>| listen.and_then(|listen| key(listen).as_deref());
    [of(|listen| &listen.http), of(|listen| &listen.https), of(|listen| &listen.tcp)]
}

/// A listen address that somebody else holds is refused before anything starts. Apps of ours may share one.
async fn door_is_free(served: &Served, app: &AppName, wanted: Option<Listen>) -> Result<(), Failed> {
    let all = served.handle.look(|engine| {
        let known = engine.apps().iter().filter(|(_, app)| !app.state.is_down());
        let known =
            known.filter_map(|(name, app)| Some((name.clone(), app.state.settings()?.listen.clone()?)));
        known.collect::<Vec<_>>()
    });
    let all = all.await.unwrap_or_default();
    for (key, address) in DOOR_KEYS.iter().zip(doors(wanted.as_ref())) {
        let Some(address) = address else { continue };
        let refuse = |why: &str| Err(problem(StatusCode::BAD_REQUEST, format!("{key}: {why}")));
        let with_it: Vec<_> =
            all.iter().filter(|(_, listen)| doors(Some(listen)).contains(&Some(address))).collect();
        for (other, listen) in with_it.iter().filter(|(other, _)| other != app) {
            if let Some(why) = wanted.as_ref().and_then(|wanted| why_not_both((other, listen), (app, wanted)))
            {
                return refuse(&why);
            }
        }
        // What is not held for an app of ours may be held by anybody.
        if with_it.is_empty()
            && let Some(error) = crate::daemon::start::why_not_free(&served.state_dir, address)
        {
            return refuse(&format!("cannot listen on {address}: {error}"));
        }
    }
    Ok(())
}

/// Why two apps cannot have an address in common, by the proxy's own rule.
fn why_not_both(one: (&AppName, &Listen), other: (&AppName, &Listen)) -> Option<String> {
    let apps = [one, other].map(|(name, listen)| trundle_proxy::App {
        // The certificate is not what this is about.
        tls: Some(trundle_proxy::TlsFiles { cert: "cert".into(), key: "key".into() }),
        ..crate::daemon::doors(name, listen)
    });
    let table =
        trundle_proxy::Table { protocol: trundle_proxy::PROTOCOL, apps: apps.into(), ..Default::default() };
    table.validate().err()
}

async fn tell_engine(handle: &Handle, app: AppName, by: String, request: Request) -> Result<Told, Failed> {
    let (answer, asked) = tokio::sync::oneshot::channel();
    let reply = Box::new(move |said| {
        let _ = answer.send(said);
    });
    let after = handle.lines().0.last().map_or(0, |line| line.n);
    handle.send(Message::Input(Input::Request { app, by, request, reply }));
    match asked.await {
        Ok(Ok(step)) => Ok(Told {
            rollout: step.rollout.map(|r| r.0),
            says: step.says,
            unchanged: step.commands.is_empty(),
            began: step.commands.iter().any(|command| matches!(command, Command::Roll { .. })),
            after,
        }),
        Ok(Err(denied)) => {
            let status = match denied {
                Denied::Refused(_) => StatusCode::CONFLICT,
                Denied::NoSuchApp(_) => StatusCode::NOT_FOUND,
                Denied::Trouble(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            Err(problem(status, denied.to_string()))
        }
        // A full disk keeps the answer back until the journal could be written, or the daemon ends.
        Err(_) => Err(ended()),
    }
}

/// What a state cannot know by itself. An app that the proxy has not heard of has no callers.
async fn known(traffic: &Traffic, app: &AppName) -> Known {
    let now_ms = clock::wall_ms();
    let of_app = |stats: trundle_proxy::Stats| {
        stats.apps.get(app.as_str()).map(|of_app| crate::daemon::watched(of_app, now_ms)).unwrap_or_default()
    };
    Known { watched: traffic.stats().await.map(of_app), now_s: i64::try_from(now_ms / 1_000).ok() }
}

async fn traffic_of(traffic: &Traffic, app: &AppName) -> view::Traffic {
    let Some(stats) = traffic.stats().await else { return view::Traffic::default() };
    // It was never asked to route this one.
    let Some(of_app) = stats.apps.get(app.as_str()) else {
        return view::Traffic { requests: Some(Requests::default()), ..view::Traffic::default() };
    };
    let in_flight = of_app.endpoints.iter();
    view::Traffic {
        requests: Some(crate::daemon::requests(of_app)),
        in_flight: in_flight
            .filter_map(|e| Some((InstanceKey::parse_name(app, &e.id)?, e.in_flight)))
            .collect(),
        pinned: of_app.pinned.clone(),
        watched: Some(crate::daemon::watched(of_app, clock::wall_ms())),
        latency: of_app
            .latency
            .iter()
            .map(|(version, histogram)| (version.clone(), latency(histogram)))
            .collect(),
    }
}

fn latency(histogram: &trundle_proxy::Histogram) -> view::Latency {
    let ms = |quantile| histogram.quantile(quantile).map_or(0.0, |took| took.as_secs_f64() * 1000.0);
    view::Latency {
        count: histogram.count,
        p50_ms: ms(0.5),
        p90_ms: ms(0.9),
        p99_ms: ms(0.99),
        p999_ms: ms(0.999),
    }
}

async fn status_of(handle: &Handle, traffic: &Traffic, app: AppName) -> Option<Status> {
    let certificate = traffic.certificates.of(&app);
    let traffic = traffic_of(traffic, &app).await;
    handle
        .look_now(move |engine, now| {
            let known = engine.apps().get(&app)?;
            let mut status = view::status(known, &traffic, as_of(now), clock::rfc3339);
            status.trouble = engine.trouble().map(str::to_owned).or(status.trouble).or(certificate);
            Some(status)
        })
        .await
        .flatten()
}

fn as_of(watched_ms: Millis) -> AsOf {
    AsOf::Now { watched_ms, wall_ms: clock::wall_ms() }
}

async fn status(State(served): State<Served>, UrlPath(app): UrlPath<String>) -> Answer<Status> {
    let app = app_name(&app)?;
    let missing = || problem(StatusCode::NOT_FOUND, format!("there is no app called {app}"));
    status_of(&served.handle, &served.traffic, app.clone()).await.map(Json).ok_or_else(missing)
}

async fn metrics(State(served): State<Served>) -> Result<Response, Failed> {
    let apps = all_statuses(&served).await?;
    let text = crate::metrics::text(&apps, served.traffic.stats().await.as_ref());
    Ok(([(CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response())
}

async fn statuses(State(served): State<Served>) -> Answer<Vec<Status>> {
    all_statuses(&served).await.map(Json)
}

async fn all_statuses(served: &Served) -> Result<Vec<Status>, Failed> {
    let names = served.handle.look(|engine| engine.apps().keys().cloned().collect::<Vec<_>>()).await;
    let mut found = Vec::new();
    for app in names.ok_or_else(ended)? {
        found.extend(status_of(&served.handle, &served.traffic, app).await);
    }
    Ok(found)
}

async fn history(State(served): State<Served>, UrlPath(app): UrlPath<String>) -> Answer<view::History> {
    let app = app_name(&app)?;
    let traffic = traffic_of(&served.traffic, &app).await;
    let missing = problem(StatusCode::NOT_FOUND, format!("there is no app called {app}"));
    let found = served
        .handle
        .look_now(move |engine, now| {
            engine.apps().get(&app).map(|known| view::history(known, &traffic, as_of(now), clock::rfc3339))
        })
        .await;
    found.flatten().map(Json).ok_or(missing)
}

async fn down_all(State(served): State<Served>, Json(by): Json<String>) -> Answer<()> {
    check_asker(&by)?;
    let names = served.handle.look(|engine| engine.apps().keys().cloned().collect::<Vec<_>>()).await;
    let names = names.ok_or_else(ended)?;
    for app in &names {
        tell_engine(&served.handle, app.clone(), by.clone(), Request::Down).await?;
    }
    let gone = async {
        loop {
            let live = served
                .handle
                .look(|engine| engine.apps().values().map(|a| a.state.totals().live()).sum::<u32>());
            if live.await.is_none_or(|live| live == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(LONGEST_DOWN, gone).await.is_err() {
        return Err(problem(
            StatusCode::GATEWAY_TIMEOUT,
            "some instances do not end; see `trundle status`".to_owned(),
        ));
    }
    // The answer goes out first.
    let down = served.down.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        down.notify_one();
    });
    Ok(Json(()))
}

/// What happens, as it happens, and how things stand, for as long as somebody reads.
async fn watch(
    State(served): State<Served>,
    UrlPath(app): UrlPath<String>,
    Query(since): Query<Since>,
) -> Result<Response, Failed> {
    let app = app_name(&app)?;
    let (lines, stream) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(64);
    tokio::spawn(watch_into(served, app, since.after, lines));
    let body = StreamBody::new(ReceiverStream(stream));
    Ok(([("content-type", "application/x-ndjson")], Body::new(body)).into_response())
}

/// `?after=N`: what was told since that line is told again first.
#[derive(Deserialize)]
struct Since {
    after: Option<u64>,
}

type Frames = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

async fn watch_into(served: Served, app: AppName, after: Option<u64>, out: Frames) {
    let (recent, mut lines) = served.handle.lines();
    for line in recent.iter().filter(|l| l.app == app.as_str() && after.is_some_and(|n| l.n > n)) {
        if write(&out, &Watched::Line(Line::clone(line))).await.is_err() {
            return;
        }
    }
    let mut last = None;
    let mut last_at = tokio::time::Instant::now();
    let mut tick = tokio::time::interval(STATUS_EVERY);
    while !out.is_closed() {
        let mut told: Vec<Watched> = Vec::new();
        let mine = |line: Arc<Line>| (line.app == app.as_str()).then(|| Watched::Line(Line::clone(&line)));
        tokio::select! {
            line = lines.recv() => match line {
                Ok(line) => told.extend(mine(line)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
            _ = tick.tick() => {
                let status = status_of(&served.handle, &served.traffic, app.clone()).await;
                // What led to it comes before it: a reader may leave when it sees the end.
                while let Ok(line) = lines.try_recv() {
                    told.extend(mine(line));
                }
                let still = status.as_ref().and_then(|s| serde_json::to_string(&s.still()).ok());
                let timed = status.as_ref().is_some_and(Status::is_timed) && last_at.elapsed() >= TIME_EVERY;
                let changed = timed || still != last;
                if changed {
                    (last, last_at) = (still, tokio::time::Instant::now());
                }
                told.extend(status.filter(|_| changed).map(|status| {
                    let at = clock::rfc3339(clock::wall_ms());
                    Watched::Status(Box::new(StatusLine { at, kind: StatusWord::Status, status }))
                }));
            }
        }
        for told in &told {
            if write(&out, told).await.is_err() {
                return;
            }
        }
    }
}

/// An error when nobody reads any more.
async fn write(out: &Frames, told: &Watched) -> Result<(), ()> {
    let mut text = serde_json::to_vec(told).map_err(|_| ())?;
    text.push(b'\n');
    out.send(Ok(Frame::data(Bytes::from(text)))).await.map_err(|_| ())
}

/// A receiver as the stream that a body is made of.
struct ReceiverStream(mpsc::Receiver<Result<Frame<Bytes>, Infallible>>);

impl futures_core::Stream for ReceiverStream {
    type Item = Result<Frame<Bytes>, Infallible>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
