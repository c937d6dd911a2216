//! Why something moves, waits or is refused: data first, with its numbers; one sentence for people second.

use serde::Serialize;

use crate::Millis;
use crate::event::PauseCause;

/// Many alike are told once: how many, and the first ten by age.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    pub count: u32,
    pub examples: Vec<String>,
}

impl Group {
    pub const EXAMPLES: usize = 10;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Reason {
    /// Target instances start and others leave, within both bounds.
    Roll {
        start: u32,
        stop: u32,
        available: u32,
        floor: u32,
        live: u32,
        ceiling: u32,
    },
    /// Dead ones are replaced.
    Repair {
        start: u32,
        revision: u32,
        held: u32,
        wanted: u32,
    },
    /// A person asked for one place once more.
    Retry {
        instance: String,
    },
    /// The base comes back to places that were left out.
    Restore {
        start: u32,
        revision: u32,
        left_out: u32,
    },
    /// What a new number of replicas gives to or takes from a revision.
    Share {
        start: u32,
        stop: u32,
        revision: u32,
    },
    /// More run than are desired.
    Surplus {
        stop: u32,
        desired: u32,
    },
    /// Failed ones are taken away.
    Clear {
        instances: Group,
    },
    /// Nothing more may stop: availability is at its floor.
    Floor {
        available: u32,
        floor: u32,
        waiting_to_stop: u32,
    },
    /// Nothing more may start: everything that may be alive is at the ceiling.
    Ceiling {
        live: u32,
        ceiling: u32,
        waiting_to_start: u32,
    },
    /// The batch in work comes first.
    BatchBarrier {
        batch: u32,
        done: u32,
        of: u32,
    },
    /// The pause between two batches.
    Delay {
        batch: u32,
        left_ms: Millis,
    },
    Starting {
        instances: Group,
        instance: String,
        left_ms: Millis,
    },
    Unready {
        instances: Group,
        instance: String,
    },
    MinHealthyTime {
        instances: Group,
        instance: String,
        left_ms: Millis,
    },
    /// Ready, but the router has not acknowledged it.
    Routing {
        instances: Group,
        instance: String,
    },
    /// `in_flight` is known to the router only; None where nobody asked it.
    Draining {
        instances: Group,
        instance: String,
        left_ms: Millis,
        in_flight: Option<u64>,
    },
    /// The last instance of a version drains, and clients have pages of that version; how many, only the router knows.
    Kept {
        instance: String,
        version: String,
        left_ms: Millis,
        pages: Option<u64>,
    },
    Stopping {
        instances: Group,
        instance: String,
    },
    /// Nobody can tell whether they live, so they count as alive.
    Unknown {
        instances: Group,
    },
    Backoff {
        count: u32,
        left_ms: Millis,
    },
    Bake {
        left_ms: Millis,
    },
    Paused {
        cause: PauseCause,
    },
    /// The gate that stopped the rollout, and at which instance.
    GateFailed {
        gate: String,
        instance: String,
        text: String,
    },
    /// The rollout failed and waits for a person.
    Halted {
        cause: Option<PauseCause>,
        can_go_back: bool,
    },
    RollingBack {
        cause: Option<PauseCause>,
    },
    /// After a reboot the base comes to full strength before anything else.
    Recovering {
        available: u32,
        desired: u32,
    },
    /// The progress deadline runs.
    Deadline {
        left_ms: Millis,
    },
    Down,
    NeverDeployed,
    NothingToDo,
}

/// `1.5 s`, `250 ms`, `12 min 5 s`: for sentences.
pub fn duration_text(ms: Millis) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        1_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        7_200_000.. if (ms / 60_000).is_multiple_of(60) => format!("{} h", ms / 3_600_000),
        7_200_000.. => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
        _ if (ms / 1000).is_multiple_of(60) => format!("{} min", ms / 60_000),
        _ => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
    }
}

fn these(group: &Group, first: &str) -> String {
    match group.count {
        0 | 1 => first.to_owned(),
        n => format!("{first} and {} more", n - 1),
    }
}

