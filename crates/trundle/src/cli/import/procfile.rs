//! A Procfile: lines of `type: command`, which a shell runs with `PORT` in the environment.

use super::draft::Draft;
use super::words::{self, Meaning};
use super::yaml::Yaml;
use crate::cli::init::name_like;
use crate::config::source::shown;

/// The type that takes requests.
const WEB: &str = "web";
/// Run once before each release, where it is run at all.
const RELEASE: &str = "release";

/// Types and commands, if every line is one.
pub fn lines(text: &str) -> Option<Vec<(&str, &str)>> {
    let written = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = |line| {
        let (name, command): (&str, &str) = str::split_once(line, ':')?;
        let is_type = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        Some((name, command.trim())).filter(|(_, command)| is_type && !command.is_empty())
    };
    written.map(entry).collect::<Option<Vec<_>>>().filter(|lines| !lines.is_empty())
}

/// `env_file` is that beside the Procfile, if there is one; `name` that of the folder.
pub fn read(
    lines: &[(&str, &str)],
    pick: Option<&str>,
    name: &str,
    env_file: Option<String>,
) -> Result<Draft, String> {
    let names: Vec<_> = lines.iter().map(|(name, _)| *name).collect();
    let named = |wanted: &str| lines.iter().find(|(name, _)| *name == wanted);
    let chosen = match pick {
        Some(pick) => named(pick)
            .ok_or_else(|| format!("there is no process {}; there are: {}", shown(pick), names.join(", ")))?,
        None => named(WEB).or_else(|| lines.iter().find(|(name, _)| *name != RELEASE)).unwrap_or(&lines[0]),
    };
    let takes_requests = chosen.0 == WEB || chosen.1.contains("$PORT") || chosen.1.contains("${PORT");
    let app = if chosen.0 == WEB { name.to_owned() } else { format!("{name}-{}", chosen.0) };
    let mut draft = Draft::new(name_like(&app));
    draft.keep(format!("process {}", chosen.0), "run.command");
    for (other, _) in lines.iter().filter(|line| line.0 != chosen.0) {
        let why = if *other == RELEASE {
            "run it before `trundle deploy`".to_owned()
        } else {
            format!("another app: `--process {other}` makes a file of it, in a folder without one")
        };
        draft.drop(format!("process {other}"), why);
    }
    draft.drop("the number of processes", "a Procfile does not say it: replicas = 1 is written");
    if let Some(file) = env_file {
        draft.keep(shown(&file), "run.env_file");
        draft.env_file = Some(file);
    }
    if takes_requests {
        draft.listen = Some("127.0.0.1:8080".to_owned());
        draft.keep(
            "$PORT",
            "listen.http = \"127.0.0.1:8080\"; each instance has a port of its own, in {port} and $PORT",
        );
    }
    command(&mut draft, chosen.1);
    Ok(draft)
}

/// Plain words become a list, with `{port}` for `$PORT`; anything else is left to a shell, as it was.
fn command(draft: &mut Draft, line: &str) {
    let dollar_in_quotes = line.contains('\'') && line.contains('$');
    let words = words::split(line).filter(|_| !dollar_in_quotes).and_then(|words| {
        let fill = |word: &String| {
            let filled = words::fill_dollars(word, |name, default| match (name, default) {
                ("PORT", _) => Meaning::Port,
                _ => Meaning::Unknown,
            });
            filled.unknown.is_empty().then_some(filled.text)
        };
        words.iter().map(fill).collect::<Option<Vec<_>>>()
    });
    let Some(mut words) = words else {
        draft.keep("the line needs a shell", "run.command = [\"sh\", \"-c\", …]");
        // The shell must not stay between the signal and the program, where that can be told.
        let plain =
            !line.contains([';', '&', '|', '(', '\n']) && !line.starts_with("exec ") && !line.contains('=');
        let line = if plain { format!("exec {line}") } else { line.to_owned() };
        draft.command = vec!["sh".to_owned(), "-c".to_owned(), words::escaped(&line)];
        return;
    };
    // `MODE=production ./server`: variables before the program.
    while let Some((key, value)) =
        words.first().and_then(|word| word.split_once('=')).filter(|(key, _)| words::is_name(key))
    {
        if value.contains("{port}") {
            draft.port_variables.push((key.to_owned(), value.to_owned()));
        } else {
            let value = value.replace("{{", "{").replace("}}", "}");
            super::container::plain(draft, key, &Yaml::Text(value), None);
        }
        words.remove(0);
    }
    if words.first().is_none_or(String::is_empty) {
        draft.command_is_not_known("the line names no program", Vec::new());
        return;
    }
    draft.command = words;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, pick: Option<&str>, expect: &[&str], listens: bool) {
        let draft = read(&lines(text).unwrap(), pick, "shop", None).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(draft.command, expect, "{text}");
        assert_eq!(draft.listen.is_some(), listens, "{text}");
    }

    #[test]
    fn a_line_becomes_a_list_or_is_left_to_a_shell() {
        check("web: ./server --port $PORT", None, &["./server", "--port", "{port}"], true);
        check(
            "web: ./server --port ${PORT:-5000} '{}'",
            None,
            &["sh", "-c", "exec ./server --port ${{PORT:-5000}} '{{}}'"],
            true,
        );
        check("web: bin/a && bin/b", None, &["sh", "-c", "bin/a && bin/b"], true);
        check("web: ./s $HOME/x", None, &["sh", "-c", "exec ./s $HOME/x"], true);
        check("a: ./a\nweb: ./b\n", None, &["./b"], true);
        check("web: ./b\n# c\nworker: ./w\n", Some("worker"), &["./w"], false);
        check("release: ./r\nclock: ./c\n", None, &["./c"], false);
        check("web: A=1", None, &["TODO-write-your-command"], true);
        let draft = read(&lines("web: A=1 B=x ./s").unwrap(), None, "shop", None)
            .unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((draft.env.len(), draft.command), (2, vec!["./s".to_owned()]));
    }

    #[test]
    fn what_is_no_procfile_is_not_taken_for_one() {
        for text in ["", "# c\n", "web:\n  image: x\n", "a: b\nplain\n", "a b: c\n"] {
            assert_eq!(lines(text), None, "{text:?}");
        }
    }
}
