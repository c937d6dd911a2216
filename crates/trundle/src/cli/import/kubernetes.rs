//! A Kubernetes Deployment, with the Service, the ConfigMaps and the Secrets that stand in the same file.
//!
//! What is not understood is named: nothing of the object is left out in silence.

use super::container;
use super::draft::{Draft, quoted};
use super::image;
use super::probes;
use super::yaml::Yaml;
use crate::cli::init::name_like;
use crate::config::source::shown;

/// Kubernetes' own default, where ours is another.
const GRACE_S: u64 = 30;
/// What the API means by "no deadline".
const NEVER: u64 = i32::MAX as u64;
const KEPT_MAX: u64 = 10_000;

/// Whether any document is an object of Kubernetes.
pub fn is_one(documents: &[Yaml]) -> bool {
    documents.iter().any(|document| document.get("kind").is_some() && document.get("apiVersion").is_some())
}

/// `pick` is the name of the Deployment that is wanted.
pub fn read(documents: &[Yaml], pick: Option<&str>) -> Result<Draft, String> {
    let objects = flat(documents);
    let named = |object: &Yaml| object.text_at("metadata.name").unwrap_or_default();
    let deployments: Vec<&Yaml> = objects.iter().copied().filter(|object| is(object, "Deployment")).collect();
    let names = || deployments.iter().map(|object| shown(&named(object))).collect::<Vec<_>>().join(", ");
    let deployment = match pick {
        Some(pick) => *deployments
            .iter()
            .find(|object| named(object) == pick)
            .ok_or_else(|| format!("there is no Deployment {}; there are: {}", shown(pick), names()))?,
        None => *deployments.first().ok_or_else(|| {
            let found: Vec<_> = objects.iter().map(|object| described(object)).collect();
            format!("there is no Deployment in it, only: {}", found.join(", "))
        })?,
    };
    if !deployment.text_at("apiVersion").is_some_and(|version| version.starts_with("apps/")) {
        return Err("the Deployment is of an apiVersion that is not known: apps/v1 is read".to_owned());
    }
    let mut draft = Draft::new(name_like(&named(deployment)));
    draft.keep("metadata.name", format!("name = {}", quoted(draft.name.as_str())));
    of_deployment(&mut draft, deployment, &objects)?;
    for object in objects.iter().filter(|object| !std::ptr::eq(**object, deployment)) {
        let why = match object.text_at("kind").as_deref() {
            Some("Deployment") => "another app: `--process NAME` makes a file of it",
            // Those of this Deployment are looked at where they are used.
            Some("Service" | "ConfigMap" | "Secret")
                if draft.kept.iter().any(|kept| kept.what.starts_with(&described(object))) =>
            {
                continue;
            }
            Some("HorizontalPodAutoscaler") => {
                "the number of replicas is what is written; `trundle scale` changes it"
            }
            Some("PodDisruptionBudget") => "the floor of the rollout holds: replicas less max_unavailable",
            Some("Ingress") => "put nginx or another proxy in front of `listen`",
            Some("Service" | "ConfigMap" | "Secret") => "it is not used by this Deployment",
            _ => "it has no place here",
        };
        draft.drop(described(object), why);
    }
    Ok(draft)
}

fn is(object: &Yaml, kind: &str) -> bool {
    object.text_at("kind").as_deref() == Some(kind)
}

/// `Service web`
pub fn described(object: &Yaml) -> String {
    let text = |path| shown(&object.text_at(path).unwrap_or_default());
    format!("{} {}", text("kind"), text("metadata.name")).trim().to_owned()
}

/// The objects of all documents, those in lists among them.
fn flat(documents: &[Yaml]) -> Vec<&Yaml> {
    let objects = documents.iter().flat_map(|document| {
        let is_list = document.text_at("kind").is_some_and(|kind| kind.ends_with("List"));
        if is_list {
            document.get("items").map_or(&[][..], Yaml::list)
        } else {
            std::slice::from_ref(document)
        }
    });
    objects.collect()
}

