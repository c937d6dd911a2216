//! What a client is given to keep: which version it has seen, so that it never goes back.
//!
//! A cookie, signed with a key of the state directory: a hint about where its requests go, and nothing that an app could rely on.
//! One that is not ours, or was changed, is none.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::keys::{Keys, TAG_BYTES};

const FORM: u8 = 1;
const BYTES: usize = 1 + 8 + 4 + 2 + 4 + 8 + 4 + 8;
/// Without padding.
const TEXT_BYTES: usize = ((BYTES + TAG_BYTES) * 4).div_ceil(3);

/// All of it is said by us and read by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// In which it was given. In another one only the client and what it loaded count.
    pub window: u64,
    /// The newest revision that has answered it.
    pub seen: u32,
    /// Its place among all, below [`PLACES`](super::PLACES): as the share of a version grows it is reached once.
    pub place: u16,
    /// The revision of the page that it loaded last, and 0 without one.
    pub page: u32,
    /// A name for the client, by chance.
    pub client: u64,
    /// When it loaded its page, in seconds of the Unix time.
    pub at_s: u32,
    /// The endpoint that has answered it, where it stays with that.
    pub instance: u64,
}

impl Token {
    pub fn write(&self, app: &str, keys: &Keys) -> String {
        let mut bytes = [0; BYTES + TAG_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&[FORM]);
        put(&self.window.to_be_bytes());
        put(&self.seen.to_be_bytes());
        put(&self.place.to_be_bytes());
        put(&self.page.to_be_bytes());
        put(&self.client.to_be_bytes());
        put(&self.at_s.to_be_bytes());
        put(&self.instance.to_be_bytes());
        let tag = keys.sign([app.as_bytes(), &bytes[..BYTES]]);
        bytes[BYTES..].copy_from_slice(&tag);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    pub fn read(text: &[u8], app: &str, keys: &Keys) -> Option<Self> {
        if text.len() != TEXT_BYTES {
            return None;
        }
        let mut bytes = [0; BYTES + TAG_BYTES];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (payload, tag) = bytes.split_at(BYTES);
        if length != bytes.len() || payload[0] != FORM || !keys.believes([app.as_bytes(), payload], tag) {
            return None;
        }
        let mut rest = &payload[1..];
        Some(Self {
            window: u64::from_be_bytes(take(&mut rest)?),
            seen: u32::from_be_bytes(take(&mut rest)?),
            place: u16::from_be_bytes(take(&mut rest)?),
            page: u32::from_be_bytes(take(&mut rest)?),
            client: u64::from_be_bytes(take(&mut rest)?),
            at_s: u32::from_be_bytes(take(&mut rest)?),
            instance: u64::from_be_bytes(take(&mut rest)?),
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_have_written_is_read() {
        let keys = Keys::of_this_process();
        let token = Token {
            window: 7,
            seen: 3,
            place: 9_999,
            page: 2,
            client: u64::MAX,
            at_s: 1_796_000_000,
            instance: 1,
        };
        let text = token.write("web", &keys);
        assert_eq!(Token::read(text.as_bytes(), "web", &keys), Some(token));
        assert_eq!(Token::read(text.as_bytes(), "api", &keys), None, "another app's");
        assert_eq!(Token::read(text.as_bytes(), "web", &Keys::of_this_process()), None, "another key's");
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(Token::read(&forged, "web", &keys), None, "changed at {at}");
        }
        for other in [&b""[..], b"web", &text.as_bytes()[1..], &[b'A'; TEXT_BYTES], &[0xff; TEXT_BYTES]] {
            assert_eq!(Token::read(other, "web", &keys), None);
        }
    }
}
