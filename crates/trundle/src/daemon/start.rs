//! Starts a daemon in the background when a command needs one and none runs.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::api::client::Client;

const LONGEST_START: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    StateDir(#[from] crate::state_dir::StateDirError),
    #[error("cannot start the daemon: {0}")]
    Spawn(#[from] io::Error),
    #[error("the daemon did not come up: {0}")]
    Failed(String),
}

/// A log of our own in the state directory, appended to.
pub fn log_file(state_dir: &Path, name: &str) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(state_dir.join(name))
}

/// What a process that lives long gets of the environment of a command: not the secrets that a deploy was given.
pub fn handed_on() -> impl Iterator<Item = (OsString, OsString)> {
    const NAMES: [&str; 13] = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "TMPDIR",
        "XDG_STATE_HOME",
        "RUST_BACKTRACE",
        "RUST_LOG",
    ];
    std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        NAMES.contains(&&*name) || name.starts_with("TRUNDLE_") || name.starts_with("OTEL_")
    })
}

/// Why an address cannot be listened on. None: it is free, or the holder of the sockets has it from a service manager.
pub fn why_not_free(state_dir: &Path, address: &str) -> Option<io::Error> {
    let error = std::net::TcpListener::bind(address).err()?;
    (!trundle_proxy::was_given(state_dir, address)).then_some(error)
}

/// Whether somebody else holds the address of an app for which a daemon would have to be started: the daemon could only
/// refuse, and would stay behind. One that runs, or a proxy or its holder that outlived its own, may hold the address itself: then the
/// daemon knows, and is asked. Of the holder its lock is looked at: its proxy may have died just now.
pub async fn door_is_held(state_dir: &Path, client: &Client, address: &str) -> Option<io::Error> {
    if client.answers().await || trundle_proxy::runs(state_dir) {
        return None;
    }
    why_not_free(state_dir, address)
}

/// Makes sure that a daemon answers.
pub async fn ensure(state_dir: &Path, client: &Client) -> Result<(), StartError> {
    if client.answers().await {
        return Ok(());
    }
    crate::state_dir::prepare(state_dir)?;
    let log_path = state_dir.join("daemon.log");
    let log = log_file(state_dir, "daemon.log")?;
    let said_before = log.metadata()?.len();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["daemon", "--detach", "--state-dir"])
        .arg(state_dir)
        .arg("--socket")
        .arg(client.socket())
        .env_clear()
        .envs(handed_on())
        .env("TRUNDLE_STATE_DIR", state_dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // Apps shall have the limit that the user has.
    let mut child = trundle_drivers::cores::as_found(|| command.spawn())?;
    let deadline = Instant::now() + LONGEST_START;
    while Instant::now() < deadline {
        if client.answers().await {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            // Another command may have been faster; then its daemon answers.
            if client.answers_soon().await {
                return Ok(());
            }
            let said = std::fs::read(&log_path).unwrap_or_default();
            let said = said.get(usize::try_from(said_before).unwrap_or(0)..).unwrap_or_default();
            return Err(StartError::Failed(format!("{status}: {}", String::from_utf8_lossy(said).trim())));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(StartError::Failed(format!(
        "it does not answer within {} s; see {}",
        LONGEST_START.as_secs(),
        log_path.display()
    )))
}
