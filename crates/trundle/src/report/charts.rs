//! The two curves: who answered the requests, and how many instances were available between floor and ceiling.

use trundle_core::reason::duration_text;
use trundle_engine::view::Level;

use super::canvas::{Canvas, draw_marks};
use super::evidence::Evidence;
use super::markup::{Markup, px};
use super::rates::{Rates, rates};
use super::scale::ValueScale;
use super::steps;

/// For the words above the lines that cross a picture.
const HEAD: f64 = 16.0;
/// For the time below.
const FOOT: f64 = 22.0;

/// What came, by version; None when there is nothing to draw.
pub fn traffic_rates(evidence: &Evidence, canvas: &Canvas) -> Option<Rates> {
    let most_bins = if canvas.narrow { 60 } else { 160 };
    let mut found = rates(evidence.samples.as_deref()?, evidence.timeline.until_ms, most_bins);
    if found.versions.is_empty() {
        return None;
    }
    // Stacked like the instances.
    let place = |version: &str| evidence.cast.iter().position(|role| role.version == version);
    let mut order: Vec<usize> = (0..found.versions.len()).collect();
    order.sort_by_key(|n| place(&found.versions[*n]));
    found.versions = order.iter().map(|n| found.versions[*n].clone()).collect();
    for bin in &mut found.bins {
        bin.per_second = order.iter().map(|n| bin.per_second[*n]).collect();
    }
    Some(found)
}

/// Requests a second, stacked by version. Answers where the picture ends.
pub fn traffic(m: &mut Markup, evidence: &Evidence, canvas: &Canvas, rates: &Rates, top: f64) -> f64 {
    let time = canvas.time(evidence);
    let (top, bottom) = (top + HEAD, top + HEAD + 130.0);
    let sum = |bin: &super::rates::Bin| bin.per_second.iter().sum::<f64>();
    let most = rates.bins.iter().map(sum).fold(0.0, f64::max);
    let scale = ValueScale::up_to(most, top, bottom);
    canvas.time_axis(m, &time, top, bottom);
    for value in scale.ticks() {
        canvas.level(m, scale.y(value), value);
    }
    let right = rates.bins.last().map_or(canvas.right, |bin| time.x(bin.until_ms));
    for (n, version) in rates.versions.iter().enumerate() {
        let points = rates.bins.iter().map(|bin| {
            let below: f64 = bin.per_second[..n].iter().sum();
            (time.x(bin.from_ms), scale.y(below), scale.y(below + bin.per_second[n]))
        });
        let path = steps::area(&points.collect::<Vec<_>>(), right);
        let class = format!("area {}", evidence.colour_of(version));
        m.element("path", &[("class", &class), ("d", &path)], |m| {
            m.words("title", &[], format!("answered by {version}"));
        });
    }
    for (at, n) in rates.bad.iter().filter(|(at, _)| *at <= evidence.timeline.until_ms) {
        let x = time.x(*at);
        let points =
            format!("{},{} {},{} {},{}", px(x - 5.0), px(top), px(x + 5.0), px(top), px(x), px(top + 9.0));
        m.element("polygon", &[("class", &"lost"), ("points", &points)], |m| {
            m.words("title", &[], format!("{n} lost, crashed or cut"));
        });
    }
    draw_marks(m, evidence, canvas, (top - HEAD, bottom), true);
    bottom + FOOT
}

/// Available instances by revision, all that live, floor and ceiling.
pub fn capacity(m: &mut Markup, evidence: &Evidence, canvas: &Canvas, top: f64) -> f64 {
    let time = canvas.time(evidence);
    let (top, bottom) = (top + HEAD, top + HEAD + 130.0);
    let levels = &evidence.timeline.levels;
    let most = levels.iter().map(|level| level.live.max(level.ceiling)).max().unwrap_or(0);
    let scale = ValueScale::up_to(f64::from(most) + 0.5, top, bottom);
    canvas.time_axis(m, &time, top, bottom);
    for value in scale.ticks() {
        canvas.level(m, scale.y(value), value);
    }
    // Behind the available ones: what is seen of it starts, leaves or failed.
    let live = levels.iter().map(|level| (time.x(level.at_ms), bottom, scale.y(f64::from(level.live))));
    m.empty("path", &[("class", &"live"), ("d", &steps::area(&live.collect::<Vec<_>>(), canvas.right))]);
    for (n, role) in evidence.cast.iter().enumerate() {
        let points = levels.iter().map(|level| {
            let of = |roles: &[super::evidence::Role]| -> u32 {
                roles.iter().filter_map(|role| level.available.get(&role.revision)).sum()
            };
            let below = of(&evidence.cast[..n]);
            let upper = of(&evidence.cast[..=n]);
            (time.x(level.at_ms), scale.y(f64::from(below)), scale.y(f64::from(upper)))
        });
        let points: Vec<_> = points.collect();
        if points.iter().any(|(_, lower, upper)| upper < lower) {
            let class = format!("area {}", role.colour);
            let path = steps::area(&points, canvas.right);
            m.element("path", &[("class", &class), ("d", &path)], |m| {
                m.words("title", &[], format!("available, of {}", role.name));
            });
        }
    }
    let step = |of: fn(&Level) -> u32| {
        let points = levels.iter().map(|level| (time.x(level.at_ms), scale.y(f64::from(of(level)))));
        steps::line(&points.collect::<Vec<_>>(), canvas.right)
    };
    draw_marks(m, evidence, canvas, (top - HEAD, bottom), true);
    let mut bound = |name: &str, of: fn(&Level) -> u32, beside: f64| {
        let path = step(of);
        m.empty("path", &[("class", &"halo"), ("d", &path)])
            .empty("path", &[("class", &"bound"), ("d", &path)]);
        let Some(last) = levels.last() else { return };
        let (x, y) = (px(canvas.right - 4.0), px(scale.y(f64::from(of(last))) + beside));
        let words = format!("{name} {}", of(last));
        m.words("text", &[("class", &"bound"), ("x", &x), ("y", &y), ("text-anchor", &"end")], words);
    };
    bound("ceiling", |level| level.ceiling, -4.0);
    if evidence.has_floor() {
        bound("floor", |level| level.floor, 13.0);
    }
    bottom + FOOT
}

/// The same in words, for who does not see it.
pub fn capacity_words(evidence: &Evidence) -> String {
    let row = &evidence.row;
    let took = duration_text(row.duration_ms);
    match (row.lowest_available, row.highest_total, evidence.timeline.levels.last()) {
        (Some(lowest), Some(highest), Some(last)) => {
            let (floor, ceiling) = evidence.bounds(last);
            format!(
                "In {took} never fewer than {lowest} were available (floor {floor}), and never more than {highest} alive (ceiling {ceiling})."
            )
        }
        _ => format!("It took {took}; nothing ran before that had to be kept available."),
    }
}
