//! `X-Request-Id`: a name for a request that client, proxy and app can all put into their logs.

use http::HeaderValue;
use http::header::{Entry, HeaderMap, HeaderName};

use crate::routes::Random;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MOST_BYTES: usize = 200;

/// The id that the client gave, if it is one that can stand in a log, and a new one otherwise.
pub fn of(headers: &mut HeaderMap, random: &mut Random) -> HeaderValue {
    match headers.entry(REQUEST_ID) {
        Entry::Occupied(entry) if entry.iter().count() == 1 && is_sound(entry.get().as_bytes()) => {
            entry.get().clone()
        }
        Entry::Occupied(mut entry) => {
            let id = new(random);
            entry.insert(id.clone());
            id
        }
        Entry::Vacant(entry) => entry.insert(new(random)).clone(),
    }
}

fn is_sound(id: &[u8]) -> bool {
    let is_sound = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte);
    (1..=MOST_BYTES).contains(&id.len()) && id.iter().all(is_sound)
}

/// 128 bits as hexadecimal digits. They tell requests apart; they are no secret.
fn new(random: &mut Random) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for half in text.chunks_exact_mut(16) {
        let mut bits = random.next();
        for digit in half {
            *digit = DIGITS[(bits & 15) as usize];
            bits >>= 4;
        }
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &[&'static str], kept: bool) {
        let mut headers = HeaderMap::new();
        for id in given {
            headers.append(REQUEST_ID, HeaderValue::from_static(id));
        }
        let id = of(&mut headers, &mut Random::new());
        assert_eq!(headers.get_all(REQUEST_ID).iter().collect::<Vec<_>>(), [&id]);
        assert_eq!(given.first().is_some_and(|given| id == *given), kept, "{given:?}: {id:?}");
        assert!(kept || (id.len() == 32 && id.as_bytes().iter().all(u8::is_ascii_hexdigit)), "{id:?}");
    }

    #[test]
    fn what_a_client_gave_is_kept_if_it_can_stand_in_a_log() {
        check(&[], false);
        check(&["7e7f0a1c-2f4b-4a3e-9d51-01aa"], true);
        check(&["a", "b"], false);
        check(&["a b"], false);
        check(&["\"; rm -rf"], false);
        check(&[""], false);
    }
}
