//! `trundle init`: writes a `trundle.toml` that says what every key does.
//!
//! It must never overwrite a file.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use trundle_core::ids::AppName;

const FILE: &str = "trundle.toml";

/// The exit code: 0 if the file was written, else 1.
pub fn run(dir: &Path) -> i32 {
    // Nobody is left to be told when the pipe is closed; the exit code says it all.
    match write_template(dir) {
        Ok(path) => {
            let _ = write!(std::io::stdout(), "{}", next_steps(&path));
            0
        }
        Err(refusal) => {
            let _ = writeln!(std::io::stderr(), "error: {refusal}");
            1
        }
    }
}

/// Where it was written, or why it was not.
pub fn write_template(dir: &Path) -> Result<PathBuf, String> {
    write_new(dir, &TEMPLATE.replace("@NAME@", name_for(dir).as_str()))
}

/// Writes the file of this folder, which must not be there yet.
pub fn write_new(dir: &Path, text: &str) -> Result<PathBuf, String> {
    let path = dir.join(FILE);
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    match file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())) {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let hint = "edit it and check it with `trundle validate`, or move it away first";
            Err(format!("{} is there already, and was not touched\nhint: {hint}", path.display()))
        }
        Err(error) => {
            let hint = "check that the folder is there and may be written to";
            Err(format!("cannot write {}: {error}\nhint: {hint}", path.display()))
        }
    }
}

fn next_steps(path: &Path) -> String {
    format!(
        "wrote {}\nnext: write your command into it, then\n  trundle validate    checks it\n  trundle plan        shows what a deploy would do\n  trundle deploy      does it\n",
        path.display()
    )
}

/// The name of the folder, as far as it can be the name of an app.
pub fn name_for(dir: &Path) -> AppName {
    let folder =
        dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
    name_like(&folder.unwrap_or_default())
}

/// The nearest name that an app may have.
pub fn name_like(text: &str) -> AppName {
    let plain: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphabetic())
        .take(40)
        .collect();
    let fallback = || "web".parse().expect("\"web\" keeps the rule of app names");
    plain.trim_end_matches('-').parse().unwrap_or_else(|_| fallback())
}

const TEMPLATE: &str = r#"# What runs, and how a new version replaces the old one. Check it with `trundle validate`.
# A key that is commented out shows its default or an example.

# Part of the names of instances, such as @NAME@-2-3.
name = "@NAME@"
version = "1.0"                   # a label for people; `--set version=1.1` says it from outside
replicas = 2                      # how many instances serve (default 1)

[run]
# No shell: a program and its arguments. {port}, {version}, {revision} and {instance} are filled in; {{ is a brace.
command = ["./server", "--port", "{port}"]
cwd = "."                         # seen from this file, as every path here
# env = { GREETING = "hello" }    # texts only; PORT and TRUNDLE_* are set for you
# env_file = ".env"               # lines of KEY=VALUE; the values are sealed on disk
# secrets = ["DATABASE_URL"]      # taken from the environment of `trundle deploy`, and never shown
# artifact = "dist"               # a file or folder that is copied and run from there, so that old versions stay runnable
stop_signal = "SIGTERM"           # asks an instance to end, once its last request is done
port = "auto"                     # a free one for each instance; a number means one replica, stopped first
protocol = "http1"                # or "h2c": HTTP/2 without TLS, as gRPC servers speak it; "h2": behind TLS

# user = "www-data"               # as whom it runs, or "user:group"; needs a daemon that is root
# limits = { memory = "512MiB", cpu = 1.5, open_files = 65536 }   # of one instance; nothing by itself

# How a worker is told to take no more work before stop_signal, by a signal or a program, and when it has finished:
# [run.quiet]
# signal = "SIGTSTP"
# finished = ["./server", "{port}"]   # exit 0: nothing is at hand; without it: until the app ends by itself
# timeout = "5m"

[listen]                          # leave the table out for a worker that takes no requests
http = "127.0.0.1:8080"           # where clients come in
# https = "0.0.0.0:443"           # with TLS; the certificate stands in [listen.tls] below
# unix = "web.sock"               # or a Unix socket, behind nginx
# An app that speaks no HTTP has one address, and nothing of what stands below: `tcp = "127.0.0.1:5432"`
# hosts = ["shop.example"]        # whose requests are this app's, where others have the same address
# paths = ["/api"]                # likewise: this and all below it
# access_log = "json"             # a line for each request, or "combined"; access/NAME.log in the state directory
# access_log_file = "access.log"  # or here; whoever rotates it may move it away
# trusted_proxies = ["unix"]      # whose X-Forwarded-* is believed: addresses, networks, "unix"
version_header = "X-App-Version"  # says on every answer which version gave it; "" turns it off
# hold = "30s"                    # requests wait so long while no instance serves; by itself with a fixed port only
drain_spread = "2s"               # WebSockets and event streams that have to move are told over so much time
# The certificate, read anew when it changes:
# [listen.tls]
# cert = "fullchain.pem"
# key = "privkey.pem"
# (or fetched for the hosts and renewed in time, instead of both: `acme = "ops@shop.example"`)
# redirect = true                 # send requests without TLS to the address with it
# hsts = "8760h"                  # and tell browsers to come with TLS only, for so long
# What one client may take:
# [listen.limits]
# header_size = "64KiB"           # request line and headers; more is 431
# headers = 100
# body_size = "10MiB"             # of a request; more is 413; without it there is no limit
# header_timeout = "10s"
# idle_timeout = "75s"
# body_rate = 240                 # bytes a second of a body, on average; less is 408
# response_timeout = "60s"        # then 504
# connect_timeout = "5s"
# connections = 10000             # above it, new clients wait

# When may an instance get requests? Without this table: as soon as its port takes a connection.
# [health.startup] and [health.live] are written alike: until the first success, and all the time after it.
# [health.ready]
# http = "/ready"                 # or tcp = true, grpc = "" (or a service), or exec = ["./check", "{port}"] (exit 0 is good)
# status = 200                    # the one that is expected; default: any of 200 to 299
# body = "ok"                     # a text that the answer must contain
# headers = { Host = "example.com" }
# interval = "1s"
# timeout = "1s"
# rise = 1                        # good answers in a row until it counts as up
# fall = 3                        # bad answers in a row until it counts as down
# eager = true                    # while starting, ask more often than interval, so that no time is lost

[rollout]
strategy = "rolling"              # a few instances at a time
max_surge = "25%"                 # how many more than replicas may run meanwhile; rounded up
max_unavailable = "25%"           # how many fewer may serve meanwhile; rounded down
# batch = 2                       # replace in groups of so many; without it, a continuous flow
# delay = "0s"                    # a pause between groups
# order = "start-first"           # or "stop-first": which of the two bounds is used when they are not written
bake_time = "0s"                  # watch the finished rollout this long before it counts as done
min_healthy_time = "0s"           # ready for this long counts as available
healthy_deadline = "5m"           # an instance that is not ready by then has failed
progress_deadline = "10m"         # a rollout that gets no further for this long has failed
on_failure = "pause"              # or "rollback", or "continue" until progress_deadline
max_failures = 1                  # so many failed instances end the patience; a count or a percentage
drain_timeout = "30s"             # how long requests may take to finish before their instance is stopped
stop_grace_period = "10s"         # from stop_signal to SIGKILL
history_limit = 10                # so many earlier revisions are kept to go back to
"#;
