//! Two controllers: one that slept, and the one that took its place. A model of its own, over leases, epochs and fences:
//! what an older controller still has to say changes nothing (S9).
//!
//! The rules are those of the daemon's lock, of the driver and of the router: an epoch rises with each lease, a command
//! carries (epoch, number), and who carries it out takes only one that is above the greatest it has seen.

use std::collections::{BTreeSet, VecDeque};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    /// The journal's last epoch, durable before the first command of it.
    epoch: u8,
    controllers: [Controller; 2],
    /// Said and not yet heard; heard in any order, any number of times, or never.
    said: BTreeSet<Command>,
    /// Driver and router.
    places: [Place; 2],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Controller {
    /// 0: it never had a lease.
    epoch: u8,
    number: u8,
    /// It sleeps with its lease: it will wake and go on as if nothing had happened.
    asleep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Command {
    epoch: u8,
    number: u8,
    to: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The greatest it has seen.
    fence: (u8, u8),
    /// What it carried out last.
    does: (u8, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fence {
    Kept,
    /// A planted bug: only the number is compared.
    NumberOnly,
    /// A planted bug: nothing is compared.
    None,
}

impl World {
    fn first() -> Self {
        let idle = Controller::default();
        Self { epoch: 0, controllers: [idle, idle], said: BTreeSet::new(), places: Default::default() }
    }

    /// Every world that may come next, and each command that was carried out on the way with the fence it met.
    fn next(&self, fence: Fence) -> Vec<(Self, Option<(Command, Place)>)> {
        let mut found = Vec::new();
        for who in 0..2 {
            let (me, other) = (self.controllers[who], self.controllers[1 - who]);
            let mut change = |with: &dyn Fn(&mut Self)| {
                let mut next = self.clone();
                with(&mut next);
                found.push((next, None));
            };
            // The lock is free: nobody holds it, or who held it sleeps so long that it counts as dead.
            if me.epoch == 0 && (other.epoch == 0 || other.asleep) && self.epoch < 3 {
                change(&|w| {
                    w.epoch += 1;
                    w.controllers[who] = Controller { epoch: w.epoch, number: 0, asleep: false };
                });
            }
            if me.epoch > 0 && me.asleep {
                change(&|w| w.controllers[who].asleep = false);
                change(&|w| w.controllers[who] = Controller::default());
            }
            if me.epoch > 0 && !me.asleep {
                change(&|w| w.controllers[who].asleep = true);
                if me.number < 2 {
                    for to in 0..2 {
                        change(&|w| {
                            w.controllers[who].number += 1;
                            w.said.insert(Command { epoch: me.epoch, number: me.number + 1, to });
                        });
                    }
                }
            }
        }
        for command in &self.said {
            let mut next = self.clone();
            let place = &mut next.places[command.to];
            let (met, carries) = (*place, (command.epoch, command.number));
            let takes = match fence {
                Fence::Kept => carries > place.fence,
                Fence::NumberOnly => command.number > place.fence.1,
                Fence::None => true,
            };
            if takes {
                *place = Place { fence: carries.max(place.fence), does: carries };
                found.push((next, Some((*command, met))));
            }
        }
        found
    }
}

/// All worlds; the error is the first command of an older controller that changed something.
fn search(fence: Fence) -> Result<(usize, bool), String> {
    let mut seen = BTreeSet::from([World::first()]);
    let mut queue = VecDeque::from([World::first()]);
    let mut both_awake = false;
    while let Some(world) = queue.pop_front() {
        both_awake |= world.controllers.iter().all(|c| c.epoch > 0 && !c.asleep);
        for (next, carried_out) in world.next(fence) {
            if let Some((command, met)) = carried_out
                && (command.epoch, command.number) <= met.fence
            {
                return Err(format!("S9: {command:?} was carried out behind {:?}", met.fence));
            }
            if let Some(back) = next.places.iter().find(|p| p.does < p.fence) {
                return Err(format!("S9: {:?} stands, and {:?} was seen", back.does, back.fence));
            }
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    Ok((seen.len(), both_awake))
}

#[test]
fn an_older_controller_changes_nothing() {
    let (worlds, both_awake) = search(Fence::Kept).unwrap();
    println!("two controllers: {worlds} worlds");
    assert!(both_awake, "two that both believe to hold the lease were never met");
}

#[test]
fn without_a_fence_it_does() {
    for planted in [Fence::NumberOnly, Fence::None] {
        let found = search(planted).unwrap_err();
        assert!(found.starts_with("S9"), "{found}");
    }
}
