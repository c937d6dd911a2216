//! The daemon's side of the table: a whole for all apps, and sent until it is taken.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Site, prober, sample, wait_for};

/// The folder of its socket is made too late: the proxy refuses the table until then.
#[test]
fn a_table_that_was_refused_is_sent_again() {
    let site = Site::with(
        &sample(1, r#"START_MS = "0""#, "").replace("http = \"@LISTEN@\"", "unix = \"@DIR@/late/s\""),
    );
    fs::create_dir(site.dir().join("late")).unwrap();
    let gone = fs::remove_dir(site.dir().join("late"));
    gone.unwrap();
    site.run(&["deploy", "--detach"]).expect(0);
    let trouble = wait_for("the refusal", 10, || site.status()["trouble"].as_str().map(str::to_owned));
    assert!(trouble.contains("refused its table"), "{trouble}");
    assert_eq!(site.status()["available"], 0, "nobody can reach it");
    fs::create_dir(site.dir().join("late")).unwrap();
    site.run(&["wait"]).expect(0);
    let status = site.status();
    assert!(status["trouble"].is_null() && status["available"] == 1, "{status}");
    let mut stream = UnixStream::connect(site.dir().join("late/s")).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// A daemon that comes up tells of its apps one after the other: no table must be without one of them.
#[test]
fn a_new_daemon_takes_no_app_out_of_the_table() {
    let site = Arc::new(Site::with(&sample(2, r#"START_MS = "0""#, "")));
    let ports = [site.listen().rsplit(':').next().unwrap().parse().unwrap(), site.spare_port()];
    site.deploy("1.0", &[]).expect(0);
    let other = ["--set", "name=api", "--set", &format!("listen.http=127.0.0.1:{}", ports[1])];
    site.deploy("1.0", &other).expect(0);
    let over = Arc::new(AtomicBool::new(false));
    let ask = |port: u16| {
        let over = over.clone();
        std::thread::spawn(move || {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = prober::get(port, "/").unwrap_or_else(|error| panic!("{port}: {error}"));
                assert!(answer.starts_with("HTTP/1.1 200"), "{port}: {answer}");
                asked += 1;
            }
            asked
        })
    };
    let clients = ports.map(ask);
    for _ in 0..3 {
        let daemon = site.daemon().unwrap();
        daemon.kill9();
        wait_for("its end", 5, || (!daemon.lives()).then_some(()));
        site.run(&["wait", "--app", "web"]).expect(0);
        wait_for("both apps", 10, || {
            let status = site.status();
            let apps = status["apps"].as_array()?;
            (site.daemon().is_some() && apps.iter().all(|app| app["available"] == 2)).then_some(())
        });
        // A change of one is a table of both.
        site.deploy("1.0", &[&other[..], &["--set", "run.env.N=1"]].concat()).expect(0);
        site.deploy("1.0", &other).expect(0);
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().unwrap() > 20);
    }
}
