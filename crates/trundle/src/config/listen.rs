//! `[listen]`: where clients come in. What the proxy would refuse is refused here, by the proxy's own rule.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use trundle_core::Millis;
use trundle_core::revision::Port;
use trundle_core::settings::{AccessFormat, AccessLog, Acme, Listen, Tls, TrafficLimits};
use trundle_proxy::{self as proxy, table};

use super::node::Node;
use super::section::Section;
use super::source::shown;
use super::value::{self, Wrong};

const DEFAULT_VERSION_HEADER: &str = "X-App-Version";
const HOLD_FOR_A_FIXED_PORT_MS: Millis = 30_000;
/// What the kernel takes for the path of a Unix socket, without its closing NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

pub fn read(section: &Section<'_>, folder: &Path, port: Port) -> Listen {
    let [http, https, tcp] = ["http", "https", "tcp"].map(|key| {
        let found = section.get(key, address);
        if let (Some(address), Port::Fixed(port)) = (found, port)
            && collides(address, port)
        {
            let message = format!("{address} and run.port are the same port: the app could not take it");
            section.refuse(key, message, "give run.port another number, or use port = \"auto\"");
        }
        found
    });
    if http.is_some() && http == https {
        let message = "http and https are the same address".to_owned();
        section.refuse("https", message, "give each a port of its own, such as 80 and 443");
    }
    let tls = section.table("listen.tls").and_then(|section| tls(&section, folder, http.is_some()));
    match (section.has("https"), section.has("tls")) {
        (true, false) => section.refuse(
            "https",
            "listen.https needs a certificate".to_owned(),
            "write under [listen.tls]: cert = \"fullchain.pem\" and key = \"privkey.pem\"",
        ),
        (false, true) => section.refuse(
            "tls",
            "[listen.tls] is for listen.https, which is not there".to_owned(),
            "write under [listen]: https = \"0.0.0.0:443\"",
        ),
        (true, true) | (false, false) => {}
    }
    let unix = section.get("unix", |node| socket_path(node, folder));
    if let Some(parent) =
        unix.as_deref().and_then(|path| Path::new(path).parent()).filter(|parent| !parent.is_dir())
    {
        section.findings.note(format!("the folder of listen.unix is not there yet: {}", parent.display()));
    }
    for key in ["http", "https", "unix", "tls", "hosts", "paths", "access_log"] {
        if section.has("tcp") && section.has(key) {
            let message = format!("listen.tcp carries bytes that are no HTTP, so listen.{key} says nothing");
            section.refuse(key, message, "keep one of both; an app that needs both is two apps");
        }
    }
    if !["http", "https", "unix", "tcp"].iter().any(|key| section.has(key)) {
        let hint = "add http = \"127.0.0.1:8080\" or unix = \"web.sock\"; leave [listen] out for an app without requests";
        section.refuse("", "[listen] says nowhere to listen".to_owned(), hint);
    }
    let trusted_proxies = section.get("trusted_proxies", value::texts).unwrap_or_default();
    for (index, entry) in trusted_proxies.iter().enumerate() {
        if refused_by_proxy(|app| app.trusted_proxies = vec![entry.clone()]) {
            let message = format!("\"{}\" is neither an address, nor a network, nor \"unix\"", shown(entry));
            section.refuse_item(
                "trusted_proxies",
                index,
                message,
                "write it like \"10.0.0.0/8\", \"::1\" or \"unix\"",
            );
        }
    }
    let hosts = checked(section, "hosts", proxy::check_host);
    let paths = checked(section, "paths", proxy::check_path);
    if tls.as_ref().is_some_and(|tls| tls.acme.is_some())
        && (hosts.is_empty() || hosts.iter().any(|host| host.starts_with('*')))
    {
        let message = "a certificate is for hosts, and which is not said".to_owned();
        section.refuse("tls", message, "write under [listen]: hosts = [\"shop.example\"], without a *");
    }
    let version_header =
        section.get("version_header", header).unwrap_or_else(|| DEFAULT_VERSION_HEADER.to_owned());
    let default = Listen::default();
    // One that can run only once has a moment without anybody: then its clients wait, if nothing else is written.
    let hold_by_itself = if let Port::Fixed(_) = port { HOLD_FOR_A_FIXED_PORT_MS } else { default.hold_ms };
    Listen {
        http: http.map(|address| address.to_string()),
        https: https.map(|address| address.to_string()),
        tls,
        unix,
        tcp: tcp.map(|address| address.to_string()),
        hosts,
        paths,
        access_log: access_log(section, folder),
        // A person says so, never the file.
        maintenance: None,
        trusted_proxies,
        version_header: (!version_header.is_empty()).then_some(version_header),
        hold_ms: section.get("hold", up_to_an_hour).unwrap_or(hold_by_itself),
        drain_spread_ms: section.get("drain_spread", up_to_an_hour).unwrap_or(default.drain_spread_ms),
        limits: section.table("listen.limits").map(|limits| self::limits(&limits)).unwrap_or_default(),
        traffic: None,
        formats: Vec::new(),
        caller_header: None,
    }
}

