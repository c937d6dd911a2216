//! The proxy beside nginx and HAProxy: the same backend, one core for the proxy, one for the client and the backend, rounds one after
//! the other, nginx twice as a control (A/A).
//!
//! `cargo bench --profile dist -p trundle --bench front_door` prints the tables, for the proxy as it is shipped; `-- --only 2,000` those
//! loads that are named so. What counts is CPU per request, from `/proc`: it hardly depends on what
//! else the machine does. It measures; it judges nothing. Needs `nginx`, `haproxy`, `wrk`, `h2load`, `taskset`, `openssl`; what is missing
//! is said, and left out.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "front_door/others.rs"]
mod others;
#[path = "front_door/trundle.rs"]
mod trundle;
#[path = "front_door/versions.rs"]
mod versions;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Sorted, quick, rounds, table};
use trundle_proxy::ProxyConfig;

const AS_PROXY: &str = "--as-proxy";
const PROXY_CORE: &str = "0";
const CLIENT_CORE: &str = "1";
/// Above it the client is measured, and not the proxy.
const MOST_BUSY_CLIENT: f64 = 0.8;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, state_dir] = &args[..]
        && flag == AS_PROXY
    {
        let config = ProxyConfig { state_dir: PathBuf::from(state_dir), workers: 1 };
        trundle_proxy::run_proxy(config).unwrap();
        return;
    }
    let needed = ["nginx", "haproxy", "wrk", "h2load", "taskset", "openssl"];
    let missing: Vec<_> = needed.into_iter().filter(|program| !found(program)).collect();
    if !missing.is_empty() {
        println!("SKIPPED, nothing was measured: install {}", missing.join(", "));
        return;
    }
    let world = World::new();
    println!("nginx as a proxy:\n\n{}", fs::read_to_string(world.dir.join("nginx.conf")).unwrap());
    let columns = [
        "load",
        "proxy",
        "req/s ÷ nginx",
        "CPU ÷ nginx",
        "CPU µs a request",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "resident MiB",
        "client busy",
        "errors",
    ];
    table("The front door", &columns);
    let only = args.iter().skip_while(|arg| *arg != "--only").nth(1);
    let loads = LOADS.iter().filter(|load| only.is_none_or(|only| load.name.contains(only.as_str())));
    loads.take(if quick() { 1 } else { LOADS.len() }).for_each(|load| world.compare(load));
    if only.is_none_or(|only| versions::NAME.contains(only.as_str())) {
        versions::compare(&world.dir, world.backend.plain);
    }
}

fn found(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain([PathBuf::from("/usr/sbin")])
        .any(|folder| folder.join(program).is_file())
}

/// One row for each proxy.
struct Load {
    name: &'static str,
    path: &'static str,
    connections: u32,
    tls: bool,
    http2: bool,
}

const LOADS: &[Load] = &[
    Load { name: "128 B, 64 connections", path: "/128", connections: 64, tls: false, http2: false },
    Load { name: "128 B, 2,000 connections", path: "/128", connections: 2_000, tls: false, http2: false },
    Load { name: "16 KiB, 64 connections", path: "/16k", connections: 64, tls: false, http2: false },
    Load { name: "1 MiB, 64 connections", path: "/1m", connections: 64, tls: false, http2: false },
    Load { name: "128 B, 64 connections, TLS", path: "/128", connections: 64, tls: true, http2: false },
    Load {
        name: "128 B, 64 streams on 8 connections, TLS, HTTP/2",
        path: "/128",
        connections: 8,
        tls: true,
        http2: true,
    },
];

/// One that listens, with and without TLS.
struct Subject {
    name: &'static str,
    plain: SocketAddr,
    tls: SocketAddr,
    child: Child,
}

