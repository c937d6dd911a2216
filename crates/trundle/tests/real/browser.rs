//! A page in headless Chromium with an `EventSource` and a `WebSocket`, open while a new version rolls: it misses no event, and
//! is told where it has to come again.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{World, found, free_address, loudly, skip};

const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Serves the page, numbered events (from the one after `Last-Event-ID`) and an echo, and writes down what the page reports.
const APP: &str = r#"
import asyncio, os
from aiohttp import web

VERSION = os.environ["TRUNDLE_VERSION"]

async def events(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    n = int(request.headers.get("Last-Event-ID", 0))
    while True:
        n += 1
        await response.write(f"id: {n}\ndata: {VERSION} {n}\n\n".encode())
        await asyncio.sleep(0.05)

async def chat(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(f"{VERSION} {message.data}")
    return socket

async def page(request):
    return web.Response(text=open("page.html").read(), content_type="text/html")

async def seen(request):
    text = await request.text()
    with open(os.environ["SEEN"] + ".new", "w") as file:
        file.write(text)
    os.replace(os.environ["SEEN"] + ".new", os.environ["SEEN"])
    return web.Response()

async def ready(request):
    return web.Response(text="ready")

app = web.Application()
app.add_routes([web.get("/", page), web.get("/events", events), web.get("/chat", chat), web.post("/seen", seen), web.get("/ready", ready)])
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
"#;

const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>open</title><script>
const seen = { events: {}, gaps: 0, streams: 0, words: {}, closes: [], wrong: 0, failed: 0 };
let last = 0;
const source = new EventSource("/events");
source.onopen = () => seen.streams += 1;
source.onmessage = (event) => {
  const [version, n] = event.data.split(" ");
  seen.gaps += Number(n) !== last + 1;
  last = Number(n);
  seen.events[version] = (seen.events[version] || 0) + 1;
};
let asked = 0;
function chat() {
  const socket = new WebSocket(`ws://${location.host}/chat`);
  const ask = () => socket.readyState === 1 && socket.send(`${++asked}`);
  socket.onopen = ask;
  socket.onmessage = (message) => {
    const [version, n] = message.data.split(" ");
    seen.wrong += Number(n) !== asked;
    seen.words[version] = (seen.words[version] || 0) + 1;
    setTimeout(ask, 50);
  };
  socket.onclose = (event) => { seen.closes.push(event.code); setTimeout(chat, 20); };
}
chat();
setInterval(() => fetch("/seen", { method: "POST", body: JSON.stringify(seen) })
  .then((answer) => seen.failed += !answer.ok).catch(() => seen.failed += 1), 200);
</script>"#;

#[test]
fn an_open_page_goes_on_while_versions_change() {
    if !found("chromium") {
        return skip("chromium is not installed (apt install chromium)");
    }
    let Some(world) = World::new("aiohttp", APP) else { return };
    let (address, seen) = (free_address(), world.path("seen.json"));
    fs::write(world.path("dist/page.html"), PAGE).unwrap();
    let config = format!(
        "name = \"page\"\nversion = \"1.0\"\nreplicas = 2\n[run]\ncommand = [\"python3\", \"app.py\"]\nartifact = \"dist\"\n\
         env = {{ PYTHONDONTWRITEBYTECODE = \"1\", SEEN = \"{}\" }}\n[listen]\nhttp = \"{address}\"\n\
         [health.ready]\nhttp = \"/ready\"\n[rollout]\nmax_surge = 1\nmax_unavailable = 0\n",
        seen.display()
    );
    fs::write(world.path("trundle.toml"), config).unwrap();
    world.deploy("1.0");
    let _chromium = chromium(&world, &format!("http://{address}/"));

    let report = |version: &str| {
        let began = Instant::now();
        loop {
            let text = fs::read_to_string(&seen).unwrap_or_default();
            let said: Value = serde_json::from_str(&text).unwrap_or_default();
            let many = |what: &str| said[what][version].as_u64() > Some(10);
            if many("events") && many("words") {
                return said;
            }
            assert!(began.elapsed() < LONGEST_WAIT, "the page never saw {version}: {said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let mut told = 0;
    report("1.0");
    for version in ["1.1", "1.2"] {
        world.deploy(version);
        let status = world.status();
        let requests = &status["requests"];
        assert_eq!(
            json!([requests["lost"], requests["crashed"], requests["cut"]]),
            json!([0, 0, 0]),
            "{status}"
        );
        told += requests["told"].as_u64().unwrap();
        report(version);
    }
    let said = report("1.2");
    loudly(&format!("browser: {said}, told as counted here: {told}"));
    assert_eq!(json!([said["gaps"], said["wrong"], said["failed"]]), json!([0, 0, 0]), "{said}");
    let closes = said["closes"].as_array().unwrap();
    assert!(closes.len() >= 2 && closes.iter().all(|code| *code == 1012), "{said}");
    // Each stream had to move at least once a rollout, and every move was told.
    let streams = said["streams"].as_u64().unwrap();
    assert!(streams >= 3, "{said}");
    assert_eq!(told, closes.len() as u64 + streams - 1, "{said}");
}

/// A browser without a window, with this page open.
pub fn chromium(world: &World, url: &str) -> Open {
    let profile = format!("--user-data-dir={}", world.path("profile").display());
    let mut chromium = world.command("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    chromium.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    chromium.args(["--remote-debugging-port=0", &profile, url]);
    chromium.stdout(Stdio::null()).stderr(Stdio::null());
    Open(chromium.spawn().unwrap())
}

/// Ends with the test.
pub struct Open(Child);

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