/// Texts of which each is good for the proxy.
fn checked(section: &Section<'_>, key: &'static str, check: fn(&str) -> Result<(), String>) -> Vec<String> {
    let texts = section.get(key, value::texts).unwrap_or_default();
    for (index, text) in texts.iter().enumerate() {
        if let Err(why) = check(text) {
            let (message, hint) = why.split_once("; ").unwrap_or((&why, ""));
            section.refuse_item(key, index, message.to_owned(), hint);
        }
    }
    texts
}

fn access_log(section: &Section<'_>, folder: &Path) -> Option<AccessLog> {
    let file = section.get("access_log_file", |node| {
        Ok(super::absolute(folder, &value::text_up_to(4096)(node)?).to_string_lossy().into_owned())
    });
    let format = section.get("access_log", value::choice::<AccessFormat>);
    if section.has("access_log_file") && !section.has("access_log") {
        let message = "there is no access log that could be written to it".to_owned();
        section.refuse("access_log_file", message, "write beside it: access_log = \"json\", or \"combined\"");
    }
    if let Some(parent) = file.as_deref().and_then(|file| Path::new(file).parent()).filter(|p| !p.is_dir()) {
        section
            .findings
            .note(format!("the folder of listen.access_log_file is not there yet: {}", parent.display()));
    }
    Some(AccessLog { format: format?, file })
}

fn tls(section: &Section<'_>, folder: &Path, has_http: bool) -> Option<Tls> {
    let file = |key| {
        let path = section.require(key, |node| pem_file(node, folder))?;
        Some(path.to_string_lossy().into_owned())
    };
    let acme = section.has("acme").then(|| acme(section, folder)).flatten();
    let (cert, key) = if section.has("acme") {
        (Some(String::new()), Some(String::new()))
    } else {
        (file("cert"), file("key"))
    };
    let redirect = section.get("redirect", value::flag).unwrap_or(false);
    if redirect && !has_http {
        let message = "there is no address without TLS to redirect from".to_owned();
        section.refuse("redirect", message, "write under [listen]: http = \"0.0.0.0:80\", or remove it");
    }
    let hsts_ms = section.get("hsts", value::duration_ms);
    Some(Tls { cert: cert?, key: key?, acme, redirect, hsts_ms })
}

/// The certificate is fetched instead of read.
fn acme(section: &Section<'_>, folder: &Path) -> Option<Acme> {
    for key in ["cert", "key"] {
        if section.has(key) {
            let message = format!("acme fetches the certificate, so listen.tls.{key} says nothing");
            section.refuse(key, message, "keep one of both: acme, or cert and key");
        }
    }
    let contact = section.get("acme", |node| match value::text(node)? {
        text if text.contains('@') && !text.contains(char::is_whitespace) => Ok(text),
        text => Err(Wrong::Value(
            format!("\"{}\" is no address of mail", shown(&text)),
            "write who is told when something is wrong with the certificate, such as \"ops@shop.example\""
                .to_owned(),
        )),
    });
    let directory = section.get("acme_directory", |node| match value::text(node)? {
        text if text.starts_with("https://") => Ok(text),
        text => Err(Wrong::Value(
            format!("\"{}\" is no directory of an authority", shown(&text)),
            format!("write it like \"{}\"", Acme::DIRECTORY),
        )),
    });
    let root = section.get("acme_root", |node| pem_file(node, folder));
    Some(Acme {
        contact: contact?,
        directory: directory.unwrap_or_else(|| Acme::DIRECTORY.to_owned()),
        root: root.map(|root| root.to_string_lossy().into_owned()),
    })
}

/// One that is there and can be read: what is in it, the proxy says.
fn pem_file(node: &Node, folder: &Path) -> Result<PathBuf, Wrong> {
    let path = super::absolute(folder, &value::text_up_to(4096)(node)?);
    match std::fs::read(&path) {
        Ok(bytes) if bytes.windows(11).any(|window| window == b"-----BEGIN ") => Ok(path),
        Ok(_) => Err(Wrong::Value(
            format!("{} is not a PEM file", path.display()),
            "it begins with -----BEGIN, as certbot and openssl write it".to_owned(),
        )),
        Err(error) => Err(Wrong::Value(
            format!("{} cannot be read: {error}", path.display()),
            "correct the path, or let the user of the daemon read it".to_owned(),
        )),
    }
}

