//! What the proxy says by itself, in place of an endpoint, with the class that it counts under.

use bytes::Bytes;
use std::net::SocketAddr;

use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, VARY};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;

use crate::body::ResponseBody;
use crate::classes::{AppCell, Lost};
use crate::request_id::REQUEST_ID;
use crate::turn::Turn;

/// To the same place with TLS. Its name is that of the request; without one it is the address.
pub fn redirect<B>(client: &Turn, request: &Request<B>, to: SocketAddr) -> Response<ResponseBody> {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let named = named.or_else(|| request.uri().authority().map(Authority::as_str));
    let name = named.and_then(|host| host.parse::<Authority>().ok()).map(|host| host.host().to_owned());
    let port = if to.port() == 443 { String::new() } else { format!(":{}", to.port()) };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let location = format!("https://{}{port}{path}", name.unwrap_or_else(|| to.ip().to_string()));
    let refusal = Refusal::rejected(StatusCode::PERMANENT_REDIRECT, "come with TLS\n");
    let mut answer = Refusal { close: false, ..refusal }.answer(client);
    if let Ok(location) = HeaderValue::from_str(&location) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

pub struct Refusal {
    pub status: StatusCode,
    pub class: AppCell,
    pub reason: String,
    /// The connection ends with it.
    pub close: bool,
    /// What else might have been answered depends on these headers.
    pub vary: Option<HeaderValue>,
}

impl Refusal {
    pub fn rejected(status: StatusCode, reason: &str) -> Self {
        Self { status, class: AppCell::Rejected, reason: reason.to_owned(), close: true, vary: None }
    }

    pub fn bad(reason: &str) -> Self {
        Self::rejected(StatusCode::BAD_REQUEST, reason)
    }

    pub fn lost(status: StatusCode, why: Lost, reason: String) -> Self {
        Self { status, class: AppCell::Lost(why), reason, close: false, vary: None }
    }

    /// Nobody shall come in. The connection goes on.
    pub fn closed() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { status, class: AppCell::Rejected, reason: String::new(), close: false, vary: None }
    }

    /// As the answer to a request.
    pub fn answer(self, client: &Turn) -> Response<ResponseBody> {
        client.answer_made();
        client.log(|entry| {
            entry.status = self.status.as_u16();
            entry.bytes_down = self.reason.len() as u64;
            entry.ends_as(self.class);
        });
        let length = self.reason.len();
        let mut response = Response::new(ResponseBody::Made(Full::new(Bytes::from(self.reason))));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(vary) = self.vary {
            headers.insert(VARY, vary);
        }
        if let Some(id) = client.request_id() {
            headers.insert(REQUEST_ID, id.clone());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        // A stream ends alone.
        let ends = (self.close && !client.connection.has_streams()) || client.is_last();
        if ends {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
