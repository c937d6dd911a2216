//! The top of the file: the name, the version, how many; and the tables under it, put together.

use std::path::Path;

use trundle_core::ids::{AppName, VersionLabel};
use trundle_core::revision::{Health, Port};
use trundle_core::settings::{AppSettings, Listen, MAX_REPLICAS};
use trundle_drivers::prepare::Draft;

use super::environment::{self, Caller};
use super::section::Section;
use super::{Secrets, formats, gates, health, listen, rollout, run, traffic, value};

/// What is None has a problem told.
pub struct App {
    pub name: Option<AppName>,
    pub settings: AppSettings,
    pub draft: Option<Draft>,
}

pub fn read(top: &Section<'_>, folder: &Path, secrets: Secrets, caller: Caller<'_>) -> App {
    let name = top.require("name", value::name);
    let version = top.require("version", value::name);
    let replicas = top.get("replicas", value::whole(0, MAX_REPLICAS)).unwrap_or(1);
    let run_section = top.table("run");
    if !top.has("run") {
        let hint = "write: [run] and under it command = [\"./server\", \"--port\", \"{port}\"]";
        top.refuse("run.command", "run.command is missing".to_owned(), hint);
    }
    let port = run_section.as_ref().map_or(Port::Auto, run::read_port);
    if let Port::Fixed(port) = port {
        let note = format!(
            "run.port is fixed at {port}: each rollout stops the instance before it starts the new one"
        );
        top.findings.note(note);
    }
    let mut listen = top.table("listen").map(|section| listen::read(&section, folder, port));
    if let Some(section) = top.table("traffic") {
        let traffic = traffic::read(&section);
        let caller_header = section.get("caller_header", value::checked_by(trundle_proxy::check_header));
        match &mut listen {
            Some(listen) if listen.tcp.is_none() => {
                (listen.traffic, listen.caller_header) = (Some(traffic), caller_header);
            }
            Some(_) => {
                let message =
                    "listen.tcp carries bytes that are no HTTP, so [traffic] says nothing".to_owned();
                section.refuse("", message, "remove it");
            }
            None => {
                let message = "[traffic] is about requests, and this app takes none".to_owned();
                section.refuse(
                    "",
                    message,
                    "write where they come in: [listen] and http = \"127.0.0.1:8080\"",
                );
            }
        }
    }
    let is_idle = |listen: &Listen| listen.caller_header.is_some() && !top.has("formats");
    if let Some(section) = listen.as_ref().filter(|l| is_idle(l)).and_then(|_| top.table("traffic")) {
        let message = "no format is looked at, so who calls is not either".to_owned();
        section.refuse("caller_header", message, "write the formats under [[formats]], or remove it");
    }
    if matches!(port, Port::Fixed(_))
        && listen.as_ref().and_then(|l| l.traffic.as_ref()).is_some_and(|t| t.skew_max_age_ms > 0)
    {
        let note = "with a fixed port no instance is kept for the pages of clients: traffic.skew.max_age says nothing";
        top.findings.note(note.to_owned());
    }
    if top.has("formats") {
        let formats = formats::read(top);
        match &mut listen {
            Some(listen) if listen.tcp.is_none() => listen.formats = formats,
            Some(_) | None => {
                let message =
                    "[[formats]] are what clients speak over HTTP, and this app takes no such requests";
                top.refuse("formats", message.to_owned(), "write under [listen]: http = \"127.0.0.1:8080\"");
            }
        }
    }
    let compatible_with =
        top.table("release").and_then(|section| section.get("compatible_with", value::checked_by(range)));
    let health = health::read(top, listen.is_some());
    let rollout = rollout::read(top.table("rollout").as_ref());
    let environment = run_section.as_ref().map(|section| environment::read(section, folder, secrets, caller));
    let run = run_section.zip(environment).and_then(|(section, environment)| {
        Some((run::read(&section, folder, &environment.path_variable)?, environment))
    });
    let settings = AppSettings {
        replicas,
        rollout,
        listen,
        fixed_port: matches!(port, Port::Fixed(_)),
        gates: gates::read(top),
    };
    let draft = version
        .zip(run)
        .map(|(version, (run, environment))| draft(version, run, environment, port, health, compatible_with));
    App { name, settings, draft }
}

fn range(text: &str) -> Result<(), String> {
    trundle_versions::Range::parse(text).map(drop).map_err(|wrong| wrong.to_string())
}

fn draft(
    version: VersionLabel,
    run: run::Run,
    environment: environment::Environment,
    port: Port,
    health: Health,
    compatible_with: Option<String>,
) -> Draft {
    Draft {
        version,
        command: run.command,
        cwd: run.cwd,
        env: environment.env,
        env_file: environment.env_file,
        secrets: environment.secrets,
        artifact: run.artifact,
        stop_signal: run.stop_signal,
        protocol: run.protocol,
        quiet: run.quiet,
        user: run.user,
        limits: run.limits,
        port,
        health,
        compatible_with,
    }
}
