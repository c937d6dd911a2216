//! The log of an instance: bytes into a file, at most so many, then the next one.
//!
//! Invariant: writing never waits for a reader and never fails the app; what the disk does not take is dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::record::LogLimits;

pub(crate) struct Log {
    path: PathBuf,
    limits: LogLimits,
    file: File,
    bytes: u64,
}

impl Log {
    pub fn open(path: PathBuf, limits: LogLimits) -> io::Result<Self> {
        let file = append(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, limits, file, bytes })
    }

    /// Takes a piece of output. A file ends with a whole line where the piece has one.
    pub fn write(&mut self, piece: &[u8]) {
        let room = self.limits.file_bytes_max.saturating_sub(self.bytes);
        let fits = usize::try_from(room).unwrap_or(usize::MAX);
        if piece.len() <= fits {
            return self.put(piece);
        }
        let cut = piece[..fits].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let (first, rest) = piece.split_at(cut);
        self.put(first);
        if self.bytes > 0 {
            self.rotate();
        }
        if rest.len() <= usize::try_from(self.limits.file_bytes_max).unwrap_or(usize::MAX) {
            return self.put(rest);
        }
        // A piece that is longer than a whole file: only with absurdly small limits. Its end is what matters.
        self.put(&rest[rest.len() - self.limits.file_bytes_max as usize..]);
    }

    fn put(&mut self, piece: &[u8]) {
        // A full disk must not stop the app: the output is lost, the app lives.
        if self.file.write_all(piece).is_ok() {
            self.bytes += piece.len() as u64;
        }
    }

    fn rotate(&mut self) {
        for n in (1..self.limits.files).rev() {
            let from = if n == 1 { self.path.clone() } else { numbered(&self.path, n - 1) };
            // One that is not there yet needs no move.
            let _ = fs::rename(from, numbered(&self.path, n));
        }
        if self.limits.files < 2 {
            let _ = fs::remove_file(&self.path);
        }
        if let Ok(file) = append(&self.path) {
            self.file = file;
            self.bytes = 0;
        }
    }
}

/// `log.1` for 1.
pub(crate) fn numbered(log: &Path, n: u32) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

/// The app may write into the folder: a link that it put there is not followed, and a FIFO without a reader is no log, so
/// that nobody waits for one.
fn append(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_whole_lines_within_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(path.clone(), LogLimits { file_bytes_max: 100, files: 3 }).unwrap();
        for n in 0..100 {
            log.write(format!("line {n:02}\nand {n:02}\n").as_bytes());
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let text = format!("{}{}{}", read(&numbered(&path, 2)), read(&numbered(&path, 1)), read(&path));
        assert!(text.ends_with("line 99\nand 99\n"));
        assert!((200..=300).contains(&text.len()), "{}", text.len());
        assert!(text.lines().all(|l| l.len() == 7 || l.len() == 6), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    /// Row 60 of the faults: links to a file of somebody else and to one that is not there come and go in the log's place.
    #[test]
    fn a_link_in_the_place_of_the_log_is_never_written_through() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let (folder, outside) = (dir.path().join("web"), dir.path().join("outside"));
        fs::create_dir(&folder).unwrap();
        fs::write(&outside, "of somebody else").unwrap();
        let (path, link, none) = (folder.join("log"), folder.join("link"), dir.path().join("none"));
        let mut log = Log::open(path.clone(), LogLimits { file_bytes_max: 20, files: 3 }).unwrap();
        let stop = AtomicBool::new(false);
        let (swaps, rotated) = std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let mut swaps = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    let target = if swaps.is_multiple_of(2) { &outside } else { &none };
                    let made = std::os::unix::fs::symlink(target, &link);
                    swaps += u32::from(made.and_then(|()| fs::rename(&link, &path)).is_ok());
                }
                swaps
            });
            let until = std::time::Instant::now() + std::time::Duration::from_millis(1000);
            let mut rotated = 0_u32;
            while std::time::Instant::now() < until {
                log.write(b"a line of the app\n");
                rotated += u32::from(log.bytes < 20);
            }
            stop.store(true, Ordering::Relaxed);
            (swapper.join().unwrap(), rotated)
        });
        assert!(swaps > 100 && rotated > 100, "{swaps} swaps and {rotated} files prove nothing");
        assert_eq!(fs::read_to_string(&outside).unwrap(), "of somebody else", "after {swaps} swaps");
        assert!(!none.exists(), "made outside after {swaps} swaps");
        // Once it is left alone it is a log again.
        log.write(&[b'x'; 20]);
        log.write(b"the end\n");
        assert!(fs::read_to_string(&path).unwrap().ends_with("the end\n"));
    }

    /// Row 60 of the faults.
    #[test]
    fn a_fifo_in_the_place_of_the_log_makes_nobody_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let limits = LogLimits { file_bytes_max: 20, files: 2 };
        let mut log = Log::open(path.clone(), limits).unwrap();
        log.write(b"before\n");
        // Where `files` is 2 and the older one cannot be replaced, what stands in the place of the log stays there.
        fs::create_dir(numbered(&path, 1)).unwrap();
        fs::write(numbered(&path, 1).join("full"), "").unwrap();
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        let (say, said) = std::sync::mpsc::channel();
        let again = path.clone();
        std::thread::spawn(move || {
            log.write(b"a line that needs a new file\n");
            let opened = Log::open(again, limits).is_err();
            say.send(opened).unwrap();
        });
        let refused = said.recv_timeout(std::time::Duration::from_secs(20)).expect("it waits for a reader");
        assert!(refused, "a FIFO is no log");
    }

    #[test]
    fn a_line_longer_than_a_file_does_not_grow_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(path.clone(), LogLimits { file_bytes_max: 10, files: 2 }).unwrap();
        log.write(&[b'x'; 35]);
        log.write(&[b'y'; 35]);
        assert!(fs::metadata(&path).unwrap().len() <= 10);
    }
}
