//! `trundle maintenance on|off`: clients are answered in the place of an app, whose instances run on.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trundle_core::ids::AppName;
use trundle_core::settings::Maintenance;
use trundle_core::state::Request;

use super::{Context, Stop, app};
use crate::exit::Exit;

/// In the state directory: the pages, as they were when they were said.
const PAGES: &str = "maintenance";
const PAGE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// New requests get 503 and the page; what is in flight goes on, and so do rollouts
    On {
        app: Option<AppName>,
        /// HTML, at most 1 MiB; a few words without it
        #[arg(long, value_name = "FILE")]
        page: Option<PathBuf>,
        /// When clients may try again, such as 30m
        #[arg(long, value_name = "DURATION", value_parser = super::duration)]
        retry_after: Option<Duration>,
    },
    /// Clients reach the app again
    Off { app: Option<AppName> },
}

pub async fn run(context: &Context, what: What) -> Result<Exit, Stop> {
    let (name, wanted) = match what {
        What::Off { app } => (app, None),
        What::On { app, page, retry_after } => {
            let name = super::status::the_app(context, app).await?;
            let page = page.map(|page| keep(&context.state_dir, &name, &page)).transpose()?;
            let retry_after_ms =
                retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            let page = page.map(|page| page.to_string_lossy().into_owned());
            (Some(name), Some(Maintenance { page, retry_after_ms }))
        }
    };
    let kept = wanted.as_ref().and_then(|wanted| wanted.page.as_ref()).map(PathBuf::from);
    let name = super::status::the_app(context, name).await?;
    let ended = app::now(context, Some(name.clone()), Request::Maintenance(wanted)).await?;
    remove_others(&context.state_dir, &name, kept.as_deref());
    Ok(ended)
}

/// A copy of the page: what is answered does not change with the file.
fn keep(state_dir: &Path, app: &AppName, page: &Path) -> Result<PathBuf, Stop> {
    let fail = |what: &str, path: &Path, why: String| {
        Stop::Error(format!("cannot {what} {}: {why}", path.display()))
    };
    let size = fs::metadata(page).map_err(|error| fail("read", page, error.to_string()))?.len();
    if size > PAGE_BYTES_MAX {
        return Err(fail("take", page, "a page has at most 1 MiB; link to what is large".to_owned()));
    }
    let bytes = fs::read(page).map_err(|error| fail("read", page, error.to_string()))?;
    let folder = state_dir.join(PAGES);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|error| fail("make", &folder, error.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let kept = folder.join(format!("{app}.{now}.html"));
    fs::write(&kept, bytes).map_err(|error| fail("write", &kept, error.to_string()))?;
    Ok(kept)
}

/// Pages of before. One that cannot be removed does no harm.
fn remove_others(state_dir: &Path, app: &AppName, kept: Option<&Path>) {
    let prefix = format!("{app}.");
    let entries = fs::read_dir(state_dir.join(PAGES)).into_iter().flatten().flatten();
    let others = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    for path in others.map(|entry| entry.path()).filter(|path| Some(path.as_path()) != kept) {
        let _ = fs::remove_file(path);
    }
}
