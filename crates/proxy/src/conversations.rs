//! The control socket: who asks, and what is answered.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use crate::binary;
use crate::control::{self, LineReader, Reply, Request};
use crate::director::Director;
use crate::table::{PROTOCOL, protocol_accepted};
use crate::tally;

const MOST_CONTROL_CONNECTIONS: usize = 64;
/// Replies that a control connection has not read; more than one table can make.
const MOST_UNREAD: usize = 4096;

/// What a request may ask of the process, and not of the director.
#[derive(Clone, Default)]
pub struct Wishes {
    /// It shall end for good.
    pub stop: Rc<Notify>,
    /// A program shall take over.
    pub upgrade: Rc<Notify>,
}

/// Accepts for as long as it runs; with it all conversations end.
pub async fn accept(listener: UnixListener, director: Rc<RefCell<Director>>, wishes: Wishes) {
    let places = Arc::new(Semaphore::new(MOST_CONTROL_CONNECTIONS));
    let mut conversations = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while conversations.try_join_next().is_some() {}
        let (director, wishes) = (Rc::clone(&director), wishes.clone());
        conversations.spawn_local(async move {
            let _place = place;
            converse(stream, &director, &wishes).await;
        });
    }
}

/// One control connection: a reader of requests, and one writer, so that replies keep their order.
async fn converse(stream: UnixStream, director: &Rc<RefCell<Director>>, wishes: &Wishes) {
    let (read, mut write) = stream.into_split();
    let (sender, mut replies) = mpsc::channel::<Reply>(MOST_UNREAD);
    let writer = tokio::task::spawn_local(async move {
        while let Some(reply) = replies.recv().await {
            if control::write_line(&mut write, &reply).await.is_err() {
                return;
            }
        }
    });
    let mut lines = LineReader::new(read);
    loop {
        let reply = match lines.next::<Request>().await {
            Ok(Some(request)) => answer(request, director, wishes, &sender, &writer.abort_handle()),
            Ok(None) => break,
            Err(error) => {
                let reason = format!("this is not a request: {error}");
                let _ = sender.send(Reply::Refused { reason }).await;
                break;
            }
        };
        for reply in reply {
            if sender.send(reply).await.is_err() {
                break;
            }
        }
        // After the acknowledgement, and in the order of the table.
        director.borrow_mut().tell_drained();
    }
    director.borrow_mut().unsubscribe(&sender);
    drop(sender);
    let _ = writer.await;
}

fn answer(
    request: Request,
    director: &RefCell<Director>,
    wishes: &Wishes,
    sender: &mpsc::Sender<Reply>,
    writer: &AbortHandle,
) -> Vec<Reply> {
    let mut director = director.borrow_mut();
    match request {
        Request::Hello { protocol } if protocol_accepted(protocol) => {
            let program = binary::our_identity().unwrap_or_default();
            vec![Reply::Hello { protocol: PROTOCOL, pid: std::process::id(), program }]
        }
        Request::Hello { protocol } => {
            let reason = format!(
                "this proxy speaks protocol {PROTOCOL}, not {protocol}; use the same release for both"
            );
            vec![Reply::Refused { reason }]
        }
        Request::SetTable(table) => {
            let (epoch, number) = table.stamp();
            match director.set_table(table) {
                Ok(()) => {
                    director.subscribe(sender, writer.clone());
                    let mut replies = vec![Reply::Acked { epoch, number }];
                    replies.extend(director.released());
                    replies.extend(director.waiting());
                    replies
                }
                Err(reason) => vec![Reply::Refused { reason }],
            }
        }
        Request::Stats => {
            let counts = &director.shared.counts;
            let mut stats = tally::stats(counts, &director.table, director.endpoints(), &director.open);
            director.tell_clients(&mut stats);
            vec![Reply::Stats(stats)]
        }
        Request::Compared { app } => vec![Reply::Compared(director.shared.compared.of(&app))],
        Request::Upgrade { program } => upgrade(&mut director, program, wishes, sender),
        Request::Stop => {
            wishes.stop.notify_one();
            Vec::new()
        }
    }
}

fn upgrade(
    director: &mut Director,
    program: PathBuf,
    wishes: &Wishes,
    sender: &mpsc::Sender<Reply>,
) -> Vec<Reply> {
    match director.begin_upgrade(program, sender.clone()) {
        Ok(()) => {
            wishes.upgrade.notify_one();
            Vec::new()
        }
        Err(reason) => vec![Reply::KeptOn { reason }],
    }
}
