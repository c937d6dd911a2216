//! Whether the socket that answers on a port belongs to the instance.
//!
//! Invariant: a listener that is known to be somebody else's never counts as ours. One whose owner nobody may look
//! at (another user's process in the instance, as after `sudo`) counts, and the evidence says so.

use std::collections::BTreeSet;

use crate::{procfs, sockets};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Ours,
    Stranger {
        pid: Option<u32>,
    },
    NoListener,
    /// The tables of the kernel may not be read.
    Unknown,
}

impl Identity {
    pub fn counts_as_ours(self) -> bool {
        match self {
            Self::Ours | Self::Unknown => true,
            Self::Stranger { .. } | Self::NoListener => false,
        }
    }

    /// What is to be said about it, if anything.
    pub fn text(self, port: u16) -> Option<String> {
        match self {
            Self::Ours => None,
            Self::Stranger { pid: Some(pid) } => {
                let name = procfs::name(pid).unwrap_or_default();
                Some(format!(
                    "identity_unverified: port {port} is answered by pid {pid} ({name}), which is not of this instance"
                ))
            }
            Self::Stranger { pid: None } => Some(format!(
                "identity_unverified: port {port} is answered by a process that is not of this instance"
            )),
            Self::NoListener => Some(format!("identity_unverified: nothing listens on port {port} any more")),
            Self::Unknown => Some(format!(
                "identity_unverified: who listens on port {port} could not be read; taken as ours"
            )),
        }
    }
}

/// Every socket that may answer must be held by the instance's session or by something below its shim.
pub(super) fn of_listener(port: u16, child: u32, shim: u32) -> Identity {
    let Ok(mut missing) = sockets::listeners(port) else { return Identity::Unknown };
    if missing.is_empty() {
        return Identity::NoListener;
    }
    // Mostly it is the main process itself: then nobody else needs to be looked at.
    let mut unreadable = !take_held(child, &mut missing);
    if missing.is_empty() {
        return Identity::Ours;
    }
    let all = procfs::all();
    let below = procfs::descendants(shim, &all);
    let ours = all.iter().filter(|stat| stat.session == child || below.contains(&stat.pid));
    for stat in ours.filter(|stat| stat.pid != child) {
        unreadable |= !take_held(stat.pid, &mut missing);
        if missing.is_empty() {
            return Identity::Ours;
        }
    }
    match sockets::holder_of(&missing) {
        Some(pid) => Identity::Stranger { pid: Some(pid) },
        None if unreadable => Identity::Unknown,
        None => Identity::Stranger { pid: None },
    }
}

/// Removes what the process holds. False if it may not be looked at.
fn take_held(pid: u32, missing: &mut BTreeSet<u64>) -> bool {
    match sockets::held_by(pid) {
        Ok(held) => {
            missing.retain(|inode| !held.contains(inode));
            true
        }
        // One that is gone holds nothing.
        Err(error) => error.kind() != std::io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_socket_is_ours_only_if_a_process_of_ours_holds_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let me = std::process::id();
        assert_eq!(of_listener(port, me, me), Identity::Ours);
        // A kernel thread has no children and no sockets of ours.
        assert_eq!(of_listener(port, 2, 2), Identity::Stranger { pid: Some(me) });
        drop(listener);
        assert_eq!(of_listener(port, me, me), Identity::NoListener);
    }
}
