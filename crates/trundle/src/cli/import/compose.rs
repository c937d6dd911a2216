//! A service of a compose file.

use trundle_core::revision::StopSignal;

use super::compose_parts::{self, milliseconds};
use super::container;
use super::draft::{Draft, LIMITS, duration, quoted};
use super::image;
use super::words::{self, Filled, Meaning};
use super::yaml::Yaml;
use crate::cli::init::name_like;
use crate::config::source::shown;

/// Whether it has services.
pub fn is_one(document: &Yaml) -> bool {
    document.get("services").is_some_and(|services| matches!(services, Yaml::Map(_)))
}

/// `beside` makes a path of the compose file one of the new file.
pub fn read(document: &Yaml, pick: Option<&str>, beside: &dyn Fn(&str) -> String) -> Result<Draft, String> {
    let services = document.get("services").map_or(&[][..], Yaml::map);
    let names = || services.iter().map(|(name, _)| shown(name)).collect::<Vec<_>>().join(", ");
    let (name, service) = match pick {
        Some(pick) => services
            .iter()
            .find(|(name, _)| name == pick)
            .ok_or_else(|| format!("there is no service {}; there are: {}", shown(pick), names()))?,
        // The one that clients come to.
        None => services
            .iter()
            .find(|(_, service)| service.get("ports").is_some())
            .or(services.first())
            .ok_or("there is no service in it")?,
    };
    let mut draft = Draft::new(name_like(name));
    draft.keep(format!("service {}", shown(name)), format!("name = {}", quoted(draft.name.as_str())));
    for (other, _) in services.iter().filter(|(other, _)| other != name) {
        let other = shown(other);
        draft.drop(
            format!("service {other}"),
            format!("another app: `--service {other}` makes a file of it, in a folder without one"),
        );
    }
    for (key, value) in document.said() {
        if !["services", "version", "name"].contains(&key) && !key.starts_with("x-") {
            draft.drop(shown(key), format!("{}: it has no place here", value.in_short()));
        }
    }
    of_service(&mut draft, service, beside)?;
    Ok(draft)
}

fn of_service(draft: &mut Draft, service: &Yaml, beside: &dyn Fn(&str) -> String) -> Result<(), String> {
    image::version(draft, service.text_at("image").map(|image| filled(&image).text).as_deref());
    let port = compose_parts::ports(draft, service);
    environment(draft, service, port);
    env_files(draft, service, beside);
    command(draft, service, port);
    compose_parts::health(draft, service, port)?;
    if let Some(replicas) = service.at("deploy.replicas").or(service.get("scale")) {
        let number = replicas.number().and_then(|number| u32::try_from(number).ok());
        draft.replicas = number
            .ok_or_else(|| format!("deploy.replicas is {}: not a whole number", replicas.in_short()))?;
        draft.keep("deploy.replicas", format!("replicas = {}", draft.replicas));
    }
    if let Some(update) = service.at("deploy.update_config") {
        compose_parts::update(draft, update)?;
    }
    if let Some(text) = service.text_at("stop_grace_period") {
        match milliseconds(&text) {
            Some(ms) => draft.roll("stop_grace_period", format!("stop_grace_period = {}", duration(ms))),
            None => return Err(format!("stop_grace_period is {}: not a duration", shown(&text))),
        }
    }
    if let Some(signal) = service.text_at("stop_signal") {
        let signal = if signal.starts_with("SIG") { signal } else { format!("SIG{signal}") };
        if serde_json::from_value::<StopSignal>(signal.as_str().into()).is_ok() {
            draft.keep("stop_signal", format!("run.stop_signal = {}", quoted(&signal)));
            draft.stop_signal = Some(signal);
        } else {
            draft.drop(format!("stop_signal {}", shown(&signal)), "it is not possible here: SIGTERM is sent");
        }
    }
    for (key, value) in service.get("deploy").into_iter().flat_map(Yaml::said) {
        let why = match key {
            "replicas" | "update_config" => continue,
            "rollback_config" => "the way back goes by the same rules as the way there",
            "resources" => LIMITS,
            "restart_policy" => "an instance that ends is started again",
            "placement" | "mode" | "endpoint_mode" => "all instances run on this machine",
            _ => "it has no place here",
        };
        draft.drop(format!("deploy.{}", shown(key)), format!("{}: {why}", value.in_short()));
    }
    for (key, value) in service.said() {
        let why = match key {
            "image" | "ports" | "expose" | "environment" | "env_file" | "command" | "entrypoint"
            | "healthcheck" | "deploy" | "scale" | "stop_grace_period" | "stop_signal" => continue,
            "build" => "build it before `trundle deploy`; run.artifact is what came out",
            "volumes" | "tmpfs" => "what is on this machine is there for the program, by its path",
            "depends_on" | "links" => "start what it needs before; a readiness check can look for it",
            "restart" => "an instance that ends is started again",
            "working_dir" => "a folder of the image: write run.cwd if it is on this machine",
            "user" => "write run.user for a user of this machine; only a daemon of root may change to it",
            "mem_limit" | "cpus" | "ulimits" => LIMITS,
            "group_add" | "cap_add" | "cap_drop" | "security_opt" | "privileged" => {
                "instances run as the user of the daemon, or run.user"
            }
            "networks" | "network_mode" | "extra_hosts" | "dns" | "hostname" => {
                "instances use the network of this machine"
            }
            "secrets" | "configs" => {
                "files of the container: name values in run.secrets, or write files on this machine"
            }
            "logging" => "logs are kept by Trundle: `trundle logs`",
            "labels" | "container_name" => "nothing here looks at it",
            _ => "it has no place here",
        };
        draft.drop(shown(key), format!("{}: {why}", value.in_short()));
    }
    Ok(())
}

