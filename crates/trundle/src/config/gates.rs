//! `[[gates]]`: flags that the app reads, and when they open.

use trundle_core::state::Gate;
use trundle_proxy as proxy;
use trundle_versions::Range;

use super::node::Node;
use super::section::Section;
use super::source::shown;
use super::value::{self, Wrong, checked_by};

const MOST: usize = 64;
/// What stands before the range.
const ALL: &str = "all instances";

pub fn read(top: &Section<'_>) -> Vec<Gate> {
    let sections = top.tables("gates");
    if sections.len() > MOST {
        let message = format!("{} are too many: at most {MOST} are possible", sections.len());
        top.refuse("gates", message, "use fewer; one that has been open for long is not needed any more");
    }
    let mut gates: Vec<Gate> = Vec::new();
    for section in &sections {
        let name = section.require("name", checked_by(proxy::check_format_name));
        let versions = section.require("opens", opens);
        let Some((name, versions)) = name.zip(versions) else { continue };
        if gates.iter().any(|other| other.name == name) {
            section.refuse("name", format!("there are two gates {name}"), "give each its own name");
        }
        gates.push(Gate { name, versions });
    }
    gates
}

/// `all instances >= 4.1`; answers with the range.
fn opens(node: &Node) -> Result<String, Wrong> {
    let text = value::text(node)?;
    let range = text.strip_prefix(ALL).map(str::trim);
    match range.filter(|range| Range::parse(range).is_ok()) {
        Some(range) => Ok(range.to_owned()),
        None => Err(Wrong::Value(
            format!("\"{}\" is no condition", shown(&text)),
            format!("write it like \"{ALL} >= 4.1\""),
        )),
    }
}
