//! `status` as text.

use std::fmt::Write;

use trundle_drivers::logs::printable;
use trundle_engine::view::{InstanceStatus, Status, json_word};

use super::{bold, dim, green, red, yellow};

pub fn render(status: &Status) -> String {
    let mut out = String::new();
    let state = match (&status.rollout, status.down) {
        (_, true) => yellow("down"),
        (Some(r), _) => match r.state.as_str() {
            "succeeded" => green("succeeded"),
            "running" => bold("running"),
            "failed" => red("failed"),
            other => yellow(other),
        },
        (None, _) => dim("never rolled"),
    };
    let rollout = status.rollout.as_ref().map(|r| {
        let from = r.from_version.as_ref().map(|f| format!("{f} → ")).unwrap_or_default();
        format!("rollout {}: {from}{} {state}, by {}", r.id, r.to_version, r.by)
    });
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}  {}", bold(&status.app), rollout.unwrap_or(state));
    let _ = writeln!(
        out,
        "  {} of {} available (floor {}), {} live (ceiling {})  {}",
        status.available,
        status.replicas,
        status.floor,
        status.live,
        status.ceiling,
        dim(&status.listen.join(" "))
    );
    if let Some(trouble) = &status.trouble {
        let _ = writeln!(out, "  {}: {}", red("trouble"), printable(trouble));
    }
    if status.maintenance.is_some() {
        let are_bytes = status.listen.first().is_some_and(|address| address.starts_with("tcp://"));
        let who = if are_bytes { "new connections are closed" } else { "clients get the page" };
        let open = format!("{who}; `trundle maintenance off {}` lets them in again", status.app);
        let _ = writeln!(out, "  {}: {open}", red("closed for maintenance"));
    }
    if let Some(line) = status.window.as_ref().and_then(super::window::line) {
        let _ = writeln!(out, "  {}: {line}", bold("versions"));
    }
    for gate in &status.gates {
        let state = if gate.open { green("open") } else { yellow("closed") };
        let why = if gate.open { String::new() } else { format!(": {}", gate.because.join(", ")) };
        let _ = writeln!(out, "  gate {} is {state}{why}", bold(&gate.name));
    }
    for line in status.formats.iter().filter_map(super::window::callers) {
        let _ = writeln!(out, "  {}: {line}", bold("formats"));
    }
    for revision in &status.revisions {
        let _ = writeln!(
            out,
            "  {:<12} revision {:<4} {:>3} live, {:>3} ready, {:>3} available",
            revision.version, revision.revision, revision.instances, revision.ready, revision.available
        );
    }
    for reason in &status.reasons {
        if let Some(text) = reason["text"].as_str() {
            let _ = writeln!(out, "  {} {}", dim("·"), printable(text));
        }
    }
    if let Some(requests) = status.requests.as_ref().filter(|r| r.total > 0) {
        let _ = writeln!(out, "  {}", super::report::requests(Some(requests)));
    }
    for instance in &status.instances {
        let _ = writeln!(out, "  {}", row(instance));
    }
    out
}

fn row(instance: &InstanceStatus) -> String {
    let phase = json_word(&instance.phase);
    let phase = match (phase.as_str(), instance.available) {
        ("ready", true) => green(&format!("{phase:<9}")),
        ("failed", _) => red(&format!("{phase:<9}")),
        _ => yellow(&format!("{phase:<9}")),
    };
    let pid = instance.pid.map(|p| format!("pid {p}")).unwrap_or_default();
    let busy = instance.in_flight.filter(|n| *n > 0).map(|n| format!("{n} in flight")).unwrap_or_default();
    format!(
        "  {:<14} {phase} {:<18} {pid:<12} {busy}",
        instance.id,
        instance.address.as_deref().unwrap_or("-")
    )
    .trim_end()
    .to_owned()
}
