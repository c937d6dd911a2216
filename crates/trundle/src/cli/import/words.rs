//! Command lines of other tools, turned into lists of arguments with our placeholders.

use crate::config::source::shown;

/// Braces are placeholders here: one that was meant as it stands is doubled.
pub fn escaped(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

/// A line as a shell would split it, if it is nothing but words: None where it needs a shell.
pub fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        '`' => return None,
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c if c.is_whitespace() => words.extend(word.take()),
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '`' | '*' | '?' | '~' | '\n' => return None,
            '#' if word.is_none() => return None,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// What a name in a reference stands for.
pub enum Meaning {
    /// Filled in now.
    Text(String),
    /// The port of the instance.
    Port,
    /// Only the place where it ran knew.
    Unknown,
}

/// An argument with its references filled in, and the names of those that could not be. They are written as placeholders
/// that do not exist, so that `validate` refuses them with their line.
pub struct Filled {
    pub text: String,
    pub unknown: Vec<String>,
}

/// `$(NAME)`, as Kubernetes fills it in; `$$(NAME)` is meant as it stands.
pub fn fill_parentheses(text: &str, meaning: impl Fn(&str) -> Meaning) -> Filled {
    let mut filled = Filled { text: String::new(), unknown: Vec::new() };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.text.push_str(&escaped(&rest[..at]));
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            filled.text.push('$');
            rest = after;
            continue;
        }
        let name = rest.strip_prefix('(').and_then(|inside| inside.split_once(')'));
        match name.filter(|(name, _)| is_name(name)) {
            Some((name, after)) => {
                filled.put(name, meaning(name));
                rest = after;
            }
            None => filled.text.push('$'),
        }
    }
    filled.text.push_str(&escaped(rest));
    filled
}

/// `$NAME`, `${NAME}` and `${NAME:-default}`, as compose files and Procfiles have them; `$$` is a dollar.
pub fn fill_dollars(text: &str, meaning: impl Fn(&str, Option<&str>) -> Meaning) -> Filled {
    let mut filled = Filled { text: String::new(), unknown: Vec::new() };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.text.push_str(&escaped(&rest[..at]));
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            filled.text.push('$');
            rest = after;
        } else if let Some((inside, after)) = rest.strip_prefix('{').and_then(|inside| inside.split_once('}'))
        {
            let end = inside.find(|c: char| !is_name_char(c)).unwrap_or(inside.len());
            let (name, tail) = inside.split_at(end);
            let default = tail.strip_prefix(":-").or_else(|| tail.strip_prefix('-'));
            filled.put(name, meaning(name, default));
            rest = after;
        } else {
            let end = rest.find(|c: char| !is_name_char(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            if is_name(name) {
                filled.put(name, meaning(name, None));
                rest = after;
            } else {
                filled.text.push('$');
            }
        }
    }
    filled.text.push_str(&escaped(rest));
    filled
}

