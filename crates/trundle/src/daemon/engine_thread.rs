//! The engine's thread: it sleeps until something comes in or a timer is due, turns, and tells who listens.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::broadcast;
use trundle_core::Millis;
use trundle_core::ids::AppName;
use trundle_drivers::ProcessDriver;
use trundle_engine::clock::WatchClock;
use trundle_engine::journal::SqliteJournal;
use trundle_engine::view::{Line, line};
use trundle_engine::{Engine, Input};

use super::router::ProxyRouter;
use crate::clock;

pub type DaemonEngine = Engine<SqliteJournal, ProcessDriver, ProxyRouter>;

/// A look at the engine between two turns, and at its clock: no more than that has passed.
pub type Look = Box<dyn FnOnce(&DaemonEngine, Millis) + Send>;

pub enum Message {
    Input(Input),
    Look(Look),
    Stop,
}

/// Lines kept for a listener that is slow; one that is slower misses some, and its next status is whole all the same.
const LINES_KEPT: usize = 4096;
/// While a timer runs the thread looks up at least this often, so that a gap is seen as one.
const LONGEST_SLEEP_MS: u64 = 1_000;
/// Inputs of one turn; more wait for the next.
const MOST_INPUTS: usize = 10_000;

#[derive(Clone)]
pub struct Handle {
    inbox: Sender<Message>,
    lines: broadcast::Sender<Arc<Line>>,
    /// The last lines, for who comes late.
    recent: Arc<Mutex<VecDeque<Arc<Line>>>>,
}

impl Handle {
    /// To a thread that ended nothing can be said, and nothing needs to be.
    pub fn send(&self, message: Message) {
        let _ = self.inbox.send(message);
    }

    /// What was told lately, and everything from now on: nothing falls between.
    pub fn lines(&self) -> (Vec<Arc<Line>>, broadcast::Receiver<Arc<Line>>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.lines.subscribe())
    }

    fn tell(&self, line: Line) {
        let line = Arc::new(line);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= LINES_KEPT {
            recent.pop_front();
        }
        recent.push_back(line.clone());
        // Nobody listening is no error.
        let _ = self.lines.send(line);
    }

    /// Asks between two turns; None when the engine has ended.
    pub async fn look<T: Send + 'static>(
        &self,
        with: impl FnOnce(&DaemonEngine) -> T + Send + 'static,
    ) -> Option<T> {
        self.look_now(|engine, _| with(engine)).await
    }

    /// Like [`Self::look`], with the journal's time of that moment.
    pub async fn look_now<T: Send + 'static>(
        &self,
        with: impl FnOnce(&DaemonEngine, Millis) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, asked) = tokio::sync::oneshot::channel();
        self.send(Message::Look(Box::new(move |engine, now| {
            let _ = answer.send(with(engine, now));
        })));
        asked.await.ok()
    }
}

pub fn channel() -> (Handle, Receiver<Message>) {
    let (inbox, messages) = mpsc::channel();
    let (lines, _) = broadcast::channel(LINES_KEPT);
    (Handle { inbox, lines, recent: Arc::default() }, messages)
}

pub fn spawn(
    engine: DaemonEngine,
    inbox: Receiver<Message>,
    handle: Handle,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("engine".to_owned()).spawn(move || run(engine, &inbox, &handle))
}

fn run(mut engine: DaemonEngine, inbox: &Receiver<Message>, handle: &Handle) {
    let mut watch = WatchClock::resume(engine.last_at(), clock::monotonic_ms());
    let mut inputs = Vec::new();
    loop {
        let now = watch.read(clock::monotonic_ms());
        let turn = engine.turn(now, clock::wall_ms(), std::mem::take(&mut inputs));
        for entry in &turn.entries {
            tell(&engine, &entry.app, entry, handle);
        }
        let sleep_ms = turn.wake_at.map_or(u64::MAX, |at| at.saturating_sub(now).min(LONGEST_SLEEP_MS));
        watch.sleep(sleep_ms);
        // u64::MAX is no time the system takes; a day is as good as for ever.
        let mut next = inbox.recv_timeout(Duration::from_millis(sleep_ms.min(86_400_000)));
        loop {
            match next {
                Ok(Message::Input(input)) => inputs.push(input),
                Ok(Message::Look(look)) => {
                    // A copy: only a turn moves the engine's own clock.
                    let mut peek = watch;
                    look(&engine, peek.read(clock::monotonic_ms()));
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => break,
            }
            if inputs.len() >= MOST_INPUTS {
                break;
            }
            match inbox.try_recv() {
                Ok(message) => next = Ok(message),
                Err(_) => break,
            }
        }
    }
}

fn tell(engine: &DaemonEngine, app: &AppName, entry: &trundle_engine::journal::Entry, handle: &Handle) {
    let Some(app) = engine.apps().get(app) else { return };
    if let Some(line) = line(entry, app, clock::rfc3339) {
        handle.tell(line);
    }
}
