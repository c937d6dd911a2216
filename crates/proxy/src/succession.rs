//! A proxy that takes over from one that serves: first all that can go wrong, then the word that it could, then its turn. What
//! comes after it is the start of any proxy, as after the death of the one before.

use std::path::Path;
use std::time::Duration;

use trundle_crashpoint::crash_point;

use crate::counts::Counts;
use crate::error::ProxyError;
use crate::holding::{SUCCEEDS, Sockets};
use crate::lock::{self, Lock};
use crate::slots::Slot;
use crate::store::TableFile;
use crate::tls::Tls;

/// The one before lets go a moment after it has heard that this one is ready.
const TURN: Duration = Duration::from_secs(10);

pub fn is_asked_for() -> bool {
    std::env::var_os(SUCCEEDS).is_some()
}

/// Waits for the turn to serve.
pub fn wait(state_dir: &Path, sockets: &mut Sockets) -> Result<Lock, ProxyError> {
    if let Err(reason) = check(state_dir, sockets) {
        sockets.unfit(&reason);
        return Err(ProxyError::CannotTakeOver(reason));
    }
    crash_point!("proxy.successor.ready.before");
    if !sockets.ready() {
        return Err(ProxyError::CannotTakeOver("the holder of the listening sockets is gone".to_owned()));
    }
    crash_point!("proxy.successor.ready.after");
    lock::take(state_dir, crate::PROXY_LOCK, TURN)
}

/// Whatever would leave clients with less than they have.
fn check(state_dir: &Path, sockets: &mut Sockets) -> Result<(), String> {
    if Slot::all().all(|slot| slot.is_taken(state_dir)) {
        return Err(ProxyError::TooManyFinish.to_string());
    }
    let counts = state_dir.join(crate::COUNTS);
    Counts::check(&counts).map_err(|error| format!("{} cannot be used: {error}", counts.display()))?;
    let (table, note) = TableFile::new(state_dir).read();
    if let Some(note) = note {
        return Err(note);
    }
    for app in table.iter().flat_map(|table| &table.apps) {
        if let Some(files) = &app.tls {
            Tls::load(files).map_err(|why| format!("app `{}`: {why}", app.app))?;
        }
        for listen in &app.listen {
            sockets.obtain_ahead(listen)?;
        }
    }
    Ok(())
}
