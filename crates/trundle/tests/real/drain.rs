//! Every kind of connection in one drain: kept ones of `wrk`, long polls, an upload and downloads of curl by HTTP/1.1 and HTTP/2, event
//! streams and WebSockets of aiohttp. Both old instances leave at once.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::curl::{curl, digest, said};
use crate::world::{World, found, free_address, loudly, skip};

const APP: &str = r#"
import asyncio, hashlib, os
from aiohttp import web

VERSION = os.environ["TRUNDLE_VERSION"]

async def events(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    n = int(request.headers.get("Last-Event-ID", 0))
    while True:
        n += 1
        await response.write(f"id: {n}\ndata: {VERSION}\n\n".encode())
        await asyncio.sleep(0.05)

async def chat(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket

async def poll(request):
    await asyncio.sleep(float(request.query["s"]))
    return web.Response(text=VERSION)

async def up(request):
    digest = hashlib.sha256()
    async for piece in request.content.iter_any():
        digest.update(piece)
    return web.Response(text=digest.hexdigest())

async def down(request):
    return web.Response(body=bytes(range(256)) * (int(request.query["bytes"]) // 256))

async def short(request):
    return web.Response(text=VERSION)

app = web.Application(client_max_size=1 << 30)
app.add_routes([web.get("/events", events), web.get("/chat", chat), web.get("/poll", poll), web.put("/up", up),
                web.get("/down", down), web.get("/", short), web.get("/ready", short)])
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
"#;

/// Ten event streams and ten WebSockets until standard input ends; what ends in good order is opened anew.
const CLIENT: &str = r#"
import asyncio, json, sys, threading
sys.path.insert(0, "dist")
import aiohttp

seen = {"events": 0, "gaps": 0, "streams": 0, "words": 0, "told": 0, "other_ends": [], "failed": []}
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
base = sys.argv[1]

async def listen(session):
    last = 0
    while not over.is_set():
        try:
            async with session.get(base + "/events", headers={"Last-Event-ID": str(last)}) as response:
                assert response.status == 200, response.status
                seen["streams"] += 1
                async for line in response.content:
                    if line.startswith(b"id: "):
                        seen["gaps"] += int(line[4:]) != last + 1
                        last = int(line[4:])
                        seen["events"] += 1
                    if over.is_set(): return
        except Exception as error:
            seen["failed"].append(repr(error))
            await asyncio.sleep(0.1)

async def talk(session, number):
    n = 0
    while not over.is_set():
        try:
            async with session.ws_connect(base + "/chat") as socket:
                while not over.is_set():
                    n += 1
                    try:
                        await socket.send_str(f"{number}.{n}")
                    except ConnectionResetError:
                        pass # the word to go has come, and is read next
                    message = await socket.receive()
                    if message.type == aiohttp.WSMsgType.TEXT:
                        assert message.data == f"{number}.{n}"
                        seen["words"] += 1
                        await asyncio.sleep(0.02)
                        continue
                    if socket.close_code == 1012: seen["told"] += 1
                    else: seen["other_ends"].append(socket.close_code)
                    break
        except Exception as error:
            seen["failed"].append(repr(error))
            await asyncio.sleep(0.1)

async def main():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(listen(session) for _ in range(10)), *(talk(session, n) for n in range(10)))

asyncio.run(main())
print(json.dumps(seen))
"#;

const MIB: usize = 1024 * 1024;

#[test]
fn every_kind_of_connection_in_one_drain() {
    if !found("wrk") {
        return skip("wrk is not installed (Debian: wrk)");
    }
    let Some(world) = World::new("aiohttp", APP) else { return };
    let address = free_address();
    let config = format!(
        "name = \"all\"\nversion = \"1.0\"\nreplicas = 2\n[run]\ncommand = [\"python3\", \"app.py\"]\nartifact = \"dist\"\n\
         env = {{ PYTHONDONTWRITEBYTECODE = \"1\" }}\n[listen]\nhttp = \"{address}\"\n[health.ready]\nhttp = \"/ready\"\n\
         [rollout]\nmax_surge = 2\nmax_unavailable = 0\ndrain_timeout = \"40s\"\n"
    );
    fs::write(world.path("trundle.toml"), config).unwrap();
    fs::write(world.path("client.py"), CLIENT).unwrap();
    world.deploy("1.0");
    let url = |path: &str| format!("http://{address}{path}");
    let mut open = world.command("python3");
    open.args(["client.py", &format!("http://{address}")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut open = open.spawn().unwrap();
    world.await_in_flight(20);
    let mut load = world.command("wrk");
    let mut load =
        load.args(["-t", "1", "-c", "8", "-d", "10", &url("/")]).stdout(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = (0..16 * MIB).map(|n| (n * 7 % 251) as u8).collect();
    fs::write(world.path("upload"), bytes).unwrap();
    let (upload, source) =
        (world.path("upload").display().to_string(), url(&format!("/down?bytes={}", 16 * MIB)));
    let files = [world.path("by-1"), world.path("by-2")];
    let names = files.each_ref().map(|file| file.to_str().unwrap());
    let slowly = ["--limit-rate", "2M"];
    let by_2 = "--http2-prior-knowledge";
    let up = [
        curl(&[&slowly[..], &["-T", &upload, &url("/up")]].concat()),
        curl(&[&slowly[..], &[by_2, "-T", &upload, &url("/up")]].concat()),
    ];
    let down = [
        curl(&[&slowly[..], &["-o", names[0], &source]].concat()),
        curl(&[&slowly[..], &[by_2, "-o", names[1], &source]].concat()),
    ];
    let polls: Vec<_> =
        (0..4).flat_map(|_| [curl(&[&url("/poll?s=8")]), curl(&[by_2, &url("/poll?s=8")])]).collect();
    world.await_in_flight(10 + 10 + 4 + 8);
    world.deploy("1.1");
    let requests = world.status()["requests"].clone();
    thread::sleep(Duration::from_secs(1));
    drop(open.stdin.take());
    let seen: Value = serde_json::from_slice(&open.wait_with_output().unwrap().stdout).unwrap();
    for child in up {
        assert_eq!(
            String::from_utf8(said(child)).unwrap(),
            digest(&world.path("upload")),
            "every byte went up, once"
        );
    }
    let expected: Vec<u8> = (0..16 * MIB).map(|n| (n % 256) as u8).collect();
    for (child, file) in down.into_iter().zip(&files) {
        said(child);
        assert!(fs::read(file).unwrap() == expected, "every byte came down, once");
    }
    for child in polls {
        assert_eq!(said(child), b"1.0", "who had the question gave the answer");
    }
    let ended = load.wait().unwrap();
    let mut wrk = String::new();
    std::io::Read::read_to_string(&mut load.stdout.take().unwrap(), &mut wrk).unwrap();
    loudly(&format!("every kind in one drain: {seen}; as counted here: {requests}"));
    assert!(ended.success() && !wrk.contains("Socket errors") && !wrk.contains("Non-2xx"), "{wrk}");
    for class in ["lost", "crashed", "cut"] {
        assert_eq!(requests[class], 0, "{requests}");
    }
    assert_eq!(
        (&seen["gaps"], &seen["failed"], &seen["other_ends"]),
        (&0.into(), &json!([]), &json!([])),
        "{seen}"
    );
    // All of them had to move, and each was told.
    assert_eq!(requests["told_by_kind"], json!({ "events": 10, "websocket": 10 }), "{requests}");
    assert_eq!((&seen["told"], &seen["streams"]), (&10.into(), &20.into()), "{seen}");
}
