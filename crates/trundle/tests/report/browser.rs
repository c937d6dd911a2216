//! A real browser looks at the page: it fetches nothing, says nothing, and everything has its place, on a phone too.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::{page, world};

/// Looks at the page in frames of these widths, and leaves behind what it saw as the only text of its own page.
const LOOK: &str = r#"<!doctype html><link rel="icon" href="data:,"><meta name="color-scheme" content="light dark"><body><script>
const seen = [];
addEventListener("load", () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    for (const details of page.querySelectorAll("details")) details.open = true;
    const style = (selector) => frame.contentWindow.getComputedStyle(page.querySelector(selector));
    const shown = [...page.querySelectorAll("svg")].filter((svg) => frame.contentWindow.getComputedStyle(svg).display != "none");
    const small = [...page.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1);
    seen.push({
      width: root.clientWidth, scroll: root.scrollWidth, title: page.title,
      charts: shown.filter((svg) => svg.classList.contains("chart")).map((svg) => svg.getBoundingClientRect()).map((b) => [b.width, b.height]),
      chips: shown.filter((svg) => svg.classList.contains("chip")).map((svg) => svg.getBoundingClientRect()).map((b) => [b.width, b.height]),
      beyond: small.filter((e) => !e.closest("svg")).map((e) => e.outerHTML.slice(0, 200)),
      letters: [...page.querySelectorAll("svg.chart text")].map((t) => t.getBoundingClientRect().height).filter((h) => h > 0).reduce((a, b) => Math.min(a, b), 99),
      background: style("body").backgroundColor, colour: style("body").color,
    });
  }
  document.body.textContent = "SEEN" + JSON.stringify(seen) + "SEEN";
});
for (const width of [360, 1100]) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.src = "/report.html";
  document.body.append(frame);
}
</script></body>"#;

#[test]
fn a_browser_shows_it_on_any_width_in_light_and_dark_and_fetches_nothing() {
    let Some(browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let html = std::fs::read_to_string(page(&world::bad_rollout(dir.path()))).unwrap();
    let server = Server::start(html);
    let (light, dark) = (look(&browser, &server, "1"), look(&browser, &server, "0"));
    for seen in [&light, &dark] {
        let [phone, desk] = seen.as_slice() else { panic!("two frames: {seen:?}") };
        for frame in [phone, desk] {
            assert!(frame["scroll"].as_u64() <= frame["width"].as_u64(), "it scrolls sideways: {frame:#}");
            assert_eq!(frame["beyond"].as_array().unwrap().len(), 0, "{frame:#}");
            let boxes = |key: &str| frame[key].as_array().unwrap().clone();
            assert_eq!(boxes("charts").len(), 3, "one width of each picture: {frame:#}");
            for shape in boxes("charts").iter().chain(&boxes("chips")) {
                assert!(shape[0].as_f64() > Some(8.0) && shape[1].as_f64() > Some(8.0), "{frame:#}");
            }
            assert!(frame["letters"].as_f64() > Some(9.0), "words in pictures can be read: {frame:#}");
        }
        assert_eq!((phone["width"].as_u64(), desk["width"].as_u64()), (Some(360), Some(1100)));
    }
    let brightness = |seen: &[Value], key: &str| -> u32 {
        let colour = seen[0][key].as_str().unwrap();
        let digits = colour.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
        digits.take(3).sum()
    };
    assert!(brightness(&light, "background") > 600 && brightness(&light, "colour") < 200, "{light:?}");
    assert!(brightness(&dark, "background") < 150 && brightness(&dark, "colour") > 600, "{dark:?}");
    let asked = server.asked.lock().unwrap();
    let foreign: Vec<_> =
        asked.iter().filter(|path| !["/", "/report.html"].contains(&path.as_str())).collect();
    assert!(foreign.is_empty(), "it asked for {foreign:?}");
}

/// What the frames showed, narrow one first. `scheme` is 0 for dark, 1 for light.
fn look(browser: &str, server: &Server, scheme: &str) -> Vec<Value> {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args([
        "--enable-logging=stderr",
        "--hide-scrollbars",
        "--virtual-time-budget=10000",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--blink-settings=preferredColorScheme={scheme}"));
    // Whatever it may want to ask of the world is not found.
    command.arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1");
    let output = command.arg(format!("http://{}/", server.address)).output().unwrap();
    let (dom, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let console: Vec<_> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "the browser complains: {console:#?}");
    let seen = dom.split("SEEN").nth(1).unwrap_or_else(|| panic!("no answer: {dom}\n{said}"));
    serde_json::from_str(&seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).unwrap()
}

/// Serves the page and the one that looks at it, and notes what is asked for.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(html: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, html, notes) = (stream.unwrap(), html.clone(), notes.clone());
                // A browser also opens connections that it may use later.
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                    let Some(first) = lines.next() else { return };
                    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                    lines.take_while(|line| !line.is_empty()).for_each(drop);
                    let body = if path == "/report.html" { &html } else { LOOK };
                    notes.lock().unwrap().push(path);
                    let head =
                        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close";
                    let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                });
            }
        });
        Self { address, asked }
    }
}

/// In CI it must be there; elsewhere it is said loudly that nobody looked.
fn browser() -> Option<String> {
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        let why = "no Chromium is installed (apt install chromium fonts-liberation)";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        let mut out = std::io::stderr();
        // Past the test's captured output.
        let _ = writeln!(out, "SKIPPED: nobody looked at the report's page, because {why}");
    }
    found.map(str::to_owned)
}
