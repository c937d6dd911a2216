//! Ports, health checks and the update rules of a service of a compose file.

use trundle_core::Millis;

use super::draft::{Check, Draft, duration, list, quoted};
use super::words;
use super::yaml::Yaml;
use crate::config::parse_duration;
use crate::config::source::shown;

/// The port in the container; where clients come in is written into the draft.
pub fn ports(draft: &mut Draft, service: &Yaml) -> Option<u16> {
    let mut port = None;
    for written in service.get("ports").into_iter().flat_map(Yaml::list) {
        let Some((address, inner)) = published(written) else {
            draft.drop(format!("port {}", written.in_short()), "it is not one TCP port: write listen.http");
            continue;
        };
        if port.is_some() {
            draft.drop(
                format!("port {}", written.in_short()),
                "an instance has one port, and an app listens in one place",
            );
            continue;
        }
        port = Some(inner);
        draft.keep(format!("port {}", written.in_short()), format!("listen.http = {}", quoted(&address)));
        draft.listen = Some(address);
    }
    let exposed = service.get("expose").and_then(|ports| ports.list().first()?.text()?.parse().ok());
    match (port, exposed) {
        (None, Some(inner)) => {
            let address = format!("127.0.0.1:{}", if inner >= 1024 { inner } else { 8080 });
            draft.keep(format!("expose {inner}"), format!("listen.http = {}", quoted(&address)));
            draft.listen = Some(address);
            Some(inner)
        }
        (port, _) => port,
    }
}

/// Where clients come in, and the port in the container: `8080:80`, `127.0.0.1:8080:80/tcp`, or the long form.
fn published(written: &Yaml) -> Option<(String, u16)> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (host, outer, inner) = match written.text() {
        Some(text) => {
            let text = text.strip_suffix("/tcp").unwrap_or(&text).to_owned();
            let parts: Vec<_> = text.rsplitn(3, ':').map(str::to_owned).collect();
            let inner = number(&parts[0])?;
            let outer = parts.get(1).map_or(Some(inner), |outer| number(outer))?;
            (parts.get(2).cloned(), outer, inner)
        }
        None => {
            if written.text_at("protocol").is_some_and(|protocol| protocol != "tcp") {
                return None;
            }
            let inner = number(&written.text_at("target")?)?;
            let outer = written.text_at("published").map_or(Some(inner), |outer| number(&outer))?;
            (written.text_at("host_ip"), outer, inner)
        }
    };
    let address = format!("{}:{outer}", host.unwrap_or_else(|| "0.0.0.0".to_owned()));
    address.parse::<std::net::SocketAddr>().ok().map(|address| (address.to_string(), inner))
}

/// `deploy.update_config`, with its defaults: one at a time, the old one stopped first.
pub fn update(draft: &mut Draft, update: &Yaml) -> Result<(), String> {
    let what = |key: &str| format!("deploy.update_config.{key}");
    let wrong =
        |key: &str, value: &Yaml| format!("deploy.update_config.{key} is {}: not possible", value.in_short());
    let time = |key: &str| match update.text_at(key) {
        None => Ok(None),
        Some(text) => milliseconds(&text)
            .map(Some)
            .ok_or_else(|| format!("{} is {}: not a duration", what(key), shown(&text))),
    };
    let parallelism = match update.get("parallelism") {
        None => 1,
        Some(value) => value.number().ok_or_else(|| wrong("parallelism", value))?,
    };
    // 0 means all at once.
    let batch = if parallelism == 0 { u64::from(draft.replicas.max(1)) } else { parallelism };
    draft.roll(what("parallelism"), format!("batch = {batch}"));
    if let Some(delay) = time("delay")?.filter(|delay| *delay > 0) {
        draft.roll(what("delay"), format!("delay = {}", duration(delay)));
    }
    match update.text_at("order").as_deref().unwrap_or("stop-first") {
        order @ ("stop-first" | "start-first") => {
            draft.roll(what("order"), format!("order = {}", quoted(order)))
        }
        other => return Err(format!("{} is {}: not possible", what("order"), shown(other))),
    }
    match update.text_at("failure_action").as_deref().unwrap_or("pause") {
        action @ ("pause" | "continue" | "rollback") => {
            draft.roll(what("failure_action"), format!("on_failure = {}", quoted(action)));
        }
        other => return Err(format!("{} is {}: not possible", what("failure_action"), shown(other))),
    }
    if let Some(monitor) = time("monitor")? {
        draft.min_healthy_ms = monitor;
        draft.keep(what("monitor"), format!("rollout.min_healthy_time = {}", duration(monitor)));
    }
    if let Some(value) = update.get("max_failure_ratio") {
        let ratio = value
            .text()
            .and_then(|text| text.parse::<f64>().ok())
            .filter(|ratio| (0.0..=1.0).contains(ratio));
        let percent = (ratio.ok_or_else(|| wrong("max_failure_ratio", value))? * 100.0).round();
        let failures = if percent < 1.0 { "1".to_owned() } else { quoted(&format!("{percent}%")) };
        draft.roll(what("max_failure_ratio"), format!("max_failures = {failures}"));
    }
    for (key, value) in update.said() {
        let known = ["parallelism", "delay", "order", "failure_action", "monitor", "max_failure_ratio"];
        if !known.contains(&key) {
            draft.drop(what(&shown(key)), format!("{}: it has no place here", value.in_short()));
        }
    }
    Ok(())
}

