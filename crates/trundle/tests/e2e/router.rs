//! The daemon's side of the table: a whole for all apps, and sent until it is taken.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Site, sample, wait_for};

/// `trundle.toml` of an app behind a Unix socket of its name.
fn on_socket(name: &str) -> String {
    let text = sample(1, r#"START_MS = "0""#, "").replace("\"web\"", &format!("\"{name}\""));
    text.replace("http = \"@LISTEN@\"", &format!("unix = \"@DIR@/{name}.s\""))
}

/// The folder of its socket is made too late: the proxy refuses the table until then.
#[test]
fn a_table_that_was_refused_is_sent_again() {
    let site = Site::with(&on_socket("web").replace("/web.s", "/late/web.s"));
    site.run(&["deploy", "--detach"]).expect(0);
    let trouble = wait_for("the refusal", 10, || site.status()["trouble"].as_str().map(str::to_owned));
    assert!(trouble.contains("refused its table"), "{trouble}");
    assert_eq!(site.status()["available"], 0, "nobody can reach it");
    fs::create_dir(site.dir().join("late")).unwrap();
    site.run(&["wait"]).expect(0);
    let status = site.status();
    assert!(status["trouble"].is_null() && status["available"] == 1, "{status}");
    let mut stream = UnixStream::connect(site.dir().join("late/web.s")).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

const OTHERS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A daemon that comes up tells of its apps one after the other: no table must be without one of them.
#[test]
fn a_new_daemon_takes_no_app_out_of_the_table() {
    let site = Arc::new(Site::with(&sample(1, r#"START_MS = "0""#, "")));
    site.deploy("1.0", &[]).expect(0);
    for name in OTHERS {
        site.write(&on_socket(name));
        site.deploy("1.0", &[]).expect(0);
    }
    let over = Arc::new(AtomicBool::new(false));
    let watcher = every_table(site.clone(), over.clone());
    let client = {
        let (site, over) = (site.clone(), over.clone());
        std::thread::spawn(move || {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = site.get("/").unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                asked += 1;
            }
            asked
        })
    };
    for _ in 0..5 {
        let daemon = site.daemon().unwrap();
        daemon.kill9();
        wait_for("its end", 5, || (!daemon.lives()).then_some(()));
        site.run(&["wait", "--app", "web"]).expect(0);
        // A change of one is a table of all.
        site.run(&["restart", "a"]).expect(0);
    }
    over.store(true, Ordering::Relaxed);
    assert!(client.join().unwrap() > 20);
    let (tables, fewest) = watcher.join().unwrap();
    assert!(tables > 5, "only {tables} tables were seen");
    assert_eq!(fewest, 1 + OTHERS.len(), "a table without some of the apps");
}

/// How many tables the proxy was seen to put in force, and how many apps the smallest had.
fn every_table(site: Arc<Site>, over: Arc<AtomicBool>) -> std::thread::JoinHandle<(usize, usize)> {
    std::thread::spawn(move || {
        let path = site.state().join("proxy-table.json");
        let (mut last, mut tables, mut fewest) = (0, 0, usize::MAX);
        while !over.load(Ordering::Relaxed) {
            // It is written aside and renamed: what is read is whole, and another file is another table.
            let Ok(inode) = fs::metadata(&path).map(|file| file.ino()) else { continue };
            if inode == last {
                std::thread::yield_now();
                continue;
            }
            last = inode;
            let text = fs::read_to_string(&path).unwrap();
            let table: serde_json::Value = serde_json::from_str(&text).unwrap();
            tables += 1;
            fewest = fewest.min(table["apps"].as_array().unwrap().len());
        }
        (tables, fewest)
    })
}
