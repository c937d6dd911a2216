//! Named places at which a test kills the process that reaches them: before and after everything that outlives it.
//!
//! A build with debug assertions looks once for the folder `crash-points` in `TRUNDLE_STATE_DIR`, which only a test makes;
//! every other build has none of this. In the folder, `hits` gets a line for each place that is reached, by whichever
//! process, and `at` names the hit at which to die: `journal.append.after 3`.
//! The kill is SIGKILL: no destructor runs, no buffer is flushed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{Signal, getpid, kill_process};

/// The folder in the state directory.
pub const FOLDER: &str = "crash-points";
/// One line a hit: the place and the pid.
pub const HITS: &str = "hits";
/// The place and which of its hits, counted from 1 over all processes.
pub const AT: &str = "at";

/// `crash_point!("journal.append.before")`: the process may be killed here. Each name stands in one place of the code.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        if cfg!(debug_assertions) {
            $crate::reached($name);
        }
    };
}

/// What [`crash_point!`] does. An error in here must not change what is tested: it counts as a place not reached.
pub fn reached(name: &str) {
    if let Some(folder) = folder() {
        let _ = note(folder, name);
    }
}

fn folder() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let folder = PathBuf::from(std::env::var_os("TRUNDLE_STATE_DIR")?).join(FOLDER);
        folder.is_dir().then_some(folder)
    };
    FOUND.get_or_init(find).as_deref()
}

fn note(folder: &Path, name: &str) -> io::Result<()> {
    let mut hits = OpenOptions::new().read(true).append(true).create(true).open(folder.join(HITS))?;
    // Closing gives it back, and so does a kill.
    hits.lock()?;
    writeln!(hits, "{name} {}", std::process::id())?;
    if read(&folder.join(AT))?.split_once(' ') != Some((name, &count(&mut hits, name)?)) {
        return Ok(());
    }
    kill_process(getpid(), Signal::KILL)?;
    Ok(())
}

/// How often the place was reached, this time included.
fn count(hits: &mut File, name: &str) -> io::Result<String> {
    let mut text = String::new();
    hits.rewind()?;
    hits.read_to_string(&mut text)?;
    Ok(text.lines().filter(|line| line.split_once(' ').is_some_and(|(of, _)| of == name)).count().to_string())
}

fn read(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map(|text| text.trim().to_owned()),
    }
}
