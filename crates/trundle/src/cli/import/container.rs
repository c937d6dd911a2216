//! One container of a Deployment: its port, its environment, its command.

use super::draft::Draft;
use super::kubernetes::described;
use super::words::{self, Meaning};
use super::yaml::Yaml;
use crate::config::source::shown;

/// What is written here anew for each instance.
const PORT: &str = "PORT";

/// The port that the program opens in its container, if one is known.
pub fn port(draft: &mut Draft, container: &Yaml, service: Option<&Yaml>) -> Result<Option<u16>, String> {
    let ports = container.get("ports").map_or(&[][..], Yaml::list);
    let number = |port: &Yaml| {
        let written = port.get("containerPort").map(Yaml::in_short).unwrap_or_default();
        let number =
            port.get("containerPort").and_then(Yaml::number).and_then(|port| u16::try_from(port).ok());
        number.filter(|port| *port > 0).ok_or_else(|| format!("containerPort is {written}: not a port"))
    };
    // The one that the Service sends requests to, by its name or its number; else the first.
    let target = service.and_then(|service| service.at("spec.ports")?.list().first()?.text_at("targetPort"));
    let is_target = |port: &&Yaml| {
        target.is_some() && (port.text_at("name") == target || port.text_at("containerPort") == target)
    };
    let chosen = ports.iter().find(is_target).or(ports.first());
    for other in ports.iter().filter(|port| !chosen.is_some_and(|chosen| std::ptr::eq(*port, chosen))) {
        draft.drop(format!("containerPort {}", number(other)?), "an instance has one port");
    }
    let of_variable = || {
        let list = container.get("env").map_or(&[][..], Yaml::list);
        let entry = list.iter().find(|entry| entry.text_at("name").as_deref() == Some(PORT));
        entry.and_then(|entry| entry.text_at("value")?.parse().ok())
    };
    match chosen {
        Some(chosen) => number(chosen).map(Some),
        None => Ok(target.and_then(|target| target.parse().ok()).or_else(of_variable)),
    }
}

/// `env` and `envFrom`. Values of Secrets are never written.
pub fn environment(draft: &mut Draft, container: &Yaml, objects: &[&Yaml], port: Option<u16>) {
    for source in container.get("envFrom").into_iter().flat_map(Yaml::list) {
        let prefix = source.text_at("prefix").unwrap_or_default();
        for (key, kind) in [("configMapRef", "ConfigMap"), ("secretRef", "Secret")] {
            let Some(name) = source.text_at(&format!("{key}.name")) else { continue };
            let what = format!("envFrom {kind} {}", shown(&name));
            let Some(object) = find(objects, kind, &name) else {
                let hint = if kind == "Secret" {
                    "name each of its keys in run.secrets"
                } else {
                    "write its values into run.env"
                };
                draft.drop(what, format!("it is not in this file: {hint}"));
                continue;
            };
            draft.keep(described(object), if kind == "Secret" { "run.secrets" } else { "run.env" });
            for part in ["data", "stringData"] {
                for (key, value) in object.get(part).map_or(&[][..], Yaml::map) {
                    let key = format!("{prefix}{key}");
                    if kind == "Secret" { secret(draft, &key) } else { plain(draft, &key, value, port) }
                }
            }
        }
    }
    for entry in container.get("env").into_iter().flat_map(Yaml::list) {
        let Some(name) = entry.text_at("name") else { continue };
        match (entry.get("value"), entry.get("valueFrom")) {
            (_, Some(from)) => reference(draft, &name, from, objects, port),
            // A value may name variables before it.
            (Some(Yaml::Text(text)), None) if text.contains("$(") => {
                let filled = words::fill_parentheses(text, |name| meaning(&draft.env, name, None));
                match filled.unknown.first() {
                    None => plain(
                        draft,
                        &name,
                        &Yaml::Text(filled.text.replace("{{", "{").replace("}}", "}")),
                        port,
                    ),
                    Some(unknown) => draft.drop(
                        format!("env {}", shown(&name)),
                        format!("it names $({unknown}), which is known only when it runs"),
                    ),
                }
            }
            (value, None) => plain(draft, &name, value.unwrap_or(&Yaml::Text(String::new())), port),
        }
    }
}

/// A value of `run.env`: one that says the port becomes an argument of `env`, because only arguments are filled in.
pub fn plain(draft: &mut Draft, name: &str, value: &Yaml, port: Option<u16>) {
    let Some(text) = value.text().filter(|text| words::is_name(name) && !text.contains('\0')) else {
        draft.drop(format!("env {}", shown(name)), "it is no variable with a text");
        return;
    };
    if name == PORT {
        draft.keep("env PORT", "it is set for each instance");
        return;
    }
    draft.env.retain(|(key, _)| key != name);
    if let Some(filled) = port.and_then(|port| words::port_in_variable(name, &text, port)) {
        draft.keep(format!("env {name}"), format!("run.command = [\"env\", \"{name}={filled}\", …]"));
        draft.port_variables.push((name.to_owned(), filled));
        return;
    }
    draft.keep(format!("env {name}"), format!("run.env.{name}"));
    draft.env.push((name.to_owned(), text));
}

