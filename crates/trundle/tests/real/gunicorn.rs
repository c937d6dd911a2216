//! The walk-through of README.md: gunicorn rolls from 1.0 to 1.1 under load, alone and behind nginx, and no request is
//! lost. App and configuration are read out of README.md, nginx's out of docs/guide/one-server.md.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::world::{World, found, free_address, loudly, root, skip};

const TRUNDLE: &str = env!("CARGO_BIN_EXE_trundle");
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// So long wrk sends: longer than the rollout takes.
const WRK_S: u32 = 7;

/// What the strict client posts.
#[derive(Clone, Copy)]
struct Posts {
    percent: &'static str,
    bytes: &'static str,
}
const FORMS: Posts = Posts { percent: "30", bytes: "65536" };
/// More than the app's socket takes in one go.
const UPLOADS: Posts = Posts { percent: "50", bytes: "262144" };

/// The strict client wants its id back, and nginx's test the client's address.
const ECHO: &str = r#"
_app = app

def app(environ, start_response):
    def start(status, headers):
        seen = [("X-Id", environ.get("HTTP_X_ID", "")), ("X-Seen-For", environ.get("HTTP_X_FORWARDED_FOR", ""))]
        return start_response(status, headers + seen)
    return _app(environ, start)
"#;

#[test]
fn gunicorn_rolls_under_load_and_nothing_is_lost() {
    let Some(world) = world() else { return };
    let address = free_address();
    world.configure(|text| text.replace("127.0.0.1:8080", &address.to_string()));
    world.deploy("1.0");
    assert!(get(address, "").ends_with("hello from 1.0\n"));
    world.roll_under_load(address, FORMS, &[("1.1", "1.0")]);
    assert!(get(address, "").ends_with("hello from 1.1\n"));
}

/// gunicorn then closes with bytes unread, which resets the connection right behind the answer.
#[test]
fn an_app_that_does_not_read_uploads_loses_no_answer() {
    let Some(world) = world() else { return };
    let text = fs::read_to_string(world.path("dist/app.py")).unwrap();
    let deaf = text.replace("environ[\"wsgi.input\"].read()", "pass");
    assert_ne!(deaf, text, "README's app reads where this test looks for it");
    fs::write(world.path("dist/app.py"), deaf).unwrap();
    let address = free_address();
    world.configure(|text| text.replace("127.0.0.1:8080", &address.to_string()));
    world.deploy("1.0");
    world.roll_under_load(address, UPLOADS, &[("1.1", "1.0")]);
}

#[test]
fn behind_nginx_nothing_is_lost_and_the_client_is_known() {
    let Some(world) = world() else { return };
    if !found("nginx") {
        return skip("nginx is not installed (apt install nginx)");
    }
    let (socket, address) = (world.socket_folder().join("web.sock"), free_address());
    let listen = format!("unix = \"{}\"\ntrusted_proxies = [\"unix\"]", socket.display());
    world.configure(|text| text.replace("http = \"127.0.0.1:8080\"", &listen));
    world.deploy("1.0");
    let _nginx = world.nginx(&socket, address);
    let answer = get(address, "X-Forwarded-For: 6.6.6.6\r\n");
    assert!(answer.to_lowercase().contains("x-seen-for: 127.0.0.1\r\n"), "{answer}");
    world.roll_under_load(address, FORMS, &[("1.1", "1.0"), ("1.0", "1.1")]);
}

/// README's app with gunicorn beside it.
fn world() -> Option<World> {
    World::new("gunicorn", &(block(&readme(), "python") + ECHO))
}

impl World {
    /// README's configuration, with an address of our own.
    fn configure(&self, change: impl Fn(&str) -> String) {
        let text = block(&readme(), "toml");
        assert!(text.lines().count() <= 12, "README promises an app in at most 12 lines");
        let changed = change(&text);
        assert_ne!(changed, text, "README's listen.http is not where this test looks for it");
        fs::write(self.path("trundle.toml"), changed).unwrap();
    }