impl Drop for Subject {
    fn drop(&mut self) {
        // nginx and HAProxy end their workers with themselves.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let patience = Instant::now() + Duration::from_secs(3);
        while Instant::now() < patience && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct World {
    dir: PathBuf,
    subjects: Vec<Subject>,
    backend: Subject,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// On a core of its own.
fn on_core(core: &str, program: &Path, args: &[String]) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program).args(args).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn start(
    name: &'static str,
    core: &str,
    program: &Path,
    args: &[String],
    plain: SocketAddr,
    tls: SocketAddr,
) -> Subject {
    let mut command = on_core(core, program, args);
    // Its own group, so that its workers can be told from others.
    command.process_group(0).stderr(Stdio::null());
    let subject = Subject { name, plain, tls, child: command.spawn().unwrap() };
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(plain).is_err() {
        assert!(Instant::now() < deadline, "{name} does not listen on {plain}");
        std::thread::sleep(Duration::from_millis(10));
    }
    subject
}

fn texts(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

impl World {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("trundle-bench-front-door-{}", std::process::id()));
        fs::create_dir_all(dir.join("files")).unwrap();
        for (name, bytes) in [("128", 128), ("16k", 16 << 10), ("1m", 1 << 20)] {
            fs::write(dir.join("files").join(name), vec![b'x'; bytes]).unwrap();
        }
        certificate(&dir);
        let (backend, nowhere) = (free(), free());
        fs::write(dir.join("backend.conf"), backend_conf(&dir, backend)).unwrap();
        let nginx = Path::new("/usr/sbin/nginx");
        let conf = |name: &str| texts(&["-p", &dir.display().to_string(), "-c", name, "-e", "stderr"]);
        let server = start("backend", CLIENT_CORE, nginx, &conf("backend.conf"), backend, nowhere);
        let mut subjects = Vec::new();
        let addresses: Vec<_> = (0..3).map(|_| (free(), free())).collect();
        fs::write(dir.join("nginx.conf"), nginx_conf(&dir, addresses[0], backend)).unwrap();
        subjects.push(start("nginx", PROXY_CORE, nginx, &conf("nginx.conf"), addresses[0].0, addresses[0].1));
        fs::write(dir.join("haproxy.cfg"), haproxy_cfg(&dir, addresses[1], backend)).unwrap();
        let cfg = texts(&["-f", &dir.join("haproxy.cfg").display().to_string()]);
        let haproxy = Path::new("/usr/sbin/haproxy");
        subjects.push(start("HAProxy", PROXY_CORE, haproxy, &cfg, addresses[1].0, addresses[1].1));
        subjects.push(trundle::alone(&dir, addresses[2], backend));
        let (others, missing) = others::all(&dir, backend);
        subjects.extend(others);
        if !missing.is_empty() {
            println!("NOT MEASURED, as they are not installed: {}\n", missing.join(", "));
        }
        Self { dir, subjects, backend: server }
    }

    fn compare(&self, load: &Load) {
        // nginx comes twice: what differs between the two is noise.
        let order: Vec<usize> = (0..self.subjects.len()).chain([0]).collect();
        let mut all: Vec<Vec<Round>> = order.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds(6) {
            let turns: Vec<usize> =
                if round % 2 == 0 { (0..order.len()).collect() } else { (0..order.len()).rev().collect() };
            for at in turns {
                all[at].push(measure(&self.subjects[order[at]], load, &[]));
            }
        }
        for at in 0..order.len() {
            let is_control = at + 1 == order.len();
            let name = if is_control { "nginx again (A/A)" } else { self.subjects[order[at]].name };
            let ratio = |of: fn(&Round) -> f64| {
                Sorted::of(all[at].iter().zip(&all[0]).map(|(one, nginx)| of(one) / of(nginx)).collect())
                    .with_spread()
            };
            let median = |of: fn(&Round) -> f64| Sorted::of(all[at].iter().map(of).collect()).median();
            let busy = median(|r| r.client_busy);
            let void = if busy > MOST_BUSY_CLIENT { " VOID" } else { "" };
            println!(
                "| {} | {name} | {} | {} | {:.1} | {:.0} | {:.0} | {:.0} | {:.1} | {:.0} %{void} | {:.0} |",
                load.name,
                ratio(|r| r.per_second),
                ratio(|r| r.cpu_us),
                median(|r| r.cpu_us),
                median(|r| r.p50_us),
                median(|r| r.p99_us),
                median(|r| r.p999_us),
                median(|r| r.resident_mib),
                busy * 100.0,
                all[at].iter().map(|r| r.errors).sum::<f64>(),
            );
        }
    }
}

fn certificate(dir: &Path) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let both = [fs::read(dir.join("cert.pem")).unwrap(), fs::read(dir.join("key.pem")).unwrap()].concat();
    fs::write(dir.join("both.pem"), both).unwrap();
}