fn limits(section: &Section<'_>) -> TrafficLimits {
    TrafficLimits {
        header_bytes: section.get("header_size", header_size),
        headers: section.get("headers", value::whole(1, 1_000)),
        body_bytes: section.get("body_size", value::bytes),
        header_timeout_ms: section.get("header_timeout", a_moment_at_least),
        idle_timeout_ms: section.get("idle_timeout", a_moment_at_least),
        body_rate: section.get("body_rate", body_rate),
        response_timeout_ms: section.get("response_timeout", a_moment_at_least),
        connect_timeout_ms: section.get("connect_timeout", a_moment_at_least),
        connections: section.get("connections", value::whole(1, 1_000_000)),
    }
}

fn header_size(node: &Node) -> Result<u32, Wrong> {
    let bytes = u32::try_from(value::bytes(node)?).ok().filter(|bytes| (256..=1 << 20).contains(bytes));
    bytes.ok_or_else(|| {
        Wrong::Value("a head of this size is not possible".to_owned(), "use 256 to \"1MiB\"".to_owned())
    })
}

/// Bytes a second; 0 turns it off.
fn body_rate(node: &Node) -> Result<u64, Wrong> {
    value::whole(0, 1 << 30)(node).map(u64::from)
}

fn up_to_an_hour(node: &Node) -> Result<Millis, Wrong> {
    match value::duration_ms(node)? {
        ms @ 0..=3_600_000 => Ok(ms),
        _ => Err(Wrong::Value("more than an hour is a mistake".to_owned(), "use at most \"1h\"".to_owned())),
    }
}

fn a_moment_at_least(node: &Node) -> Result<Millis, Wrong> {
    match up_to_an_hour(node)? {
        0 => Err(Wrong::Value("nobody could be in time".to_owned(), "use at least \"1ms\"".to_owned())),
        ms => Ok(ms),
    }
}

/// What is not written has the proxy's own bound.
pub fn proxy_limits(listen: &Listen) -> table::Limits {
    let (of, default) = (&listen.limits, table::Limits::default());
    let count = |written: Option<u32>, default: usize| written.map_or(default, |n| n as usize);
    table::Limits {
        header_bytes: count(of.header_bytes, default.header_bytes),
        headers: count(of.headers, default.headers),
        body_bytes: of.body_bytes,
        header_timeout_ms: of.header_timeout_ms.unwrap_or(default.header_timeout_ms),
        idle_timeout_ms: of.idle_timeout_ms.unwrap_or(default.idle_timeout_ms),
        body_rate: of.body_rate.unwrap_or(default.body_rate),
        response_timeout_ms: of.response_timeout_ms.unwrap_or(default.response_timeout_ms),
        connect_timeout_ms: of.connect_timeout_ms.unwrap_or(default.connect_timeout_ms),
        drain_spread_ms: listen.drain_spread_ms,
        hold_ms: listen.hold_ms,
        hold_requests: default.hold_requests,
        max_connections: count(of.connections, default.max_connections),
    }
}

fn address(node: &Node) -> Result<SocketAddr, Wrong> {
    let text = value::text(node)?;
    let refused = |why: &str, hint: String| Err(Wrong::Value(format!("\"{}\" {why}", shown(&text)), hint));
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            refused("has port 0, which nobody could find", "write a port of 1 to 65535".to_owned())
        }
        Ok(address) => Ok(address),
        Err(_) => {
            let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
            let port = port.filter(|port| *port > 0).unwrap_or(8080);
            let hint = format!(
                "write \"127.0.0.1:{port}\" for this machine only, \"0.0.0.0:{port}\" for every address of it"
            );
            refused("is not an address with a port", hint)
        }
    }
}

/// Instances answer on 127.0.0.1.
fn collides(address: SocketAddr, port: u16) -> bool {
    let ip = address.ip().to_canonical();
    address.port() == port && (ip.is_unspecified() || ip == IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn socket_path(node: &Node, folder: &Path) -> Result<String, Wrong> {
    let path = super::absolute(folder, &value::text_up_to(4096)(node)?);
    let length = path.as_os_str().as_bytes().len();
    if length > UNIX_PATH_BYTES_MAX {
        let message = format!(
            "the path of the socket has {length} bytes, at most {UNIX_PATH_BYTES_MAX} are possible: {}",
            path.display()
        );
        return Err(Wrong::Value(message, "use a shorter one, such as /run/trundle/web.sock".to_owned()));
    }
    Ok(path.to_string_lossy().into_owned())
}

fn header(node: &Node) -> Result<String, Wrong> {
    let name = value::text(node)?;
    if !name.is_empty() && refused_by_proxy(|app| app.version_header = Some(name.clone())) {
        let hint = "write it like \"X-App-Version\", or \"\" to turn it off".to_owned();
        return Err(Wrong::Value(format!("\"{}\" is not the name of a header", shown(&name)), hint));
    }
    Ok(name)
}

fn refused_by_proxy(change: impl FnOnce(&mut table::App)) -> bool {
    let mut app = table::App::named("web");
    change(&mut app);
    table::Table { protocol: table::PROTOCOL, epoch: 1, number: 1, apps: vec![app] }.validate().is_err()
}
