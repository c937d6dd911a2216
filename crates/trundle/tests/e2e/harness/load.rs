//! The strict client as a child of the test: it sends until its input ends.

use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

use super::Site;

pub struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
}

/// Of the requests: 30 % POST with 64 KiB, 10 % that last 1 to 2 seconds.
pub fn start(site: &Site, connections: u32, pause_ms: u32) -> Load {
    start_mix(site, connections, pause_ms, 10)
}

/// All answered at once: drains take no time.
pub fn start_quick(site: &Site, connections: u32, pause_ms: u32) -> Load {
    start_mix(site, connections, pause_ms, 0)
}

fn start_mix(site: &Site, connections: u32, pause_ms: u32, slow: u32) -> Load {
    start_at(site, &site.listen(), connections, pause_ms, slow)
}

/// Of a site with more than one address.
pub fn start_at(site: &Site, address: &str, connections: u32, pause_ms: u32, slow: u32) -> Load {
    let [connections, pause, slow] = [connections, pause_ms, slow].map(|n| n.to_string());
    let args = ["load", address, &connections, "30", "65536", &slow, "1000", "2000", &pause];
    let mut command = Command::new(site.bin());
    command.args(args).env_remove("TRUNDLE_STATE_DIR");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    Load { child, stdin }
}

impl Load {
    /// Waits for what is on its way.
    pub fn finish(mut self) -> Tally {
        drop(self.stdin.take());
        let said = std::io::read_to_string(self.child.stdout.take().unwrap()).unwrap();
        self.child.wait().unwrap();
        Tally(serde_json::from_str(&said).unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the client printed.
#[derive(Debug)]
pub struct Tally(pub Value);

impl Tally {
    fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap()
    }

    pub fn sent(&self) -> u64 {
        self.number("sent")
    }

    pub fn lost(&self) -> u64 {
        self.number("lost")
    }

    pub fn p99_ms(&self) -> u64 {
        self.number("p99_us") / 1000
    }

    /// The words of the first losses.
    pub fn losses(&self) -> String {
        self.0["first_losses"].to_string()
    }

    /// Every request was answered, and there were enough of them to mean something.
    #[track_caller]
    pub fn expect_none_lost(&self, at_least: u64) {
        assert_eq!(self.lost(), 0, "{}", self.0);
        assert_eq!(self.number("answered"), self.sent(), "{}", self.0);
        assert!(self.sent() >= at_least, "too few requests to prove anything: {}", self.0);
    }
}
