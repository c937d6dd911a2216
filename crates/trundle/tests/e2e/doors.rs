//! The daemon's socket: whose it is, who may use it, and what comes in that no command line would send.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use trundle_core::revision::Template;
use trundle_core::settings::{AppSettings, RolloutSettings};
use trundle_core::state::{DeployRequest, Request};

use crate::bad_version::versions;
use crate::harness::chaos::start_daemon;
use crate::harness::prober::Prober;
use crate::harness::procs::Proc;
use crate::harness::turns::turn;
use crate::harness::{Site, load, sample, wait_for};

/// Row 9 of docs/faults.md: somebody else listens where the daemon would.
#[test]
fn a_foreign_listener_on_the_daemons_socket_is_refused_and_left_alone() {
    let site = Site::with(&sample(1, r#"START_MS = "0""#, ""));
    fs::create_dir(site.state()).unwrap();
    let path = site.state().join("daemon.sock");
    let stranger = UnixListener::bind(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    // It hangs up on everybody; what matters is that it lives.
    let hangs_up = stranger.try_clone().unwrap();
    std::thread::spawn(move || while hangs_up.accept().is_ok_and(|(_, from)| from.is_unnamed()) {});
    for command in [&["daemon"][..], &["deploy"]] {
        let said = site.run(command).expect(1);
        let clear = ["a living daemon answers on", "daemon.sock", "use another --socket"];
        assert!(clear.iter().all(|words| said.stderr.contains(words)), "{command:?}\n{said}");
    }
    assert!(site.procs().is_empty(), "nobody stays behind: {:?}", site.procs());
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "it is not removed");
    UnixStream::connect(&path).expect("it listens as before");
    // Another socket it is, as the message says.
    site.run(&["deploy", "--socket", site.dir().join("own.sock").to_str().unwrap()]).expect(0);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    site.run(&["down", "--socket", site.dir().join("own.sock").to_str().unwrap()]).expect(0);
}

/// One that is stopped within a transaction holds the database, and its successor cannot begin at all.
fn stop_between_writes(daemon: &Proc) {
    let stopped = |stat: String| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"));
    let mine = format!(" {} ", daemon.pid);
    wait_for("a moment between two writes", 10, || {
        daemon.signal(Signal::STOP);
        wait_for("it to stop", 10, || {
            let mut tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid)).unwrap().flatten();
            let all = tasks.all(|task| fs::read_to_string(task.path().join("stat")).is_ok_and(stopped));
            all.then_some(())
        });
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let writes = locks.lines().any(|l| l.contains("POSIX") && l.contains("WRITE") && l.contains(&mine));
        if writes {
            daemon.signal(Signal::CONT);
        }
        (!writes).then_some(())
    });
}