fn plural(n: u32, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

impl PauseCause {
    pub fn text(&self) -> String {
        match self {
            Self::Person { by } => format!("by {by}"),
            Self::Failures { failures, max_failures } => {
                format!("{} of {max_failures} allowed", plural(*failures, "failure"))
            }
            Self::ProgressDeadline { after_ms } => format!("no progress for {}", duration_text(*after_ms)),
            Self::Step { batch } => format!("after batch {batch}, step by step"),
            Self::Skipped { count } => {
                format!("{} left out, so the wanted version does not run everywhere", plural(*count, "place"))
            }
            Self::Invariant { invariant } => {
                format!("Trundle's own rule {invariant} would have been broken; please report this")
            }
        }
    }
}

impl Reason {
    /// The instance names in it: for a reader that knows them by other names.
    pub fn names_mut(&mut self) -> Vec<&mut String> {
        match self {
            Self::Clear { instances } | Self::Unknown { instances } => {
                instances.examples.iter_mut().collect()
            }
            Self::Starting { instances, instance, .. }
            | Self::Unready { instances, instance }
            | Self::MinHealthyTime { instances, instance, .. }
            | Self::Routing { instances, instance }
            | Self::Draining { instances, instance, .. }
            | Self::Stopping { instances, instance } => {
                instances.examples.iter_mut().chain(std::iter::once(instance)).collect()
            }
            Self::GateFailed { instance, .. } | Self::Retry { instance } | Self::Kept { instance, .. } => {
                vec![instance]
            }
            Self::Roll { .. }
            | Self::Repair { .. }
            | Self::Restore { .. }
            | Self::Share { .. }
            | Self::Surplus { .. }
            | Self::Floor { .. }
            | Self::Ceiling { .. }
            | Self::BatchBarrier { .. }
            | Self::Delay { .. }
            | Self::Backoff { .. }
            | Self::Bake { .. }
            | Self::Paused { .. }
            | Self::Halted { .. }
            | Self::RollingBack { .. }
            | Self::Recovering { .. }
            | Self::Deadline { .. }
            | Self::Down
            | Self::NeverDeployed
            | Self::NothingToDo => Vec::new(),
        }
    }

    /// One sentence, with its numbers.
    pub fn text(&self) -> String {
        match self {
            Self::Roll { start, stop, available, floor, live, ceiling } => format!(
                "starts {start} and takes out {stop}: {available} available (floor {floor}), {live} live (ceiling {ceiling})"
            ),
            Self::Repair { start, revision, held, wanted } => {
                format!("starts {start} of revision {revision} again: {held} of {wanted} are left")
            }
            Self::Retry { instance } => format!("tries again as {instance}, as asked"),
            Self::Restore { start, revision, left_out } => {
                format!("starts {start} of revision {revision} in place of what was left out ({left_out})")
            }
            Self::Share { start: 0, stop, revision } => {
                format!("takes out {stop} of revision {revision}: its share of fewer replicas")
            }
            Self::Share { start, revision, .. } => {
                format!("starts {start} of revision {revision}: its share of more replicas")
            }
            Self::Surplus { stop, desired } => {
                format!("takes out {stop}: more than the {desired} that are desired")
            }
            Self::Clear { instances } => {
                format!("takes away {}", these(instances, instances.examples.first().map_or("?", |s| s)))
            }
            Self::Floor { available, floor, waiting_to_stop } => {
                format!(
                    "{waiting_to_stop} more to stop, but {available} are available and the floor is {floor}"
                )
            }
            Self::Ceiling { live, ceiling, waiting_to_start } => {
                format!(
                    "{waiting_to_start} more to start, but {live} may be alive and the ceiling is {ceiling}"
                )
            }
            Self::BatchBarrier { batch, done, of } => {
                format!("batch {batch} comes first: {done} of {of} are done")
            }
            Self::Delay { batch, left_ms } => {
                format!("batch {batch} is complete; the next begins in {}", duration_text(*left_ms))
            }
            Self::Starting { instances, instance, left_ms } => format!(
                "waits for {} to be ready (deadline in {})",
                these(instances, instance),
                duration_text(*left_ms)
            ),
            Self::Unready { instances, instance } => {
                format!("waits for {} to be ready again", these(instances, instance))
            }
            Self::MinHealthyTime { instances, instance, left_ms } => format!(
                "{} must stay healthy for {} more",
                these(instances, instance),
                duration_text(*left_ms)
            ),
            Self::Routing { instances, instance } => {
                format!("waits for the proxy to route {}", these(instances, instance))
            }
            Self::Draining { instances, instance, left_ms, in_flight } => format!(
                "waits for {} to finish {} (cut in {})",
                these(instances, instance),
                in_flight.map_or_else(
                    || "its requests".to_owned(),
                    |n| if n == 1 { "1 request".into() } else { format!("{n} requests") }
                ),
                duration_text(*left_ms)
            ),
            Self::Kept { instance, version, left_ms, pages } => {
                let whom = match pages {
                    None => "clients with pages".to_owned(),
                    Some(1) => "1 client with a page".to_owned(),
                    Some(n) => format!("{n} clients with pages"),
                };
                format!("keeps {instance} for {whom} of {version} (at most {})", duration_text(*left_ms))
            }
            Self::Stopping { instances, instance } => {
                format!("waits for {} to stop", these(instances, instance))
            }
            Self::Unknown { instances } => {
                format!("{} may or may not be alive and count as alive", plural(instances.count, "instance"))
            }
            Self::Backoff { count, left_ms } => {
                format!(
                    "{} in back-off; the next try is in {}",
                    plural(*count, "place"),
                    duration_text(*left_ms)
                )
            }
            Self::Bake { left_ms } => {
                format!("everything is replaced; it is watched for {} more", duration_text(*left_ms))
            }
            Self::Paused { cause } => format!("paused: {}", cause.text()),
            Self::GateFailed { gate, instance, text } => {
                format!("{instance} failed its {gate} check: {text}")
            }
            Self::Halted { cause, can_go_back } => format!(
                "the rollout failed{}; deploy a fix{}",
                cause.as_ref().map(|c| format!(" ({})", c.text())).unwrap_or_default(),
                if *can_go_back { " or go back with `trundle rollback`" } else { "" }
            ),
            Self::RollingBack { cause } => {
                format!("goes back{}", cause.as_ref().map(|c| format!(": {}", c.text())).unwrap_or_default())
            }
            Self::Recovering { available, desired } => {
                format!(
                    "after a reboot the proven version comes back first: {available} of {desired} available"
                )
            }
            Self::Deadline { left_ms } => {
                format!("without progress, the deadline passes in {}", duration_text(*left_ms))
            }
            Self::Down => "the app is down; `trundle deploy` starts it".to_owned(),
            Self::NeverDeployed => "the app was never deployed".to_owned(),
            Self::NothingToDo => "what is wanted is what runs".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        for (ms, text) in [
            (0, "0 ms"),
            (250, "250 ms"),
            (1_000, "1 s"),
            (1_540, "1.5 s"),
            (60_000, "1 min"),
            (725_000, "12 min 5 s"),
        ] {
            assert_eq!(duration_text(ms), text);
        }
    }
}
