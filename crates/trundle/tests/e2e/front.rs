//! The front door beyond one app and HTTP: apps that share an address, an app that is closed for a while, addresses that carry
//! bytes, and what is written down of requests. The client is curl.

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::harness::turns::turn;
use crate::harness::{Site, load, sample, wait_for};

const BUDGET: &str = "max_surge = 1\nmax_unavailable = 0";

/// Body and status of one request of curl's, on a connection of its own.
fn curl(args: &[&str]) -> (String, String) {
    let output = Command::new("curl").args(["-sS", "-m", "10", "-w", "\n%{http_code}"]).args(args).output();
    let output = output.expect("curl is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = said.rsplit_once('\n').unwrap_or_default();
    let status = if output.status.success() {
        status.to_owned()
    } else {
        String::from_utf8_lossy(&output.stderr).into()
    };
    (body.to_owned(), status)
}

/// curl, again and again, each time on a new connection; what did not go well is kept.
struct Curls {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<(u32, Vec<String>)>,
}

impl Curls {
    fn start(args: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (args, seen): (Vec<String>, _) =
            (args.iter().map(|arg| (*arg).to_owned()).collect(), Arc::clone(&stop));
        let asking = std::thread::spawn(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let (mut sent, mut failed) = (0, Vec::new());
            while !seen.load(Ordering::Relaxed) {
                let (body, status) = curl(&args);
                sent += 1;
                if status != "200" {
                    failed.push(format!("{status}: {body}"));
                }
            }
            (sent, failed)
        });
        Self { stop, asking }
    }

    fn expect_all_good(self, at_least: u32) {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, failed) = self.asking.join().unwrap();
        assert!(failed.is_empty() && sent >= at_least, "{sent} sent; {failed:?}");
    }
}

