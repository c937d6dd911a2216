//! The program of the tests: `shim` as its first argument makes it the shim, `daemon` one that starts an instance and
//! waits to be killed, anything else the app.
//!
//! The app listens on `PORT` and is told by its environment how to behave.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trundle_core::revision::Revision;
use trundle_drivers::{ProcessConfig, ProcessDriver};
use trundle_engine::ports::{Driver as _, Ensure, Fence, Kept};

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "shim") {
        std::process::exit(trundle_drivers::run_shim(&args[1..]));
    }
    if args.first().is_some_and(|arg| arg == "daemon") {
        return daemon(&args[1..]);
    }
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let number = |key: &str| env.get(key).and_then(|value| value.parse::<u64>().ok());
    println!("hello from {}", env.get("TRUNDLE_INSTANCE").map_or("nobody", String::as_str));
    if env.contains_key("SHOW_ENV") {
        let keys: Vec<&str> = env.keys().map(String::as_str).collect();
        println!("env {}", keys.join(" "));
    }
    if env.contains_key("FORK_ORPHAN") {
        orphan(
            "sleep 1000 & echo orphan $!; setsid sleep 1001 & echo orphan $!; setsid env -i /bin/sleep 1002 & echo orphan $!",
        );
    }
    if let Some(ms) = number("EXIT_AFTER_MS") {
        let code = number("EXIT_CODE").unwrap_or(0);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(ms));
            std::process::exit(i32::try_from(code).unwrap_or(1));
        });
    }
    std::thread::sleep(Duration::from_millis(number("START_DELAY_MS").unwrap_or(0)));
    if env.contains_key("NO_LISTEN") {
        std::thread::sleep(Duration::from_secs(1000));
    }
    let port = number("PORT").and_then(|port| u16::try_from(port).ok()).expect("PORT is set");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    println!("listening since {}", now.as_micros());
    for stream in listener.incoming().flatten() {
        answer(stream, &env);
    }
}

/// State directory, first port, file with the revision, instance.
fn daemon(args: &[OsString]) {
    let text = |n: usize| args[n].to_str().expect("arguments are UTF-8");
    let revision: Revision =
        serde_json::from_slice(&std::fs::read(text(2)).expect("it is there")).expect("JSON");
    let first: u16 = text(1).parse().expect("a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = ProcessConfig {
        state_dir: text(0).into(),
        ports: first..=first + 15,
        program: std::env::current_exe().expect("it has a name"),
        shim_args: vec!["shim".into()],
    };
    let mut driver =
        ProcessDriver::new(config, runtime.handle().clone(), Arc::new(|_| ())).expect("a driver");
    println!("go");
    driver.ensure(&Ensure {
        fence: Fence { epoch: 1, n: 1 },
        app: &"web".parse().expect("a name"),
        revision: &revision,
        want: 1,
        keep: &[Kept { instance: text(3).parse().expect("a key"), probe: true, was_ready: false }],
        victims: &[],
        stop_grace_period_ms: 100,
    });
    runtime.block_on(std::future::pending::<()>());
}

/// Processes whose parent ends at once: in the session, in one of its own, and in one of its own without a label.
fn orphan(script: &str) {
    Command::new("sh").args(["-c", script]).status().expect("there is a shell");
}

fn answer(mut stream: TcpStream, env: &BTreeMap<String, String>) {
    let mut request = [0; 4096];
    // A probe that only connects sends nothing.
    if stream.read(&mut request).is_ok_and(|n| n == 0) {
        return;
    }
    let ms = env.get("SLOW_MS").and_then(|ms| ms.parse().ok()).unwrap_or(0);
    std::thread::sleep(Duration::from_millis(ms));
    let ready = env.get("READY_FILE").is_none_or(|path| std::path::Path::new(path).exists());
    let status = if ready { env.get("READY_STATUS").map_or("200", String::as_str) } else { "503" };
    let body = format!("status {status} of {}", env.get("GREETING").map_or("", String::as_str));
    let head = format!("HTTP/1.1 {status} X\r\nLocation: /login\r\nContent-Length: {}\r\n\r\n", body.len());
    // The other side may be gone: that is its business.
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}
