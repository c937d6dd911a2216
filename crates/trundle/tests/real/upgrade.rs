//! The whole of Trundle is replaced twenty times, daemon and proxy, under clients that nobody here wrote: `wrk` on kept
//! connections, forty WebSockets of Python's `websockets`, an upload of curl, and one stream of HTTP/2 that is open from the first
//! to the last.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{TRUNDLE, World, found, free_address, loudly, skip};
use crate::{curl, websockets};

const UPGRADES: u32 = 20;
/// Of upload and download, for as long as it takes and a little more.
const BYTES: usize = 20 * 1024 * 1024;

impl World {
    /// Ends the daemon and starts this file in its place; waits until the proxy is of that file too.
    fn upgrade_to(&self, program: &Path) {
        let pid = fs::read_to_string(self.path("state/daemon.lock")).unwrap();
        let pid: u32 = pid.trim().parse().unwrap();
        let stopped = Command::new("kill").arg(pid.to_string()).status().unwrap();
        assert!(stopped.success());
        until("the end of the old daemon", || (!is_alive(pid)).then_some(()));
        let mut daemon = self.command(program.to_str().unwrap());
        let mut daemon = daemon.arg("daemon").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::spawn(move || daemon.wait());
        until("the proxy of this file", || {
            let serving = fs::read_to_string(self.path("state/proxy.lock")).ok()?;
            let runs = fs::metadata(format!("/proc/{}/exe", serving.trim())).ok()?.ino();
            (runs == fs::metadata(program).unwrap().ino()).then_some(())
        });
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "never came: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn twenty_upgrades_of_daemon_and_proxy_lose_nothing() {
    if !found("wrk") {
        return skip("wrk is not installed (Debian: wrk)");
    }
    let Some(world) = World::new("websockets", curl::APP) else { return };
    fs::write(world.path("dist/chat.py"), websockets::APP).unwrap();
    fs::write(world.path("client.py"), websockets::CLIENT).unwrap();
    let (files, chat) = (free_address(), free_address());
    let app = |name: &str, program: &str, address| {
        format!(
            "name = \"{name}\"\nversion = \"1.0\"\nreplicas = 2\n[run]\ncommand = [\"python3\", \"{program}\"]\nartifact = \"dist\"\n\
             env = {{ PYTHONDONTWRITEBYTECODE = \"1\" }}\n[listen]\nhttp = \"{address}\"\n[health.ready]\nhttp = \"/ready\"\n"
        )
    };
    fs::write(world.path("trundle.toml"), app("files", "app.py", files)).unwrap();
    fs::write(world.path("chat.toml"), app("chat", "chat.py", chat)).unwrap();
    let programs: Vec<PathBuf> = ["one", "two"].map(|name| world.path(name)).into();
    for program in &programs {
        assert!(Command::new("cp").arg(TRUNDLE).arg(program).status().unwrap().success());
    }
    world.deploy("1.0");
    world.trundle(&["deploy", "-f", "chat.toml"]);

    let mut talk = world.command("python3");
    talk.args(["client.py", &format!("ws://{chat}/")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut talk = talk.spawn().unwrap();
    let bytes: Vec<u8> = (0..BYTES).map(|n| (n * 7 % 251) as u8).collect();
    fs::write(world.path("upload"), bytes).unwrap();
    let url = |path: &str| format!("http://{files}{path}");
    let (source, upload) = (world.path("upload").display().to_string(), world.path("download"));
    let up = curl::curl(&["-m", "300", "-T", &source, "--limit-rate", "1M", &url("/up")]);
    let stream = url(&format!("/down?bytes={BYTES}"));
    let down = curl::curl(&[
        "-m",
        "300",
        "--http2-prior-knowledge",
        "--limit-rate",
        "1M",
        "-o",
        upload.to_str().unwrap(),
        &stream,
    ]);
    let mut load = world.command("wrk");
    load.args(["-t", "1", "-c", "8", "-d", "20", &url("/")]).stdout(Stdio::piped());
    let load = load.spawn().unwrap();
    thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    for n in 0..UPGRADES {
        world.upgrade_to(&programs[n as usize % 2]);
        thread::sleep(Duration::from_millis(300));
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(19), "the load has to last longer than the upgrades: {took:?}");
    // Who is told while the client leaves by itself would be counted on one side only.
    thread::sleep(Duration::from_secs(3));
    drop(talk.stdin.take());
    let talked = talk.wait_with_output().unwrap();
    let talked: serde_json::Value = serde_json::from_slice(&talked.stdout).unwrap();
    let said = String::from_utf8(load.wait_with_output().unwrap().stdout).unwrap();
    let digest = String::from_utf8(curl::said(up)).unwrap();
    assert_eq!(digest, curl::digest(&world.path("upload")), "every byte went up, once");
    curl::said(down);
    let expected: Vec<u8> = (0..BYTES).map(|n| (n % 256) as u8).collect();
    assert!(fs::read(world.path("download")).unwrap() == expected, "every byte came down, once");
    loudly(&format!(
        "{UPGRADES} upgrades in {took:.0?}; websockets: {talked}; wrk: {}",
        said.lines()
            .filter(|line| line.contains("requests in") || line.contains("errors"))
            .collect::<Vec<_>>()
            .join(";")
    ));
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    assert_eq!(talked["other_ends"], serde_json::json!([]), "{talked}");
    assert_eq!((&talked["refused"], &talked["wrong"]), (&0.into(), &0.into()), "{talked}");
    assert!(talked["told"].as_u64().unwrap() >= 40, "{talked}");
    // And what the proxies counted, all twenty-one of them in one file.
    let metrics = world.trundle(&["metrics"]);
    let counted = |name: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    assert_eq!(
        (counted("trundle_requests_lost_total"), counted("trundle_requests_crashed_total")),
        (0, 0),
        "{metrics}"
    );
    assert_eq!(Some(counted("trundle_requests_told_total")), talked["told"].as_u64(), "{metrics}");
}
