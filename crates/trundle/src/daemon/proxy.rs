//! Starts and stops the proxy's holder. The proxy outlives the daemon: it is started once and found again.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use trundle_crashpoint::crash_point;
use trundle_proxy::{Client, Request, SOCKET_NAME};

/// The proxy's own bound for its last requests is 30 s.
const LONGEST_END: Duration = Duration::from_secs(35);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Starts the holder if it does not run. The holder itself makes sure that there is only one. `program`: our own file as it
/// was called when we started; after an upgrade the file that runs has no name any more.
pub fn ensure(program: &Path, state_dir: &Path) -> io::Result<()> {
    let log = super::start::log_file(state_dir, "proxy.log")?;
    crash_point!("router.holder.before");
    let mut child = Command::new(program)
        .args(["shim", "proxy", "--detach", "--state-dir"])
        .arg(state_dir)
        .env_clear()
        .envs(super::start::handed_on())
        .env("TRUNDLE_STATE_DIR", state_dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    crash_point!("router.holder.after");
    // It is reaped when it ends, so that no zombie stays.
    std::thread::Builder::new().name("proxy-wait".to_owned()).spawn(move || child.wait())?;
    Ok(())
}

/// Whether the proxy runs another file than the daemon, and shall give way to it. Not when the daemon's own file was replaced
/// since it started: then the next daemon decides.
pub fn runs_another_file(proxy: &Client, program: &Path) -> bool {
    let ours = trundle_proxy::our_identity();
    ours.is_some()
        && ours == trundle_proxy::identity(program)
        && ours.as_deref() != Some(proxy.program())
        && !proxy.program().is_empty()
}

/// Asks the proxy to finish and end; its holder ends with it. Answers whether nothing of them is left.
pub async fn stop(state_dir: &Path) -> bool {
    let asked = async {
        // One that dies on the way is started again by its holder, and asked again.
        while trundle_proxy::runs(state_dir) {
            if let Ok(mut client) = Client::connect(state_dir.join(SOCKET_NAME)).await
                && client.send(&Request::Stop).await.is_ok()
            {
                // It closes the connection when its last request is done.
                while let Ok(Some(_)) = client.recv().await {}
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(LONGEST_END, asked).await.is_ok()
}
