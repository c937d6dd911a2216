//! Frames of HTTP/2 by hand, also such as no client would send.

use std::collections::BTreeMap;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The preface and an empty SETTINGS.
pub fn opening() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[])].concat()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A line `HEADERS 1 end` and the lines below it.
#[derive(Debug)]
pub struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
    times: usize,
}

impl Frame {
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let kind = match words.next()? {
            "DATA" => 0,
            "HEADERS" => 1,
            "PRIORITY" => 2,
            "RST_STREAM" => 3,
            "SETTINGS" => 4,
            "PING" => 6,
            "WINDOW_UPDATE" => 8,
            "CONTINUATION" => 9,
            _ => return None,
        };
        let stream = words.next()?.parse().ok()?;
        // A HEADERS frame is whole unless it says that more comes.
        let mut flags = if kind == 1 { 4 } else { 0 };
        for word in words {
            match word {
                "end" => flags |= 1,
                "more" => flags &= !4,
                "last" => flags |= 4,
                _ => return None,
            }
        }
        Some(Self { kind, flags, stream, payload: Vec::new(), times: 1 })
    }

    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Of a head one field, of another frame its bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        if self.kind == 1 || self.kind == 9 {
            // The first byte may be the colon of a pseudo header, or of a name that is empty.
            let colon = bytes.iter().skip(1).position(|byte| *byte == b':').map_or(0, |at| at + 1);
            let value = bytes[colon + 1..].strip_prefix(b" ").unwrap_or(&bytes[colon + 1..]);
            self.payload.extend(field(&bytes[..colon], value));
        } else {
            self.payload.extend(bytes);
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        // A window that reaches far, or an error of its own, where nothing else is said.
        let payload = match (self.kind, self.payload.is_empty()) {
            (2, true) => vec![0; 5],
            (3, true) => 8_u32.to_be_bytes().to_vec(),
            (6, true) => vec![0; 8],
            (8, true) => 1_u32.to_be_bytes().to_vec(),
            _ => self.payload.clone(),
        };
        frame(self.kind, self.flags, self.stream, &payload).repeat(self.times)
    }
}

/// A header field, literal and without an index (RFC 7541 §6.2.2).
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        if text.len() < 127 {
            bytes.push(text.len() as u8);
        } else {
            bytes.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
        bytes.extend(text);
    }
    bytes
}

/// What became of the streams of a connection, and whether it was ended.
#[derive(Debug, Default)]
pub struct Fates {
    /// A status, or `reset`.
    pub streams: BTreeMap<u32, String>,
    pub goaway: Option<u32>,
}

impl Fates {
    /// As the file says it: `1:200 3:reset goaway`.
    pub fn words(&self) -> Vec<String> {
        let goaway = self.goaway.map(|_| "goaway".to_owned());
        self.streams.iter().map(|(stream, fate)| format!("{stream}:{fate}")).chain(goaway).collect()
    }

    /// Reads all whole frames, and leaves the rest.
    pub fn take(&mut self, bytes: &mut Vec<u8>) {
        while bytes.len() >= 9 {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            if bytes.len() < 9 + length {
                return;
            }
            let frame: Vec<u8> = bytes.drain(..9 + length).collect();
            let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
            let payload = &frame[9..];
            match frame[3] {
                1 => {
                    self.streams.entry(stream).or_insert_with(|| status(payload));
                }
                // An answer that was whole stays one: the rest of the request was not wanted.
                3 if payload != [0; 4] => {
                    self.streams.insert(stream, "reset".into());
                }
                7 => self.goaway = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
                _ => {}
            }
        }
    }
}

/// The status at the beginning of a block of fields: of the static table, or as Huffman's digits.
fn status(block: &[u8]) -> String {
    match block {
        [first @ 0x88..=0x8e, ..] => {
            ["200", "204", "206", "304", "400", "404", "500"][usize::from(first - 0x88)].into()
        }
        [0x48, length, rest @ ..] if length & 0x80 != 0 => digits(&rest[..usize::from(length & 0x7f)]),
        [0x48, length, rest @ ..] => String::from_utf8_lossy(&rest[..usize::from(*length)]).into(),
        _ => "?".into(),
    }
}

/// `0` to `2` have five bits, `3` to `9` six (RFC 7541, appendix B).
fn digits(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut text, mut rest) = (String::new(), bits.as_str());
    while text.len() < 3 {
        let five = u8::from_str_radix(&rest[..5], 2).unwrap();
        let length = if five < 3 { 5 } else { 6 };
        let value = u8::from_str_radix(&rest[..length], 2).unwrap();
        let digit = if five < 3 { value } else { value - 0b011001 + 3 };
        text.push(char::from(b'0' + digit));
        rest = &rest[length..];
    }
    text
}
