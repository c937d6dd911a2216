//! A rollout as lines of text: one per moment, with a picture of the instances and what was done.
//!
//! `o` old and available, `n` new and available, `·` starting or not available yet, `u` unready, `~` on its way out,
//! `x` failed, `?` unknown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use trundle_core::Millis;
use trundle_core::event::{Action, Event};
use trundle_core::state::{AppState, Phase};
use trundle_engine::journal::Entry;

use crate::run::Sim;

/// Above it no pictures are drawn: nobody could read them.
const MOST_DRAWN: usize = 60;

#[derive(Debug, Clone, Default)]
pub struct Trace(Rc<RefCell<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<(Millis, String)>,
    began: Millis,
    at: Millis,
    done: Vec<String>,
    picture: String,
}

impl Trace {
    /// Watches a simulation from here on.
    pub fn of(sim: &mut Sim) -> Self {
        let trace = Self::default();
        let into = trace.clone();
        sim.watch(move |entry, state| into.0.borrow_mut().note(entry, state));
        trace
    }

    /// All lines until now.
    pub fn lines(&self) -> Vec<String> {
        let mut inner = self.0.borrow_mut();
        inner.flush();
        let began = inner.began;
        let seconds = |at: Millis| at.saturating_sub(began) as f64 / 1000.0;
        inner.lines.iter().map(|(at, line)| format!("{:>9.3} s  {line}", seconds(*at))).collect()
    }

    /// All lines until now, counted from a moment.
    pub fn lines_since(&self, began: Millis) -> Vec<String> {
        self.0.borrow_mut().began = began;
        self.lines()
    }
}

impl Inner {
    fn note(&mut self, entry: &Entry, state: &AppState) {
        if entry.at_ms != self.at {
            self.flush();
            self.at = entry.at_ms;
        }
        if let Some(words) = words(&entry.event) {
            self.done.push(words);
        }
        self.picture = picture(state);
    }

    fn flush(&mut self) {
        let done = tally(std::mem::take(&mut self.done));
        if done.is_empty() {
            return;
        }
        self.lines.push((self.at, format!("{:<12}  {done}", self.picture)));
    }
}

/// `start 2 × 2, drain 1`: what is done alike is told once.
fn tally(done: Vec<String>) -> String {
    let mut counted: Vec<(String, u32)> = Vec::new();
    for words in done {
        match counted.iter_mut().find(|(known, _)| *known == words) {
            Some((_, n)) => *n += 1,
            None => counted.push((words, 1)),
        }
    }
    let told: Vec<_> =
        counted.into_iter().map(|(words, n)| if n == 1 { words } else { format!("{words} × {n}") }).collect();
    told.join(", ")
}

fn words(event: &Event) -> Option<String> {
    let action = match event {
        Event::Commanded { command, .. } => return Some(format!("«{}»", command_word(command))),
        Event::Rebooted => return Some("«reboot»".to_owned()),
        Event::InvariantBroken { invariant, .. } => return Some(format!("BROKEN {invariant}")),
        Event::Observed { .. } | Event::Evidence { .. } | Event::Counted { .. } => return None,
        Event::Decided(action) => action,
    };
    Some(match action {
        Action::Start { instance, .. } => format!("start {}", instance.revision),
        Action::Drain { instance, .. } => format!("drain {}", instance.revision),
        Action::Stop { instance, cut: true, .. } => format!("cut {}", instance.revision),
        Action::Stop { instance, .. } => format!("stop {}", instance.revision),
        Action::Fail { instance, cause } => format!("fail {} ({})", instance.revision, cause.text()),
        Action::BatchReached { batch } => format!("batch {batch}"),
        Action::PauseRollout { cause } => format!("pause ({})", cause.text()),
        Action::TurnBack { to, cause } => format!("back to {to} ({})", cause.text()),
        Action::Bake => "bake".to_owned(),
        Action::Conclude { outcome, .. } => format!("end {outcome:?}"),
        Action::Recovered => "recovered".to_owned(),
    })
}

fn command_word(command: &trundle_core::event::Command) -> String {
    use trundle_core::event::Command;
    match command {
        Command::Configure { settings } => format!("{} replicas", settings.replicas),
        Command::AddRevision { revision } => format!("revision {}", revision.number),
        Command::Roll { target, .. } => format!("roll to {target}"),
        Command::TurnBack { to, .. } => format!("turn back to {to}"),
        Command::Forced { against } => format!("forced against {}", against.len()),
        Command::Pause => "pause".to_owned(),
        Command::Resume => "resume".to_owned(),
        Command::Share { of_a_hundred: Some(share) } => format!("share {share}"),
        Command::Share { of_a_hundred: None } => "share by instances".to_owned(),
        Command::Retry { instance } => format!("retry {instance}"),
        Command::Skip { instance } => format!("skip {instance}"),
        Command::Down => "down".to_owned(),
    }
}

fn picture(state: &AppState) -> String {
    if state.totals().live() as usize > MOST_DRAWN {
        return format!("{} of {}", state.totals().available(), state.totals().live());
    }
    let mut signs: BTreeMap<(u8, char), usize> = BTreeMap::new();
    for instance in state.instances() {
        let of_target = Some(instance.key().revision) == state.target();
        let sign = match instance.phase() {
            Phase::Ready if !state.is_available(instance.key()) => (2, '·'),
            Phase::Ready if of_target => (1, 'n'),
            Phase::Ready => (0, 'o'),
            Phase::Intended | Phase::Starting => (2, '·'),
            Phase::Unready => (3, 'u'),
            Phase::Draining | Phase::Stopping => (4, '~'),
            Phase::Failed => (5, 'x'),
            Phase::Unknown => (6, '?'),
        };
        *signs.entry(sign).or_default() += 1;
    }
    signs.into_iter().flat_map(|((_, sign), n)| std::iter::repeat_n(sign, n)).collect()
}
