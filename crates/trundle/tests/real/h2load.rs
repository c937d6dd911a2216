//! `h2load` of nghttp2: 8 clients with 125 streams each, 1,000 requests at once, over two rollouts of an app behind HTTP/1.1.

use std::fs;
use std::process::Stdio;

use crate::world::{World, found, free_address, loudly, skip};

const APP: &str = r#"
import os

def app(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [os.environ["TRUNDLE_VERSION"].encode() + b"\n"]
"#;

#[test]
fn a_thousand_streams_over_two_rollouts() {
    if !found("h2load") {
        return skip("h2load is not installed (Debian: nghttp2-client)");
    }
    let Some(world) = World::new("gunicorn", APP) else { return };
    let address = free_address();
    let config = format!(
        "name = \"web\"\nversion = \"1.0\"\nreplicas = 4\n[run]\n\
         command = [\"python3\", \"-m\", \"gunicorn\", \"--backlog\", \"2048\", \"--threads\", \"64\", \"--keep-alive\", \"5\", \"--bind\", \"127.0.0.1:{{port}}\", \"app:app\"]\n\
         artifact = \"dist\"\nenv = {{ PYTHONDONTWRITEBYTECODE = \"1\" }}\n[listen]\nhttp = \"{address}\"\n\
         [health.ready]\nhttp = \"/\"\ntimeout = \"5s\"\n[rollout]\nmax_surge = 1\nmax_unavailable = 0\n"
    );
    fs::write(world.path("trundle.toml"), config).unwrap();
    world.deploy("1.0");
    let mut load = world.command("h2load");
    load.args(["-c", "8", "-m", "125", "-D", "25", &format!("http://{address}/")]).stdout(Stdio::piped());
    let load = load.spawn().unwrap();
    for version in ["1.1", "1.2"] {
        world.deploy(version);
        let requests = world.status()["requests"].clone();
        loudly(&format!("h2load, in the rollout to {version}: {requests}"));
        assert_eq!(
            (&requests["lost"], &requests["crashed"], &requests["cut"]),
            (&0.into(), &0.into(), &0.into())
        );
        assert!(requests["total"].as_u64().unwrap() > 100, "{requests}");
    }
    let said = String::from_utf8(load.wait_with_output().unwrap().stdout).unwrap();
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("requests: ") || line.starts_with("status codes: "))
        .collect();
    loudly(&format!("h2load: {}", lines.join("; ")));
    assert!(lines[0].contains(" 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(lines[1].contains(" 0 3xx, 0 4xx, 0 5xx"), "{said}");
}
