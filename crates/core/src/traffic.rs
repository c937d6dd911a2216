//! `[traffic]`: which version a request gets while two serve.

use serde::{Deserialize, Serialize};

use crate::Millis;

/// Without any of it each request goes to whoever has the least to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// What a client stays with.
    pub sticky: Sticky,
    /// The value of this header stands for a client: for those that keep no cookies.
    pub sticky_header: Option<String>,
    /// Where a client may ask for a version; the first that is there counts.
    pub asked_in: Vec<Field>,
    pub when_gone: WhenGone,
    /// Looked at before everything else; the first that fits counts.
    pub rules: Vec<Rule>,
    /// Paths of which one version may have what another has not; `*` at the end for all that begins so.
    pub skew_paths: Vec<String>,
    /// So long after a page was loaded the last instance of its version is kept for what the page loads; 0: it is not.
    pub skew_max_age_ms: Millis,
    /// Some requests go to another version as well, and what that answers is compared.
    pub mirror: Option<Mirror>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// As in a [`Rule`].
    pub to: String,
    /// Of a hundred GETs and HEADs of the paths.
    pub share: u32,
    pub paths: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    #[default]
    None,
    Version,
    Instance,
}

/// When a client asks for a version that no instance serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenGone {
    /// As if it had not asked.
    #[default]
    Fallback,
    /// 406.
    Refuse,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    Header(String),
    Cookie(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub field: Field,
    /// None: any.
    pub value: Option<String>,
    /// `newest`, `oldest`, or a range of versions.
    pub to: String,
}

impl Rule {
    pub const NEWEST: &str = "newest";
    pub const OLDEST: &str = "oldest";
}
