//! `{port}` and the like in a command, for whoever checks one and for whoever fills it in. No shell, no nesting.

use trundle_core::ids::{AppName, InstanceKey, VersionLabel};

/// All there are.
pub const PLACEHOLDERS: [&str; 4] = ["port", "version", "revision", "instance"];
/// Of a text, as much is shown.
const SHOWN_CHARS: usize = 80;

/// What the placeholders stand for.
pub(crate) struct Values {
    pub port: u16,
    pub version: VersionLabel,
    pub name: String,
    pub revision: u32,
}

impl Values {
    pub fn new(app: &AppName, key: InstanceKey, version: &VersionLabel, port: u16) -> Self {
        Self { port, version: version.clone(), name: key.name(app), revision: key.revision.0 }
    }

    fn get(&self, name: &str) -> Option<String> {
        match name {
            "port" => Some(self.port.to_string()),
            "version" => Some(self.version.to_string()),
            "revision" => Some(self.revision.to_string()),
            "instance" => Some(self.name.clone()),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPlaceholder {
    #[error(
        "{{{}}} in \"{}\" is unknown: there are {{port}}, {{version}}, {{revision}} and {{instance}}; a brace is written {{{{",
        shown(name),
        shown(text)
    )]
    Unknown { name: String, text: String },
    #[error("a brace in \"{}\" has no partner: a brace is written {{{{ or }}}}", shown(text))]
    Unbalanced { text: String },
}

/// Fills in the placeholders; `{{` and `}}` become braces.
pub(crate) fn fill(text: &str, values: &Values) -> Result<String, BadPlaceholder> {
    expand(text, |name| values.get(name))
}

/// Whether the text can be filled in; answers it with its braces undoubled if there is no placeholder in it.
///
/// # Errors
/// When a brace has no partner or a placeholder is none of ours.
pub fn check(text: &str) -> Result<Option<String>, BadPlaceholder> {
    let mut plain = true;
    let out = expand(text, |name| {
        plain = false;
        PLACEHOLDERS.contains(&name).then(String::new)
    })?;
    Ok(plain.then_some(out))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

fn expand(text: &str, mut value: impl FnMut(&str) -> Option<String>) -> Result<String, BadPlaceholder> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(after) = tail.strip_prefix("{{").or_else(|| tail.strip_prefix("}}")) {
            out.push_str(&tail[..1]);
            rest = after;
            continue;
        }
        let inside = tail.strip_prefix('{').and_then(|t| t.split_once('}'));
        let Some((name, after)) = inside else {
            return Err(BadPlaceholder::Unbalanced { text: text.to_owned() });
        };
        let unknown = || BadPlaceholder::Unknown { name: name.to_owned(), text: text.to_owned() };
        out.push_str(&value(name).ok_or_else(unknown)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        let app = "web".parse().unwrap();
        let key = "2-3".parse().unwrap();
        let values = Values::new(&app, key, &"3.2".parse().unwrap(), 20001);
        fill(text, &values).map_err(|e| e.to_string())
    }

    #[test]
    fn fills_what_it_knows_and_names_what_it_does_not() {
        for (text, expect) in [
            ("--port={port}", "--port=20001"),
            ("{version}/{revision}/{instance}", "3.2/2/web-2-3"),
            ("{{port}}", "{port}"),
            ("{{{port}}}", "{20001}"),
            ("plain", "plain"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expect));
        }
        assert!(filled("{Port}").unwrap_err().contains("{Port} in \"{Port}\" is unknown"));
        for bad in ["{port", "port}", "{", "}"] {
            assert!(filled(bad).unwrap_err().contains("no partner"), "{bad}");
        }
        assert_eq!(check("{port}"), Ok(None));
        assert_eq!(check("a{{b}}"), Ok(Some("a{b}".to_owned())));
    }
}