/// `healthcheck` becomes the readiness check. A `curl` of the container itself becomes an http check.
pub fn health(draft: &mut Draft, service: &Yaml, port: Option<u16>) -> Result<(), String> {
    let Some(health) = service.get("healthcheck") else { return Ok(()) };
    let test = health.get("test");
    let words = match test {
        Some(Yaml::List(_)) => test.map_or_else(Vec::new, Yaml::texts),
        Some(other) => vec!["CMD-SHELL".to_owned(), other.text().unwrap_or_default()],
        None => Vec::new(),
    };
    let off = health.text_at("disable").as_deref() == Some("true");
    let command = match words.split_first() {
        Some((kind, command)) if kind == "CMD" && !off => command.to_vec(),
        Some((kind, command)) if kind == "CMD-SHELL" && !off => {
            vec!["sh".to_owned(), "-c".to_owned(), command.join(" ")]
        }
        _ => {
            draft.drop(
                "healthcheck",
                "it is off, or that of the image: a connection to the port counts as ready",
            );
            return Ok(());
        }
    };
    let mut lines = vec![match http_path(&command, port) {
        Some(path) => format!("http = {}", quoted(&path)),
        None => {
            let mut command: Vec<_> =
                command.iter().map(|word| words::escaped(&word.replace("$$", "$"))).collect();
            if let Some(port) = port {
                words::put_port(&mut command, port);
            }
            format!("exec = {}", list(&command))
        }
    }];
    for (key, ours, default) in [("interval", "interval", 30_000), ("timeout", "timeout", 30_000)] {
        let ms = match health.text_at(key) {
            None => default,
            Some(text) => milliseconds(&text)
                .ok_or_else(|| format!("healthcheck.{key} is {}: not a duration", shown(&text)))?,
        };
        lines.push(format!("{ours} = {}", duration(ms.max(10))));
    }
    let retries = health
        .get("retries")
        .map_or(Some(3), Yaml::number)
        .ok_or("healthcheck.retries is not a whole number")?;
    lines.push(format!("fall = {}", retries.clamp(1, 1000)));
    for key in ["start_period", "start_interval"] {
        if health.get(key).is_some() {
            draft.drop(
                format!("healthcheck.{key}"),
                "not needed: an instance that starts is asked often, and has healthy_deadline to get ready",
            );
        }
    }
    draft.keep("healthcheck", "[health.ready]");
    draft.checks.push(Check { name: "ready", lines });
    Ok(())
}

/// The path of the one address in the command, if it is one of the container itself.
fn http_path(command: &[String], port: Option<u16>) -> Option<String> {
    let whole = command.join(" ");
    let asks =
        command.iter().flat_map(|word| word.split_whitespace()).any(|word| ["curl", "wget"].contains(&word));
    let (_, rest) = whole.split_once("http://").filter(|(_, rest)| asks && !rest.contains("http://"))?;
    let address = rest.split(|c: char| c.is_whitespace() || "\"'|;&".contains(c)).next()?;
    let (host, path) = address.find('/').map_or((address, "/"), |at| address.split_at(at));
    let (host, of_host) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
    let own_port = of_host.is_none_or(|written| {
        port.is_some_and(|port| written == port.to_string()) || written.contains("PORT")
    });
    // Some look at more than the status.
    let plain = !whole.contains("grep") && !whole.contains("--data") && !whole.contains(" -d ");
    (own_port && plain && ["localhost", "127.0.0.1", "0.0.0.0"].contains(&host)).then(|| path.to_owned())
}

/// `1m30s` as compose files have it; parts of a second are possible there too.
pub fn milliseconds(text: &str) -> Option<Millis> {
    parse_duration(text).ok().or_else(|| {
        let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
        // Bounded before it becomes a whole number.
        (0.0..=86_400.0).contains(&seconds).then_some((seconds * 1000.0).round() as Millis)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_every_form() {
        let check = |text: &str, expect: Option<(&str, u16)>| {
            let yaml =
                super::super::yaml::read(text).unwrap_or_else(|bad| panic!("{}", bad.message)).remove(0);
            assert_eq!(published(&yaml), expect.map(|(a, p)| (a.to_owned(), p)), "{text}");
        };
        check("'8080:80'", Some(("0.0.0.0:8080", 80)));
        check("'127.0.0.1:8080:80/tcp'", Some(("127.0.0.1:8080", 80)));
        check("'[::1]:8080:80'", Some(("[::1]:8080", 80)));
        check("3000", Some(("0.0.0.0:3000", 3000)));
        check("{target: 80, published: '8081', host_ip: 127.0.0.1}", Some(("127.0.0.1:8081", 80)));
        for bad in ["'8000-8010:80'", "'53:53/udp'", "'${PORT}:80'", "{target: 53, protocol: udp}", "'0:80'"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn a_curl_of_itself_is_an_http_check() {
        let check = |line: &str, expect: Option<&str>| {
            let command: Vec<_> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(http_path(&command, Some(80)).as_deref(), expect, "{line}");
        };
        check("curl -f http://localhost/health || exit 1", Some("/health"));
        check("wget -q --spider http://127.0.0.1:80", Some("/"));
        check("curl -f http://localhost:81/health", None);
        check("curl -f http://db/health", None);
        check("curl http://localhost/h | grep ok", None);
        check("./check http://localhost/h", None);
    }
}
