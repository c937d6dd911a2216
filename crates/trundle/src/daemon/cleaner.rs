//! Now and then what no revision needs any more is removed from the disk. It holds nothing up and nobody waits for it.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use trundle_core::revision::Run;

use super::Handle;

/// A daemon that has just come up has better things to do.
const FIRST: Duration = Duration::from_secs(1);
const BETWEEN: Duration = Duration::from_secs(10 * 60);

/// For the life of the daemon.
pub async fn keep(handle: Handle, state_dir: PathBuf) {
    tokio::time::sleep(FIRST).await;
    loop {
        let named = handle.look(|engine| {
            let revisions = engine.apps().values().flat_map(|app| app.state.revisions().values());
            revisions.map(|revision| revision.template.run.clone()).collect::<Vec<Run>>()
        });
        let Some(named) = named.await else { return };
        let state_dir = state_dir.clone();
        let removing = move || trundle_drivers::remove_unused(&state_dir, named.iter());
        if let Ok(Err(error)) = tokio::task::spawn_blocking(removing).await {
            let _ = writeln!(std::io::stderr(), "what no revision needs any more cannot be removed: {error}");
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
