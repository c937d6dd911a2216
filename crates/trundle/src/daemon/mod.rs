//! The daemon: the engine on a thread of its own, wired to processes, the proxy and the API.

mod acme;
mod cleaner;
mod engine_thread;
pub mod proxy;
mod router;
mod sampler;
pub mod start;
mod table;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use trundle_crashpoint::crash_point;
use trundle_drivers::{ProcessConfig, ProcessDriver};
use trundle_engine::journal::SqliteJournal;
use trundle_engine::lock::StateLock;
use trundle_engine::ports::Report;
use trundle_engine::{Engine, Input};

pub use engine_thread::{Handle, Message};
pub use router::Traffic;
pub use table::{doors, requests, watched};

/// Names the variable by which a debug build is told to behave badly, so that the demo can be seen to find it.
pub const PLANT: &str = "TRUNDLE_PLANT_BUG";

pub struct DaemonConfig {
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub ports: RangeInclusive<u16>,
    /// Where `/metrics` is answered beside the socket, to anybody who can connect.
    pub metrics: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    StateDir(#[from] crate::state_dir::StateDirError),
    #[error(transparent)]
    Lock(#[from] trundle_engine::lock::LockError),
    #[error(transparent)]
    Journal(#[from] trundle_engine::journal::JournalError),
    #[error(transparent)]
    Driver(#[from] trundle_drivers::DriverError),
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    #[error("cannot listen on {address} for metrics: {source}; give --metrics another address")]
    Metrics { address: SocketAddr, source: std::io::Error },
    #[error("a living daemon answers on {}; it is not this state directory's: use another --socket", .0.display())]
    ForeignSocket(PathBuf),
}

/// Runs until SIGTERM, SIGINT or a `down` of everything. Instances and proxy live on, unless they were taken down.
pub fn run(config: DaemonConfig) -> Result<(), DaemonError> {
    crate::state_dir::prepare(&config.state_dir)?;
    // Held to the end of the process.
    let _lock = StateLock::take(&config.state_dir)?;
    crash_point!("daemon.locked");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| DaemonError::System { what: "cannot start the runtime", source })?;
    let program = std::env::current_exe()
        .map_err(|source| DaemonError::System { what: "cannot find the program itself", source })?;

    let (handle, inbox) = engine_thread::channel();
    let traffic = Traffic::new(handle.clone());
    let report = {
        let handle = handle.clone();
        Arc::new(move |report: Report| handle.send(Message::Input(Input::Report(report))))
    };
    let process = ProcessConfig {
        state_dir: config.state_dir.clone(),
        ports: config.ports,
        program: program.clone(),
        shim_args: vec!["shim".to_owned()],
    };
    let driver = ProcessDriver::new(process, runtime.handle().clone(), report)?;
    let journal = SqliteJournal::open(&config.state_dir)?;
    let engine = Engine::recover(
        journal,
        driver,
        router::ProxyRouter::new(traffic.clone(), config.state_dir.clone()),
        &crate::clock::boot_id(),
        crate::clock::wall_ms(),
    )?;

    let listener = {
        let _inside = runtime.enter();
        crate::api::server::bind(&config.socket)?
    };
    let metrics = config.metrics.map(|address| {
        let bound = runtime.block_on(tokio::net::TcpListener::bind(address));
        bound.map_err(|source| DaemonError::Metrics { address, source })
    });
    let metrics = metrics.transpose()?;
    let engine = engine_thread::spawn(engine, inbox, handle.clone())
        .map_err(|source| DaemonError::System { what: "cannot start the engine's thread", source })?;
    runtime.spawn(router::keep(traffic.clone(), program, config.state_dir.clone()));
    runtime.spawn(sampler::keep(handle.clone(), traffic.clone(), config.state_dir.clone()));
    runtime.spawn(acme::keep(handle.clone(), traffic.certificates.clone(), config.state_dir.clone()));
    runtime.spawn(cleaner::keep(handle.clone(), config.state_dir.clone()));
    if let Some(listener) = metrics {
        runtime.spawn(crate::api::server::serve_metrics(
            listener,
            handle.clone(),
            traffic.clone(),
            config.state_dir.clone(),
        ));
    }
    notify_ready();
    crash_point!("daemon.ready");
    let ended =
        runtime.block_on(crate::api::server::serve(listener, handle.clone(), traffic, &config.state_dir));
    handle.send(Message::Stop);
    // The last decision is on the disk before the lock is given back.
    let _ = engine.join();
    let _ = std::fs::remove_file(&config.socket);
    if ended == crate::api::server::Ended::Down {
        runtime.block_on(proxy::stop(&config.state_dir));
    }
    Ok(())
}

/// Tells a service manager that we serve; without one this does nothing.
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() {
        let _ = socket.send_to(b"READY=1", PathBuf::from(path));
    }
}
