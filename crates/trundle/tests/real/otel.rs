//! Spans of requests at a collector that takes them apart by OpenTelemetry's own package of PyPI. Only with the feature `otel`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::curl::{curl, said};
use crate::world::{TRUNDLE, World, free_address, loudly};

/// Answers what it got as `traceparent`, and as `tracestate` if it got one; `/fail` is a 500.
const APP: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self):
        body = " ".join(self.headers.get_all("traceparent", []) + self.headers.get_all("tracestate", [])).encode()
        self.send_response(500 if self.path == "/fail" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"#;

/// Writes a line of JSON for each span.
const COLLECTOR: &str = r#"
import json, sys
sys.path.insert(0, "dist")
from http.server import BaseHTTPRequestHandler, HTTPServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

def value(any):
    kind = any.WhichOneof("value")
    return getattr(any, kind) if kind else None

class Collector(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self):
        assert self.path == "/v1/traces", self.path
        asked = ExportTraceServiceRequest()
        asked.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        with open("spans", "a") as file:
            for of_resource in asked.resource_spans:
                resource = {a.key: value(a.value) for a in of_resource.resource.attributes}
                for of_scope in of_resource.scope_spans:
                    for span in of_scope.spans:
                        print(json.dumps({
                            "service": resource["service.name"], "name": span.name, "kind": span.kind,
                            "trace": span.trace_id.hex(), "span": span.span_id.hex(), "parent": span.parent_span_id.hex(),
                            "took_ns": span.end_time_unix_nano - span.start_time_unix_nano, "error": span.status.code == 2,
                            **{a.key: value(a.value) for a in span.attributes}}), file=file)
        body = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

address, port = sys.argv[1].rsplit(":", 1)
server = HTTPServer((address, int(port)), Collector)
print("ready", flush=True)
server.serve_forever()
"#;

struct Collector(Child);

impl Collector {
    fn start(world: &World, address: SocketAddr) -> Self {
        fs::write(world.path("collector.py"), COLLECTOR).unwrap();
        let mut command = world.command("python3");
        command.args(["collector.py", &address.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Self(child)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spans(world: &World) -> Vec<Value> {
    let text = fs::read_to_string(world.path("spans")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_collector_gets_a_span_for_each_request_and_the_app_goes_on_in_it() {
    let Some(world) = World::new("opentelemetry-proto", APP) else { return };
    let (address, collector) = (free_address(), free_address());
    let _collector = Collector::start(&world, collector);
    let config = format!(
        "name = \"shop\"\nversion = \"1.0\"\nreplicas = 2\n[run]\ncommand = [\"python3\", \"app.py\"]\nartifact = \"dist\"\n\
         env = {{ PYTHONDONTWRITEBYTECODE = \"1\" }}\n[listen]\nhttp = \"{address}\"\n[health.ready]\nhttp = \"/ready\"\n"
    );
    fs::write(world.path("trundle.toml"), config).unwrap();
    let mut first = world.command(TRUNDLE);
    first.args(["deploy", "-q"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"));
    first
        .env("OTEL_RESOURCE_ATTRIBUTES", "service.name=front,zone=a")
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000");
    assert!(first.status().unwrap().success());

    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let ask = |path: &str, flags: &str| {
        let header = format!("traceparent: 00-{trace}-{parent}-{flags}");
        String::from_utf8(said(curl(&["-H", &header, &format!("http://{address}{path}")]))).unwrap()
    };
    let seen = ask("/page?a=1", "01");
    let [_, of_trace, of_span, flags] = seen.split('-').collect::<Vec<_>>()[..] else { panic!("{seen}") };
    assert!(of_trace == trace && flags == "01" && of_span != parent, "{seen}");
    let with_state = said(curl(&[
        "-H",
        &format!("traceparent: 00-{trace}-{parent}-01"),
        "-H",
        "tracestate: vendor=1",
        &format!("http://{address}/state"),
    ]));
    let with_state = String::from_utf8(with_state).unwrap();
    assert!(
        with_state.starts_with(&format!("00-{trace}-")) && with_state.ends_with("-01 vendor=1"),
        "{with_state}"
    );
    let unsampled = ask("/quiet", "00");
    assert_eq!(unsampled, format!("00-{trace}-{parent}-00"), "what nobody keeps passes unchanged");
    // The trace of a client that began none begins here.
    let own = String::from_utf8(said(curl(&[&format!("http://{address}/own")]))).unwrap();
    assert!(own.starts_with("00-") && own.ends_with("-01"), "{own}");
    let mut failing = curl(&[&format!("http://{address}/fail")]);
    assert!(!failing.wait().unwrap().success());
    world.deploy("1.1");
    said(curl(&[&format!("http://{address}/later")]));

    // In ten minutes they would be sent by themselves: what comes is sent because the proxy ends.
    assert_eq!(spans(&world).len(), 0);
    world.trundle(&["down", "-q"]);
    let until = Instant::now() + Duration::from_secs(10);
    while spans(&world).len() < 5 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let spans = spans(&world);
    loudly(&format!("spans at the collector: {}", serde_json::to_string(&spans).unwrap()));
    let of_path = |path: &str| {
        let mut found = spans.iter().filter(|span| span["url.path"] == path);
        (found.next().cloned().unwrap_or_default(), found.count())
    };
    assert_eq!(spans.len(), 5, "checks are no requests, and what is not sampled is not sent");
    let (page, _) = of_path("/page");
    assert_eq!(
        (&page["trace"], &page["parent"], &page["span"]),
        (&trace.into(), &parent.into(), &of_span.into())
    );
    let expected = [
        ("service", "front"),
        ("name", "GET"),
        ("http.request.method", "GET"),
        ("url.query", "a=1"),
        ("url.scheme", "http"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("trundle.app", "shop"),
        ("trundle.version", "1.0"),
        ("trundle.outcome", "answered"),
    ];
    for (key, text) in expected {
        assert_eq!(page[key], text, "{key}: {page}");
    }
    assert!(page["trundle.instance"].as_str().unwrap().starts_with("shop-1-"), "{page}");
    assert_eq!(
        (&page["kind"], &page["http.response.status_code"], &page["error"]),
        (&2.into(), &200.into(), &false.into())
    );
    assert!(page["took_ns"].as_i64().unwrap() > 0, "{page}");
    let (failed, _) = of_path("/fail");
    assert_eq!((&failed["error"], &failed["error.type"]), (&true.into(), &"500".into()), "{failed}");
    assert_eq!(of_path("/later").0["trundle.version"], "1.1");
    assert_eq!(of_path("/own").0["parent"], "");
    assert_eq!(of_path("/later").1, 0, "once");
}