    fn roll_under_load(&self, address: SocketAddr, posts: Posts, rollouts: &[(&str, &str)]) {
        let strict = self
            .command(TRUNDLE)
            .args(["load", &address.to_string(), "8", posts.percent, posts.bytes, "0", "0", "1", "5"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let wrk = found("wrk").then(|| {
            let (duration, url) = (format!("-d{WRK_S}s"), format!("http://{address}/"));
            let mut wrk = self.command("wrk");
            wrk.args(["-t1", "-c16", &duration, &url]).stdout(Stdio::piped()).spawn().unwrap()
        });
        for (to, from) in rollouts {
            self.deploy(to);
            self.check_books(from, to);
        }
        if let Some(wrk) = wrk {
            let said = String::from_utf8(wrk.wait_with_output().unwrap().stdout).unwrap();
            assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
            loudly(said.lines().find(|l| l.contains("requests in")).unwrap_or(&said));
        }
        let mut strict = strict;
        drop(strict.stdin.take());
        let output = strict.wait_with_output().unwrap();
        let tally: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        loudly(&format!("strict client: {tally}"));
        assert_eq!(tally["lost"], 0, "{tally}");
        assert!(tally["answered"].as_u64().unwrap() > 100, "{tally}");
    }

    /// What Trundle itself counted.
    fn check_books(&self, from: &str, to: &str) {
        let status = self.status();
        let requests = &status["requests"];
        loudly(&format!("{from} → {to}: {requests}"));
        for class in ["lost", "crashed", "cut", "app_errors"] {
            assert_eq!(requests[class], 0, "{requests}");
        }
        for version in [from, to] {
            assert!(requests["by_version"][version].as_u64() > Some(0), "{version} served: {requests}");
        }
        assert!(status["lowest_available"].as_u64() >= status["floor"].as_u64(), "{status}");
        assert!(status["highest_total"].as_u64() <= status["ceiling"].as_u64(), "{status}");
    }

    /// As the guide sets it up: what is made in it belongs to the web server's group. Only root can give a group away.
    fn socket_folder(&self) -> PathBuf {
        let folder = self.path("run");
        fs::create_dir(&folder).unwrap();
        if let Some(group) = web_group() {
            chown(&folder, None, Some(group)).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o2750)).unwrap();
        }
        folder
    }

    /// With the guide's site.
    fn nginx(&self, socket: &Path, address: SocketAddr) -> Running {
        let guide = fs::read_to_string(root().join("docs/guide/one-server.md")).unwrap();
        let site = block(&guide, "nginx")
            .replace("/run/trundle/web.sock", &socket.display().to_string())
            .replace("listen 80;", &format!("listen {address};"));
        assert!(site.contains(&address.to_string()) && site.contains(&socket.display().to_string()));
        let dir = self.path("nginx");
        fs::create_dir(&dir).unwrap();
        let at = dir.display();
        let user = if web_group().is_some() { "user www-data;" } else { "" };
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
            .collect();
        let text = format!(
            "daemon off;\n{user}\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}\n{site}}}\n"
        );
        fs::write(dir.join("nginx.conf"), text).unwrap();
        let mut nginx = self.command("nginx");
        nginx.arg("-p").arg(&dir).arg("-c").arg(dir.join("nginx.conf")).stderr(Stdio::null());
        let running = Running(nginx.spawn().unwrap());
        let deadline = Instant::now() + LONGEST_WAIT;
        while TcpStream::connect(address).is_err() {
            assert!(
                Instant::now() < deadline,
                "{}",
                fs::read_to_string(dir.join("error.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }
}

/// Ends with the test. nginx ends its workers on SIGTERM.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _: std::io::Result<ExitStatus> = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Of `www-data`; None for whoever may not give files to a group.
fn web_group() -> Option<u32> {
    if fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap_or(1) != 0 {
        return None;
    }
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| line.strip_prefix("www-data:")?.split(':').nth(1)?.parse().ok())
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The first fenced block of a language, without the indentation of the list it stands in.
fn block(text: &str, language: &str) -> String {
    let fence = format!("```{language}");
    let mut lines = text.lines().skip_while(|line| line.trim() != fence);
    let first = lines.next().unwrap_or_else(|| panic!("no {fence} block"));
    let indent = first.len() - first.trim_start().len();
    lines
        .take_while(|line| line.trim() != "```")
        .map(|line| format!("{}\n", line.get(indent..).unwrap_or("")))
        .collect()
}

fn get(address: SocketAddr, header: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET / HTTP/1.0\r\nHost: web\r\n{header}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