fn of_deployment(draft: &mut Draft, deployment: &Yaml, objects: &[&Yaml]) -> Result<(), String> {
    let spec = deployment.get("spec").ok_or("the Deployment has no spec")?;
    for (key, value) in deployment.get("metadata").into_iter().flat_map(Yaml::said) {
        if !["name", "labels"].contains(&key) {
            draft.drop(
                format!("metadata.{}", shown(key)),
                format!("{}: nothing here looks at it", value.in_short()),
            );
        }
    }
    draft.replicas = match whole(spec, "replicas")? {
        Some(replicas) => {
            draft.keep("spec.replicas", format!("replicas = {replicas}"));
            u32::try_from(replicas).map_err(|_| format!("spec.replicas is {replicas}: too many"))?
        }
        None => 1,
    };
    strategy(draft, spec)?;
    if let Some(seconds) = whole(spec, "minReadySeconds")? {
        draft.min_healthy_ms = milliseconds(seconds)?;
        draft.keep("spec.minReadySeconds", format!("rollout.min_healthy_time = \"{seconds}s\""));
    }
    match whole(spec, "progressDeadlineSeconds")? {
        Some(NEVER) => {
            draft.drop("spec.progressDeadlineSeconds", "no deadline: a rollout here always has one (10m)")
        }
        Some(seconds) => {
            draft.progress_ms = Some(milliseconds(seconds)?);
            draft.keep("spec.progressDeadlineSeconds", format!("rollout.progress_deadline = \"{seconds}s\""));
        }
        None => {}
    }
    match whole(spec, "revisionHistoryLimit")? {
        Some(limit) if limit <= KEPT_MAX => {
            draft.roll("spec.revisionHistoryLimit", format!("history_limit = {limit}"))
        }
        Some(limit) => draft.drop(
            "spec.revisionHistoryLimit",
            format!("{limit} is more than {KEPT_MAX}: the default of 10 holds"),
        ),
        None => {}
    }
    for (key, value) in spec.said() {
        match key {
            "replicas"
            | "selector"
            | "template"
            | "strategy"
            | "minReadySeconds"
            | "progressDeadlineSeconds"
            | "revisionHistoryLimit" => {}
            "paused" => draft.drop("spec.paused", "a rollout is paused with `trundle pause`"),
            other => draft.drop(format!("spec.{}", shown(other)), value.in_short()),
        }
    }
    draft.drop("labels and selectors", "instances belong to their app by its name");
    of_pod(draft, spec, objects)
}

fn strategy(draft: &mut Draft, spec: &Yaml) -> Result<(), String> {
    match spec.text_at("strategy.type").as_deref().unwrap_or("RollingUpdate") {
        "RollingUpdate" => {
            for (theirs, ours) in [("maxSurge", "max_surge"), ("maxUnavailable", "max_unavailable")] {
                let path = format!("strategy.rollingUpdate.{theirs}");
                let value = match spec.at(&path) {
                    None => "\"25%\"".to_owned(),
                    Some(Yaml::Number(count)) => count.clone(),
                    Some(Yaml::Text(percent)) if percent.ends_with('%') => quoted(percent),
                    Some(other) => {
                        return Err(format!(
                            "spec.{path} is {}: neither a count nor a percentage",
                            other.in_short()
                        ));
                    }
                };
                let what = if spec.at(&path).is_some() {
                    format!("spec.{path}")
                } else {
                    format!("the default of {theirs}")
                };
                draft.roll(what, format!("{ours} = {value}"));
            }
        }
        "Recreate" => {
            draft.roll("spec.strategy.type", "max_surge = 0".to_owned());
            draft.roll("spec.strategy.type", "max_unavailable = \"100%\"".to_owned());
            let why = "it becomes max_unavailable = \"100%\": all may stop at once, clients wait or are refused meanwhile, \
                       and a new instance starts as soon as one is gone, not when all are";
            draft.drop("strategy Recreate", why);
        }
        other => return Err(format!("spec.strategy.type {} is not known", shown(other))),
    }
    Ok(())
}

