//! The proxy's counts over the time of one rollout: a line of JSON a moment, in a small file beside the journal. It is evidence
//! and nothing is decided from it: a line that is torn or missing costs a point of a picture, no more.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trundle_core::event::Requests;
use trundle_core::ids::{AppName, RolloutId};

/// Everything that was counted until a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    #[serde(flatten)]
    pub requests: Requests,
}

/// A short rollout is seen more closely: how many samples, and the time between them. Past the last nothing more is kept:
/// 19 h in at most 3 MB.
const PACE: [(usize, Duration); 3] = [
    (240, Duration::from_millis(250)),
    (240 + 4 * 3600, Duration::from_secs(1)),
    (20_000, Duration::from_secs(10)),
];
/// Files of an app; those of its oldest rollouts are removed.
const MOST_FILES: usize = 20;

fn folder(state_dir: &Path, app: &AppName) -> PathBuf {
    state_dir.join("traffic").join(app.as_str())
}

fn file(state_dir: &Path, app: &AppName, rollout: RolloutId) -> PathBuf {
    folder(state_dir, app).join(format!("{rollout}.jsonl"))
}

/// Those of a rollout, oldest first; empty when there are none.
pub fn read(state_dir: &Path, app: &AppName, rollout: RolloutId) -> Vec<Sample> {
    let Ok(file) = File::open(file(state_dir, app, rollout)) else { return Vec::new() };
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    let mut samples: Vec<Sample> = lines.filter_map(|line| serde_json::from_slice(&line).ok()).collect();
    // The wall clock may have been set back in between.
    samples.sort_by_key(|sample| sample.at_ms);
    samples
}

/// Adds to the file of one rollout, also to one that a daemon before this one began.
#[derive(Debug)]
pub struct Writer {
    file: File,
    count: usize,
    /// The last line has no end.
    torn: bool,
}

impl Writer {
    pub fn open(state_dir: &Path, app: &AppName, rollout: RolloutId) -> io::Result<Self> {
        let folder = folder(state_dir, app);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let path = file(state_dir, app, rollout);
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
        let count = BufReader::new(&file).split(b'\n').map_while(Result::ok).count();
        let mut last = [b'\n'];
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        remove_old(&folder);
        Ok(Self { file, count, torn: last != *b"\n" })
    }

    pub fn append(&mut self, sample: &Sample) -> io::Result<()> {
        let mut line = if self.torn { b"\n".to_vec() } else { Vec::new() };
        serde_json::to_writer(&mut line, sample)?;
        line.push(b'\n');
        self.count += 1;
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        Ok(())
    }

    /// Until the next sample. None: there are enough.
    pub fn pause(&self) -> Option<Duration> {
        PACE.iter().find(|(most, _)| self.count < *most).map(|(_, pause)| *pause)
    }
}

/// Best effort: what cannot be removed now is tried again at the next rollout.
fn remove_old(folder: &Path) {
    let number = |path: &Path| path.file_stem()?.to_str()?.parse::<u32>().ok();
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let by_number: BTreeMap<u32, PathBuf> = paths.filter_map(|path| Some((number(&path)?, path))).collect();
    for path in by_number.values().rev().skip(MOST_FILES) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64) -> Sample {
        let by_version = [("3.1".to_owned(), at_ms)].into();
        Sample { at_ms, requests: Requests { total: at_ms, by_version, ..Requests::default() } }
    }

    fn web() -> AppName {
        "web".parse().unwrap()
    }

    #[test]
    fn the_next_daemon_goes_on_after_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let id = RolloutId(2);
        assert_eq!(read(dir.path(), &web(), id), [], "nothing was counted");
        let mut writer = Writer::open(dir.path(), &web(), id).unwrap();
        writer.append(&sample(1)).unwrap();
        writer.file.write_all(b"{\"at_ms\":2,\"tot").unwrap();
        drop(writer);
        assert_eq!(read(dir.path(), &web(), id), [sample(1)]);
        let mut writer = Writer::open(dir.path(), &web(), id).unwrap();
        writer.append(&sample(3)).unwrap();
        writer.append(&sample(4)).unwrap();
        assert_eq!(read(dir.path(), &web(), id), [sample(1), sample(3), sample(4)]);
    }

    #[test]
    fn a_file_ends_growing_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        for rollout in 1..=25 {
            drop(Writer::open(dir.path(), &web(), RolloutId(rollout)).unwrap());
        }
        let left = fs::read_dir(folder(dir.path(), &web())).unwrap().count();
        assert_eq!((left, file(dir.path(), &web(), RolloutId(6)).exists()), (MOST_FILES, true));
        let mut writer = Writer::open(dir.path(), &web(), RolloutId(25)).unwrap();
        assert_eq!(writer.pause(), Some(Duration::from_millis(250)));
        writer.count = 240;
        assert_eq!(writer.pause(), Some(Duration::from_secs(1)));
        writer.count = 19_999;
        writer.append(&sample(1)).unwrap();
        assert_eq!(writer.pause(), None);
    }
}
