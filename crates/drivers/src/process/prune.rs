//! Old instance folders go; those of the last ones that ended stay for their logs.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use trundle_core::ids::AppName;
use trundle_crashpoint::crash_point;

use super::Context;
use crate::layout::InstanceDir;

/// Of instances that are gone, the logs of so many are kept for each app.
const KEPT: usize = 50;
/// Begins the name of a folder that is being removed: no instance can have it.
const DOOMED: &str = ".gone-";

pub(super) fn prune(context: &Context, app: &AppName) {
    let root = context.layout.app(app);
    remove_doomed(&root);
    let mut over: Vec<_> = context
        .layout
        .keys(app)
        .into_iter()
        .filter_map(|key| Some((ended_at(&context.layout.instance(app, key))?, key)))
        .collect();
    if over.len() <= KEPT {
        return;
    }
    over.sort();
    for (_, key) in &over[..over.len() - KEPT] {
        // Renamed first: a folder without its records would look like one that was never started.
        let doomed = root.join(format!("{DOOMED}{key}"));
        crash_point!("driver.prune.before");
        if fs::rename(root.join(key.to_string()), &doomed).is_ok() {
            crash_point!("driver.prune.after");
            remove(&doomed);
        }
    }
}

/// When it ended, if it is noted that it did.
fn ended_at(dir: &InstanceDir) -> Option<SystemTime> {
    let time = |name: &str| fs::metadata(dir.0.join(name)).and_then(|metadata| metadata.modified()).ok();
    time(InstanceDir::EXIT).or_else(|| time(InstanceDir::REFUSED))
}

fn remove_doomed(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(DOOMED) {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        // Several start at the same time, and another of them was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log_line!("trundle: cannot remove {}: {error}", path.display()),
    }
}
