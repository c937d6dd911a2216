//! What an authority for certificates asks for, to see whose a host is (HTTP-01, RFC 8555 §8.3): a file for each answer, that whoever
//! orders the certificate has put there.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use crate::body::ResponseBody;
use crate::classes::AppCell;
use crate::refusal::Refusal;
use crate::turn::Turn;

const PREFIX: &str = "/.well-known/acme-challenge/";
const MOST_TOKEN_BYTES: usize = 128;
const MOST_BYTES: u64 = 1024;

/// The answer, if it is such a question and there is one. Otherwise the app may have it.
pub fn find(path: &str, folder: &Path) -> Option<String> {
    let token = path.strip_prefix(PREFIX)?;
    // Of the alphabet of base64url: it names no other file.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !(1..=MOST_TOKEN_BYTES).contains(&token.len()) || !token.bytes().all(is_token) {
        return None;
    }
    let mut text = String::new();
    // Small, asked for a few times in a month, and in memory since it was written a moment ago.
    File::open(folder.join(token)).ok()?.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

pub fn answer(client: &Turn, text: String) -> Response<ResponseBody> {
    let said =
        Refusal { status: StatusCode::OK, class: AppCell::Rejected, reason: text, close: false, vary: None };
    let mut response = said.answer(client);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("challenges");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a-B_1"), "a-B_1.thumb").unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        let find = |path: &str| find(path, &folder);
        assert_eq!(find("/.well-known/acme-challenge/a-B_1").as_deref(), Some("a-B_1.thumb"));
        for path in ["../secret", "", ".", "a-B_1/", "a%2DB_1", "other", "a-B_1?x"] {
            assert_eq!(find(&format!("{PREFIX}{path}")), None, "{path}");
        }
        assert_eq!(find("/a-B_1"), None);
    }
}
