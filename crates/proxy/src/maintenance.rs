//! What is answered in place of an app while nobody shall come in.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response};

use crate::body::ResponseBody;
use crate::refusal::Refusal;
use crate::table::Maintenance;
use crate::turn::Turn;

const MOST_BYTES: u64 = 1024 * 1024;
const WORDS: &str = "down for maintenance\n";

/// The page, ready to be sent.
pub struct Closed {
    body: Bytes,
    content_type: &'static str,
    retry_after: Option<HeaderValue>,
}

impl Closed {
    /// A page that cannot be read keeps nobody out of a table: then it is a few words.
    pub fn of(maintenance: &Maintenance) -> Self {
        let page = maintenance.page.as_deref().and_then(|path| match read(path) {
            Ok(page) => Some(page),
            Err(error) => {
                log_line!(
                    "trundle proxy: the page for maintenance {} cannot be read: {error}",
                    path.display()
                );
                None
            }
        });
        let content_type =
            if page.is_some() { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
        Self {
            body: page.unwrap_or_else(|| Bytes::from_static(WORDS.as_bytes())),
            content_type,
            retry_after: maintenance.retry_after_s.map(HeaderValue::from),
        }
    }

    pub fn answer(&self, client: &Turn) -> Response<ResponseBody> {
        let refusal = Refusal::closed();
        let mut answer = refusal.answer(client);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match &self.retry_after {
            Some(after) => drop(headers.insert(RETRY_AFTER, after.clone())),
            None => drop(headers.remove(RETRY_AFTER)),
        }
        client.log(|entry| entry.bytes_down = self.body.len() as u64);
        *answer.body_mut() = ResponseBody::Made(self.body.clone().into());
        answer
    }
}

fn read(path: &Path) -> std::io::Result<Bytes> {
    let mut page = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut page)?;
    if page.len() as u64 > MOST_BYTES {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(page.into())
}