/// A text with what compose itself would fill in. Only defaults are known here.
fn filled(text: &str) -> Filled {
    words::fill_dollars(text, |_, default| {
        default.map_or(Meaning::Unknown, |default| Meaning::Text(default.to_owned()))
    })
}

fn environment(draft: &mut Draft, service: &Yaml, port: Option<u16>) {
    let Some(environment) = service.get("environment") else { return };
    let of_list = environment.list().iter().filter_map(Yaml::text).map(|entry| match entry.split_once('=') {
        Some((key, value)) => (key.to_owned(), Yaml::Text(value.to_owned())),
        None => (entry, Yaml::Null),
    });
    for (key, value) in of_list.chain(environment.map().iter().cloned()) {
        // Without a value it is taken from whoever starts it: as a secret is here.
        let Some(text) = value.text() else {
            container::secret(draft, &key);
            continue;
        };
        let filled = filled(&text);
        if filled.unknown.is_empty() {
            let text = filled.text.replace("{{", "{").replace("}}", "}");
            container::plain(draft, &key, &Yaml::Text(text), port);
        } else if filled.unknown == [key.as_str()] && filled.text == format!("{{{key}}}") {
            container::secret(draft, &key);
        } else {
            let why = format!(
                "{} is known only to compose: write the value into run.env",
                filled.unknown.join(", ")
            );
            draft.drop(format!("environment {}", shown(&key)), why);
        }
    }
}

/// One file is possible here: the last one, whose values won.
fn env_files(draft: &mut Draft, service: &Yaml, beside: &dyn Fn(&str) -> String) {
    let Some(written) = service.get("env_file") else { return };
    let path = |file: &Yaml| file.text().or_else(|| file.text_at("path"));
    let mut files: Vec<_> =
        written.text().into_iter().chain(written.list().iter().filter_map(path)).collect();
    let Some(file) = files.pop() else { return };
    let file = beside(&file);
    draft.keep("env_file", format!("run.env_file = {}", quoted(&file)));
    draft.env_file = Some(file);
    for other in files {
        draft.drop(
            format!("env_file {}", shown(&other)),
            "one file is possible: put its lines into the other one",
        );
    }
}

/// The words of `entrypoint` or `command`: a list, or a text that is split without a shell.
fn words_of(yaml: Option<&Yaml>) -> Result<Vec<String>, String> {
    match yaml {
        None => Ok(Vec::new()),
        Some(Yaml::List(_)) => Ok(yaml.map_or_else(Vec::new, Yaml::texts)),
        Some(other) => {
            let text = other.text().unwrap_or_default();
            words::split(&text).ok_or(text)
        }
    }
}

fn command(draft: &mut Draft, service: &Yaml, port: Option<u16>) {
    let read = |key: &str| {
        let words =
            words_of(service.get(key)).unwrap_or_else(|line| vec!["sh".to_owned(), "-c".to_owned(), line]);
        let fill = |word: &String| {
            words::fill_dollars(word, |name, default| match (name, default) {
                ("PORT", _) if port.is_some() => Meaning::Port,
                (_, Some(default)) => Meaning::Text(default.to_owned()),
                _ => Meaning::Unknown,
            })
        };
        words.iter().map(fill).collect::<Vec<_>>()
    };
    let (entrypoint, command) = (read("entrypoint"), read("command"));
    for name in entrypoint.iter().chain(&command).flat_map(|filled| &filled.unknown) {
        draft.todo.push(format!("${name} is known only to compose: write its value"));
    }
    let texts = |filled: Vec<Filled>| filled.into_iter().map(|filled| filled.text).collect::<Vec<_>>();
    let (mut words, arguments) = (texts(entrypoint), texts(command));
    // Without an entrypoint the image may have one, which takes these words as arguments.
    let image_decides = words.is_empty() && service.get("image").is_some();
    words.extend(arguments);
    if let Some(port) = port {
        if words::put_port(&mut words, port) {
            draft.keep(format!("port {port} in the command"), "{port}: another one for each instance");
        } else if !words.iter().any(|word| word.contains("{port}")) {
            draft
                .todo
                .push(format!("it must listen on the port it is told, {{port}} or $PORT, not on {port}"));
        }
    }
    if words.first().is_none_or(String::is_empty) {
        draft.command_is_not_known("the image knows its own command: write the program and its arguments as they are on this machine", words);
        draft.drop("the image", "images are not run here: its files and its command must be on this machine");
        return;
    }
    draft.keep("entrypoint and command", "run.command");
    if image_decides {
        draft.todo.push("if the image has an entrypoint, write it before these words".to_owned());
    }
    draft.todo.push("this is the command in the image: write where it is on this machine".to_owned());
    draft.command = words;
}
