//! The report of a rollout as a page or a picture, drawn from the journal and the traffic that was noted beside it.
//!
//! Invariant: nothing here asks a daemon, decides anything, or lets text from outside become markup.

mod alone;
mod canvas;
mod cards;
mod charts;
mod evidence;
mod legend;
mod lives;
mod markup;
mod page;
mod rates;
pub mod samples;
mod scale;
mod section;
mod steps;
mod story;
mod versions;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

pub use alone::svg;
pub use evidence::{Book, Evidence};
pub use page::page;

/// `1,000 requests: none lost, none crashed, none cut.`
fn requests_words(evidence: &Evidence) -> String {
    let Some(requests) = &evidence.row.requests else { return "The requests were not counted.".to_owned() };
    let n = |n: u64| if n == 0 { "none".to_owned() } else { n.to_string() };
    let (lost, crashed, cut) = (n(requests.lost), n(requests.crashed), n(requests.cut));
    format!("{} requests: {lost} lost, {crashed} crashed, {cut} cut.", requests.total)
}

/// All of it or nothing: whoever looks meanwhile sees the old file.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|known| !known.is_file()) {
        return Err(io::Error::other("it is there and is no file"));
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = File::create(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}
