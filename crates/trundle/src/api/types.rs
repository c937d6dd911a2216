//! What goes over the socket.

use serde::{Deserialize, Serialize};
use trundle_core::state::Request;
use trundle_engine::view::{Line, Status};

/// `POST /v1/apps/{app}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ask {
    /// Who asks, for the journal: `ann@host`.
    pub by: String,
    pub request: Request,
}

/// Its answer, once it is durable.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    /// The rollout to follow, if there is one.
    pub rollout: Option<u32>,
    /// What was done, or why nothing had to be.
    pub says: String,
    /// Nothing was changed.
    pub unchanged: bool,
    /// It began a rollout; otherwise what is followed was there before.
    #[serde(default)]
    pub began: bool,
    /// The number of the last line before it: what is newer may come of it.
    #[serde(default)]
    pub after: u64,
}

/// Anything but success.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    pub error: String,
    /// The state does not allow it now.
    pub refused: bool,
}

/// One line of `GET /v1/apps/{app}/watch`: what happened, and now and then how things stand.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Watched {
    Status(Box<StatusLine>),
    Line(Line),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusLine {
    pub at: String,
    /// Always `status`.
    #[serde(rename = "type")]
    pub kind: StatusWord,
    pub status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusWord {
    Status,
}

/// `GET /v1/daemon`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonInfo {
    pub pid: u32,
    pub release: String,
    pub apps: Vec<String>,
}
