//! Live progress on a terminal: a bar for each revision, the phases of its instances, and the reason it waits.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use trundle_core::state::Phase;
use trundle_drivers::logs::printable;
use trundle_engine::view::{Line, Status};

pub struct Live {
    all: MultiProgress,
    bars: BTreeMap<u32, ProgressBar>,
    reason: ProgressBar,
}

impl Default for Live {
    fn default() -> Self {
        let all = MultiProgress::new();
        let reason = all.add(ProgressBar::new_spinner());
        reason.enable_steady_tick(std::time::Duration::from_millis(100));
        Self { all, bars: BTreeMap::new(), reason }
    }
}

impl Live {
    /// What happened scrolls by above the bars, where it matters to a person.
    pub fn line(&mut self, line: &Line) {
        if matches!(
            line.kind.as_str(),
            "failed" | "exited" | "paused" | "rolling_back" | "batch" | "bug" | "end"
        ) {
            self.note(&format!("  {}", printable(&line.text)));
        }
    }

    pub fn note(&mut self, text: &str) {
        // A terminal that cannot be written to is no reason to stop.
        let _ = self.all.println(text);
    }

    pub fn status(&mut self, status: &Status) {
        for revision in &status.revisions {
            let all = &self.all;
            let bar = self.bars.entry(revision.revision).or_insert_with(|| {
                let bar = all.insert_before(&self.reason, ProgressBar::new(u64::from(status.replicas)));
                if let Ok(style) =
                    ProgressStyle::with_template("  {prefix:>12} {bar:30.green/dim} {pos:>3}/{len} {msg}")
                {
                    bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏·"));
                }
                bar.set_prefix(revision.version.clone());
                bar
            });
            bar.set_length(u64::from(status.replicas));
            bar.set_position(u64::from(revision.available));
            bar.set_message(phases(status, revision.revision));
        }
        self.bars.retain(|number, bar| {
            let stays = status.revisions.iter().any(|r| r.revision == *number);
            if !stays {
                bar.finish_and_clear();
            }
            stays
        });
        let reason = status.reasons.iter().find_map(|r| r["text"].as_str()).unwrap_or_default();
        self.reason.set_message(printable(reason));
    }

    pub fn end(&mut self) {
        self.reason.finish_and_clear();
        for bar in self.bars.values() {
            bar.abandon();
        }
    }
}

/// `●●●◐○x`: one sign an instance.
fn phases(status: &Status, revision: u32) -> String {
    let of_revision = status.instances.iter().filter(|i| i.revision == revision);
    of_revision
        .map(|i| match i.phase {
            Phase::Ready if i.available => '●',
            Phase::Ready => '◐',
            Phase::Intended | Phase::Starting => '○',
            Phase::Unready => '◌',
            Phase::Draining | Phase::Stopping => '~',
            Phase::Failed => '✗',
            Phase::Unknown => '?',
        })
        .collect()
}