fn nginx_head(dir: &Path, pid: &str) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\npid {dir}/{pid};\nuser root;\nevents {{ worker_connections 10000; }}\n\
         http {{\n  access_log off;\n  error_log /dev/null;\n  client_body_temp_path {dir}/{pid}-body;\n  proxy_temp_path {dir}/{pid}-proxy;\n\
         \x20 fastcgi_temp_path {dir}/{pid}-f;\n  uwsgi_temp_path {dir}/{pid}-u;\n  scgi_temp_path {dir}/{pid}-s;\n  keepalive_requests 1000000000;\n"
    )
}

fn backend_conf(dir: &Path, listen: SocketAddr) -> String {
    let files = dir.join("files");
    format!(
        "{}  sendfile on;\n  tcp_nopush on;\n  open_file_cache max=10;\n  server {{ listen {listen} backlog=4096; root {}; }}\n}}\n",
        nginx_head(dir, "backend.pid"),
        files.display()
    )
}

fn nginx_conf(dir: &Path, (plain, tls): (SocketAddr, SocketAddr), backend: SocketAddr) -> String {
    let files = dir.display();
    format!(
        "{}  upstream app {{ server {backend}; keepalive 2048; keepalive_requests 1000000000; }}\n  server {{\n    listen {plain} backlog=4096;\n\
         \x20   listen {tls} ssl http2 backlog=4096;\n    ssl_certificate {files}/cert.pem;\n    ssl_certificate_key {files}/key.pem;\n\
         \x20   location / {{\n      proxy_pass http://app;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n\
         \x20     proxy_set_header Host $host;\n      proxy_set_header X-Forwarded-For $remote_addr;\n\
         \x20     proxy_set_header X-Forwarded-Proto $scheme;\n      proxy_set_header X-Forwarded-Host $host;\n\
         \x20     add_header X-App-Version 1;\n    }}\n  }}\n}}\n",
        nginx_head(dir, "nginx.pid")
    )
}

fn haproxy_cfg(dir: &Path, (plain, tls): (SocketAddr, SocketAddr), backend: SocketAddr) -> String {
    let both = dir.join("both.pem");
    format!(
        "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 75s\n  timeout server 60s\n\
         \x20 http-reuse always\nfrontend f\n  bind {plain}\n  bind {tls} ssl crt {} alpn h2,http/1.1\n  option forwardfor\n\
         \x20 http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  http-response set-header X-App-Version 1\n  default_backend b\n\
         backend b\n  server s {backend} pool-max-conn 4096\n",
        both.display()
    )
}

/// Of a few seconds.
struct Round {
    per_second: f64,
    /// The proxy's, of a request.
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    resident_mib: f64,
    client_busy: f64,
    errors: f64,
}

/// `headers` come with each request of HTTP/1.1.
fn measure(subject: &Subject, load: &Load, headers: &[String]) -> Round {
    let address = if load.tls { subject.tls } else { subject.plain };
    let url = format!("{}://{address}{}", if load.tls { "https" } else { "http" }, load.path);
    let seconds = if quick() { 1 } else { 3 };
    let pids = group_of(subject.child.id());
    let (before, began) = (cpu_us(&pids), Instant::now());
    let said = if load.http2 { h2load(&url, load, seconds) } else { wrk(&url, load, seconds, headers) };
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_us(&pids) - before);
    assert!(
        said.requests > 0.0,
        "{}: no request was answered at {url}, {} errors",
        subject.name,
        said.errors
    );
    Round {
        per_second: said.requests / took,
        cpu_us: cpu / said.requests,
        p50_us: said.p50_us,
        p99_us: said.p99_us,
        p999_us: said.p999_us,
        resident_mib: pids.iter().map(|pid| resident_kib(*pid)).sum::<f64>() / 1024.0,
        client_busy: said.cpu_s / took,
        errors: said.errors,
    }
}

