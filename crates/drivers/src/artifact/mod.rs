//! Copies of what was deployed: `artifacts/<digest>/tree/…` with a manifest beside it.
//!
//! The digest covers sorted relative paths, the right to execute, and contents; a single file is a tree with one entry.
//! Files that the app adds later (a cache of compiled code) are not looked at; every file that was deployed is, and is put
//! back if the app replaced it (decision 009).
//! Invariant: nothing in a copy leads out of it, and a copy is there whole or not at all.

mod copy;
mod kept;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use trundle_core::event::RefusalCode;
use trundle_core::revision::{Artifact, Digest, hex};
use trundle_crashpoint::crash_point;

use crate::digests::{Stamp, changed, digest_of};
use crate::durable;
use crate::layout::Layout;
use crate::seal::random;
use crate::shim::record::Refusal;
use crate::unused;
use copy::{Copy, links_stay_inside};

pub(crate) const FILES_MAX: usize = 100_000;
pub(crate) const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is {kind}: an artifact holds files, folders and links within it; leave it out of the folder", path.display())]
    Kind { path: PathBuf, kind: &'static str },
    #[error("the link {} leads out of the artifact or to nothing ({}): put the file itself there", path.display(), target.display())]
    Escapes { path: PathBuf, target: PathBuf },
    #[error(
        "the artifact has more than {FILES_MAX} entries: name the folder that is built, not the one of the sources"
    )]
    TooMany,
    #[error("the artifact has more than {} GiB: name the folder that is built, not the one of the sources", BYTES_MAX >> 30)]
    TooBig,
    #[error("the name {} in the artifact is not UTF-8: rename it", .0.escape_debug())]
    Name(String),
    #[error("{0}")]
    Random(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Relative to the tree, with `/`.
    path: String,
    what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Folder,
    Link { target: String },
    File { digest: Digest, executable: bool, stamp: Stamp },
}

/// Copies `source` (absolute) into the state directory. The same content gives the same digest and one copy.
pub(crate) fn import(layout: &Layout, source: &Path, as_written: String) -> Result<Artifact, ArtifactError> {
    let fail = |what, path: &Path| {
        let path = path.to_owned();
        move |source| ArtifactError::Io { what, path, source }
    };
    let root = layout.artifacts();
    durable::private_folder(&root).map_err(fail("make", &root))?;
    let source = source.canonicalize().map_err(fail("find the artifact", source))?;
    let is_folder = source.is_dir();
    let nonce: [u8; 8] = random().map_err(|error| ArtifactError::Random(error.to_string()))?;
    let aside = root.join(format!(".{}{}", hex(&nonce), unused::ASIDE));
    let result = (|| {
        let tree = aside.join("tree");
        durable::private_folder(&tree).map_err(fail("make", &tree))?;
        let _held = unused::hold(&aside).map_err(fail("hold", &aside))?;
        let mut copy = Copy { state_dir: &layout.state_dir, tree: &tree, entries: Vec::new(), bytes: 0 };
        if is_folder {
            copy.folder(&source, "")?;
        } else {
            let name = source.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| ArtifactError::Name(source.to_string_lossy().into_owned()))?;
            copy.entry(&source, name)?;
        }
        let mut entries = copy.entries;
        links_stay_inside(&tree, &entries)?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        kept::keep(&aside, &mut entries).map_err(fail("keep the files of", &source))?;
        let digest = digest_of_tree(&entries);
        let manifest = serde_json::to_vec(&entries).unwrap_or_default();
        durable::write(&aside.join("manifest.json"), &manifest, 0o400)
            .map_err(fail("write the manifest in", &aside))?;
        durable::sync_folder(&tree).map_err(fail("sync", &tree))?;
        let artifact = Artifact { path: as_written, digest, is_folder };
        publish(layout, &aside, &artifact).map_err(fail("put in place", &aside))?;
        Ok(artifact)
    })();
    // Published: nothing is there any more. Otherwise it is worth nothing.
    let _ = fs::remove_dir_all(&aside);
    result
}

