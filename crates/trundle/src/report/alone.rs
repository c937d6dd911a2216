//! The pictures of one rollout as one SVG that stands alone, for a page of somebody else.

use super::canvas::{Canvas, WIDE};
use super::evidence::Evidence;
use super::legend::{self, Item};
use super::markup::{Markup, px};
use super::page::CHART_CSS;
use super::{charts, lives, section};

pub fn svg(evidence: &Evidence) -> String {
    let canvas = WIDE;
    let mut inside = Markup::default();
    let height = draw(&mut inside, evidence, &canvas);
    let view = format!("0 0 {} {}", px(canvas.width), px(height));
    let size = (px(canvas.width), px(height));
    let mut m = Markup::default();
    m.element(
        "svg",
        &[
            ("xmlns", &"http://www.w3.org/2000/svg"),
            ("viewBox", &view),
            ("width", &size.0),
            ("height", &size.1),
            ("role", &"img"),
        ],
        |m| {
            m.words("title", &[], headline(evidence));
            m.words("desc", &[], charts::capacity_words(evidence));
            m.element("style", &[], |m| {
                m.fixed(CHART_CSS);
            });
            m.empty("rect", &[("class", &"paper"), ("width", &size.0), ("height", &size.1), ("rx", &10)]);
            m.add(&inside);
        },
    );
    m.finish() + "\n"
}

fn headline(evidence: &Evidence) -> String {
    format!("{}, {}", section::title(evidence), evidence.row.state.replace('_', " "))
}

fn draw(m: &mut Markup, evidence: &Evidence, canvas: &Canvas) -> f64 {
    m.words("text", &[("class", &"headline"), ("x", &16), ("y", &28)], headline(evidence));
    let mut top = 44.0;
    if let Some(rates) = charts::traffic_rates(evidence, canvas) {
        top = titled(m, &super::requests_words(evidence), &legend::traffic_items(evidence), canvas, top);
        top = charts::traffic(m, evidence, canvas, &rates, top);
    }
    top = titled(m, &charts::capacity_words(evidence), &legend::capacity_items(evidence), canvas, top);
    top = charts::capacity(m, evidence, canvas, top);
    top = titled(m, "Each bar is one instance.", &legend::stage_items(evidence), canvas, top);
    lives::lanes(m, evidence, canvas, top) + 8.0
}

/// Words and a row of what the colours mean. Answers where the picture begins.
fn titled(m: &mut Markup, words: &str, items: &[Item], canvas: &Canvas, top: f64) -> f64 {
    m.words("text", &[("class", &"name"), ("x", &px(16.0)), ("y", &px(top + 14.0))], words);
    // Letters of this size are about this wide; the row ends at the right.
    let wide = |item: &Item| 22.0 + 6.6 * item.words.chars().count() as f64 + 14.0;
    let mut x = canvas.right - items.iter().map(wide).sum::<f64>();
    let crowded = x < 24.0 + 6.4 * words.chars().count() as f64;
    let y = if crowded { top + 24.0 } else { top + 4.0 };
    if crowded {
        x = 16.0;
    }
    for item in items {
        legend::chip(m, item, (x as i32, y as i32));
        m.words("text", &[("x", &px(x + 22.0)), ("y", &px(y + 10.0))], &item.words);
        x += wide(item);
    }
    y + 18.0
}
