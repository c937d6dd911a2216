//! The probes of a container, as checks.

use hyper::http::{HeaderName, HeaderValue};

use super::draft::{Check, Draft, LIMITS, duration, list, quoted};
use super::kubernetes::{milliseconds, whole};
use super::words;
use super::yaml::Yaml;
use crate::config::source::shown;

const PROBES: [(&str, &str); 3] =
    [("startupProbe", "startup"), ("readinessProbe", "ready"), ("livenessProbe", "live")];

/// The probes, and what else the container has.
pub fn read(draft: &mut Draft, container: &Yaml, port: Option<u16>) -> Result<(), String> {
    for (key, name) in PROBES {
        if let Some(probe) = container.get(key) {
            one(draft, key, name, probe, container, port)?;
        }
    }
    if draft.listen.is_some() && !draft.has_check("ready") {
        draft.drop("no readinessProbe", "a connection to the port counts as ready");
    }
    for (key, value) in container.said() {
        let why = match key {
            "name" | "image" | "command" | "args" | "env" | "envFrom" | "ports" | "startupProbe"
            | "readinessProbe" | "livenessProbe" => continue,
            "lifecycle" => {
                if value.get("preStop").is_some() {
                    draft.drop(
                        "preStop",
                        "not needed to wait for requests: an instance is told to stop after its last one",
                    );
                }
                if value.get("postStart").is_some() {
                    draft.drop("postStart", "it has no place here: do it at the start of the command");
                }
                continue;
            }
            "resources" => LIMITS,
            "volumeMounts" | "volumeDevices" => {
                "what is on this machine is there for the program, by its path"
            }
            "workingDir" => "a folder of the image: write run.cwd if it is on this machine",
            "imagePullPolicy" => "images are not run here",
            "securityContext" => "instances run as the user of the daemon, or run.user",
            "terminationMessagePath" | "terminationMessagePolicy" => {
                "the last log lines are on the failure card"
            }
            _ => "it has no place here",
        };
        draft.drop(shown(key), format!("{}: {why}", value.in_short()));
    }
    Ok(())
}

fn one(
    draft: &mut Draft,
    key: &str,
    name: &'static str,
    probe: &Yaml,
    container: &Yaml,
    port: Option<u16>,
) -> Result<(), String> {
    let in_probe = |why: String| format!("{key}: {why}");
    let mut lines = Vec::new();
    if let Some(http) = probe.get("httpGet") {
        let path = http.text_at("path").unwrap_or_else(|| "/".to_owned());
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        lines.push(format!("http = {}", quoted(&path)));
        other_port(draft, key, http, container, port);
        let headers = http.get("httpHeaders").into_iter().flat_map(Yaml::list);
        let mut pairs = Vec::new();
        for header in headers {
            let (name, value) =
                (header.text_at("name").unwrap_or_default(), header.text_at("value").unwrap_or_default());
            if name.parse::<HeaderName>().is_ok() && value.parse::<HeaderValue>().is_ok() {
                pairs.push(format!("{} = {}", quoted(&name), quoted(&value)));
            } else {
                draft.drop(
                    format!("{key}.httpGet header {}", shown(&name)),
                    "it is not a header that can be sent",
                );
            }
        }
        if !pairs.is_empty() {
            lines.push(format!("headers = {{ {} }}", pairs.join(", ")));
        }
        if http.text_at("scheme").is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http")) {
            draft.drop(format!("{key}.httpGet.scheme"), "the check speaks http, without TLS");
        }
        if let Some(host) = http.text_at("host") {
            draft.drop(format!("{key}.httpGet.host {}", shown(&host)), "the check goes to the instance");
        }
    } else if let Some(tcp) = probe.get("tcpSocket") {
        lines.push("tcp = true".to_owned());
        other_port(draft, key, tcp, container, port);
    } else if let Some(exec) = probe.at("exec.command") {
        let mut command: Vec<_> = exec.texts().iter().map(|text| words::escaped(text)).collect();
        if let Some(port) = port {
            words::put_port(&mut command, port);
        }
        lines.push(format!("exec = {}", list(&command)));
    } else if let Some(grpc) = probe.get("grpc") {
        lines.push(format!("grpc = {}", quoted(&grpc.text_at("service").unwrap_or_default())));
        other_port(draft, key, grpc, container, port);
    } else {
        draft.drop(key.to_owned(), "a check here is http, tcp, grpc or exec");
        return Ok(());
    }
    let period = whole(probe, "periodSeconds").map_err(in_probe)?.unwrap_or(10).max(1);
    let failures = whole(probe, "failureThreshold").map_err(in_probe)?.unwrap_or(3).max(1);
    let timeout = whole(probe, "timeoutSeconds").map_err(in_probe)?.unwrap_or(1).max(1);
    let successes = whole(probe, "successThreshold").map_err(in_probe)?.unwrap_or(1).max(1);
    lines.push(format!("interval = {}", duration(milliseconds(period)?)));
    lines.push(format!("timeout = {}", duration(milliseconds(timeout)?)));
    lines.push(format!("rise = {}", successes.min(1000)));
    lines.push(format!("fall = {}", failures.min(1000)));
    if name == "startup" {
        draft.start_ms = Some(milliseconds(period.saturating_mul(failures))?);
    }
    if whole(probe, "initialDelaySeconds").map_err(in_probe)?.is_some_and(|delay| delay > 0) {
        draft.drop(
            format!("{key}.initialDelaySeconds"),
            "not needed: an instance that starts is asked often, and has healthy_deadline to get ready",
        );
    }
    for (field, value) in probe.said() {
        let known = [
            "httpGet",
            "tcpSocket",
            "exec",
            "grpc",
            "periodSeconds",
            "timeoutSeconds",
            "successThreshold",
            "failureThreshold",
            "initialDelaySeconds",
        ];
        if !known.contains(&field) {
            draft.drop(
                format!("{key}.{}", shown(field)),
                format!("{}: it has no place here", value.in_short()),
            );
        }
    }
    draft.keep(key, format!("[health.{name}]"));
    draft.checks.push(Check { name, lines });
    Ok(())
}

/// A check goes to the port of the instance: another one is named.
fn other_port(draft: &mut Draft, key: &str, probe: &Yaml, container: &Yaml, port: Option<u16>) {
    let Some(written) = probe.text_at("port") else { return };
    let named = container.get("ports").into_iter().flat_map(Yaml::list);
    let number = named
        .filter(|port| port.text_at("name").as_ref() == Some(&written))
        .find_map(|port| port.text_at("containerPort"))
        .unwrap_or_else(|| written.clone());
    if port.is_some_and(|port| number != port.to_string()) {
        draft
            .drop(format!("{key} on port {}", shown(&written)), "the check goes to the port of the instance");
    }
}
