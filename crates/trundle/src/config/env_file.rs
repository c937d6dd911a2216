//! `env_file`: lines of `KEY=VALUE`, as dotenv tools write them. No variables are filled in, no value spans lines.
//!
//! It must never put a value into a message: not even a key that is refused, which may be a value that slipped.

use std::collections::BTreeMap;

use trundle_core::ids::EnvKey;

/// What is wrong with a line.
pub struct BadLine {
    /// From 1.
    pub line: usize,
    pub message: &'static str,
    pub hint: String,
}

#[derive(Default)]
pub struct EnvFile {
    pub values: BTreeMap<EnvKey, String>,
    /// Keys that were written again, with the line that counts.
    pub again: Vec<(EnvKey, usize)>,
    pub bad: Vec<BadLine>,
}

pub fn parse(text: &str, value_bytes_max: usize) -> EnvFile {
    let mut file = EnvFile::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, content) in text.lines().enumerate().map(|(index, content)| (index + 1, content.trim())) {
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        match assignment(content, value_bytes_max) {
            Ok((key, value)) => {
                if file.values.insert(key.clone(), value).is_some() {
                    file.again.push((key, line));
                }
            }
            Err((message, hint)) => file.bad.push(BadLine { line, message, hint }),
        }
    }
    file
}

type Refusal = (&'static str, String);

fn assignment(content: &str, value_bytes_max: usize) -> Result<(EnvKey, String), Refusal> {
    let content = match content.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => content,
    };
    let Some((key, value)) = content.split_once('=') else {
        return Err(("there is no = in this line", "write KEY=VALUE, or # before a comment".to_owned()));
    };
    let key: EnvKey = key
        .trim_end()
        .parse()
        .map_err(|bad: trundle_core::ids::BadName| ("the name before = is refused", bad.rule().to_owned()))?;
    let value = unquoted(value.trim_start())?;
    if value.contains('\0') {
        return Err(("the value holds a NUL byte, which no program can be given", "remove it".to_owned()));
    }
    if value.len() > value_bytes_max {
        return Err((
            "the value is too long",
            format!("at most {} KiB are possible", value_bytes_max / 1024),
        ));
    }
    Ok((key, value))
}

fn unquoted(value: &str) -> Result<String, Refusal> {
    let (value, rest) = match value.strip_prefix('\'') {
        Some(inside) => inside.split_once('\'').map(|(value, rest)| (value.to_owned(), rest)),
        None => match value.strip_prefix('"') {
            Some(inside) => double_quoted(inside),
            None => return Ok(without_comment(value).to_owned()),
        },
    }
    .ok_or_else(|| {
        (
            "a quote is opened and not closed",
            "close it on the same line; values of several lines are not possible".to_owned(),
        )
    })?;
    if without_comment(rest).is_empty() {
        Ok(value)
    } else {
        Err((
            "there is more after the closing quote",
            "quote the whole value, or write \\\" inside".to_owned(),
        ))
    }
}

/// The value up to the closing quote, and what follows it.
fn double_quoted(inside: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &inside[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('\\' | '"' | '$') => value.push(c),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}

/// A `#` begins a comment at the start and after a blank: `p#ss` is a value.
fn without_comment(text: &str) -> &str {
    let comment =
        text.match_indices('#').map(|(at, _)| at).find(|at| *at == 0 || text[..*at].ends_with([' ', '\t']));
    text[..comment.unwrap_or(text.len())].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: Result<&str, &str>) {
        let file = parse(line, 10);
        let values: Vec<_> = file.values.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let found = match file.bad.first() {
            Some(bad) => Err(bad.message),
            None => Ok(values.join(",")),
        };
        assert_eq!(found, expect.map(str::to_owned), "{line:?}");
    }

    #[test]
    fn reads_what_dotenv_tools_write() {
        check("\u{feff}A=1\r\n\r\n# c\r\n  export B = two # c\r\n", Ok("A=1,B=two"));
        check("A=", Ok("A="));
        check("A='x # $y \\n'", Ok("A=x # $y \\n"));
        check("A=\"a\\n\\\"b\\\"\" # c", Ok("A=a\n\"b\""));
        check("A=p#ss=w", Ok("A=p#ss=w"));
        check("A=#c", Ok("A="));
        check("export=1", Ok("export=1"));
        check("A=1\nA=2", Ok("A=2"));
        assert_eq!(parse("A=1\nA=2", 9).again[0].1, 2);
    }

    #[test]
    fn a_bad_line_is_refused_without_its_value() {
        check("canary", Err("there is no = in this line"));
        check("ca-nary=1", Err("the name before = is refused"));
        check("A='canary", Err("a quote is opened and not closed"));
        check("A=\"canary\\", Err("a quote is opened and not closed"));
        check("A=\"c\"anary", Err("there is more after the closing quote"));
        check("A=canarycanary", Err("the value is too long"));
        let file = parse("postgres://u:canary@h?a=1\n\nA='canary", 9);
        assert!(file.bad.iter().all(|bad| !bad.hint.contains("canary")));
        assert_eq!(file.bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [1, 3]);
    }
}
