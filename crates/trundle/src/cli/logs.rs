//! `logs`: of instances, also of those that are gone. Control characters are shown, never sent.

use std::time::Duration;

use trundle_core::ids::{AppName, InstanceKey};
use trundle_drivers::logs;

use super::{Context, Stop, print_json};
use crate::exit::Exit;

const LOOK_EVERY: Duration = Duration::from_millis(100);

pub async fn run(context: &Context, name: Option<&str>, follow: bool, n: usize) -> Result<Exit, Stop> {
    let found = find(context, name)?;
    let alone = found.len() == 1;
    let said = found.iter().flat_map(|(app, key)| {
        let lines = logs::last_lines(&context.state_dir, app, *key, n);
        lines.into_iter().map(move |line| (key.name(app), line))
    });
    if context.json && !follow {
        let lines: Vec<_> = said.map(|(name, line)| as_json(&name, &line)).collect();
        print_json(&serde_json::json!({ "lines": lines }))?;
        return Ok(Exit::Done);
    }
    let show = |name: &str, line: &str| match (context.json, alone) {
        (true, _) => println!("{}", as_json(name, line)),
        (_, true) => println!("{line}"),
        (_, false) => println!("{name} | {line}"),
    };
    for (name, line) in said {
        show(&name, &line);
    }
    if !follow {
        return Ok(Exit::Done);
    }
    let open = |(app, key): &(AppName, InstanceKey)| {
        (key.name(app), logs::Follower::from_end(logs::path(&context.state_dir, app, *key)))
    };
    let mut followed: std::collections::BTreeMap<String, logs::Follower> = found.iter().map(open).collect();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // New instances of the same name join in, from their first line.
        for (app, key) in find(context, name).unwrap_or_default() {
            followed
                .entry(key.name(&app))
                .or_insert_with(|| logs::Follower::from_start(logs::path(&context.state_dir, &app, key)));
        }
        for (name, follower) in &mut followed {
            for line in follower.lines().unwrap_or_default() {
                show(name, &line);
            }
        }
    }
}

fn as_json(instance: &str, text: &str) -> serde_json::Value {
    serde_json::json!({ "instance": instance, "text": text })
}

fn find(context: &Context, name: Option<&str>) -> Result<Vec<(AppName, InstanceKey)>, Stop> {
    let apps = logs::apps(&context.state_dir);
    let of = |app: &AppName| -> Vec<_> {
        logs::instances(&context.state_dir, app).into_iter().map(|key| (app.clone(), key)).collect()
    };
    let Some(name) = name else { return Ok(apps.iter().flat_map(of).collect()) };
    if let Some(app) = apps.iter().find(|app| app.as_str() == name) {
        return Ok(of(app));
    }
    let one: Vec<_> = apps.iter().flat_map(of).filter(|(app, key)| key.name(app) == name).collect();
    if one.is_empty() {
        return Err(Stop::Error(format!(
            "there are no logs of {}; `trundle logs` shows those of all instances",
            logs::printable(name)
        )));
    }
    Ok(one)
}
