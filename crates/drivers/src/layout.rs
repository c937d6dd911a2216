//! Where things lie in the state directory, and the small records beside an instance.
//!
//! Invariant: only checked names become parts of a path.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use trundle_core::ids::{AppName, InstanceKey};

use crate::durable;
use crate::shim::record::{ExitRecord, Refusal, ShimRecord};

/// The most bytes that a record may have; a longer one is not ours.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// The folders of a state directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub state_dir: PathBuf,
}

impl Layout {
    pub fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    pub fn instances(&self) -> PathBuf {
        self.state_dir.join("instances")
    }

    pub fn app(&self, app: &AppName) -> PathBuf {
        self.instances().join(app.as_str())
    }

    pub fn instance(&self, app: &AppName, key: InstanceKey) -> InstanceDir {
        InstanceDir(self.app(app).join(key.to_string()))
    }

    pub fn artifacts(&self) -> PathBuf {
        self.state_dir.join("artifacts")
    }

    /// What the instances of an app read of its gates.
    pub fn gates(&self, app: &AppName) -> PathBuf {
        self.state_dir.join("gates").join(format!("{app}.json"))
    }

    pub fn sealed(&self) -> PathBuf {
        self.state_dir.join("sealed")
    }

    pub fn seal_key(&self) -> PathBuf {
        self.state_dir.join("seal.key")
    }

    /// The apps that have an instance folder. What is not a name of ours is not listed.
    pub fn app_names(&self) -> Vec<AppName> {
        names(&self.instances())
    }

    pub fn keys(&self, app: &AppName) -> Vec<InstanceKey> {
        names(&self.app(app))
    }

    pub fn all(&self) -> Vec<(AppName, InstanceKey)> {
        let keys_of = |app: AppName| self.keys(&app).into_iter().map(move |key| (app.clone(), key));
        self.app_names().into_iter().flat_map(keys_of).collect()
    }
}

fn names<T: std::str::FromStr>(folder: &Path) -> Vec<T> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The folder of one instance. It is made before anything is started, and its records tell how far it came.
#[derive(Debug, Clone)]
pub(crate) struct InstanceDir(pub PathBuf);

impl InstanceDir {
    pub const SHIM: &str = "shim.json";
    pub const EXIT: &str = "exit.json";
    pub const REFUSED: &str = "refused.json";

    /// A link in its place is no folder of ours.
    pub fn exists(&self) -> bool {
        fs::symlink_metadata(&self.0).is_ok_and(|metadata| metadata.is_dir())
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub fn shim(&self) -> Option<ShimRecord> {
        record(&self.0.join(Self::SHIM))
    }

    pub fn exit(&self) -> Option<ExitRecord> {
        record(&self.0.join(Self::EXIT))
    }

    pub fn refusal(&self) -> Option<Refusal> {
        record(&self.0.join(Self::REFUSED))
    }

    pub fn write<T: Serialize>(&self, name: &str, record: &T) -> io::Result<()> {
        // Nothing of an instance outlives the boot, and the journal knows when there was a new one.
        durable::write_for_this_boot(&self.0.join(name), &serde_json::to_vec(record)?, 0o600)
    }

    /// The kernel's word on whether a shim has this folder: it ends with the process, however that ended.
    pub fn lock(&self) -> io::Result<Option<File>> {
        let path = self.0.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A record that is missing, torn or foreign is no record: what runs is then found by its label.
fn record<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let file = durable::open_own(path).ok()?;
    serde_json::from_reader(io::Read::take(io::BufReader::new(file), RECORD_BYTES_MAX)).ok()
}
