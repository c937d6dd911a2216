//! Whether a single place may be tried once more, or left out.

use crate::event::Command;
use crate::ids::InstanceKey;

use super::instance::Phase;
use super::request::{Refusal, Step, refuse};
use super::rollout::RolloutState;
use super::{AppState, Rollout};

impl AppState {
    pub(super) fn permit_retry(&self, key: InstanceKey) -> Result<Step, Refusal> {
        let name = key.name(&self.app);
        self.known_place(key)?;
        if Some(key.revision) != self.target && Some(key.revision) != self.proven() {
            let version = self.version_of(key.revision);
            return refuse(format!("{name} is of {version}, which is being replaced: it is not tried again"));
        }
        if let Some(standing) = self.at_place(key.revision, key.slot).filter(|i| i.phase() != Phase::Failed) {
            let phase = standing.phase().word();
            return refuse(format!("{name} is {phase}; only one that failed can be tried again"));
        }
        if self.skipped(key) {
            return refuse(format!("{name} was left out of this rollout; deploy again to have it in"));
        }
        let rollout = self.open_rollout();
        if rollout.is_none() && self.is_halted() {
            return refuse(format!(
                "the last rollout of {} failed and waits for a person; deploy again",
                self.app
            ));
        }
        let says = match rollout {
            Some(r) if r.state == RolloutState::Paused => {
                format!("{name} is tried again; rollout {} stays paused", r.id)
            }
            Some(_) | None => format!("{name} is tried again"),
        };
        Ok(Step { commands: vec![Command::Retry { instance: key }], rollout: rollout.map(|r| r.id), says })
    }

    pub(super) fn permit_skip(&self, key: InstanceKey) -> Result<Step, Refusal> {
        let name = key.name(&self.app);
        let Some(rollout) = self.open_rollout() else {
            return refuse(format!("no rollout of {} is running, so there is nothing to skip", self.app));
        };
        self.known_place(key)?;
        if rollout.back_to.is_some() {
            return refuse(format!("rollout {} is going back; no place is left out of that", rollout.id));
        }
        let Some(base) = self.proven().filter(|base| *base != rollout.to) else {
            return refuse(format!(
                "no other version of {} has succeeded, so nothing could run in place of {name}",
                self.app
            ));
        };
        if key.revision != rollout.to {
            let to = self.version_of(rollout.to);
            return refuse(format!(
                "{name} is not of {to}; skip an instance of the version that is rolled out"
            ));
        }
        if self.skipped(key) {
            return refuse(format!("{name} is left out already"));
        }
        if rollout.left_out() + 1 >= self.budget().desired {
            return refuse(format!(
                "nothing would be left of rollout {}; go back with `trundle abort {}`",
                rollout.id, self.app
            ));
        }
        let says = format!(
            "{name} is left out: {} comes back to its place, and rollout {} will end as failed",
            self.version_of(base),
            rollout.id
        );
        Ok(self.step(vec![Command::Skip { instance: key }], rollout.id, says))
    }

    fn known_place(&self, key: InstanceKey) -> Result<(), Refusal> {
        if self.is_down() {
            return refuse(format!("{} is down", self.app));
        }
        let known = self.book(key.revision).is_some_and(|book| book.slots().is_known(key.slot));
        if known {
            return Ok(());
        }
        refuse(format!(
            "{} has no instance {}; see `trundle status {}`",
            self.app,
            key.name(&self.app),
            self.app
        ))
    }

    fn skipped(&self, key: InstanceKey) -> bool {
        self.open_rollout().is_some_and(|r: &Rollout| r.to == key.revision && r.skipped.contains(&key.slot))
    }
}
