//! Reads one file of `tests/http/`. Its README says what may stand there.

use std::fs;
use std::path::{Path, PathBuf};

/// What the client does, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Send(Vec<u8>),
    /// Goes on when so many answers have come.
    Wait(usize),
}

#[derive(Debug, Default)]
pub struct Case {
    pub path: PathBuf,
    /// Settings of the app in the table, `name = value`.
    pub with: Vec<String>,
    pub client: Vec<Step>,
    /// Its connection is one of HTTP/2.
    pub is_http2: bool,
    /// The statuses that the client reads, or of HTTP/2 what becomes of the streams. The line, and the words.
    pub answers: (usize, Vec<String>),
    pub closed: (usize, Option<bool>),
    /// Head and body of each whole request at the app.
    pub app_sees: Vec<(usize, Vec<u8>)>,
    /// What the app says to the first request, in place of its short 200.
    pub app_answers: Option<Vec<u8>>,
    pub app_closes: bool,
    /// Every byte that the client reads, if that matters.
    pub client_sees: Option<(usize, Vec<u8>)>,
}

/// Where the lines that begin with `|` go.
enum Part {
    None,
    Client,
    AppSees,
    AppAnswers,
    ClientSees,
    /// A frame of HTTP/2 that carries bytes, or header fields.
    Frame(super::frames::Frame),
}

impl Case {
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut case = Self { path: path.to_owned(), ..Self::default() };
        let mut part = Part::None;
        let mut is_settled = false;
        for (at, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
            let wrong = |what: &str| -> ! { panic!("{}:{at}: {what}: {line}", path.display()) };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (times, line) = repeated(line);
            if let Some(text) = line.strip_prefix('|') {
                let bytes = unescape(text).unwrap_or_else(|| wrong("not an escape"));
                case.add(&mut part, &bytes, times).unwrap_or_else(|| wrong("no bytes belong here"));
                continue;
            }
            case.end_frame(&mut part);
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (word, rest) {
                ("row", _) => drop(rest.parse::<u32>().unwrap_or_else(|_| wrong("not a number"))),
                ("with", _) => case.with.push(rest.to_owned()),
                ("client", "") => part = Part::Client,
                ("client", "speaks http2") => {
                    case.is_http2 = true;
                    case.client.push(Step::Send(super::frames::opening()));
                    part = Part::None;
                }
                ("client", "sees") => {
                    case.client_sees = Some((at, Vec::new()));
                    part = Part::ClientSees;
                }
                ("wait", _) => {
                    case.client.push(Step::Wait(rest.parse().unwrap_or_else(|_| wrong("not a number"))));
                }
                ("answers", _) => case.answers = (at, rest.split(' ').map(str::to_owned).collect()),
                ("closed" | "open", "") => case.closed = (at, Some(word == "closed")),
                ("app", "sees nothing") => is_settled = true,
                ("app", "sees") => {
                    case.app_sees.push((at, Vec::new()));
                    (part, is_settled) = (Part::AppSees, true);
                }
                ("app", "answers") => {
                    case.app_answers = Some(Vec::new());
                    part = Part::AppAnswers;
                }
                ("app", "closes") => case.app_closes = true,
                _ => match super::frames::Frame::parse(line) {
                    Some(frame) if case.is_http2 => {
                        part = Part::Frame(frame.times(times));
                    }
                    _ => wrong("no such word"),
                },
            }
        }
        case.end_frame(&mut part);
        assert!(is_settled, "{}: what the app sees is not said", path.display());
        assert!(case.closed.1.is_some(), "{}: neither open nor closed", path.display());
        case
    }

    fn add(&mut self, part: &mut Part, bytes: &[u8], times: usize) -> Option<()> {
        match part {
            Part::None => return None,
            Part::Frame(frame) => {
                for _ in 0..times {
                    frame.add(bytes);
                }
            }
            Part::Client => {
                let all = bytes.repeat(times);
                match self.client.last_mut() {
                    Some(Step::Send(sent)) => sent.extend(all),
                    _ => self.client.push(Step::Send(all)),
                }
            }
            Part::AppSees => self.app_sees.last_mut()?.1.extend(bytes.repeat(times)),
            Part::AppAnswers => self.app_answers.as_mut()?.extend(bytes.repeat(times)),
            Part::ClientSees => self.client_sees.as_mut()?.1.extend(bytes.repeat(times)),
        }
        Some(())
    }

    fn end_frame(&mut self, part: &mut Part) {
        if let Part::Frame(frame) = part {
            let bytes = frame.encode();
            match self.client.last_mut() {
                Some(Step::Send(sent)) => sent.extend(bytes),
                _ => self.client.push(Step::Send(bytes)),
            }
            *part = Part::None;
        }
    }
}

/// `100 x |…` stands for a hundred of it.
fn repeated(line: &str) -> (usize, &str) {
    let repeated = line.split_once(" x ").and_then(|(times, rest)| Some((times.parse().ok()?, rest)));
    repeated.unwrap_or((1, line))
}

/// `\r \n \t \\` and `\x00` to `\xff`.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (escape, after) = rest.split_first()?;
        rest = after;
        bytes.push(match escape {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'\\' => b'\\',
            b'x' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

/// The bytes as lines of a file.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::from("|");
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => {
                text.push_str("\\n");
                if at + 1 < bytes.len() {
                    text.push_str("\n|");
                }
            }
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}
