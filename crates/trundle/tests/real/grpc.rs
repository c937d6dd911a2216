//! Python's `grpcio` on both ends: calls with one answer and calls that stream without an end go on while one version follows the
//! other, which speaks with the proxy behind TLS where the first did not. Its own health service says when an instance is ready.

use std::fs;
use std::process::Stdio;

use crate::world::{World, free_address, loudly};

const APP: &str = r#"
import os, signal, threading, time
from concurrent import futures
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

version = os.environ["TRUNDLE_VERSION"].encode()

def echo(request, context):
    time.sleep(0.02)
    return version + b" " + request

def ticks(request, context):
    n = 0
    while context.is_active():
        n += 1
        yield version + b" %d" % n
        time.sleep(0.05)

server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Demo", {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
}),))
servicer = health.HealthServicer()
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
address = "127.0.0.1:" + os.environ["PORT"]
if "TLS" in os.environ:
    pair = [open(os.environ["TLS"] + name, "rb").read() for name in ("/key.pem", "/cert.pem")]
    server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
else:
    server.add_insecure_port(address)
server.start()
time.sleep(0.3)
servicer.set("demo.Demo", health_pb2.HealthCheckResponse.SERVING)
signal.signal(signal.SIGTERM, lambda *_: server.stop(1))
server.wait_for_termination()
"#;

/// Until standard input ends: sixteen who call and call again, eight who listen to streams. A stream that ends is opened anew.
const CLIENT: &str = r#"
import json, sys, threading, time
sys.path.insert(0, "dist")
import grpc

address = sys.argv[1]
over = threading.Event()
lock = threading.Lock()
seen = {"answers": 0, "wrong": 0, "failed": [], "messages": 0, "told": 0, "gaps": 0, "other_ends": [], "versions": {}}

def count(key, n=1):
    with lock:
        seen[key] += n

def version(text):
    with lock:
        seen["versions"][text] = seen["versions"].get(text, 0) + 1

def caller(number):
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]) as channel:
        call = channel.unary_unary("/demo.Demo/Echo")
        n = 0
        while not over.is_set():
            n += 1
            try:
                answer = call(b"%d.%d" % (number, n), timeout=10)
                of, said = answer.split(b" ")
                count("wrong", said != b"%d.%d" % (number, n))
                count("answers")
                version(of.decode())
            except grpc.RpcError as error:
                with lock:
                    seen["failed"].append(str((error.code(), error.details())))

def listener(number):
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]) as channel:
        call = channel.unary_stream("/demo.Demo/Ticks")
        while not over.is_set():
            stream, last = call(b""), 0
            try:
                for message in stream:
                    n = int(message.split(b" ")[1])
                    count("gaps", n != last + 1)
                    last = n
                    count("messages")
                    if over.is_set():
                        stream.cancel()
                        return
                with lock:
                    seen["other_ends"].append("an end without a word")
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE and "call again" in error.details():
                    count("told")
                elif not over.is_set():
                    with lock:
                        seen["other_ends"].append(str((error.code(), error.details())))

threads = [threading.Thread(target=caller, args=(n,)) for n in range(16)]
threads += [threading.Thread(target=listener, args=(n,)) for n in range(8)]
[thread.start() for thread in threads]
sys.stdin.read()
over.set()
[thread.join() for thread in threads]
print(json.dumps(seen))
"#;

#[test]
fn calls_are_answered_and_streams_are_told_and_come_again() {
    let Some(world) = World::new("grpcio-health-checking", APP) else { return };
    let address = free_address();
    let config = format!(
        "name = \"calls\"\nversion = \"1.0\"\nreplicas = 2\n[run]\ncommand = [\"python3\", \"app.py\"]\nartifact = \"dist\"\n\
         protocol = \"h2c\"\nenv = {{ PYTHONDONTWRITEBYTECODE = \"1\" }}\n[listen]\nhttp = \"{address}\"\ndrain_spread = \"1s\"\n\
         [health.ready]\ngrpc = \"demo.Demo\"\n[rollout]\nmax_surge = 2\nmax_unavailable = 0\ndrain_timeout = \"25s\"\n"
    );
    fs::write(world.path("trundle.toml"), config).unwrap();
    fs::write(world.path("client.py"), CLIENT).unwrap();
    let own = rcgen::generate_simple_self_signed(["app".to_owned()]).unwrap();
    fs::write(world.path("dist/cert.pem"), own.cert.pem()).unwrap();
    fs::write(world.path("dist/key.pem"), own.signing_key.serialize_pem()).unwrap();
    world.deploy("1.0");
    let mut client = world.command("python3");
    client.args(["client.py", &address.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().unwrap();
    // Its streams must be open, or nobody had to be told.
    world.await_in_flight(8);
    // The next version speaks TLS.
    let tls = ["--set", "run.protocol=h2", "--set", "run.env.TLS=."];
    world.trundle(&[&["deploy", "--set", "version=1.1"], &tls[..]].concat());
    let requests = world.status()["requests"].clone();
    drop(client.stdin.take());
    let said = client.wait_with_output().unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    loudly(&format!("gRPC: {seen}, as counted here: {requests}"));
    for class in ["lost", "crashed", "cut"] {
        assert_eq!(requests[class], 0, "{requests}");
    }
    let none = serde_json::json!([]);
    assert_eq!((&seen["failed"], &seen["other_ends"]), (&none, &none), "{seen}");
    assert_eq!((&seen["wrong"], &seen["gaps"]), (&0.into(), &0.into()), "{seen}");
    assert!(seen["answers"].as_u64().unwrap() > 500 && seen["messages"].as_u64().unwrap() > 500, "{seen}");
    assert!(seen["versions"]["1.1"].as_u64() > Some(0), "{seen}");
    // Every stream had to move, and each was told on both sides.
    assert_eq!(
        (&seen["told"], &requests["told_by_kind"]["grpc"]),
        (&8.into(), &8.into()),
        "{seen} {requests}"
    );
}