/// What a client printed.
struct Said {
    requests: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    errors: f64,
    cpu_s: f64,
}

const LUA: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

fn wrk(url: &str, load: &Load, seconds: u32, headers: &[String]) -> Said {
    let script = std::env::temp_dir().join(format!("trundle-bench-{}.lua", std::process::id()));
    fs::write(&script, LUA).unwrap();
    let (connections, duration) = (load.connections.to_string(), format!("{seconds}s"));
    let script_text = script.display().to_string();
    let mut args = vec!["-t1", "-c", &connections, "-d", &duration, "--timeout", "10s", "-s", &script_text];
    headers.iter().for_each(|header| args.extend(["-H", header]));
    args.push(url);
    let (said, cpu_s) = client("wrk", &args);
    let _ = fs::remove_file(script);
    let line = said.lines().find(|line| line.starts_with("RESULT ")).unwrap_or_else(|| panic!("{said}"));
    let numbers: Vec<f64> = line.split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
    let [requests, p50_us, p99_us, p999_us, errors] = numbers[..] else { panic!("{line}") };
    Said { requests, p50_us, p99_us, p999_us, errors, cpu_s }
}

/// It prints no quantiles: of its log file they are taken.
fn h2load(url: &str, load: &Load, seconds: u32) -> Said {
    let log = std::env::temp_dir().join(format!("trundle-bench-{}.log", std::process::id()));
    let (connections, duration) = (load.connections.to_string(), seconds.to_string());
    let log_text = format!("--log-file={}", log.display());
    let args = ["-c", &connections, "-m", "8", "-D", &duration, &log_text, url];
    let (said, cpu_s) = client("h2load", &args);
    let lines = fs::read_to_string(&log).unwrap();
    let _ = fs::remove_file(log);
    let mut errors = 0.0;
    let times = lines.lines().filter_map(|line| {
        let mut fields = line.split('\t').skip(1);
        let (status, us) = (fields.next()?, fields.next()?.parse::<f64>().ok()?);
        errors += f64::from(u8::from(status != "200"));
        Some(us)
    });
    let times = Sorted::of(times.collect());
    assert!(!times.0.is_empty(), "{said}");
    let [p50_us, p99_us, p999_us] = [500, 990, 999].map(|n| times.of_thousand(n));
    Said { requests: times.0.len() as f64, p50_us, p99_us, p999_us, errors, cpu_s }
}

/// What it says, and the CPU that it took in seconds.
fn client(program: &str, args: &[&str]) -> (String, f64) {
    let of_children = || {
        let fields = fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<f64> = fields
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .skip(13)
            .take(2)
            .map(|n| n.parse().unwrap())
            .collect();
        fields.iter().sum::<f64>() / ticks_per_second()
    };
    let before = of_children();
    let mut command = Command::new("taskset");
    command.args(["-c", CLIENT_CORE, program]).args(args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8_lossy(&output.stdout).into_owned(), of_children() - before)
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// It, and the workers that it has started.
fn group_of(leader: u32) -> Vec<u32> {
    let all =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let group = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        text.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse::<u32>().ok()
    };
    all.filter(|pid| group(*pid) == Some(leader)).collect()
}

/// User and system, from the scheduler's own count: finer than ticks.
fn cpu_us(pids: &[u32]) -> f64 {
    let of = |pid: u32| -> f64 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let each = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        });
        each.sum()
    };
    pids.iter().map(|pid| of(*pid)).sum::<f64>() / 1000.0
}

fn resident_kib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
}
