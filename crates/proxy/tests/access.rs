//! What is written down of requests: the access log, their ids, and the counts by status, bytes and kind.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::*;
use serde_json::Value;
use trundle_proxy::{AccessFormat, AccessLog};

fn logged(format: AccessFormat) -> (tempfile::TempDir, PathBuf, Proxy, Upstream) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let mut proxy = Proxy::start_with(|app| app.access_log = Some(AccessLog { file: file.clone(), format }));
    let app = Upstream::start(|seen, stream| match seen.target() {
        "/missing" => respond(stream, 404, "no"),
        _ => respond(stream, 200, &seen.body.len().to_string()),
    });
    proxy.route(vec![routed("a", app.address)]);
    (dir, file, proxy, app)
}

fn lines(file: &Path, count: usize) -> Vec<String> {
    until("the lines", || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    })
}

#[test]
fn each_request_has_a_line_that_says_what_became_of_it() {
    let (_dir, file, mut proxy, app) = logged(AccessFormat::Json);
    let mut http = Http::connect(proxy.address);
    http.send("POST /p?q=%20 HTTP/1.1\r\nHost: web.test\r\nUser-Agent: a \"b\"\r\nX-Request-Id: abc-1\r\nContent-Length: 5\r\n\r\nhello");
    let answer = http.answer().unwrap();
    assert!(answer.head.contains("x-request-id: abc-1"), "{}", answer.head);
    assert_eq!(app.last().header("x-request-id"), Some("abc-1"));
    assert_eq!(http.get("/missing").unwrap().status, 404);
    assert_eq!(raw(proxy.address, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").status, 405);
    let found = lines(&file, 3);
    let line = |n: usize| serde_json::from_str::<Value>(&found[n]).unwrap();
    let first = line(0);
    for (key, expect) in [
        ("app", "web"),
        ("client", "127.0.0.1"),
        ("method", "POST"),
        ("host", "web.test"),
        ("target", "/p?q=%20"),
        ("protocol", "HTTP/1.1"),
        ("outcome", "answered"),
        ("version", "1"),
        ("instance", "a"),
        ("request_id", "abc-1"),
        ("user_agent", "a \"b\""),
    ] {
        assert_eq!(first[key], expect, "{key} of {first}");
    }
    assert_eq!(
        (&first["status"], &first["bytes_received"], &first["bytes_sent"]),
        (&200.into(), &5.into(), &1.into())
    );
    assert!(
        first["duration_ms"].as_f64().unwrap() > 0.0 && first["at"].as_str().unwrap().ends_with('Z'),
        "{first}"
    );
    let second = line(1);
    assert_eq!((&second["status"], &second["outcome"]), (&404.into(), &"answered".into()));
    // An id of ours, the same for the app.
    assert_eq!(second["request_id"].as_str(), app.last().header("x-request-id"));
    assert_eq!(second["request_id"].as_str().unwrap().len(), 32);
    let third = line(2);
    assert_eq!(
        (&third["status"], &third["outcome"], &third["instance"]),
        (&405.into(), &"rejected".into(), &Value::Null)
    );

    let stats = proxy.control.app_with(3);
    assert_eq!(stats.statuses["1"], [("2xx".to_owned(), 1), ("4xx".to_owned(), 1)].into());
    assert_eq!((stats.bytes_up["1"], stats.bytes_down["1"]), (5, 3));
    assert_eq!((stats.open["http1"], stats.open["http2"]), (1, 0), "{:?}", stats.open);
    drop(http);
    until("its end", || (proxy.control.app().open["http1"] == 0).then_some(()));
}

#[test]
fn a_client_that_is_sent_to_tls_has_a_line_as_well() {
    let (_dir, file, mut proxy, app) = logged(AccessFormat::Json);
    proxy.table.apps[0].redirect_to = Some("127.0.0.1:443".parse().unwrap());
    proxy.route(vec![routed("a", app.address)]);
    assert_eq!(Http::connect(proxy.address).get("/plain").unwrap().status, 308);
    let line: Value = serde_json::from_str(&lines(&file, 1)[0]).unwrap();
    assert_eq!(line["target"], "/plain", "{line}");
    assert_eq!((&line["status"], &line["outcome"]), (&308.into(), &"rejected".into()), "{line}");
}

#[test]
fn one_that_fails_is_named_too() {
    let (_dir, file, mut proxy, _app) = logged(AccessFormat::Json);
    let dead = Upstream::start(|_, _| false);
    proxy.route(vec![routed("b", dead.address)]);
    let answer = get(proxy.address, "/");
    let id = answer.head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().to_owned();
    let line: Value = serde_json::from_str(&lines(&file, 1)[0]).unwrap();
    assert_eq!(
        (&line["status"], &line["outcome"], &line["instance"]),
        (&502.into(), &"crashed".into(), &"b".into())
    );
    assert_eq!(line["request_id"], id, "who saw it can say which it was");
}

#[test]
fn a_combined_line_is_what_log_readers_know() {
    let (_dir, file, proxy, _app) = logged(AccessFormat::Combined);
    raw(proxy.address, "GET /a\"b HTTP/1.1\r\nHost: a\r\nReferer: http://x/\"\r\nUser-Agent: curl/8\r\n\r\n");
    let line = lines(&file, 1).remove(0);
    let (before, after) = line.split_once('[').unwrap();
    let (time, after) = after.split_once("] ").unwrap();
    assert_eq!(before, "127.0.0.1 - - ");
    assert!(time.ends_with(" +0000") && time.matches('/').count() == 2, "{time}");
    assert_eq!(after, r#""GET /a\"b HTTP/1.1" 200 1 "http://x/\"" "curl/8""#);
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let (dir, file, proxy, _app) = logged(AccessFormat::Combined);
    get(proxy.address, "/1");
    lines(&file, 1);
    std::fs::rename(&file, dir.path().join("access.log.1")).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    get(proxy.address, "/2");
    let found = lines(&file, 1);
    assert!(found.len() == 1 && found[0].contains("GET /2 "), "{found:?}");
    // Without its folder the traffic goes on.
    std::fs::remove_dir_all(dir.path()).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(get(proxy.address, "/3").status, 200);
}

/// The log is a pipe that nobody reads until the proxy is told to stop: it takes half of the lines, the rest waits.
#[test]
fn a_proxy_that_stops_has_written_every_line() {
    let (_dir, file, mut proxy, _app) = logged(AccessFormat::Combined);
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let lines = Arc::new(AtomicUsize::new(0));
    let (counted, pipe) = (Arc::clone(&lines), file.clone());
    let reader = std::thread::spawn(move || {
        let pipe = BufReader::new(std::fs::File::open(pipe).unwrap());
        wait.recv().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        pipe.lines().for_each(|_| {
            counted.fetch_add(1, SeqCst);
        });
    });
    let mut http = Http::connect(proxy.address);
    for _ in 0..2_000 {
        assert_eq!(http.get("/").unwrap().status, 200);
    }
    go.send(()).unwrap();
    proxy.stop();
    let written = lines.load(SeqCst);
    reader.join().unwrap();
    // At most what the pipe itself holds is still on its way to the reader.
    assert!(
        written > 1_000 && lines.load(SeqCst) == 2_000,
        "{written} as it ended, {} in the end",
        lines.load(SeqCst)
    );
}