impl Filled {
    fn put(&mut self, name: &str, meaning: Meaning) {
        match meaning {
            Meaning::Text(text) => self.text.push_str(&escaped(&text)),
            Meaning::Port => self.text.push_str("{port}"),
            Meaning::Unknown => {
                let name = shown(name);
                self.text.push_str(&format!("{{{name}}}"));
                self.unknown.push(name);
            }
        }
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Of an environment variable.
pub fn is_name(text: &str) -> bool {
    text.chars().all(is_name_char) && text.starts_with(|c: char| !c.is_ascii_digit())
}

/// Puts `{port}` where the arguments say the port: after a flag or a key that speaks of it, or behind the colon of an
/// address. Answers whether it was there. A bare number elsewhere may mean anything, and stays.
pub fn put_port(arguments: &mut [String], port: u16) -> bool {
    let mut found = false;
    let mut flag_before = false;
    for argument in arguments {
        if argument.contains(' ') {
            let mut words: Vec<String> = argument.split(' ').map(str::to_owned).collect();
            found |= put_port(&mut words, port);
            *argument = words.join(" ");
            flag_before = false;
            continue;
        }
        let with_port = port_in(argument, port, flag_before);
        flag_before = speaks_of_port(argument);
        if let Some(text) = with_port {
            found = true;
            *argument = text;
        }
    }
    found
}

fn speaks_of_port(flag: &str) -> bool {
    let flag = flag.to_lowercase();
    ["-p", "-b"].contains(&flag.as_str())
        || ["port", "bind", "listen", "addr"].iter().any(|word| flag.contains(word))
}

/// The argument with `{port}` in the place of the number, if it stands there as a port.
fn port_in(argument: &str, port: u16, flag_before: bool) -> Option<String> {
    let number = port.to_string();
    let head = argument.strip_suffix(&number)?;
    let is_one = match head.chars().next_back() {
        None => flag_before,
        Some('=') => speaks_of_port(head),
        // Behind a scheme it is often somebody else's port.
        Some(':') => {
            !head.contains("//")
                || ["//0.0.0.0:", "//127.0.0.1:", "//localhost:"].iter().any(|own| head.ends_with(own))
        }
        Some(_) => false,
    };
    is_one.then(|| format!("{head}{{port}}"))
}

/// The value of a variable with `{port}` in it, if it says the port: `8080`, `:8080` or `0.0.0.0:8080`.
pub fn port_in_variable(key: &str, value: &str, port: u16) -> Option<String> {
    port_in(value, port, speaks_of_port(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_a_shell_does() {
        let check = |line: &str, expect: Option<&[&str]>| {
            let expect = expect.map(|words| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
            assert_eq!(split(line), expect, "{line}");
        };
        check("  ./server --port  80 ", Some(&["./server", "--port", "80"]));
        check("a 'b c' \"d \\\" e\" f\\ g ''", Some(&["a", "b c", "d \" e", "f g", ""]));
        check("", Some(&[]));
        for shell in ["a && b", "a | b", "a > f", "a; b", "a `b`", "a *.x", "a 'b", "a \"b", "a # c", "(a)"] {
            check(shell, None);
        }
    }

    #[test]
    fn references_are_filled_in_or_named() {
        let meaning = |name: &str| match name {
            "PORT" => Meaning::Port,
            "MODE" => Meaning::Text("{x}".to_owned()),
            _ => Meaning::Unknown,
        };
        let filled = fill_parentheses("--a=$(MODE) $(PORT) $$(PORT) $(DB) $5 $(no such) {b}", meaning);
        assert_eq!(filled.text, "--a={{x}} {port} $(PORT) {DB} $5 $(no such) {{b}}");
        assert_eq!(filled.unknown, ["DB"]);
        let filled = fill_dollars("$PORT ${PORT} ${MODE} ${T:-1} $$x $5 $DB", |name, default| {
            default.map_or_else(|| meaning(name), |default| Meaning::Text(default.to_owned()))
        });
        assert_eq!(filled.text, "{port} {port} {{x}} 1 $x $5 {DB}");
    }

    #[test]
    fn the_port_is_found_where_it_is_one() {
        for (before, after) in [
            ("./s --port 8080", "./s --port {port}"),
            ("./s -p 8080 --timeout 8080", "./s -p {port} --timeout 8080"),
            ("./s --port=8080 --size=8080", "./s --port={port} --size=8080"),
            ("g --bind 0.0.0.0:8080", "g --bind 0.0.0.0:{port}"),
            ("g -b :8080 18080 --port 18080", "g -b :{port} 18080 --port 18080"),
            (
                "s --up http://db:8080 --on tcp://0.0.0.0:8080",
                "s --up http://db:8080 --on tcp://0.0.0.0:{port}",
            ),
        ] {
            let mut words: Vec<String> = before.split(' ').map(str::to_owned).collect();
            put_port(&mut words, 8080);
            assert_eq!(words.join(" "), after);
            let mut whole = [before.to_owned()];
            put_port(&mut whole, 8080);
            assert_eq!(whole[0], after);
        }
        assert_eq!(port_in_variable("ADDR", "0.0.0.0:80", 80).as_deref(), Some("0.0.0.0:{port}"));
        assert_eq!(port_in_variable("HTTP_PORT", "80", 80).as_deref(), Some("{port}"));
        assert_eq!(port_in_variable("WORKERS", "80", 80), None);
    }
}
