//! What two versions have answered to the same request, kept for comparison: the newest few, in memory.

use std::collections::VecDeque;
use std::hash::Hasher as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::endpoint::LiveEndpoint;
use crate::window::Fnv;

/// So many are kept of all apps.
const MOST: usize = 200;
/// Of each body its first bytes.
const MOST_BODY: usize = 2 * 1024;
const MOST_TARGET: usize = 512;

/// A request that two versions have answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub app: String,
    pub method: String,
    /// Path and query; cut.
    pub target: String,
    /// What the client has got.
    pub live: Side,
    /// What it would have got of the other version.
    pub mirrored: Side,
    /// Status, content type and body are the same, and both came whole.
    pub same: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    pub instance: String,
    pub version: String,
    /// None: there was no answer in time.
    pub status: Option<u16>,
    pub content_type: Option<String>,
    /// Of the body.
    pub bytes: u64,
    /// Of the whole body: two that differ have different ones.
    pub digest: String,
    /// Its beginning.
    pub body: String,
    /// It was read to its end.
    pub whole: bool,
    pub took_us: u64,
}

impl Side {
    fn is_as(&self, other: &Self) -> bool {
        let what = |side: &Self| (side.status, side.content_type.clone(), side.bytes, side.digest.clone());
        self.whole && other.whole && what(self) == what(other)
    }
}

impl Comparison {
    pub fn new(app: &str, method: String, mut target: String, live: Side, mirrored: Side) -> Self {
        let cut = (0..=MOST_TARGET.min(target.len())).rev().find(|at| target.is_char_boundary(*at));
        target.truncate(cut.unwrap_or(0));
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let same = live.is_as(&mirrored);
        Self { at_ms, app: app.to_owned(), method, target, live, mirrored, same }
    }
}

/// The newest, the oldest of them first.
#[derive(Default)]
pub struct Kept(Mutex<VecDeque<Comparison>>);

impl Kept {
    pub fn push(&self, comparison: Comparison) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == MOST {
            kept.pop_front();
        }
        kept.push_back(comparison);
    }

    pub fn of(&self, app: &str) -> Vec<Comparison> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|comparison| comparison.app == app).cloned().collect()
    }
}

/// Notes an answer as it goes by; what it has seen is sent when it ends, however that happens.
pub struct Recorder {
    side: Side,
    began: Instant,
    hash: Fnv,
    beginning: Vec<u8>,
    to: Option<oneshot::Sender<Side>>,
}

impl Recorder {
    pub fn of(endpoint: &LiveEndpoint, began: Instant) -> (Self, oneshot::Receiver<Side>) {
        let (to, receiver) = oneshot::channel();
        let side =
            Side { instance: endpoint.id.clone(), version: endpoint.version.clone(), ..Side::default() };
        (Self { side, began, hash: Fnv::default(), beginning: Vec::new(), to: Some(to) }, receiver)
    }

    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.side.status = Some(status.as_u16());
        let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        self.side.content_type = text.map(str::to_owned);
    }

    pub fn bytes(&mut self, bytes: &Bytes) {
        self.side.bytes += bytes.len() as u64;
        self.hash.write(bytes);
        let room = MOST_BODY - self.beginning.len();
        self.beginning.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    pub fn whole(&mut self) {
        self.side.whole = true;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.side.took_us = micros(self.began.elapsed());
        self.side.digest = format!("{:016x}", self.hash.finish());
        self.side.body = String::from_utf8_lossy(&self.beginning).into_owned();
        if let Some(to) = self.to.take() {
            let _ = to.send(std::mem::take(&mut self.side));
        }
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
