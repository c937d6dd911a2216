//! What the journal knows of an app, read when all is quiet: who died, and which version a revision was.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use trundle_core::event::{Command, Event, Fact};
use trundle_engine::journal::{SqliteJournal, Store};

use crate::apps::App;
use crate::diary::now_ms;
use crate::harness::Site;
use crate::observer::Death;

/// A death is recorded when the daemon sees it.
const RECORDED_LATE_MS: u64 = 2_000;

pub struct Past {
    /// The label of each revision that ever was.
    pub versions: BTreeMap<u32, String>,
    /// Of instances whose version dies by itself: the observer may have been too slow to see them at all.
    pub planted: Vec<Death>,
}

impl Past {
    pub fn of(site: &Site, app: &App) -> Self {
        let entries = SqliteJournal::open_to_read(&site.state()).unwrap().load().unwrap();
        let wall_ms =
            u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let now_ms = now_ms();
        let mut past = Self { versions: BTreeMap::new(), planted: Vec::new() };
        for entry in entries.into_iter().filter(|entry| entry.app.as_str() == app.name) {
            match entry.event {
                Event::Commanded { command: Command::AddRevision { revision }, .. } => {
                    past.versions.insert(revision.number.0, revision.template.version.to_string());
                }
                Event::Observed { instance, fact: Fact::Exited(_) }
                    if past.versions[&instance.revision.0].contains("dies") =>
                {
                    let to_ms = now_ms.saturating_sub(wall_ms.saturating_sub(entry.wall_ms));
                    past.planted.push(Death {
                        app: app.name.to_owned(),
                        instance: instance.name(&entry.app),
                        planted: true,
                        from_ms: to_ms.saturating_sub(RECORDED_LATE_MS),
                        to_ms,
                    });
                }
                _ => {}
            }
        }
        past
    }
}
