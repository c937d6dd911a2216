//! The engine's router over the proxy's socket: tables go out as wholes, acknowledgements and drains come back as facts.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use trundle_core::event::{DrainProof, Fact, Requests};
use trundle_core::formats::{Caller, Format, Watched};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::revision::Protocol;
use trundle_core::settings::{AccessFormat, AccessLog, Listen};
use trundle_core::state::Window;
use trundle_core::traffic::{Field, Rule, Sticky, Traffic as VersionTraffic, WhenGone};
use trundle_crashpoint::crash_point;
use trundle_engine::Input;
use trundle_engine::ports::{Fence, Report, Route, RouteState, Router, Routes};
use trundle_proxy as proxy;
use trundle_proxy::{Client, ClientReceiver, ClientSender, Reply, Request};

use super::acme;
use super::engine_thread::{Handle, Message};

/// How long the engine's thread waits for the proxy's counts: they are asked for only as a rollout begins and ends.
const COUNTS_MS: u64 = 250;
/// In the state directory.
const ACCESS_LOGS: &str = "access";
const RECONNECT_FIRST: Duration = Duration::from_millis(10);
/// A refused table is sent again after this.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);
/// What hinders a proxy from taking over may be gone by then.
const UPGRADE_AGAIN: Duration = Duration::from_secs(30);
const START_AGAIN: Duration = Duration::from_secs(3);
const RECONNECT_MOST: Duration = Duration::from_secs(1);

/// What the engine's thread, the connection and the API share.
#[derive(Clone)]
pub struct Traffic {
    /// What is wrong with certificates that are fetched.
    pub certificates: acme::Troubles,
    shared: Arc<Shared>,
    ask: mpsc::Sender<oneshot::Sender<proxy::Stats>>,
    asked: Arc<Mutex<Option<mpsc::Receiver<oneshot::Sender<proxy::Stats>>>>>,
}

struct Shared {
    tables: Mutex<Tables>,
    /// There is a table to send.
    changed: Notify,
    handle: Handle,
}

#[derive(Default)]
struct Tables {
    fence: Option<Fence>,
    apps: BTreeMap<AppName, Known>,
    unpublished: bool,
    /// What goes out: a whole, never a table of which one app was told and the next was not yet.
    published: Option<Published>,
}

/// What the engine said of one app until now.
#[derive(Default)]
struct Known {
    listen: Option<Listen>,
    window: Window,
    routes: BTreeMap<InstanceKey, Route>,
}

#[derive(Clone)]
struct Published {
    fence: Fence,
    apps: Vec<proxy::App>,
    routed: BTreeMap<AppName, Vec<InstanceKey>>,
}