#[test]
fn two_apps_share_an_address_and_each_rolls_alone() {
    let _turn = turn();
    let site = Site::new();
    let text = |name: &str, rule: &str| {
        let text = sample(2, r#"START_MS = "100""#, BUDGET).replace("\"web\"", &format!("\"{name}\""));
        site.write(&text.replace("[listen]\n", &format!("[listen]\n{rule}\n")));
        let file = format!("{name}.toml");
        std::fs::copy(site.dir().join("trundle.toml"), site.dir().join(&file)).unwrap();
        file
    };
    let deploy =
        |file: &str, version: &str| site.run(&["deploy", "-f", file, "--set", &format!("version={version}")]);
    let (web, api) = (text("web", ""), text("api", "paths = [\"/api\"]"));
    deploy(&web, "1").expect(0);
    deploy(&api, "7").expect(0);
    let url = |path: &str| format!("http://{}{path}", site.listen());
    let version = |path: &str| {
        let (head, _) = curl(&["-o", "/dev/null", "-D", "-", "--path-as-is", &url(path)]);
        head.lines().find_map(|line| line.strip_prefix("x-app-version: ").map(|v| v.trim().to_owned()))
    };
    assert_eq!((version("/"), version("/api/x")), (Some("1".into()), Some("7".into())));
    assert_eq!(curl(&["--path-as-is", &url("/api/../x")]).1, "400", "who it is for is not clear");

    // Another that wants the same is refused at its line, and nothing of it starts.
    let rival = text("rival", "paths = [\"/shop\", \"/api/\"]");
    let refused = deploy(&rival, "1").expect(1);
    let clear = ["rival.toml:", "both have every host with path /api", "different hosts or paths"];
    assert!(clear.iter().all(|words| refused.stderr.contains(words)), "{refused}");
    assert!(site.run(&["status", "rival"]).code != 0);

    let both = [Curls::start(&[&url("/")]), Curls::start(&[&url("/api")])];
    deploy(&api, "8").expect(0);
    deploy(&web, "2").expect(0);
    assert_eq!((version("/"), version("/api")), (Some("2".into()), Some("8".into())));
    let [of_web, of_api] = both;
    of_api.expect_all_good(20);
    // The first of them goes, and the other keeps its address.
    site.run(&["down", "api"]).expect(0);
    assert_eq!(version("/api"), Some("2".into()), "who has no rule gets the rest");
    of_web.expect_all_good(20);
}

#[test]
fn an_app_that_is_closed_answers_with_its_page_until_it_opens() {
    let site = Site::with(&sample(2, r#"START_MS = "0""#, BUDGET));
    site.deploy("1", &[]).expect(0);
    std::fs::write(site.dir().join("page.html"), "<h1>back at ten</h1>").unwrap();
    let page = site.dir().join("page.html");
    let url = format!("http://{}/", site.listen());
    site.run(&["maintenance", "on", "--page", page.to_str().unwrap(), "--retry-after", "10m"]).expect(0);
    let closed = ("<h1>back at ten</h1>".to_owned(), "503".to_owned());
    wait_for("the page", 5, || (curl(&[&url]) == closed).then_some(()));
    let (head, _) = curl(&["-o", "/dev/null", "-D", "-", &url]);
    assert!(head.contains("retry-after: 600") && head.contains("text/html"), "{head}");
    // The file of the page is needed no more, and a new version does not open the door.
    std::fs::remove_file(&page).unwrap();
    site.deploy("2", &[]).expect(0);
    assert_eq!(curl(&[&url]), closed);
    let status = site.status();
    assert_eq!(status["maintenance"]["retry_after_ms"], 600_000, "{status}");
    let shown = site.run(&["status"]).expect(0);
    assert!(shown.stdout.contains("closed for maintenance"), "{shown}");
    let daemon = site.daemon().unwrap();
    daemon.kill9();
    site.run(&["maintenance", "on", "--page", "nowhere.html"]).expect(1);
    let opened = site.run(&["maintenance", "off"]).expect(0);
    assert!(opened.stdout.contains("web is open"), "{opened}");
    wait_for("an answer of the app", 5, || (curl(&[&url]).1 == "200").then_some(()));
    assert!(site.status()["maintenance"].is_null());
    assert_eq!(
        std::fs::read_dir(site.state().join("maintenance")).unwrap().count(),
        0,
        "no page is left behind"
    );
    let again = site.run(&["maintenance", "off"]).expect(0);
    assert!(again.stdout.contains("web is open already"), "{again}");
}

/// curl speaks HTTP, and the proxy does not know.
#[test]
fn an_address_of_bytes_rolls_without_a_connection_lost() {
    let _turn = turn();
    let text = sample(3, r#"START_MS = "50""#, &format!("{BUDGET}\ndrain_timeout = \"2s\""));
    let site = Site::with(&text.replace("http = \"@LISTEN@\"", "tcp = \"@LISTEN@\""));
    site.deploy("1", &[]).expect(0);
    let url = format!("http://{}/", site.listen());
    let curls: Vec<_> = (0..4).map(|_| Curls::start(&[&url])).collect();
    site.deploy("2", &[]).expect(0);
    site.deploy("3", &[]).expect(0);
    curls.into_iter().for_each(|curls| curls.expect_all_good(20));
    let status = site.status();
    assert_eq!((&status["requests"]["lost"], &status["requests"]["cut"]), (&0.into(), &0.into()), "{status}");
    assert_eq!(status["listen"], serde_json::json!([format!("tcp://{}", site.listen())]));
    // One that stays open is cut at the deadline, and counted by its kind.
    let open = std::net::TcpStream::connect(site.listen()).unwrap();
    wait_for("it to be in flight", 5, || {
        let instances = site.status()["instances"].as_array().unwrap().clone();
        instances.iter().any(|i| i["in_flight"] == 1).then_some(())
    });
    site.deploy("4", &[]).expect(0);
    let status = site.status();
    assert_eq!(status["requests"]["cut_by_kind"], serde_json::json!({ "tcp": 1 }), "{status}");
    drop(open);

    // There is no page for bytes: who comes is sent away, who is there stays.
    let mut there = std::net::TcpStream::connect(site.listen()).unwrap();
    there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    wait_for("it to be in flight", 5, || {
        let instances = site.status()["instances"].as_array().unwrap().clone();
        instances.iter().any(|i| i["in_flight"] == 1).then_some(())
    });
    site.run(&["maintenance", "on"]).expect(0);
    wait_for("no answer", 5, || curl(&[&url]).1.starts_with("curl: (5").then_some(()));
    let shown = site.run(&["status"]).expect(0);
    assert!(shown.stdout.contains("closed for maintenance: new connections are closed"), "{shown}");
    there.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    there.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    site.run(&["maintenance", "off"]).expect(0);
    wait_for("an answer of the app", 5, || (curl(&[&url]).1 == "200").then_some(()));
}

#[test]
fn each_request_leaves_its_line_and_is_counted_for_prometheus() {
    let text =
        sample(2, r#"START_MS = "0""#, BUDGET).replace("[listen]\n", "[listen]\naccess_log = \"json\"\n");
    let site = Site::with(&text);
    let address = format!("127.0.0.1:{}", site.spare_port());
    let _daemon = site.start(&["daemon", "--metrics", &address]);
    wait_for("the daemon", 10, || site.daemon());
    site.deploy("1", &[]).expect(0);
    let load = load::start_quick(&site, 4, 2);
    site.deploy("2", &[]).expect(0);
    let tally = load.finish();
    tally.expect_none_lost(50);
    let url = format!("http://{}/x?y=1", site.listen());
    assert_eq!(curl(&["-H", "X-Request-Id: from-curl", &url]).1, "200");
    let log = site.state().join("access/web.log");
    let lines = wait_for("every line", 10, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() as u64 > tally.sent()).then_some(lines)
    });
    assert_eq!(lines.len() as u64, tally.sent() + 1, "a line for each that was sent");
    assert!(lines.iter().all(|line| line["outcome"] == "answered" && line["status"] == 200));
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["request_id"], &last["target"], &last["version"]),
        (&"from-curl".into(), &"/x?y=1".into(), &"2".into())
    );

    let by_command = site.run(&["metrics"]).expect(0).stdout;
    let by_address = curl(&[&format!("http://{address}/metrics")]);
    assert_eq!(by_address.1, "200");
    assert_eq!(curl(&[&format!("http://{address}/v1/apps")]).1, "404", "the address tells nothing else");
    for text in [&by_command, &by_address.0] {
        let value = |line: &str| -> u64 {
            let found = text.lines().find_map(|l| l.strip_prefix(line));
            found.unwrap_or_else(|| panic!("{line} is not in\n{text}")).trim().parse().unwrap()
        };
        let of = |version: &str| lines.iter().filter(|line| line["version"] == version).count() as u64;
        for version in ["1", "2"] {
            let labels = format!("{{app=\"web\",version=\"{version}\"");
            assert_eq!(value(&format!("trundle_requests_total{labels},status=\"2xx\"}}")), of(version));
            assert_eq!(value(&format!("trundle_request_duration_seconds_count{labels}}}")), of(version));
        }
        assert_eq!(value("trundle_requests_crashed_total{app=\"web\"}"), 0);
        assert_eq!(value("trundle_available{app=\"web\"}"), 2);
        assert_eq!(value("trundle_instances{app=\"web\",version=\"2\",revision=\"2\",state=\"ready\"}"), 2);
        assert_eq!(
            value("trundle_rollout{app=\"web\",rollout=\"2\",from=\"1\",to=\"2\",state=\"succeeded\"}"),
            1
        );
    }
}

/// As a service manager starts a service with its sockets: the first is descriptor 3.
const GIVES_SOCKET: &str = "
import os, socket, sys
host, port = sys.argv[1].split(':')
given = socket.create_server((host, int(port)))
os.dup2(given.fileno(), 3)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn an_address_that_a_service_manager_holds_is_deployed_to() {
    let site = Site::with(&sample(2, r#"START_MS = "0""#, BUDGET));
    std::fs::create_dir(site.state()).unwrap();
    std::fs::set_permissions(site.state(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let (bin, state) = (site.bin(), site.state());
    let mut holder = Command::new("python3");
    holder.args(["-c", GIVES_SOCKET, &site.listen(), bin.to_str().unwrap(), "shim", "proxy", "--state-dir"]);
    let mut holder =
        holder.arg(&state).env("TRUNDLE_STATE_DIR", &state).spawn().expect("python3 is installed");
    wait_for("the proxy of the holder", 10, || site.procs().iter().any(|proc| proc.is_proxy()).then_some(()));
    site.deploy("1", &[]).expect(0);
    let url = format!("http://{}/", site.listen());
    let curls = Curls::start(&[&url]);
    site.deploy("2", &[]).expect(0);
    curls.expect_all_good(5);
    assert!(site.procs().iter().any(|proc| proc.pid == holder.id()), "it is the same holder");
    site.run(&["down"]).expect(0);
    assert!(holder.wait().unwrap().success());
    // One that holds nothing any more vouches for nothing.
    let _taken = std::net::TcpListener::bind(site.listen()).unwrap();
    let refused = site.deploy("3", &[]).expect(1);
    assert!(refused.stderr.contains("cannot listen on"), "{refused}");
}
