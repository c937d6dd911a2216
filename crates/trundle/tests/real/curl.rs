//! curl with what takes long: uploads and downloads that last longer than a batch, long polls, and requests to an app that can run
//! only once. The app is Python's own `http.server`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::world::{World, free_address, loudly};

/// `GET /down?bytes=N`: so many bytes, in pieces. `PUT /up`: the digest of what came. `GET /poll?s=N`: an answer after N seconds.
pub const APP: &str = r#"
import hashlib, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        url = urlparse(self.path)
        asked = parse_qs(url.query)
        if url.path == "/down":
            left = int(asked["bytes"][0])
            self.send_response(200)
            self.send_header("Content-Length", str(left))
            self.end_headers()
            piece = bytes(range(256)) * 256
            while left > 0:
                self.wfile.write(piece[:left])
                left -= len(piece)
        else:
            if url.path == "/poll":
                time.sleep(float(asked["s"][0]))
            self.answer(os.environ["TRUNDLE_VERSION"])
    def do_PUT(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left > 0:
            piece = self.rfile.read(min(left, 65536))
            if not piece: return
            digest.update(piece)
            left -= len(piece)
        self.answer(digest.hexdigest())

class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

Server(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

const MIB: usize = 1024 * 1024;

/// As long as the rate says, whatever the machine.
pub fn curl(args: &[&str]) -> Child {
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail", "-m", "60"]).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("curl is installed")
}

pub fn said(child: Child) -> Vec<u8> {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// As `sha256sum` says it.
pub fn digest(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn uploads_downloads_and_long_polls_last_over_a_rollout() {
    let Some(world) = World::of_plain_python(APP) else { return };
    let address = free_address();
    let config = format!(
        "name = \"files\"\nversion = \"1.0\"\nreplicas = 3\n[run]\ncommand = [\"python3\", \"app.py\"]\nartifact = \"dist\"\n\
         env = {{ PYTHONDONTWRITEBYTECODE = \"1\" }}\n[listen]\nhttp = \"{address}\"\n[health.ready]\nhttp = \"/ready\"\n\
         [rollout]\nmax_surge = 3\nmax_unavailable = 0\ndrain_timeout = \"40s\"\n"
    );
    fs::write(world.path("trundle.toml"), config).unwrap();
    world.deploy("1.0");
    let bytes: Vec<u8> = (0..8 * MIB).map(|n| (n * 7 % 251) as u8).collect();
    fs::write(world.path("upload"), bytes).unwrap();
    let url = |path: &str| format!("http://{address}{path}");
    let upload = world.path("upload").display().to_string();
    // About four seconds each; all of them are on their way as the rollout begins.
    let up: Vec<_> = (0..3).map(|_| curl(&["-T", &upload, "--limit-rate", "2M", &url("/up")])).collect();
    let source = url(&format!("/down?bytes={}", 8 * MIB));
    let files: Vec<_> = (0..3).map(|n| world.path(&format!("download-{n}"))).collect();
    let down = files.iter().map(|file| curl(&["--limit-rate", "2M", "-o", file.to_str().unwrap(), &source]));
    let down: Vec<_> = down.collect();
    let polls: Vec<_> = (0..6).map(|_| curl(&[&url("/poll?s=4")])).collect();
    thread::sleep(Duration::from_millis(500));
    world.deploy("1.1");
    assert_eq!(said(curl(&[&url("/")])), b"1.1");
    for child in up {
        assert_eq!(
            String::from_utf8(said(child)).unwrap(),
            digest(&world.path("upload")),
            "every byte went up, once"
        );
    }
    let expected: Vec<u8> = (0..8 * MIB).map(|n| (n % 256) as u8).collect();
    for (child, file) in down.into_iter().zip(files) {
        said(child);
        assert!(fs::read(file).unwrap() == expected, "every byte came down, once");
    }
    for child in polls {
        assert_eq!(said(child), b"1.0", "who had the question gave the answer");
    }
    let status = world.status();
    let requests = &status["requests"];
    loudly(&format!("curl, uploads, downloads and long polls over a rollout: {requests}"));
    for class in ["lost", "crashed", "cut", "told"] {
        assert_eq!(requests[class], 0, "{requests}");
    }
    // Some have ended before the rollout began, if only by a moment.
    assert!(requests["by_version"]["1.0"].as_u64() >= Some(6), "{requests}");
    assert_eq!(status["latency"]["1.0"]["count"], 12, "{status}");
}

#[test]
fn an_app_that_can_run_only_once_loses_no_request_of_curl() {
    let Some(world) = World::of_plain_python(APP) else { return };
    let address = free_address();
    let port = free_address().port();
    let config = format!(
        "name = \"once\"\nversion = \"1.0\"\n[run]\ncommand = [\"python3\", \"app.py\"]\nartifact = \"dist\"\nport = {port}\n\
         env = {{ PYTHONDONTWRITEBYTECODE = \"1\" }}\n[listen]\nhttp = \"{address}\"\n[health.ready]\nhttp = \"/ready\"\n"
    );
    fs::write(world.path("trundle.toml"), config).unwrap();
    world.deploy("1.0");
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let asking = (0..4).map(|_| {
            scope.spawn(|| {
                let mut sent = 0;
                while !stop.load(Relaxed) {
                    said(curl(&[&format!("http://{address}/")]));
                    sent += 1;
                }
                sent
            })
        });
        let asking: Vec<_> = asking.collect();
        world.deploy("1.1");
        world.deploy("1.2");
        stop.store(true, Relaxed);
        asking.into_iter().map(|asking| asking.join().unwrap()).sum::<u64>()
    });
    let requests = &world.status()["requests"];
    loudly(&format!("curl, an app that can run only once: {sent} sent, in the last rollout {requests}"));
    assert_eq!(requests["lost"], 0, "{requests}");
    assert!(requests["held"].as_u64() > Some(0) && sent > 10, "{sent}: {requests}");
}
