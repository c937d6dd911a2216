//! A page of 3.1 in headless Chromium that goes on loading its own files while 3.2 rolls: none is missing, and what it asks for
//! never comes from the older version again. Without `[traffic]` it breaks.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser::{Open, chromium};
use crate::world::{World, found, free_address, loudly, skip};

const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Has the files of its own version and no others, as a build has that names them by their content.
const APP: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = os.environ["TRUNDLE_VERSION"]
PAGE = open(os.path.join(os.path.dirname(__file__), "page.html")).read().replace("@VERSION@", VERSION)

class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, kind, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            self.answer(200, "text/html; charset=utf-8", PAGE)
        elif self.path.startswith(f"/assets/{VERSION}/"):
            self.answer(200, "text/javascript", f"export default '{VERSION}';")
        elif self.path in ("/api", "/ready"):
            self.answer(200, "application/json", "{}")
        else:
            self.answer(404, "text/plain", "nothing here")

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with open(os.environ["SEEN"] + ".new", "w") as file:
            file.write(text)
        os.replace(os.environ["SEEN"] + ".new", os.environ["SEEN"])
        self.answer(200, "text/plain", "reload" if os.path.exists(os.environ["SEEN"] + ".reload") else "go on")

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

Server(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>@VERSION@</title><script type="module">
const page = "@VERSION@";
const seen = { page, chunks: 0, missing: 0, answers: {}, back: 0, failed: 0 };
let newest = page, n = 0;
setInterval(() => import(`/assets/${page}/chunk-${++n}.js`)
  .then((chunk) => { if (chunk.default === page) seen.chunks += 1; else seen.missing += 1; })
  .catch(() => seen.missing += 1), 40);
setInterval(() => fetch("/api").then((answer) => {
  const version = answer.headers.get("X-App-Version");
  seen.answers[version] = (seen.answers[version] || 0) + 1;
  if (version < newest) seen.back += 1; else newest = version;
}).catch(() => seen.failed += 1), 25);
setInterval(() => fetch("/seen", { method: "POST", body: JSON.stringify(seen) })
  .then((answer) => answer.text()).then((said) => { if (said === "reload" && page === "3.1") location.reload(); })
  .catch(() => seen.failed += 1), 100);
</script>"#;

/// The app on its site with 3.1, and the page open in a browser.
struct Page {
    world: World,
    seen: PathBuf,
    _chromium: Open,
}

impl Page {
    fn open(traffic: &str) -> Option<Self> {
        if !found("chromium") {
            skip("chromium is not installed (apt install chromium)");
            return None;
        }
        let world = World::of_plain_python(APP)?;
        let (address, seen) = (free_address(), world.path("seen.json"));
        fs::write(world.path("dist/page.html"), PAGE).unwrap();
        let config = format!(
            "name = \"page\"\nversion = \"3.1\"\nreplicas = 3\n[run]\ncommand = [\"python3\", \"app.py\"]\nartifact = \"dist\"\n\
             env = {{ PYTHONDONTWRITEBYTECODE = \"1\", SEEN = \"{}\" }}\n[listen]\nhttp = \"{address}\"\n{traffic}\n\
             [health.ready]\nhttp = \"/ready\"\n[rollout]\nmax_surge = 1\nmax_unavailable = 0\nmin_healthy_time = \"500ms\"\n",
            seen.display()
        );
        fs::write(world.path("trundle.toml"), config).unwrap();
        world.deploy("3.1");
        let _chromium = chromium(&world, &format!("http://{address}/"));
        Some(Self { world, seen, _chromium })
    }

    fn said(&self) -> Value {
        let text = fs::read_to_string(&self.seen).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let said = self.said();
            if is_so(&said) {
                return said;
            }
            let status = self.world.status();
            assert!(began.elapsed() < LONGEST_WAIT, "the page never said {what}: {said}\n{status}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn many(said: &Value, version: &str) -> bool {
    said["answers"][version].as_u64() > Some(40)
}

#[test]
fn a_page_keeps_getting_its_own_files_and_never_goes_back() {
    let traffic =
        "[traffic]\nsticky = \"version\"\n[traffic.skew]\npaths = [\"/assets/*\"]\nmax_age = \"10m\"";
    let Some(page) = Page::open(traffic) else { return };
    page.until("that it is there", |said| many(said, "3.1"));
    page.world.trundle(&["deploy", "--set", "version=3.2", "--detach"]);
    page.until("that 3.2 answers", |said| many(said, "3.2"));
    // All of 3.1 has gone but for one, which is kept for this page.
    let began = Instant::now();
    let kept = loop {
        let status = page.world.status();
        let reasons = status["reasons"].as_array().unwrap().clone();
        if let Some(kept) = reasons.into_iter().find(|reason| reason["code"] == "kept") {
            break kept;
        }
        assert!(began.elapsed() < LONGEST_WAIT, "nobody is kept: {status}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((&kept["version"], &kept["pages"]), (&json!("3.1"), &json!(1)), "{kept}");
    let text = kept["text"].as_str().unwrap();
    assert!(text.contains("for 1 client with a page of 3.1"), "{text}");
    let before = page.said()["chunks"].as_u64().unwrap();
    let said = page.until("more of its files", |said| said["chunks"].as_u64() > Some(before + 40));
    loudly(&format!("page: {said}; {text}"));
    assert_eq!(said["page"], "3.1");
    assert_eq!(json!([said["missing"], said["back"], said["failed"]]), json!([0, 0, 0]), "{said}");
    // Loaded anew it is one of 3.2, and nobody is kept any more.
    fs::write(page.seen.with_extension("json.reload"), "").unwrap();
    page.until("that it is one of 3.2", |said| said["page"] == "3.2" && many(said, "3.2"));
    page.world.trundle(&["wait"]);
    let status = page.world.status();
    assert_eq!(
        (&status["rollout"]["state"], &status["requests"]["lost"]),
        (&json!("succeeded"), &json!(0)),
        "{status}"
    );
    let said = page.said();
    assert_eq!(json!([said["missing"], said["back"], said["failed"]]), json!([0, 0, 0]), "{said}");
}

#[test]
fn without_it_the_page_breaks() {
    let Some(page) = Page::open("") else { return };
    page.until("that it is there", |said| many(said, "3.1"));
    page.world.deploy("3.2");
    let said = page.until("that files are missing", |said| said["missing"].as_u64() > Some(0));
    loudly(&format!("page without [traffic]: {said}"));
    assert!(said["back"].as_u64() > Some(0), "{said}");
}
