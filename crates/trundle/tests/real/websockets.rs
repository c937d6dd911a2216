//! Python's `websockets` on both ends: forty clients talk all the time while three versions follow each other, and none
//! of them misses a word that was not announced.

use std::fs;
use std::process::Stdio;

use crate::world::{World, free_address, loudly};

/// Says everything back, and which version it is.
pub const APP: &str = r#"
import asyncio, http, os
from websockets.asyncio.server import serve

async def talk(socket):
    async for message in socket:
        await socket.send(os.environ["TRUNDLE_VERSION"] + " " + message)

def health(connection, request):
    if request.path == "/ready":
        return connection.respond(http.HTTPStatus.OK, "ready\n")

async def main():
    async with serve(talk, "127.0.0.1", int(os.environ["PORT"]), process_request=health):
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"#;

/// Forty connections until standard input ends. Each asks and waits for its answer; a connection that ends is opened anew.
/// What is counted: answers, words of a restart (1012), any other end, questions that got no answer at an unannounced end.
pub const CLIENT: &str = r#"
import asyncio, json, sys, threading
sys.path.insert(0, "dist")
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

seen = {"answers": 0, "told": 0, "other_ends": [], "refused": 0, "versions": {}, "wrong": 0}
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()

async def one(number):
    n = 0
    while not over.is_set():
        try:
            async with connect(sys.argv[1]) as socket:
                while not over.is_set():
                    n += 1
                    await socket.send(f"{number}.{n}")
                    version, answer = (await socket.recv()).split(" ")
                    seen["wrong"] += answer != f"{number}.{n}"
                    seen["answers"] += 1
                    seen["versions"][version] = seen["versions"].get(version, 0) + 1
                    await asyncio.sleep(0.02)
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            if code == 1012:
                seen["told"] += 1
            else:
                seen["other_ends"].append(code)
        except Exception as error:
            seen["refused"] += 1
            print(repr(error), file=sys.stderr)
            await asyncio.sleep(0.1)

async def main():
    await asyncio.gather(*(one(number) for number in range(40)))

asyncio.run(main())
print(json.dumps(seen))
"#;

#[test]
fn websockets_are_told_and_come_again() {
    let Some(world) = World::new("websockets", APP) else { return };
    let address = free_address();
    let config = format!(
        "name = \"chat\"\nversion = \"1.0\"\nreplicas = 4\n[run]\ncommand = [\"python3\", \"app.py\"]\nartifact = \"dist\"\n\
         env = {{ PYTHONDONTWRITEBYTECODE = \"1\" }}\n[listen]\nhttp = \"{address}\"\n[health.ready]\nhttp = \"/ready\"\n\
         [rollout]\nmax_surge = 1\nmax_unavailable = 0\ndrain_timeout = \"20s\"\n"
    );
    fs::write(world.path("trundle.toml"), config).unwrap();
    fs::write(world.path("client.py"), CLIENT).unwrap();
    world.deploy("1.0");
    let mut client = world.command("python3");
    client.args(["client.py", &format!("ws://{address}/")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let mut told = 0;
    world.await_in_flight(40);
    for version in ["1.1", "1.2"] {
        world.deploy(version);
        let status = world.status();
        let requests = &status["requests"];
        for class in ["lost", "crashed", "cut"] {
            assert_eq!(requests[class], 0, "{requests}");
        }
        told += requests["told"].as_u64().unwrap();
    }
    drop(client.stdin.take());
    let said = client.wait_with_output().unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    loudly(&format!("websockets: {seen}, told as counted here: {told}"));
    assert_eq!(seen["other_ends"], serde_json::json!([]), "{seen}");
    assert_eq!((&seen["refused"], &seen["wrong"]), (&0.into(), &0.into()), "{seen}");
    assert!(seen["answers"].as_u64().unwrap() > 500, "{seen}");
    assert!(
        seen["versions"]["1.0"].as_u64() > Some(0) && seen["versions"]["1.2"].as_u64() > Some(0),
        "{seen}"
    );
    // Every connection had to move at least once for each rollout, and each move was told on both sides.
    assert!(told >= 80, "{told}");
    assert_eq!(seen["told"].as_u64().unwrap(), told, "{seen}");
}