/// Row 8 of docs/faults.md. A stopped daemon keeps its lock, so that somebody must take lock and socket away by hand.
#[test]
fn a_daemon_that_wakes_beside_its_successor_does_nothing_more() {
    let _turn = turn();
    let site = Site::with(&sample(3, r#"START_MS = "400""#, "max_surge = 1\nmax_unavailable = 0"));
    site.deploy("1.0", &[]).expect(0);
    let load = load::start_quick(&site, 8, 5);
    let prober = Prober::start(&site);
    site.deploy("2.0", &["--detach"]).expect(0);
    let new = || site.apps().iter().filter(|app| app.env["TRUNDLE_VERSION"] == "2.0").count();
    wait_for("the middle of the rollout", 10, || (new() >= 1).then_some(()));
    let first = site.daemon().unwrap();
    stop_between_writes(&first);
    for file in ["daemon.lock", "daemon.sock"] {
        fs::remove_file(site.state().join(file)).unwrap();
    }
    start_daemon(&site, false);
    wait_for("the second to go on", 10, || (new() >= 2).then_some(()));
    let second = site.procs().into_iter().find(|proc| proc.is_daemon() && proc.pid != first.pid).unwrap();
    first.signal(Signal::CONT);
    site.run(&["wait"]).expect(0);
    site.deploy("3.0", &[]).expect(0);
    let status = site.status();
    assert_eq!(versions(&status), [("3.0".to_owned(), 3)].into(), "{status}");
    assert!(first.lives() && second.lives(), "both ran all the while");
    first.kill9();
    let seen = prober.finish();
    load.finish().expect_none_lost(200);
    assert!(seen.lowest_serving >= 3 && seen.highest_alive <= 4 && seen.twins.is_empty(), "{seen:?}");
}

/// Row 49 of docs/faults.md: there are no tokens; the mode of the socket is who may ask. No umask changes that.
#[test]
fn the_daemons_socket_is_for_its_user_alone() {
    let site = Site::with(&sample(1, r#"START_MS = "0""#, ""));
    let open = site.dir().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for socket in [site.state().join("daemon.sock"), open.join("own.sock")] {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 0; exec \"$0\" daemon --socket \"$1\""]).arg(site.bin()).arg(&socket);
        command.env("TRUNDLE_STATE_DIR", site.state()).current_dir(site.dir());
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = quiet.spawn().unwrap();
        wait_for("a daemon that answers", 10, || UnixStream::connect(&socket).ok());
        assert_eq!(mode(&socket), 0o600, "{}", socket.display());
        assert_eq!(mode(&site.state()), 0o700);
        site.daemon().unwrap().signal(Signal::TERM);
        child.wait().unwrap();
    }
    // Of a daemon that was started by a command.
    site.deploy("1.0", &[]).expect(0);
    assert_eq!(mode(&site.state().join("daemon.sock")), 0o600);
    for file in fs::read_dir(site.state()).unwrap().map(|file| file.unwrap().path()) {
        println!("{:o} {}", mode(&file), file.display());
    }
}

/// The status of the answer, 0 for none; and what it said.
fn post(
    site: &Site,
    path: &str,
    body: impl Iterator<Item = Vec<u8>>,
    length: Option<usize>,
) -> (u16, String) {
    let began = Instant::now();
    let mut stream = UnixStream::connect(site.state().join("daemon.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let framing =
        length.map_or("transfer-encoding: chunked".to_owned(), |bytes| format!("content-length: {bytes}"));
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: trundle\r\ncontent-type: application/json\r\nconnection: close\r\n{framing}\r\n\r\n"
    );
    let mut sent = stream.write_all(head.as_bytes());
    for part in body {
        if sent.is_err() {
            break;
        }
        let size = if length.is_none() { format!("{:x}\r\n", part.len()) } else { String::new() };
        let end = if length.is_none() { "\r\n" } else { "" };
        sent = stream.write_all(&[size.as_bytes(), &part, end.as_bytes()].concat());
    }
    // It may answer and close before it has read all.
    if sent.is_ok() && length.is_none() {
        let _ = stream.write_all(b"0\r\n\r\n");
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(began.elapsed() < Duration::from_secs(5), "{path} took {:?}: {answer}", began.elapsed());
    (answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), answer)
}

fn post_json(site: &Site, path: &str, body: &str) -> (u16, String) {
    post(site, path, std::iter::once(body.as_bytes().to_vec()), Some(body.len()))
}

fn most_memory_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Row 55 of docs/faults.md: too deep, too long, too large.
#[test]
fn what_no_command_line_would_send_is_refused_at_once() {
    let site = Site::with(&sample(1, r#"START_MS = "0""#, ""));
    site.deploy("1.0", &[]).expect(0);
    let daemon = site.daemon().unwrap();
    let memory = most_memory_kb(daemon.pid);
    let refused = |what: &str, (status, answer): (u16, String)| {
        assert!((400..500).contains(&status), "{what}: {answer}");
    };

    let deep = 100_000;
    for (open, close) in [("[", "]"), ("{\"by\":", "}"), ("{\"request\":{\"deploy\":", "}}")] {
        let nested = open.repeat(deep) + "1" + &close.repeat(deep);
        refused("deep", post_json(&site, "/v1/apps/web", &nested));
        refused("deep and never closed", post_json(&site, "/v1/apps/web", &open.repeat(deep)));
    }
    refused("deep for all", post_json(&site, "/v1/down", &"[".repeat(deep)));

    let part = || vec![b'a'; 1 << 20];
    let of_256_mib = || std::iter::once(b"{\"by\": \"".to_vec()).chain((0..256).map(|_| part()));
    let length = 8 + (256 << 20);
    let (status, answer) = post(&site, "/v1/apps/web", of_256_mib(), Some(length));
    // It may hang up on who sends on; it does not read him to the end.
    assert!(status == 413 || status == 0, "long: {answer}");
    let (status, answer) = post(&site, "/v1/apps/web", of_256_mib(), None);
    assert!(status == 413 || status == 0, "long, in chunks: {answer}");
    refused("a long name", post_json(&site, &format!("/v1/apps/{}", "a".repeat(20_000)), "{}"));
    refused("a long path", post_json(&site, &format!("/{}", "a/".repeat(200_000)), "{}"));

    let asks = |by: &str, request: &str| format!("{{\"by\": {by}, \"request\": {request}}}");
    for number in ["-1", "1e400", "4294967295", "4294967296", "18446744073709551616", "1.5", "1000001"] {
        let ask = asks("\"ann\"", &format!("{{\"scale\": {number}}}"));
        refused(&format!("scale to {number}"), post_json(&site, "/v1/apps/web", &ask));
        let ask = asks("\"ann\"", &format!("{{\"rollback\": {number}}}"));
        refused(&format!("rollback to {number}"), post_json(&site, "/v1/apps/web", &ask));
    }
    refused(
        "a long asker",
        post_json(&site, "/v1/apps/web", &asks(&format!("\"{}\"", "a".repeat(1 << 20)), "\"down\"")),
    );

    assert!(daemon.lives(), "it is the same daemon");
    let grown = most_memory_kb(daemon.pid).saturating_sub(memory);
    assert!(grown < 48 << 10, "it took {grown} kB more");
    assert_eq!(site.status()["available"], 1);
    assert_eq!(site.status()["replicas"], 1);
    assert!(site.get("/").unwrap().contains("1.0 0"), "the traffic goes on");
}

fn deploy_request(site: &Site) -> Value {
    let command = vec![site.bin().display().to_string(), "sample".to_owned()];
    let template = Template::plain("1.0".parse().unwrap(), command);
    let rollout = RolloutSettings::default();
    let settings = AppSettings { replicas: 1, rollout, listen: None, fixed_port: false, gates: Vec::new() };
    let request = DeployRequest::new(template, settings);
    json!({ "by": "ann", "request": Request::Deploy(Box::new(request)) })
}

/// Row 55: numbers that the file would not be allowed, past the file.
#[test]
fn absurd_numbers_in_a_request_are_refused_and_the_daemon_lives() {
    let site = Site::new();
    fs::create_dir(site.state()).unwrap();
    start_daemon(&site, false);
    let daemon = site.daemon().unwrap();
    let most = json!(u64::MAX);
    let rollout = "/request/deploy/settings/rollout";
    let cases = [
        ("/request/deploy/settings/replicas".to_owned(), json!(1_000_000_000)),
        ("/request/deploy/settings/replicas".to_owned(), json!(u32::MAX)),
        ("/request/deploy/settings/replicas".to_owned(), json!(-1)),
        ("/request/deploy/settings/replicas".to_owned(), most.clone()),
        (format!("{rollout}/max_surge"), json!(u32::MAX)),
        (format!("{rollout}/max_surge"), json!("4294967296%")),
        (format!("{rollout}/max_surge"), json!(-1)),
        (format!("{rollout}/max_unavailable"), json!("101%")),
        (format!("{rollout}/max_unavailable"), most.clone()),
        (format!("{rollout}/max_failures"), json!(0)),
        (format!("{rollout}/batch"), json!(0)),
        (format!("{rollout}/history_limit"), most.clone()),
        (format!("{rollout}/delay_ms"), most.clone()),
        (format!("{rollout}/bake_time_ms"), most.clone()),
        (format!("{rollout}/min_healthy_time_ms"), most.clone()),
        (format!("{rollout}/healthy_deadline_ms"), most.clone()),
        (format!("{rollout}/progress_deadline_ms"), most.clone()),
        (format!("{rollout}/drain_timeout_ms"), most.clone()),
        (format!("{rollout}/stop_grace_period_ms"), most.clone()),
        ("/request/deploy/template/health/ready/interval_ms".to_owned(), json!(0)),
        ("/request/deploy/template/health/ready/timeout_ms".to_owned(), most.clone()),
        ("/request/deploy/template/run/port".to_owned(), json!({ "fixed": 70_000 })),
    ];
    for (place, value) in cases {
        let mut ask = deploy_request(&site);
        *ask.pointer_mut(&place).unwrap_or_else(|| panic!("there is no {place}")) = value.clone();
        let (status, answer) = post_json(&site, "/v1/apps/raw", &ask.to_string());
        assert!((400..500).contains(&status), "{place} = {value}: {answer}");
    }
    let mut ask = deploy_request(&site);
    let both = ask.pointer_mut(rollout).unwrap();
    (both["max_surge"], both["max_unavailable"]) = (json!("0%"), json!(0));
    let (status, answer) = post_json(&site, "/v1/apps/raw", &ask.to_string());
    assert!((400..500).contains(&status) && answer.contains("nothing could ever move"), "{answer}");
    assert!(daemon.lives() && site.apps().is_empty(), "nothing came of it");
    // And the request itself is good.
    let (status, answer) = post_json(&site, "/v1/apps/raw", &deploy_request(&site).to_string());
    assert_eq!(status, 200, "{answer}");
    assert_eq!(site.status()["rollout"]["id"], 1);
}
