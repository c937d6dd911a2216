//! Drains: who hears of them, and when they are told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use trundle_crashpoint::crash_point;

use super::Director;
use crate::control::Reply;
use crate::endpoint::{Flag, LiveEndpoint};

impl Director {
    /// From now on this connection hears of drains.
    pub fn subscribe(&mut self, sender: &mpsc::Sender<Reply>, task: AbortHandle) {
        if !self.subscribers.iter().any(|(known, _)| known.same_channel(sender)) {
            self.subscribers.push((sender.clone(), task));
        }
    }

    pub fn unsubscribe(&mut self, sender: &mpsc::Sender<Reply>) {
        self.subscribers.retain(|(known, _)| !known.same_channel(sender));
    }

    /// Tells the drains that are proven and were not told under this table, and forgets endpoints that are over.
    pub fn tell_drained(&mut self) {
        let leaving = |endpoint: &LiveEndpoint| matches!(endpoint.flag(), Flag::Draining | Flag::Cut);
        let was_settling = self.settling.is_any();
        let spread_of = |app: &str| {
            let app = self.table.apps.iter().find(|known| known.app == app);
            Duration::from_millis(app.map_or(0, |app| app.limits.drain_spread_ms))
        };
        for (key, endpoint) in &self.live {
            if leaving(endpoint) && !self.told.contains(key) && endpoint.in_flight() == 0 {
                let is_settled = self
                    .open
                    .get(&key.0)
                    .is_none_or(|open| self.settling.is_over(key, endpoint, open, spread_of(&key.0)));
                if !is_settled {
                    continue;
                }
                crash_point!("proxy.drained.before");
                self.told.insert(key.clone());
                let reply = Reply::Drained {
                    id: endpoint.id.clone(),
                    incarnation: endpoint.incarnation.clone(),
                    epoch: self.table.epoch,
                    number: self.table.number,
                    cut: endpoint.cut(),
                };
                tell(&mut self.subscribers, &reply);
            }
        }
        if !was_settling && self.settling.is_any() {
            // Whoever looks again from time to time has to begin with it.
            self.idle.notify_one();
        }
        let counts = &self.shared.counts;
        self.departed.retain(|endpoint| {
            let idle = endpoint.in_flight() == 0;
            if idle {
                counts.free_endpoint(endpoint.row);
            }
            !idle
        });
    }

    /// To all who hear of drains.
    pub(super) fn tell(&mut self, reply: &Reply) {
        tell(&mut self.subscribers, reply);
    }

    /// Something is on its way that nobody will tell: another look is needed soon.
    pub fn has_to_look(&self) -> bool {
        self.settling.is_any() || !self.others.is_empty() || self.successor_asked_by.is_some()
    }

    pub fn look_again(&mut self) {
        self.look_at_others();
        self.tell_drained();
    }

    /// What a table has still to wait for.
    pub fn waiting(&self) -> Vec<Reply> {
        let leaving = self.live.values().filter(|e| matches!(e.flag(), Flag::Draining | Flag::Cut));
        leaving
            .map(|endpoint| (endpoint, endpoint.in_flight()))
            .filter(|(_, in_flight)| *in_flight > 0)
            .map(|(endpoint, in_flight)| Reply::Waiting {
                id: endpoint.id.clone(),
                incarnation: endpoint.incarnation.clone(),
                in_flight,
            })
            .collect()
    }

    /// Every endpoint that may have requests.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<LiveEndpoint>> {
        self.live.values().chain(&self.departed)
    }
}

/// One who does not read is cut off: it connects and sends its table again.
fn tell(subscribers: &mut Vec<(mpsc::Sender<Reply>, AbortHandle)>, reply: &Reply) {
    subscribers.retain(|(sender, task)| {
        let told = sender.try_send(reply.clone()).is_ok();
        if !told {
            task.abort();
        }
        told
    });
}
