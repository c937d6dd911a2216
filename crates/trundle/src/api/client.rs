//! Asks the daemon over its socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use trundle_core::state::Request;
use trundle_engine::view::{History, Status};

use super::types::{Ask, DaemonInfo, Problem, Told, Watched};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers on {}: {source}", path.display())]
    Unreachable { path: PathBuf, source: std::io::Error },
    #[error("the daemon on {} did not answer as expected: {detail}", path.display())]
    Broken { path: PathBuf, detail: String },
    /// The state does not allow it.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}

#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn answers(&self) -> bool {
        self.daemon().await.is_ok()
    }

    /// For one that may be coming up.
    pub async fn answers_soon(&self) -> bool {
        for _ in 0..200 {
            if self.answers().await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    pub async fn daemon(&self) -> Result<DaemonInfo, ClientError> {
        self.get("/v1/daemon").await
    }

    pub async fn statuses(&self) -> Result<Vec<Status>, ClientError> {
        self.get("/v1/apps").await
    }

    pub async fn status(&self, app: &str) -> Result<Status, ClientError> {
        self.get(&format!("/v1/apps/{app}")).await
    }

    pub async fn history(&self, app: &str) -> Result<History, ClientError> {
        self.get(&format!("/v1/apps/{app}/history")).await
    }

    pub async fn ask(&self, app: &str, by: String, request: Request) -> Result<Told, ClientError> {
        self.post(&format!("/v1/apps/{app}"), &Ask { by, request }).await
    }

    pub async fn down(&self, by: String) -> Result<(), ClientError> {
        self.post("/v1/down", &by).await
    }

    /// What happens, as it happens. With `after`: what happened since the line of that number first.
    pub async fn watch(&self, app: &str, after: Option<u64>) -> Result<Watch, ClientError> {
        let after = after.map(|n| format!("?after={n}")).unwrap_or_default();
        let body = self.call("GET", &format!("/v1/apps/{app}/watch{after}"), Bytes::new()).await?;
        Ok(Watch { body, rest: Vec::new() })
    }

    /// As Prometheus reads it.
    pub async fn metrics(&self) -> Result<Bytes, ClientError> {
        let body = self.call("GET", "/metrics", Bytes::new()).await?;
        Ok(body.collect().await.map_err(|e| self.broken(e.to_string()))?.to_bytes())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.call("GET", path, Bytes::new()).await?;
        self.read(body).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let json = serde_json::to_vec(body).map_err(|e| self.broken(e.to_string()))?;
        let body = self.call("POST", path, Bytes::from(json)).await?;
        self.read(body).await
    }

    async fn read<T: DeserializeOwned>(&self, body: Incoming) -> Result<T, ClientError> {
        let whole = body.collect().await.map_err(|e| self.broken(e.to_string()))?.to_bytes();
        serde_json::from_slice(&whole).map_err(|e| self.broken(e.to_string()))
    }

    async fn call(&self, method: &str, path: &str, body: Bytes) -> Result<Incoming, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.broken(e.to_string()))?;
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "trundle")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| self.broken(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(|e| self.broken(e.to_string()))?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let status = response.status();
        let whole = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        match serde_json::from_slice::<Problem>(&whole) {
            Ok(problem) if problem.refused => Err(ClientError::Refused(problem.error)),
            Ok(problem) => Err(ClientError::Failed(problem.error)),
            Err(_) => Err(self.broken(format!("{status}: {}", String::from_utf8_lossy(&whole)))),
        }
    }

    fn broken(&self, detail: String) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), detail }
    }
}

/// A stream of lines.
pub struct Watch {
    body: Incoming,
    rest: Vec<u8>,
}

impl Watch {
    /// The next line; None when the daemon has gone. Safe to drop before it is ready.
    pub async fn next(&mut self) -> Option<Watched> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(watched) => return Some(watched),
                    // A newer daemon may say what we do not know.
                    Err(_) => continue,
                }
            }
            let frame = self.body.frame().await?.ok()?;
            self.rest.extend_from_slice(frame.data_ref()?);
        }
    }
}
