//! What people see: text made from the views, with colour only where somebody looks at a terminal.

pub mod card;
pub mod history;
pub mod live;
pub mod plan;
pub mod report;
pub mod simulate;
pub mod table;
pub mod window;

use std::sync::atomic::{AtomicBool, Ordering};

static COLOUR: AtomicBool = AtomicBool::new(false);

pub fn set_colour(on: bool) {
    COLOUR.store(on, Ordering::Relaxed);
}

fn paint(code: &str, text: &str) -> String {
    if COLOUR.load(Ordering::Relaxed) { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

pub fn red(text: &str) -> String {
    paint("1;31", text)
}
pub fn green(text: &str) -> String {
    paint("1;32", text)
}
pub fn yellow(text: &str) -> String {
    paint("33", text)
}
pub fn bold(text: &str) -> String {
    paint("1", text)
}
pub fn dim(text: &str) -> String {
    paint("2", text)
}

#[cfg(test)]
mod tests;