pub fn secret(draft: &mut Draft, name: &str) {
    if !words::is_name(name) {
        draft.drop(format!("secret {}", shown(name)), "it is not the name of a variable");
    } else if !draft.secrets.iter().any(|known| known == name) {
        draft.keep(
            format!("secret {name}"),
            format!("run.secrets: give {name} in the environment of `trundle deploy`"),
        );
        draft.secrets.push(name.to_owned());
    }
}

fn reference(draft: &mut Draft, name: &str, from: &Yaml, objects: &[&Yaml], port: Option<u16>) {
    let what = format!("env {}", shown(name));
    let part = |path: &str| from.text_at(path).unwrap_or_default();
    if from.get("secretKeyRef").is_some() {
        secret(draft, name);
        if let Some(object) = find(objects, "Secret", &part("secretKeyRef.name")) {
            draft.keep(described(object), "run.secrets");
        }
    } else if from.get("configMapKeyRef").is_some() {
        let (map, key) = (part("configMapKeyRef.name"), part("configMapKeyRef.key"));
        let object = find(objects, "ConfigMap", &map);
        match object.and_then(|object| Some((object, object.get("data")?.get(&key)?))) {
            Some((object, value)) => {
                draft.keep(described(object), format!("run.env.{}", shown(name)));
                plain(draft, name, value, port);
            }
            None => {
                let why = format!(
                    "it is {} of ConfigMap {}, which is not in this file: write it into run.env",
                    shown(&key),
                    shown(&map)
                );
                draft.drop(what, why);
            }
        }
    } else {
        let field = part("fieldRef.fieldPath");
        let why = match field.as_str() {
            "metadata.name" => "TRUNDLE_INSTANCE holds the name of the instance".to_owned(),
            "" => format!("{} is not known here", from.in_short()),
            field => format!("{} is not known here", shown(field)),
        };
        draft.drop(what, why);
    }
}

fn find<'a>(objects: &[&'a Yaml], kind: &str, name: &str) -> Option<&'a Yaml> {
    let is_it = |object: &&&'a Yaml| {
        object.text_at("kind").as_deref() == Some(kind)
            && object.text_at("metadata.name").as_deref() == Some(name)
    };
    objects.iter().find(is_it).copied()
}

fn meaning(env: &[(String, String)], name: &str, port: Option<u16>) -> Meaning {
    match env.iter().find(|(key, _)| key == name) {
        Some((_, value)) => Meaning::Text(value.clone()),
        None if name == PORT && port.is_some() => Meaning::Port,
        None => Meaning::Unknown,
    }
}

/// `command` and `args`; without a command the image knows it, and a person must say it.
pub fn command(draft: &mut Draft, container: &Yaml, port: Option<u16>) {
    let mut unknown = Vec::new();
    let mut filled = |draft: &Draft, key: &str| {
        let fill = |text: String| {
            let filled = words::fill_parentheses(&text, |name| {
                let of_port = draft.port_variables.iter().find(|(key, _)| key == name);
                of_port.map_or_else(
                    || meaning(&draft.env, name, port),
                    |(_, value)| match value.as_str() {
                        "{port}" => Meaning::Port,
                        _ => Meaning::Unknown,
                    },
                )
            });
            unknown.extend(filled.unknown);
            filled.text
        };
        container.get(key).map_or_else(Vec::new, Yaml::texts).into_iter().map(fill).collect::<Vec<_>>()
    };
    let (mut command, mut arguments) = (filled(draft, "command"), filled(draft, "args"));
    if let Some(port) = port {
        let in_command = words::put_port(&mut command, port);
        if words::put_port(&mut arguments, port) || in_command {
            draft.keep(format!("port {port} in the command"), "{port}: another one for each instance");
        } else {
            draft
                .todo
                .push(format!("it must listen on the port it is told, {{port}} or $PORT, not on {port}"));
        }
    }
    for name in unknown {
        draft.todo.push(format!("$({name}) is known only when it runs: read it in the program, or start it with [\"sh\", \"-c\", …]"));
    }
    if command.first().is_none_or(String::is_empty) {
        let why = "the image knows its own command and is not run here: write the program and its arguments as they are on this machine";
        draft.command_is_not_known(why, arguments);
        draft.drop("the image", "images are not run here: its files and its command must be on this machine");
        return;
    }
    draft.keep("command and args", "run.command");
    draft.todo.push("this is the command in the image: write where it is on this machine".to_owned());
    command.extend(arguments);
    draft.command = command;
}