fn publish(layout: &Layout, aside: &Path, artifact: &Artifact) -> io::Result<()> {
    let place = folder(layout, artifact);
    let _lock = unused::lock(layout)?;
    if place.exists() {
        if verify(layout, artifact).is_ok() {
            return unused::renew(&place);
        }
        // Somebody changed the copy: the new one takes its place. Who runs from the old one keeps its open files.
        let damaged = aside.with_extension(&unused::DAMAGED[1..]);
        crash_point!("artifact.mend.before");
        // Others may have a way to it.
        for folder in ["", "tree"] {
            let rights = fs::metadata(place.join(folder))?.permissions();
            fs::set_permissions(aside.join(folder), rights)?;
        }
        fs::rename(&place, &damaged)?;
        crash_point!("artifact.mend.without");
        fs::rename(aside, &place)?;
        crash_point!("artifact.mend.after");
        fs::remove_dir_all(&damaged)?;
    } else {
        crash_point!("artifact.publish.before");
        fs::rename(aside, &place)?;
        crash_point!("artifact.publish.after");
    }
    durable::sync_folder(&layout.artifacts())
}

/// Of the copy, with what belongs to it.
pub(crate) fn folder(layout: &Layout, artifact: &Artifact) -> PathBuf {
    let safe: String = artifact.digest.0.chars().filter(char::is_ascii_hexdigit).collect();
    layout.artifacts().join(safe)
}

/// The folder that a copied folder is run from, or the copied file.
pub(crate) fn copy_of(layout: &Layout, artifact: &Artifact) -> PathBuf {
    let tree = folder(layout, artifact).join("tree");
    if artifact.is_folder {
        return tree;
    }
    // There is one entry; its name is in the manifest, because the path as written may be a link to it.
    let name = manifest(layout, artifact).ok().and_then(|entries| Some(entries.into_iter().next()?.path));
    tree.join(name.unwrap_or_default())
}

fn manifest(layout: &Layout, artifact: &Artifact) -> Result<Vec<Entry>, Refusal> {
    let path = folder(layout, artifact).join("manifest.json");
    let gone = |error: &dyn std::fmt::Display| {
        let text = format!(
            "the copy of the artifact {} in {} is gone or damaged ({error}); deploy it again",
            artifact.path.escape_debug(),
            folder(layout, artifact).display()
        );
        Refusal::new(RefusalCode::ArtifactChanged, text)
    };
    let text = fs::read(&path).map_err(|error| gone(&error))?;
    serde_json::from_slice(&text).map_err(|error| gone(&error))
}

/// Makes sure that every file that was deployed is as it was, and answers how many had to be put back. Contents are read
/// only where the file's stamp differs.
pub(crate) fn verify(layout: &Layout, artifact: &Artifact) -> Result<usize, Refusal> {
    let entries = manifest(layout, artifact)?;
    let home = folder(layout, artifact);
    let tree = home.join("tree");
    let found = digest_of_tree(&entries);
    if found != artifact.digest {
        return Err(changed(&tree, &artifact.digest, &found));
    }
    let mut put_back = 0;
    for (n, entry) in entries.iter().enumerate() {
        let path = tree.join(&entry.path);
        let Err(refusal) = check(&path, &entry.what) else { continue };
        // Whether that succeeded is seen below; another start may have been faster.
        let tried = kept::put_back(&home, n, entry);
        if check(&path, &entry.what).is_err() {
            let why = tried.err().map(|why| format!(" (it cannot be put back: {why})")).unwrap_or_default();
            return Err(Refusal::new(refusal.code, refusal.text + &why));
        }
        put_back += 1;
    }
    Ok(put_back)
}

/// Whether what stands at `path` is what was deployed.
fn check(path: &Path, what: &What) -> Result<(), Refusal> {
    let other = |found: &str| {
        let text = format!("{} in the copy of the artifact {found}; deploy it again", path.display());
        Refusal::new(RefusalCode::ArtifactChanged, text)
    };
    let metadata = fs::symlink_metadata(path).map_err(|error| other(&format!("cannot be read: {error}")))?;
    match what {
        What::Folder if metadata.is_dir() => Ok(()),
        What::Link { target } if fs::read_link(path).is_ok_and(|now| now == Path::new(target)) => Ok(()),
        What::File { stamp, .. } if Stamp::of(&metadata) == *stamp => Ok(()),
        What::File { digest, executable, .. } if metadata.is_file() => {
            let now = durable::open_own(path).and_then(|mut file| digest_of(&mut file));
            let now = now.map_err(|error| other(&format!("cannot be read: {error}")))?;
            if now != *digest {
                Err(changed(path, digest, &now))
            } else if (metadata.permissions().mode() & 0o111 != 0) != *executable {
                Err(other("has another right to execute"))
            } else {
                Ok(())
            }
        }
        What::Folder | What::Link { .. } | What::File { .. } => Err(other("is something else now")),
    }
}

