//! Who is there all night: a service manager, and a client.

use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::Site;

pub fn answers(site: &Site) -> bool {
    UnixStream::connect(site.state().join("daemon.sock")).is_ok()
}

/// Until it answers or has ended.
pub fn start_daemon(site: &Site) {
    let mut command = site.command(&["daemon"]);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().unwrap();
    while !answers(site) && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::spawn(move || child.wait());
}

/// Starts a daemon when none answers, as a service manager would.
pub struct Keeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub fn start(site: &Arc<Site>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (site, stopped) = (site.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(30));
                // The first one is started by a command.
                if site.state().join("daemon.sock").exists() && !answers(&site) {
                    start_daemon(&site);
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

/// Also when a test ends in the middle: the site can be taken down only after it.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One request after the other, each on a connection of its own.
pub struct Client {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u32, u32)>>,
}

impl Client {
    pub fn start(site: &Arc<Site>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (site, stopped) = (site.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let (mut asked, mut failed) = (0, 0);
            while !stopped.load(Ordering::Relaxed) {
                asked += 1;
                match site.get("/") {
                    Ok(answer) if answer.starts_with("HTTP/1.1 200") => {}
                    answer => {
                        failed += 1;
                        println!("request {asked} failed: {answer:?}");
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            (asked, failed)
        });
        Self { stop, thread: Some(thread) }
    }

    /// How many were sent, and how many of them failed.
    pub fn finish(mut self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
