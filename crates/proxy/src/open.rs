//! What is open now, by kind: of one app, over all threads. It ends with the process, so it is not in the file of counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Connections by what they speak, and the streams within them that have no end of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Http1,
    Http2,
    WebSocket,
    Events,
    Grpc,
    Tcp,
}

impl What {
    const ALL: [Self; 6] = [Self::Http1, Self::Http2, Self::WebSocket, Self::Events, Self::Grpc, Self::Tcp];

    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::WebSocket => "websocket",
            Self::Events => "events",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

#[derive(Debug, Default)]
pub struct Open {
    now: [AtomicU64; What::ALL.len()],
    /// Streams that would be told to come again, all that there ever were.
    streams: AtomicU64,
}

impl Open {
    pub fn one_more(self: &Arc<Self>, what: What) -> One {
        self.now[what as usize].fetch_add(1, Relaxed);
        if matches!(what, What::WebSocket | What::Events | What::Grpc) {
            self.streams.fetch_add(1, Relaxed);
        }
        One(Arc::clone(self), what)
    }

    /// How many streams there ever were that had no end of their own.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.streams.load(Relaxed)
    }

    #[must_use]
    pub fn is_any(&self) -> bool {
        self.now.iter().any(|count| count.load(Relaxed) > 0)
    }

    /// How many of each, those of which there is none included.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, u64> {
        What::ALL
            .into_iter()
            .map(|what| (what.name().to_owned(), self.now[what as usize].load(Relaxed)))
            .collect()
    }
}

/// One that is open, until this is dropped.
#[derive(Debug)]
pub struct One(Arc<Open>, What);

impl Drop for One {
    fn drop(&mut self) {
        self.0.now[self.1 as usize].fetch_sub(1, Relaxed);
    }
}
