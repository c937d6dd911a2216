//! A value that must not be seen. It has no `Display` and no `Serialize`, and `Debug` prints stars.

use std::fmt;

use serde::Deserialize;

/// A secret on its way from the caller to the sealed file.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// Only for sealing.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
