//! Notes the proxy's counts while a rollout is open, for the report's picture of it.
//!
//! It must never hold up the engine: it is told of rollouts by the lines that everybody can read, asks the engine only when
//! one of them is about a rollout as a whole, and writes on a thread where waiting harms nobody.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use trundle_core::ids::{AppName, RolloutId};

use super::{Handle, Traffic, requests};
use crate::report::samples::{Sample, Writer};

/// So that the picture shows what came after the last step.
const GOES_ON_FOR: Duration = Duration::from_secs(5);

/// One rollout whose traffic is noted.
struct Noted {
    rollout: RolloutId,
    /// None: the file could not be opened, or holds enough.
    writer: Option<Writer>,
    next: Instant,
    until: Option<Instant>,
}

type All = BTreeMap<AppName, Noted>;

/// For the life of the daemon.
pub async fn keep(handle: Handle, traffic: Traffic, state_dir: PathBuf) {
    let (_, mut lines) = handle.lines();
    let mut noted = All::new();
    // A daemon before this one may have left a rollout open.
    look(&handle, &state_dir, &mut noted).await;
    loop {
        let due = noted.values().filter(|n| n.writer.is_some()).map(|n| n.next).min();
        tokio::select! {
            line = lines.recv() => match line {
                Ok(line) if line.instance.is_some() => {}
                Ok(_) | Err(RecvError::Lagged(_)) => look(&handle, &state_dir, &mut noted).await,
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                sample(&traffic, &mut noted).await;
            }
        }
    }
}

/// Which rollouts are open now. A worker's has nothing to count.
async fn look(handle: &Handle, state_dir: &Path, noted: &mut All) {
    let newest = handle.look(|engine| {
        let apps =
            engine.apps().values().filter(|app| app.state.settings().is_some_and(|s| s.listen.is_some()));
        let newest = apps.filter_map(|app| {
            let rollout = app.state.last_rollout()?;
            Some((app.state.app().clone(), rollout.id, !rollout.state.is_terminal()))
        });
        newest.collect::<Vec<_>>()
    });
    for (app, rollout, open) in newest.await.unwrap_or_default() {
        let known = noted.get_mut(&app).filter(|n| n.rollout == rollout);
        match (known, open) {
            (Some(known), false) => {
                known.until.get_or_insert_with(|| Instant::now() + GOES_ON_FOR);
            }
            (None, true) => {
                let writer = Writer::open(state_dir, &app, rollout).inspect_err(|error| {
                    let mut log = std::io::stderr();
                    let _ = writeln!(log, "the traffic of rollout {rollout} of {app} is not noted: {error}");
                });
                let noting = Noted { rollout, writer: writer.ok(), next: Instant::now(), until: None };
                noted.insert(app, noting);
            }
            // One that failed may be taken up again.
            (Some(known), true) => known.until = None,
            (None, false) => {}
        }
    }
}

/// One answer of the proxy for all that are due.
async fn sample(traffic: &Traffic, noted: &mut All) {
    let stats = traffic.stats().await;
    let at_ms = crate::clock::wall_ms();
    let now = Instant::now();
    noted.retain(|_, n| n.until.is_none_or(|until| now < until));
    for (app, n) in noted.iter_mut().filter(|(_, n)| n.next <= now) {
        let Some(mut writer) = n.writer.take() else { continue };
        if let Some(stats) = &stats {
            // An app of which nothing was asked yet is not known there.
            let requests = stats.apps.get(app.as_str()).map(requests).unwrap_or_default();
            let sample = Sample { at_ms, requests };
            let wrote = tokio::task::spawn_blocking(move || {
                // On a full disk a point is missing in a picture.
                let _ = writer.append(&sample);
                writer
            });
            let Ok(back) = wrote.await else { continue };
            writer = back;
        }
        if let Some(pause) = writer.pause() {
            n.next = now + pause;
            n.writer = Some(writer);
        }
    }
}
