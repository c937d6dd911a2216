//! `trundle schema`: the JSON Schema of `trundle.toml`. The one in `docs/` is this output.

use super::print_text;
use super::stop::Stop;
use crate::config::schema;
use crate::exit::Exit;

pub fn run() -> Result<Exit, Stop> {
    let mut text = serde_json::to_string_pretty(&schema::document())?;
    text.push('\n');
    print_text(text.as_bytes())
}
