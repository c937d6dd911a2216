//! The engine's router over the proxy's socket: tables go out as wholes, acknowledgements and drains come back as facts.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use trundle_core::event::{DrainProof, Fact, Requests};
use trundle_core::ids::{AppName, InstanceKey};
use trundle_core::settings::Listen;
use trundle_core::state::Window;
use trundle_crashpoint::crash_point;
use trundle_engine::Input;
use trundle_engine::ports::{Fence, Report, Route, RouteState, Router, Routes};
use trundle_proxy as proxy;
use trundle_proxy::{Client, ClientReceiver, ClientSender, Reply, Request};

use super::engine_thread::{Handle, Message};
use super::{acme, table};

/// How long the engine's thread waits for the proxy's counts: they are asked for only as a rollout begins and ends.
const COUNTS_MS: u64 = 250;
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
                let folder = self.state_dir.join(table::ACCESS_LOGS);
                let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            }
            for (name, listen) in open().filter_map(|(name, known)| Some((name, known.listen.as_ref()?))) {
                if listen.tls.as_ref().is_some_and(|tls| tls.acme.is_some()) {
                    acme::prepare(&self.state_dir, name, &listen.hosts);
                }
            }
            let apps = open().filter_map(|(name, known)| {
                let listen = known.listen.as_ref()?;
                Some(table::app(name, listen, known.window, &known.routes, &self.state_dir))
            });
            let apps = apps.collect();
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
        Some(stats.apps.get(app.as_str()).map(table::requests).unwrap_or_default())
    }
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
        Reply::Released { id, incarnation } => {
            let Ok((app, key)) = InstanceKey::read_name(&id) else { return };
            let is_kept =
                traffic.tables().apps.get(&app).and_then(|known| known.routes.get(&key)).is_some_and(
                    |route| *route.incarnation == *incarnation && route.state == RouteState::Kept,
                );
            if is_kept {
                seen(traffic, &app, key, Fact::Released);
            }
        }
        Reply::Hello { .. } | Reply::Waiting { .. } | Reply::Stats(_) | Reply::Compared(_) => {}
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