/// Each entry adds its kind, path, and what belongs to it, each ended by a byte that cannot stand in it.
fn digest_of_tree(entries: &[Entry]) -> Digest {
    let mut hash = Sha256::new();
    for entry in entries {
        let (kind, content) = match &entry.what {
            What::Folder => ("folder", ""),
            What::Link { target } => ("link", target.as_str()),
            What::File { digest, executable: false, .. } => ("file", digest.0.as_str()),
            What::File { digest, executable: true, .. } => ("program", digest.0.as_str()),
        };
        for part in [kind, &entry.path, content] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
    }
    Digest(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    fn world() -> (tempfile::TempDir, Layout, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("state"));
        let source = dir.path().join("dist");
        fs::create_dir_all(source.join("lib")).unwrap();
        fs::write(source.join("lib/a.txt"), "one").unwrap();
        fs::write(source.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(source.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("lib/a.txt", source.join("link")).unwrap();
        (dir, layout, source)
    }

    #[test]
    fn a_copy_keeps_the_old_bytes_and_its_digest_follows_the_content() {
        let (_dir, layout, source) = world();
        let first = import(&layout, &source, "dist".into()).unwrap();
        assert_eq!(import(&layout, &source, "dist".into()).unwrap(), first);
        fs::write(source.join("lib/a.txt"), "two").unwrap();
        let second = import(&layout, &source, "dist".into()).unwrap();
        assert_ne!(first.digest, second.digest);
        let copy = copy_of(&layout, &first);
        assert_eq!(fs::read_to_string(copy.join("link")).unwrap(), "one");
        assert_eq!(fs::metadata(copy.join("run")).unwrap().permissions().mode() & 0o777, 0o555);
        assert_eq!(verify(&layout, &first), Ok(0));
        assert_eq!(verify(&layout, &second), Ok(0));
        assert_eq!(fs::read_dir(layout.artifacts()).unwrap().count(), 2, "nothing is left aside");
    }

    #[test]
    fn times_and_rights_are_kept_but_nobody_writes_into_a_copied_file() {
        let (_dir, layout, source) = world();
        let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_891);
        for (path, mode) in [("run", 0o750), ("lib/a.txt", 0o640), ("lib", 0o550)] {
            fs::set_permissions(source.join(path), fs::Permissions::from_mode(mode)).unwrap();
            File::open(source.join(path)).unwrap().set_modified(long_ago).unwrap();
        }
        let copy = copy_of(&layout, &import(&layout, &source, "dist".into()).unwrap());
        for (path, mode) in [("run", 0o550), ("lib/a.txt", 0o440), ("lib", 0o750)] {
            let metadata = fs::metadata(copy.join(path)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
            assert_eq!(metadata.modified().unwrap(), long_ago, "{path}");
        }
    }

    #[test]
    fn what_the_app_replaced_or_removed_is_put_back_and_what_it_added_stays() {
        let (_dir, layout, source) = world();
        let artifact = import(&layout, &source, "dist".into()).unwrap();
        let copy = copy_of(&layout, &artifact);
        let time = fs::metadata(copy.join("lib/a.txt")).unwrap().modified().unwrap();
        fs::write(copy.join("added"), "by the app").unwrap();
        assert_eq!(verify(&layout, &artifact), Ok(0));
        // As most programs write: a new file, renamed over the old one.
        fs::write(copy.join("new"), "bad").unwrap();
        fs::rename(copy.join("new"), copy.join("lib/a.txt")).unwrap();
        assert_eq!(verify(&layout, &artifact), Ok(1));
        assert_eq!(fs::read_to_string(copy.join("link")).unwrap(), "one");
        assert_eq!(fs::metadata(copy.join("lib/a.txt")).unwrap().modified().unwrap(), time);
        fs::remove_dir_all(copy.join("lib")).unwrap();
        fs::remove_file(copy.join("link")).unwrap();
        fs::remove_file(copy.join("run")).unwrap();
        assert_eq!(verify(&layout, &artifact), Ok(4));
        assert_eq!(fs::read_to_string(copy.join("link")).unwrap(), "one");
        assert_eq!(verify(&layout, &artifact), Ok(0));
        assert!(copy.join("added").exists());
        assert_eq!(fs::read_dir(copy.join("..")).unwrap().count(), 3, "tree, manifest, kept");
    }

    #[test]
    fn bytes_that_cannot_come_back_are_refused_until_the_next_import() {
        let (_dir, layout, source) = world();
        let artifact = import(&layout, &source, "dist".into()).unwrap();
        let copy = copy_of(&layout, &artifact);
        let file = copy.join("lib/a.txt");
        type Spoil = fn(&Path);
        let cases: [(&str, Spoil); 4] = [
            ("was changed since it was deployed", |file| {
                fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
                fs::write(file, "bad").unwrap();
            }),
            ("right to execute", |file| {
                fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
            }),
            ("something else", |file| {
                fs::remove_file(file).unwrap();
                fs::create_dir(file).unwrap();
            }),
            // A folder that leads elsewhere: nothing is written there.
            ("something else", |file| {
                let lib = file.parent().unwrap();
                fs::remove_dir_all(lib).unwrap();
                symlink("..", lib).unwrap();
            }),
        ];
        for (expect, spoil) in cases {
            spoil(&file);
            let refusal = verify(&layout, &artifact).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::ArtifactChanged);
            assert!(refusal.text.contains(expect) && refusal.text.contains("lib"), "{}", refusal.text);
            assert!(refusal.text.contains("cannot be put back"), "{}", refusal.text);
            import(&layout, &source, "dist".into()).unwrap();
            assert_eq!(verify(&layout, &artifact), Ok(0), "a new import heals the copy");
        }
    }

    #[test]
    fn a_single_file_keeps_its_name() {
        let (_dir, layout, source) = world();
        let artifact = import(&layout, &source.join("run"), "dist/run".into()).unwrap();
        assert!(!artifact.is_folder);
        assert!(copy_of(&layout, &artifact).ends_with("tree/run"));
    }

    #[test]
    fn what_leads_out_or_is_no_file_is_refused() {
        type Spoil = fn(&Path);
        let cases: [(&str, Spoil); 5] = [
            ("leads out", |s| symlink("/etc/passwd", s.join("bad")).unwrap()),
            ("leads out", |s| symlink("../outside", s.join("bad")).unwrap()),
            ("to nothing", |s| symlink("nowhere", s.join("bad")).unwrap()),
            // Word for word it stays inside; through the first link it does not.
            ("leads out", |s| {
                symlink(".", s.join("d")).unwrap();
                symlink("d/d/../..", s.join("bad")).unwrap();
            }),
            ("a socket", |s| drop(std::os::unix::net::UnixListener::bind(s.join("bad")).unwrap())),
        ];
        for (expect, spoil) in cases {
            let (_dir, layout, source) = world();
            spoil(&source);
            let error = import(&layout, &source, "dist".into()).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
            assert_eq!(fs::read_dir(layout.artifacts()).unwrap().count(), 0);
        }
    }

    /// Row 59 of the faults.
    #[test]
    fn a_fifo_or_a_device_is_refused_and_nobody_waits_for_one() {
        let (_dir, layout, source) = world();
        rustix::fs::mkfifoat(rustix::fs::CWD, source.join("bad"), rustix::fs::Mode::RUSR).unwrap();
        let refused = |source: &Path| import(&layout, source, "dist".into()).unwrap_err().to_string();
        assert!(refused(&source).contains("a FIFO"), "{}", refused(&source));
        assert!(refused(&source.join("bad")).contains("a FIFO"));
        assert!(refused(Path::new("/dev/zero")).contains("a device"));
        assert_eq!(fs::read_dir(layout.artifacts()).unwrap().count(), 0);
    }

    /// Row 59 of the faults: a second name leads into the source as a link would.
    #[test]
    fn hard_links_become_files_of_their_own() {
        let (dir, layout, source) = world();
        let outside = dir.path().join("outside");
        fs::write(&outside, "of somebody else").unwrap();
        fs::hard_link(&outside, source.join("a")).unwrap();
        fs::hard_link(&outside, source.join("b")).unwrap();
        let copy = copy_of(&layout, &import(&layout, &source, "dist".into()).unwrap());
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        let inodes = [inode(outside.clone()), inode(copy.join("a")), inode(copy.join("b"))];
        assert!(inodes[0] != inodes[1] && inodes[1] != inodes[2] && inodes[0] != inodes[2], "{inodes:?}");
        fs::set_permissions(copy.join("a"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(copy.join("a"), "by the app").unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "of somebody else");
        assert_eq!(fs::read_to_string(copy.join("b")).unwrap(), "of somebody else");
    }

    /// Row 59 of the faults: neither by one sparse file, nor by the last of many, nor by their number.
    #[test]
    fn what_would_fill_the_disk_is_refused_before_it_is_written() {
        let (dir, layout, source) = world();
        let bomb = File::create(source.join("bomb")).unwrap();
        bomb.set_len(BYTES_MAX + 1).unwrap();
        let began = Instant::now();
        assert!(matches!(import(&layout, &source, "dist".into()), Err(ArtifactError::TooBig)));
        // Four GiB of zeros take longer to write, anywhere.
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(fs::read_dir(layout.artifacts()).unwrap().count(), 0);

        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let copy = |bytes, count| {
            let one = || Entry { path: String::new(), what: What::Folder };
            let entries = std::iter::repeat_with(one).take(count).collect();
            let mut copy = Copy { state_dir: &layout.state_dir, tree: &tree, entries, bytes };
            let _ = fs::remove_file(tree.join("a"));
            copy.entry(&source.join("lib/a.txt"), "a")
        };
        assert!(copy(BYTES_MAX - 3, FILES_MAX - 1).is_ok());
        assert!(matches!(copy(BYTES_MAX - 2, 0), Err(ArtifactError::TooBig)));
        assert!(matches!(copy(0, FILES_MAX), Err(ArtifactError::TooMany)));
    }

    /// Row 60 of the faults: a folder of the copy is a link out of it every other moment, while what was removed is put back.
    #[test]
    fn nothing_is_put_back_through_a_link_that_comes_and_goes() {
        let (dir, layout, source) = world();
        let artifact = import(&layout, &source, "dist".into()).unwrap();
        let copy = copy_of(&layout, &artifact);
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let (lib, aside) = (copy.join("lib"), copy.join("aside"));
        let stop = AtomicBool::new(false);
        let swaps = std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let mut swaps = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    // The folder goes aside, the link takes its place, and back. Each may fail: the other side is at work.
                    let _ = fs::remove_file(lib.join("a.txt"));
                    let _ = fs::remove_dir_all(&aside);
                    let _ = fs::rename(&lib, &aside);
                    swaps += u32::from(symlink(&outside, &lib).is_ok());
                    std::thread::yield_now();
                    let _ = fs::remove_file(&lib);
                    let _ = fs::rename(&aside, &lib);
                }
                swaps
            });
            let until = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < until {
                // Refused or not: the app is at work.
                let _ = verify(&layout, &artifact);
            }
            stop.store(true, Ordering::Relaxed);
            swapper.join().unwrap()
        });
        let written: Vec<_> = fs::read_dir(&outside).unwrap().flatten().map(|e| e.path()).collect();
        assert!(written.is_empty(), "written outside the copy after {swaps} swaps: {written:?}");
        assert!(swaps > 100, "{swaps} swaps prove nothing");
    }

    #[test]
    fn the_state_directory_is_no_part_of_the_artifact() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join(".trundle"));
        fs::write(dir.path().join("app"), "x").unwrap();
        let artifact = import(&layout, dir.path(), ".".into()).unwrap();
        assert!(!copy_of(&layout, &artifact).join(".trundle").exists());
    }
}
