//! What all pictures share: their size, the time below them, and the moments that matter in all of them.

use trundle_core::reason::duration_text;

use super::evidence::Evidence;
use super::markup::{Attributes, Markup, px};
use super::scale::TimeScale;

/// A page has each picture in two widths and shows the one that fits: text in a picture that is shrunk cannot be read.
#[derive(Debug, Clone, Copy)]
pub struct Canvas {
    pub width: f64,
    pub left: f64,
    pub right: f64,
    pub narrow: bool,
}

pub const WIDE: Canvas = Canvas { width: 960.0, left: 100.0, right: 944.0, narrow: false };
pub const NARROW: Canvas = Canvas { width: 328.0, left: 52.0, right: 320.0, narrow: true };

impl Canvas {
    pub fn time(&self, evidence: &Evidence) -> TimeScale {
        let of = &evidence.timeline;
        let (from_ms, until_ms, zero_ms) = (of.from_ms, of.until_ms, of.began_ms);
        TimeScale { from_ms, until_ms, zero_ms, left: self.left, right: self.right }
    }

    fn apart(&self) -> f64 {
        if self.narrow { 56.0 } else { 84.0 }
    }

    /// Lines for round moments from `top` to `bottom`; their words stand below, and need 20 pixels.
    pub fn time_axis(&self, m: &mut Markup, time: &TimeScale, top: f64, bottom: f64) {
        for (at, words) in time.ticks(self.apart()) {
            let x = px(time.x(at));
            m.empty(
                "line",
                &[("class", &"grid"), ("x1", &x), ("x2", &x), ("y1", &px(top)), ("y2", &px(bottom))],
            );
            let y = px(bottom + 15.0);
            m.words("text", &[("x", &x), ("y", &y), ("text-anchor", &"middle")], words);
        }
    }

    /// A line across with its number at the left.
    pub fn level(&self, m: &mut Markup, y: f64, words: impl std::fmt::Display) {
        let (x1, x2) = (px(self.left), px(self.right));
        let at = px(y);
        m.empty("line", &[("class", &"grid"), ("x1", &x1), ("x2", &x2), ("y1", &at), ("y2", &at)]);
        let (x, y) = (px(self.left - 8.0), px(y + 4.0));
        m.words("text", &[("x", &x), ("y", &y), ("text-anchor", &"end")], words);
    }
}

/// A whole picture. `id` is different for each of a page.
pub fn picture(canvas: &Canvas, height: f64, id: &str, about: (&str, &str), inside: &Markup) -> Markup {
    let (title, words) = about;
    let (title_id, words_id) = (format!("{id}-t"), format!("{id}-d"));
    let view = format!("0 0 {} {}", px(canvas.width), px(height));
    let class = if canvas.narrow { "chart narrow" } else { "chart wide" };
    let labels = format!("{title_id} {words_id}");
    let mut m = Markup::default();
    m.element(
        "svg",
        &[("class", &class), ("viewBox", &view), ("role", &"img"), ("aria-labelledby", &labels)],
        |m| {
            m.words("title", &[("id", &title_id)], title);
            m.words("desc", &[("id", &words_id)], words);
            m.add(inside);
        },
    );
    m
}

/// A moment at which the rollout itself turned.
struct Mark<'a> {
    at_ms: u64,
    words: &'a str,
    class: &'static str,
}

fn marks(evidence: &Evidence) -> impl Iterator<Item = Mark<'_>> {
    evidence.timeline.told.iter().filter_map(|told| {
        let (words, class) = match told.line.kind.as_str() {
            "failed" => ("failed", "mark bad"),
            "paused" => ("paused", "mark bad"),
            "resumed" => ("resumed", "mark"),
            "rolling_back" => ("goes back", "mark bad"),
            "bug" => ("stopped", "mark bad"),
            "end" => ("end", "mark"),
            _ => return None,
        };
        Some(Mark { at_ms: told.at_ms, words, class })
    })
}

/// Lines across a picture, from top to bottom, where the rollout failed, paused, went on or ended. With their words at the
/// top, where there is room.
pub fn draw_marks(m: &mut Markup, evidence: &Evidence, canvas: &Canvas, across: (f64, f64), words: bool) {
    let time = canvas.time(evidence);
    let (top, bottom) = (px(across.0), px(across.1));
    let mut free_from = f64::MIN;
    for mark in marks(evidence) {
        let x = time.x(mark.at_ms);
        let at = px(x);
        let line: Attributes<'_> =
            &[("class", &mark.class), ("x1", &at), ("x2", &at), ("y1", &top), ("y2", &bottom)];
        m.element("line", line, |m| {
            let after = duration_text(mark.at_ms.saturating_sub(evidence.timeline.began_ms));
            m.words("title", &[], format!("{} after {after}", mark.words));
        });
        let wide = 7.0 * mark.words.len() as f64;
        // Beside its line; at the right edge on the other side.
        let from = if x + wide + 4.0 > canvas.right { x - wide - 4.0 } else { x + 4.0 };
        if words && from >= free_from {
            let y = px(across.0 + 10.0);
            m.words("text", &[("class", &mark.class), ("x", &px(from)), ("y", &y)], mark.words);
            free_from = from + wide + 8.0;
        }
    }
}