fn of_pod(draft: &mut Draft, spec: &Yaml, objects: &[&Yaml]) -> Result<(), String> {
    let pod = spec.at("template.spec").ok_or("the Deployment has no spec.template.spec")?;
    let container = pod
        .get("containers")
        .and_then(|list| list.list().first())
        .ok_or("the Deployment has no container")?;
    if let Some(annotations) = spec.at("template.metadata.annotations") {
        draft.drop(
            "annotations of the pods",
            format!("{}: nothing here looks at them", annotations.in_short()),
        );
    }
    let grace = whole(pod, "terminationGracePeriodSeconds")?;
    let what = if grace.is_some() {
        "terminationGracePeriodSeconds"
    } else {
        "the default of terminationGracePeriodSeconds"
    };
    draft.roll(what, format!("stop_grace_period = \"{}s\"", grace.unwrap_or(GRACE_S)));
    for (key, value) in pod.said() {
        match key {
            "containers" | "terminationGracePeriodSeconds" => {}
            "initContainers" => {
                for init in value.list() {
                    let name = shown(&init.text_at("name").unwrap_or_default());
                    draft.drop(
                        format!("initContainer {name}"),
                        "run what it does before `trundle deploy`, or at the start of the command",
                    );
                }
            }
            other => draft.drop(shown(other), why_not_of_pod(other, value)),
        }
    }
    for sidecar in pod.get("containers").into_iter().flat_map(Yaml::list).skip(1) {
        let name = shown(&sidecar.text_at("name").unwrap_or_default());
        draft.drop(
            format!("container {name}"),
            "beside the first container: run it as an app or a service of its own",
        );
    }
    image::version(draft, container.text_at("image").as_deref());
    let service = service_of(spec, objects);
    let port = container::port(draft, container, service)?;
    container::environment(draft, container, objects, port);
    container::command(draft, container, port);
    listen(draft, service, port);
    probes::read(draft, container, port)
}

fn why_not_of_pod(key: &str, value: &Yaml) -> String {
    let why = match key {
        "volumes" => "what is on this machine is there for the program, by its path",
        "affinity"
        | "nodeSelector"
        | "tolerations"
        | "topologySpreadConstraints"
        | "nodeName"
        | "priorityClassName"
        | "schedulerName" => "all instances run on this machine",
        "serviceAccountName" | "serviceAccount" | "securityContext" | "automountServiceAccountToken" => {
            "instances run as the user of the daemon, or run.user"
        }
        "restartPolicy" => "an instance that ends is started again",
        "imagePullSecrets" => "images are not run here",
        "hostNetwork" | "dnsPolicy" | "dnsConfig" | "hostAliases" => {
            "instances use the network of this machine"
        }
        _ => "it has no place here",
    };
    format!("{}: {why}", value.in_short())
}

/// The Service whose selector takes these pods.
fn service_of<'a>(spec: &Yaml, objects: &[&'a Yaml]) -> Option<&'a Yaml> {
    let labels = spec.at("template.metadata.labels");
    let takes = |service: &Yaml| {
        let selector = service.at("spec.selector").map_or(&[][..], Yaml::map);
        !selector.is_empty()
            && selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    };
    objects.iter().copied().find(|object| is(object, "Service") && takes(object))
}

/// Clients come in where the Service was, if that needs no rights of root.
fn listen(draft: &mut Draft, service: Option<&Yaml>, port: Option<u16>) {
    let outside = |port: &u16| *port >= 1024;
    let first = service.and_then(|service| service.at("spec.ports")?.list().first()?.get("port")?.number());
    let first = first.and_then(|port| u16::try_from(port).ok());
    let Some(inner) = port.or(first) else {
        if let Some(service) = service {
            draft.drop(described(service), "it names no port");
        }
        return;
    };
    let chosen = first.filter(outside).or(Some(inner).filter(outside)).unwrap_or(8080);
    let address = format!("127.0.0.1:{chosen}");
    let from = service.map_or_else(|| format!("containerPort {inner}"), described);
    draft.keep(from, format!("listen.http = \"{address}\" (0.0.0.0 is every address of this machine)"));
    draft.listen = Some(address);
    for other in service.and_then(|service| service.at("spec.ports")).into_iter().flat_map(Yaml::list).skip(1)
    {
        let number = shown(&other.text_at("port").unwrap_or_default());
        draft.drop(format!("port {number} of the Service"), "an app listens in one place");
    }
}

/// A whole number under a key of `yaml`.
pub fn whole(yaml: &Yaml, key: &str) -> Result<Option<u64>, String> {
    let Some(value) = yaml.get(key) else { return Ok(None) };
    let number = if let Yaml::Number(_) = value { value.number() } else { None };
    number.map(Some).ok_or_else(|| format!("{key} is {}: not a whole number", value.in_short()))
}

/// Seconds of a description; what is longer than a year is a mistake.
pub fn milliseconds(seconds: u64) -> Result<u64, String> {
    if seconds > 365 * 24 * 3600 {
        Err(format!("{seconds} seconds are longer than a year"))
    } else {
        Ok(seconds * 1000)
    }
}