impl Traffic {
    pub fn new(handle: Handle) -> Self {
        let (ask, asked) = mpsc::channel(64);
        let shared = Shared { tables: Mutex::default(), changed: Notify::new(), handle };
        Self {
            certificates: acme::Troubles::default(),
            shared: Arc::new(shared),
            ask,
            asked: Arc::new(Mutex::new(Some(asked))),
        }
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.shared.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the proxy counts now; None when it cannot be asked.
    pub async fn stats(&self) -> Option<proxy::Stats> {
        let (answer, asked) = oneshot::channel();
        self.ask.send(answer).await.ok()?;
        tokio::time::timeout(Duration::from_millis(COUNTS_MS), asked).await.ok()?.ok()
    }

    fn stats_blocking(&self) -> Option<proxy::Stats> {
        let (answer, asked) = oneshot::channel();
        self.ask.try_send(answer).ok()?;
        let deadline = std::time::Instant::now() + Duration::from_millis(COUNTS_MS);
        let mut asked = asked;
        loop {
            match asked.try_recv() {
                Ok(stats) => return Some(stats),
                Err(oneshot::error::TryRecvError::Closed) => return None,
                Err(oneshot::error::TryRecvError::Empty) if std::time::Instant::now() >= deadline => {
                    return None;
                }
                Err(oneshot::error::TryRecvError::Empty) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }
}

/// The engine's side.
pub struct ProxyRouter {
    traffic: Traffic,
    state_dir: PathBuf,
    /// Planted: says that a drain is proven before the proxy was even told.
    lies_about_drains: bool,
}

impl ProxyRouter {
    pub fn new(traffic: Traffic, state_dir: PathBuf) -> Self {
        let planted = std::env::var(super::PLANT).is_ok_and(|bug| bug == "stop-before-drain");
        Self { traffic, state_dir, lies_about_drains: planted && cfg!(debug_assertions) }
    }
}

impl Router for ProxyRouter {
    fn set(&mut self, routes: &Routes<'_>) {
        if self.lies_about_drains {
            for route in routes.routes.iter().filter(|r| r.state == RouteState::Draining) {
                seen(&self.traffic, routes.app, route.instance, Fact::Drained { proof: DrainProof::Proven });
            }
        }
        let mut tables = self.traffic.tables();
        tables.fence = Some(routes.fence);
        let known = tables.apps.entry(routes.app.clone()).or_default();
        if routes.whole {
            known.routes.clear();
        }
        let had_listen = std::mem::replace(&mut known.listen, routes.listen.cloned()).is_some();
        known.window = routes.window;
        known.routes.extend(routes.routes.iter().map(|route| (route.instance, route.clone())));
        for key in &routes.unrouted {
            known.routes.remove(key);
        }
        // Of an app that takes no requests the proxy hears nothing.
        let matters = known.listen.is_some() || had_listen;
        tables.unpublished |= matters;
    }

    fn publish(&mut self) {
        let mut tables = self.traffic.tables();
        if let Some(fence) = tables.fence.filter(|_| tables.unpublished) {
            tables.unpublished = false;
            let open = || tables.apps.iter().filter(|(_, known)| known.listen.is_some());
            if open()
                .any(|(_, known)| known.listen.as_ref().is_some_and(|listen| listen.access_log.is_some()))
            {
                // Without it the proxy says that it cannot write.
                let folder = self.state_dir.join(ACCESS_LOGS);
                let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            }
            for (name, listen) in open().filter_map(|(name, known)| Some((name, known.listen.as_ref()?))) {
                if listen.tls.as_ref().is_some_and(|tls| tls.acme.is_some()) {
                    acme::prepare(&self.state_dir, name, &listen.hosts);
                }
            }
            let apps = open().filter_map(|(name, known)| proxy_app(name, known, &self.state_dir)).collect();
            let routed = |known: &Known| {
                let routed = known.routes.values().filter(|r| r.state == RouteState::Routed);
                routed.map(|r| r.instance).collect()
            };
            let routed = open().map(|(name, known)| (name.clone(), routed(known))).collect();
            tables.published = Some(Published { fence, apps, routed });
            self.traffic.shared.changed.notify_one();
        }
    }

    fn counts(&mut self, app: &AppName) -> Option<Requests> {
        // With no proxy, as before the first deploy after everything was down, nothing is counted: the file stands still.
        let stats = self.traffic.stats_blocking().or_else(|| proxy::stats_at_rest(&self.state_dir))?;
        Some(stats.apps.get(app.as_str()).map(requests).unwrap_or_default())
    }
}

/// The proxy's counts in the words of the core.
pub fn requests(stats: &proxy::AppStats) -> Requests {
    Requests {
        total: stats.total,
        lost: stats.lost,
        crashed: stats.crashed,
        cut: stats.cut,
        told: stats.told,
        told_by_kind: stats.told_by_kind.clone(),
        cut_by_kind: stats.cut_by_kind.clone(),
        held: stats.held,
        app_errors: stats.app_errors,
        by_version: stats.by_version.clone(),
        mixed: stats.mixed.clone(),
    }
}

/// Where an app's clients come in, and which of them are its own.
pub fn doors(name: &AppName, listen: &Listen) -> proxy::App {
    let address = |text: &Option<String>| text.as_ref().and_then(|address| address.parse().ok());
    let http = address(&listen.http).map(proxy::Listen::Http);
    let https = address(&listen.https).map(proxy::Listen::Https);
    let tcp = address(&listen.tcp).map(proxy::Listen::Tcp);
    let unix = listen.unix.as_ref().map(|path| proxy::Listen::Unix(PathBuf::from(path)));
    proxy::App {
        listen: [http, https, unix, tcp].into_iter().flatten().collect(),
        hosts: listen.hosts.clone(),
        paths: listen.paths.clone(),
        ..proxy::App::named(name.as_str())
    }
}

/// None: the app takes no requests.
fn proxy_app(name: &AppName, known: &Known, state_dir: &Path) -> Option<proxy::App> {
    let listen = known.listen.as_ref()?;
    let tls = listen.tls.as_ref();
    let https_address = listen.https.as_ref().and_then(|address| address.parse().ok());
    let endpoints = known.routes.values().filter_map(|route| {
        Some(proxy::Endpoint {
            id: route.instance.name(name),
            incarnation: route.incarnation.to_string(),
            version: route.version.to_string(),
            revision: route.instance.revision.0,
            address: route.address.parse().ok()?,
            protocol: match route.protocol {
                Protocol::Http1 => proxy::Protocol::Http1,
                Protocol::H2c => proxy::Protocol::Http2,
                Protocol::H2 => proxy::Protocol::Http2Tls,
            },
            weight: 1,
            state: match route.state {
                RouteState::Routed => proxy::EndpointState::Routed,
                RouteState::Unready => proxy::EndpointState::Unready,
                RouteState::Kept => proxy::EndpointState::Kept,
                RouteState::Draining => proxy::EndpointState::Draining,
                RouteState::Cut => proxy::EndpointState::Cut,
            },
        })
    });
    Some(proxy::App {
        trusted_proxies: listen.trusted_proxies.clone(),
        version_header: listen.version_header.clone().filter(|h| !h.is_empty()),
        limits: crate::config::proxy_limits(listen),
        tls: tls.map(|tls| match tls.acme {
            None => proxy::TlsFiles { cert: PathBuf::from(&tls.cert), key: PathBuf::from(&tls.key) },
            Some(_) => {
                let file = acme::certificate(state_dir, name);
                proxy::TlsFiles { cert: file.clone(), key: file }
            }
        }),
        challenges: tls.filter(|tls| tls.acme.is_some()).map(|_| acme::challenges(state_dir)),
        redirect_to: https_address.filter(|_| tls.is_some_and(|tls| tls.redirect)),
        hsts_s: tls.and_then(|tls| tls.hsts_ms).map(|ms| ms / 1000),
        access_log: listen.access_log.as_ref().map(|log| access_log(name, log, state_dir)),
        maintenance: listen.maintenance.as_ref().map(|maintenance| proxy::Maintenance {
            page: maintenance.page.as_ref().map(PathBuf::from),
            retry_after_s: maintenance.retry_after_ms.map(|ms| ms.div_ceil(1000)),
        }),
        traffic: traffic(listen.traffic.as_ref(), known.window),
        formats: listen.formats.iter().map(format).collect(),
        caller_header: listen.caller_header.clone(),
        endpoints: endpoints.collect(),
        ..doors(name, listen)
    })
}

fn format(format: &Format) -> proxy::Format {
    proxy::Format {
        name: format.name.clone(),
        path: format.matches.path.clone(),
        header: format.matches.header.clone(),
        value: format.matches.value.clone(),
        query: format.matches.query.clone(),
        served: Some(format.served.clone()),
        deprecated_at_s: format.deprecated_at_s,
        sunset_s: format.sunset_s,
        link: format.link.clone(),
    }
}

/// What the proxy knows of who uses which format, at this moment of the wall clock.
pub fn watched(stats: &proxy::AppStats, now_ms: u64) -> Vec<Watched> {
    let ago_ms = |s: u64| now_ms.saturating_sub(s.saturating_mul(1_000));
    let of = |(format, uses): (&String, &proxy::FormatUses)| Watched {
        format: format.clone(),
        for_ms: uses.since_s.map(ago_ms),
        callers: uses
            .callers
            .iter()
            .map(|(name, c)| Caller { name: name.clone(), count: c.count, ago_ms: ago_ms(c.last_s) })
            .collect(),
    };
    stats.formats.iter().map(of).collect()
}

/// None: a request may go to any version.
fn traffic(written: Option<&VersionTraffic>, window: Window) -> Option<proxy::Traffic> {
    if written.is_none() && window.share.is_none() {
        return None;
    }
    let default = VersionTraffic::default();
    let written = written.unwrap_or(&default);
    let field = |field: &Field| match field {
        Field::Header(name) => proxy::Field::Header(name.clone()),
        Field::Cookie(name) => proxy::Field::Cookie(name.clone()),
    };
    let rule = |rule: &Rule| proxy::Rule {
        field: field(&rule.field),
        value: rule.value.clone(),
        to: match rule.to.as_str() {
            Rule::NEWEST => proxy::Wanted::Newest,
            Rule::OLDEST => proxy::Wanted::Oldest,
            range => proxy::Wanted::Versions(range.to_owned()),
        },
    };
    Some(proxy::Traffic {
        asked_in: written.asked_in.iter().map(field).collect(),
        when_gone: match written.when_gone {
            WhenGone::Fallback => proxy::WhenGone::Fallback,
            WhenGone::Refuse => proxy::WhenGone::Refuse,
        },
        rules: written.rules.iter().map(rule).collect(),
        sticky: match written.sticky {
            Sticky::None => proxy::Sticky::Nothing,
            Sticky::Version => proxy::Sticky::Version,
            Sticky::Instance => proxy::Sticky::Instance,
        },
        sticky_header: written.sticky_header.clone(),
        skew_paths: written.skew_paths.clone(),
        skew_max_age_s: u32::try_from(written.skew_max_age_ms.div_ceil(1_000)).unwrap_or(u32::MAX),
        newest: window.newest.map(|revision| revision.0),
        window: window.number,
        share: window.share,
    })
}

fn access_log(name: &AppName, log: &AccessLog, state_dir: &Path) -> proxy::AccessLog {
    let file = match &log.file {
        Some(file) => PathBuf::from(file),
        None => state_dir.join(ACCESS_LOGS).join(format!("{name}.log")),
    };
    let format = match log.format {
        AccessFormat::Json => proxy::AccessFormat::Json,
        AccessFormat::Combined => proxy::AccessFormat::Combined,
    };
    proxy::AccessLog { file, format }
}

/// Keeps a proxy running and a connection to it, for the life of the daemon.
pub async fn keep(traffic: Traffic, program: PathBuf, state_dir: PathBuf) {
    let Some(mut asked) = traffic.asked.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let path = state_dir.join(proxy::SOCKET_NAME);
    let mut pause = RECONNECT_FIRST;
    let mut started: Option<tokio::time::Instant> = None;
    loop {
        // A worker needs no proxy: none is started before there is something to route.
        while traffic.tables().apps.values().all(|known| known.listen.is_none()) {
            tokio::select! {
                () = traffic.shared.changed.notified() => {}
                Some(answer) = asked.recv() => drop(answer),
            }
        }
        match Client::connect(&path).await {
            Ok(client) => {
                pause = RECONNECT_FIRST;
                trouble(&traffic, "");
                let runs_another_file = super::proxy::runs_another_file(&client, &program);
                let (sender, receiver) = client.split();
                let upgrade_to = runs_another_file.then_some(&*program);
                converse(&traffic, &mut asked, sender, receiver, upgrade_to).await;
            }
            Err(error) => {
                // One that was just started needs a moment, and one that takes over.
                if proxy::is_held(&state_dir) || started.is_some_and(|at| at.elapsed() < START_AGAIN) {
                    tokio::time::sleep(RECONNECT_FIRST).await;
                    continue;
                }
                started = Some(tokio::time::Instant::now());
                if let Err(why) = super::proxy::ensure(&program, &state_dir) {
                    trouble(&traffic, &format!("{error}; and it cannot be started: {why}"));
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MOST);
        while let Ok(answer) = asked.try_recv() {
            drop(answer);
        }
    }
}

/// What was sent and waits for its acknowledgement: the routed instances of a table.
type Sent = BTreeMap<u64, BTreeMap<AppName, Vec<InstanceKey>>>;

async fn converse(
    traffic: &Traffic,
    asked: &mut mpsc::Receiver<oneshot::Sender<proxy::Stats>>,
    mut sender: ClientSender,
    mut receiver: ClientReceiver,
    upgrade_to: Option<&Path>,
) {
    let mut sent = Sent::new();
    // Before the table, which may have what an older proxy cannot read. It goes on as it is until the next one can serve; then
    // this connection ends.
    if ask_for_upgrade(&mut sender, upgrade_to).await.is_err() {
        return;
    }
    let mut upgrade_at = None;
    let mut waiting = std::collections::VecDeque::new();
    // The proxy may have a table of an older daemon, or none.
    if send_table(traffic, &mut sender, &mut sent).await.is_err() {
        return;
    }
    let mut again: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            () = wait_until(again) => {
                again = None;
                if send_table(traffic, &mut sender, &mut sent).await.is_err() {
                    return;
                }
            }
            () = traffic.shared.changed.notified() => {
                if send_table(traffic, &mut sender, &mut sent).await.is_err() {
                    return;
                }
            }
            () = wait_until(upgrade_at) => {
                upgrade_at = None;
                if ask_for_upgrade(&mut sender, upgrade_to).await.is_err() {
                    return;
                }
            }
            Some(answer) = asked.recv() => {
                waiting.push_back(answer);
                if sender.send(&Request::Stats).await.is_err() {
                    return;
                }
            }
            reply = receiver.recv() => match reply {
                Ok(Some(Reply::Stats(stats))) => {
                    if let Some(answer) = waiting.pop_front() {
                        let _ = answer.send(stats);
                    }
                }
                Ok(Some(reply)) => {
                    // What was in the way, such as a full disk or a missing folder, may be gone by then.
                    if matches!(reply, Reply::Refused { .. }) {
                        again = Some(tokio::time::Instant::now() + REFUSED_AGAIN);
                    }
                    if matches!(reply, Reply::KeptOn { .. }) {
                        upgrade_at = Some(tokio::time::Instant::now() + UPGRADE_AGAIN);
                    }
                    hear(traffic, &mut sent, reply);
                }
                Ok(None) | Err(_) => return,
            }
        }
    }
}

async fn ask_for_upgrade(sender: &mut ClientSender, to: Option<&Path>) -> Result<(), proxy::ClientError> {
    match to {
        Some(program) => sender.send(&Request::Upgrade { program: program.to_owned() }).await,
        None => Ok(()),
    }
}

/// For ever when there is no such moment.
async fn wait_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn send_table(
    traffic: &Traffic,
    sender: &mut ClientSender,
    sent: &mut Sent,
) -> Result<(), proxy::ClientError> {
    let Some(Published { fence, apps, routed }) = traffic.tables().published.clone() else { return Ok(()) };
    sent.insert(fence.n, routed);
    let table = proxy::Table { protocol: proxy::PROTOCOL, epoch: fence.epoch, number: fence.n, apps };
    crash_point!("router.table.before");
    sender.send(&Request::SetTable(table)).await?;
    crash_point!("router.table.after");
    Ok(())
}

fn hear(traffic: &Traffic, sent: &mut Sent, reply: Reply) {
    match reply {
        Reply::Acked { number, .. } => {
            crash_point!("router.acked");
            trouble(traffic, "");
            for (app, instances) in sent.remove(&number).unwrap_or_default() {
                for instance in instances {
                    seen(traffic, &app, instance, Fact::Routed(true));
                }
            }
        }
        Reply::KeptOn { reason } => {
            let _ = writeln!(
                std::io::stderr(),
                "trundle daemon: the proxy that was there serves on, as this release's cannot take over: {reason}"
            );
        }
        Reply::Refused { reason } => trouble(traffic, &format!("the proxy refused its table: {reason}")),
        Reply::Drained { id, incarnation, .. } => {
            let Ok((app, key)) = InstanceKey::read_name(&id) else { return };
            let drains =
                traffic.tables().apps.get(&app).and_then(|known| known.routes.get(&key)).is_some_and(
                    |route| {
                        *route.incarnation == *incarnation
                            && matches!(route.state, RouteState::Draining | RouteState::Kept)
                    },
                );
            if drains {
                crash_point!("router.drained");
                seen(traffic, &app, key, Fact::Drained { proof: DrainProof::Proven });
            }
        }
        Reply::Hello { .. } | Reply::Waiting { .. } | Reply::Stats(_) => {}
    }
}

fn seen(traffic: &Traffic, app: &AppName, instance: InstanceKey, fact: Fact) {
    report(traffic, Report::Seen { app: app.clone(), instance, fact });
}

fn trouble(traffic: &Traffic, text: &str) {
    let tables = traffic.tables();
    let open = tables.apps.iter().filter(|(_, known)| known.listen.is_some());
    let apps: Vec<AppName> = open.map(|(name, _)| name.clone()).collect();
    drop(tables);
    for app in apps {
        report(traffic, Report::RouterTrouble { app, text: text.to_owned() });
    }
}

fn report(traffic: &Traffic, report: Report) {
    traffic.shared.handle.send(Message::Input(Input::Report(report)));
}
