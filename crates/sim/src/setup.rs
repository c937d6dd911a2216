//! What is simulated: an app, how it behaves, and the seed of chance.

use trundle_core::ids::BadName;
use trundle_core::revision::Template;
use trundle_core::settings::AppSettings;

use crate::spread::Spread;

#[derive(Debug, Clone)]
pub struct Setup {
    pub settings: AppSettings,
    /// From the start of a process to its first successful check.
    pub start: Spread,
    /// From the drain to the last answer.
    pub drain: Spread,
    /// From the signal to gone.
    pub stop: Spread,
    /// How likely a new instance of a version after the first fails.
    pub failure: f64,
    pub seed: u64,
}

impl Setup {
    pub fn new(settings: AppSettings) -> Self {
        Self {
            settings,
            start: Spread::Always(1_000),
            drain: Spread::Always(0),
            stop: Spread::Always(1_000),
            failure: 0.0,
            seed: 0,
        }
    }
}

/// A revision that differs from others by its version only.
///
/// # Errors
/// When the version is no label.
pub fn template(version: &str) -> Result<Template, BadName> {
    Ok(Template::plain(version.parse()?, vec!["simulated".to_owned()]))
}
