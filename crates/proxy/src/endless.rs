//! An answer that has no end of its own, or may have none: when its instance has to leave it is ended between two of its parts,
//! so that its client comes again and meets another instance.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;

use crate::calls::{self, Messages};
use crate::classes::Kind;
use crate::connection::Connection;
use crate::endpoint::LiveEndpoint;
use crate::events::{self, Events};
use crate::leave::{Leave, Word};
use crate::open::{One, What};

/// Nobody can tell a call that ends from one that does not: all have so long to end before any is ended.
const CALLS_HAVE: Duration = Duration::from_secs(10);

pub struct Endless {
    parts: Parts,
    leaving: Pin<Box<dyn Future<Output = Word>>>,
    leaves: bool,
    _open: One,
}

enum Parts {
    Events(Events),
    Calls(Messages),
}

impl Endless {
    /// Of such an answer only.
    pub fn of(
        head: &http::response::Parts,
        endpoint: &Arc<LiveEndpoint>,
        client: &Rc<Connection>,
    ) -> Option<Self> {
        let (parts, first) = if events::is_stream(head) {
            (Parts::Events(Events::default()), Duration::ZERO)
        } else if client.has_streams() && calls::is_answer(head) {
            (Parts::Calls(Messages::default()), CALLS_HAVE)
        } else {
            return None;
        };
        let open = match parts {
            Parts::Events(_) => client.has_open(What::Events),
            Parts::Calls(_) => client.has_open(What::Grpc),
        };
        let (endpoint, client) = (Arc::clone(endpoint), Rc::clone(client));
        let leaving = Box::pin(async move { Leave::not_before(first).next(&endpoint, &client).await });
        Some(Self { parts, leaving, leaves: false, _open: open })
    }

    pub fn kind(&self) -> Kind {
        match self.parts {
            Parts::Events(_) => Kind::Events,
            Parts::Calls(_) => Kind::Grpc,
        }
    }

    pub fn pass(&mut self, bytes: &[u8]) {
        match &mut self.parts {
            Parts::Events(events) => events.pass(bytes),
            Parts::Calls(messages) => messages.pass(bytes),
        }
    }

    /// It may be ended here, and has to be. A cut comes with the connection to the endpoint.
    pub fn is_to_end(&mut self, cx: &mut Context<'_>) -> bool {
        self.leaves = self.leaves || self.leaving.as_mut().poll(cx) == Poll::Ready(Word::Tell);
        let is_between = match &self.parts {
            Parts::Events(events) => events.is_between(),
            Parts::Calls(messages) => messages.is_between(),
        };
        self.leaves && is_between
    }

    /// What its client is told with; nothing where the end itself says it.
    pub fn last_words(&self) -> Option<Frame<Bytes>> {
        match self.parts {
            Parts::Events(_) => None,
            Parts::Calls(_) => Some(Frame::trailers(calls::unavailable())),
        }
    }
}
