//! As whom an instance runs: a user of this machine, with the groups that the machine gives to it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use trundle_core::revision::Artifact;

use crate::layout::Layout;
use crate::{artifact, sys};

/// What the kernel is told, and what the environment says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunAs {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub name: String,
    pub home: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("there is no user {0} on this machine")]
    NoUser(String),
    #[error("there is no group {0} on this machine")]
    NoGroup(String),
    #[error("who {0} is cannot be found out: {1}")]
    Unknown(String, String),
    #[error("only root can start a process as {user}: this is uid {uid}")]
    NotRoot { user: String, uid: u32 },
}

/// Whether `user`, or `user:group`, is there and can be become: by whoever asks.
pub fn check(written: &str) -> Result<(), UserError> {
    resolve(written).map(drop)
}

pub(crate) fn resolve(written: &str) -> Result<RunAs, UserError> {
    let (user, group) = written.split_once(':').map_or((written, None), |(user, group)| (user, Some(group)));
    let unknown = |what: &str, error: io::Error| UserError::Unknown(what.to_owned(), error.to_string());
    let account = sys::account(user).map_err(|error| unknown(user, error))?;
    let account = account.ok_or_else(|| UserError::NoUser(user.to_owned()))?;
    let gid = match group {
        None => account.gid,
        Some(group) => sys::group(group)
            .map_err(|error| unknown(group, error))?
            .ok_or_else(|| UserError::NoGroup(group.to_owned()))?,
    };
    let us = geteuid();
    let is_us = us.as_raw() == account.uid && (group.is_none() || gid == getegid().as_raw());
    if !us.is_root() && !is_us {
        return Err(UserError::NotRoot { user: written.to_owned(), uid: us.as_raw() });
    }
    let groups = sys::groups_of(&account.name, gid);
    Ok(RunAs { uid: account.uid, gid, groups, name: account.name, home: account.home })
}

/// Lets other users come to the copy of an artifact, and to nothing else: they may pass through the state directory, in which
/// nothing else is theirs to read. Whether a file of the artifact is, its own rights say.
pub(crate) fn open_way_to(layout: &Layout, artifact: &Artifact) -> io::Result<()> {
    close_to_others(layout);
    let artifacts = layout.artifacts();
    let allow = |folder: &Path, others: u32| {
        let mode = fs::metadata(folder)?.mode();
        if mode & 0o077 == others {
            return Ok(());
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(mode & 0o7700 | others))
    };
    let home = artifact::folder(layout, artifact);
    allow(&home.join("tree"), 0o055)?;
    [&home, &artifacts, &layout.state_dir].into_iter().try_for_each(|folder| allow(folder, 0o011))
}

/// Lets other users come to what stands in `gates`, which may be read there.
pub(crate) fn open_way_to_gates(layout: &Layout) -> io::Result<()> {
    close_to_others(layout);
    let mode = fs::metadata(&layout.state_dir)?.mode();
    if mode & 0o011 == 0o011 {
        return Ok(());
    }
    fs::set_permissions(&layout.state_dir, fs::Permissions::from_mode(mode & 0o7700 | 0o011))
}

/// A folder that others may pass through and not list.
pub(crate) fn passable_folder(path: &Path) -> io::Result<()> {
    crate::durable::private_folder(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o711))
}

/// What is ours in the state directory begins so. Others may keep theirs there.
const OURS: [&str; 10] =
    ["access", "acme", "daemon", "instances", "journal", "proxy", "seal", "stored.lock", "traffic", ".probe"];

/// At the start of a daemon: what was made since the way was opened.
pub(crate) fn close_where_others_pass(layout: &Layout) {
    if fs::metadata(&layout.state_dir).is_ok_and(|about| about.mode() & 0o011 != 0) {
        close_to_others(layout);
    }
}

/// What of ours others could read, once they may pass through the state directory: whatever has left it open.
fn close_to_others(layout: &Layout) {
    for entry in fs::read_dir(&layout.state_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Ok(about) = entry.metadata() else { continue };
        let kind = about.file_type();
        let is_ours = OURS.iter().any(|ours| name.to_string_lossy().starts_with(ours));
        if is_ours && (kind.is_file() || kind.is_dir()) && about.mode() & 0o077 != 0 {
            let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(about.mode() & 0o7700));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = resolve("root");
        if geteuid().is_root() {
            let root = root.unwrap();
            assert_eq!((root.uid, root.gid, &*root.name, &*root.home), (0, 0, "root", "/root"));
            let nobody = resolve("nobody").unwrap();
            assert_eq!(resolve(&nobody.uid.to_string()).unwrap(), nobody);
            assert_eq!(resolve("nobody:root").unwrap().gid, 0);
            // A number that nobody has is taken as it is.
            let nameless = resolve("54321:54322").unwrap();
            assert_eq!((nameless.uid, nameless.gid, &*nameless.home), (54321, 54322, "/"));
        } else {
            assert!(matches!(root, Err(UserError::NotRoot { .. })));
        }
        assert_eq!(resolve("nobody-of-that-name"), Err(UserError::NoUser("nobody-of-that-name".into())));
        assert_eq!(resolve("root:no-such-group"), Err(UserError::NoGroup("no-such-group".into())));
        assert!(matches!(resolve(""), Err(UserError::NoUser(_))));
    }
}
