//! `trundle validate`: reads the file as `deploy` would, and prints every problem with its place and what to do.
//!
//! It must never start anything, nor ask a daemon.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use serde::Serialize;

use crate::config::{self, ConfigError, Loaded, Look, Problem, Secrets};

#[derive(Serialize)]
struct Answer<'a> {
    ok: bool,
    problems: &'a [Problem],
    notes: &'a [String],
}

/// The exit code: 0 if the file is good, else 1.
pub fn run(path: &Path, sets: &[(String, String)], json: bool) -> i32 {
    let result = config::load(path, sets, Secrets::Optional, &|name| std::env::var_os(name));
    // Nobody is left to be told when the pipe is closed; the exit code says it all.
    let _ = if json {
        json_of(&result).map_err(std::io::Error::from).and_then(|text| writeln!(std::io::stdout(), "{text}"))
    } else {
        print_text(path, &result)
    };
    i32::from(result.is_err())
}

fn json_of(result: &Result<Loaded, ConfigError>) -> serde_json::Result<String> {
    let answer = match result {
        Ok(loaded) => Answer { ok: true, problems: &[], notes: &loaded.notes },
        Err(error) => Answer { ok: false, problems: error.problems(), notes: &[] },
    };
    serde_json::to_string(&answer)
}

fn print_text(path: &Path, result: &Result<Loaded, ConfigError>) -> std::io::Result<()> {
    match result {
        Ok(loaded) => {
            let mut out = std::io::stdout();
            writeln!(out, "{} is good: {}", path.display(), summary(loaded))?;
            loaded.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
        }
        Err(error) => write!(std::io::stderr(), "{}", error.rendered(look_of_stderr())),
    }
}

/// `web 3.1, 8 replicas, floor 6, ceiling 10, listens on 127.0.0.1:8080`
fn summary(loaded: &Loaded) -> String {
    let budget = loaded.settings.budget();
    let replicas = if budget.desired == 1 { "replica" } else { "replicas" };
    let mut text = format!("{} {}, {} {replicas}", loaded.name, loaded.draft.version, budget.desired);
    text.push_str(&format!(", floor {}, ceiling {}", budget.floor(), budget.ceiling()));
    let listen = loaded.settings.listen.iter();
    let places: Vec<_> = listen
        .flat_map(|listen| listen.http.iter().chain(&listen.https).chain(&listen.unix))
        .map(String::as_str)
        .collect();
    if !places.is_empty() {
        text.push_str(&format!(", listens on {}", places.join(" and ")));
    }
    text
}

/// What standard error can show: colours and drawn lines for a terminal that wants them; a pipe gets plain characters.
pub fn look_of_stderr() -> Look {
    let terminal = std::io::stderr().is_terminal();
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale =
        set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default().to_uppercase();
    Look {
        color: terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
        unicode: terminal && locale.contains("UTF"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trundle.toml");
        std::fs::write(&path, text).unwrap();
        config::load(&path, &[], Secrets::Optional, &|name| std::env::var_os(name))
    }

    const GOOD: &str = "name = \"web\"\nversion = \"3.1\"\nreplicas = 8\nrun.command = [\"sh\"]\nrun.secrets = [\"TRUNDLE_NO_SUCH\"]\n";

    #[test]
    fn a_good_file_is_summed_up_in_a_line() {
        let text = format!("{GOOD}listen.http = \"127.0.0.1:80\"\nlisten.unix = \"/run/s\"\n");
        let expect = "web 3.1, 8 replicas, floor 6, ceiling 10, listens on 127.0.0.1:80 and /run/s";
        assert_eq!(load(&text).map(|loaded| summary(&loaded)).unwrap(), expect);
    }

    #[test]
    fn json_has_the_same_fields_for_good_and_bad() {
        let json = |text: &str| -> serde_json::Value {
            serde_json::from_str(&json_of(&load(text)).unwrap()).unwrap()
        };
        let good = json(GOOD);
        assert_eq!((&good["ok"], good["problems"].as_array().unwrap().len()), (&true.into(), 0));
        assert!(good["notes"].to_string().contains("TRUNDLE_NO_SUCH"), "{good}");
        let bad = json(&GOOD.replace("replicas = 8", "replicas = \"8\""));
        assert_eq!((&bad["ok"], &bad["notes"]), (&false.into(), &serde_json::json!([])));
        let problem = &bad["problems"][0];
        assert_eq!(
            (&problem["line"], &problem["column"], &problem["key"]),
            (&3.into(), &12.into(), &"replicas".into())
        );
        assert!(problem["file"].as_str().unwrap().ends_with("trundle.toml"));
        assert!(
            problem["message"].is_string() && problem["hint"].is_string() && problem.get("span").is_none()
        );
    }
}
