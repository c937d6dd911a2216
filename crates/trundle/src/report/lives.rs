//! Each instance as a bar, from its start to its end.

use trundle_core::reason::duration_text;
use trundle_engine::view::{Life, Stage, Stay};

use super::canvas::{Canvas, draw_marks};
use super::evidence::Evidence;
use super::markup::{Markup, px};
use super::scale::TimeScale;

/// More are drawn thinner and without their names.
const MOST_NAMED: usize = 80;
/// More are not drawn; the table has them all.
pub const MOST_DRAWN: usize = 600;

/// What a stage is called, and how it looks.
pub const STAGES: [(Stage, &str, &str); 8] = [
    (Stage::Starting, "starting", "starting"),
    (Stage::Maturing, "ready, not yet counted", "maturing"),
    (Stage::Available, "available", "available"),
    (Stage::Unready, "unready", "unready"),
    (Stage::Draining, "finishing its requests", "draining"),
    (Stage::Stopping, "stopping", "stopping"),
    (Stage::Failed, "failed", "failed"),
    (Stage::Unknown, "unknown", "unknown"),
];

fn look_of(stage: Stage) -> (&'static str, &'static str) {
    let found = STAGES.iter().find(|(of, ..)| *of == stage);
    found.map_or(("unknown", "unknown"), |(_, words, class)| (words, class))
}

/// A row per instance, in the order of their starts.
pub fn rows(m: &mut Markup, evidence: &Evidence, canvas: &Canvas, top: f64) -> f64 {
    let lives = &evidence.timeline.lives;
    let named = lives.len() <= MOST_NAMED;
    let pitch = if named { 18.0 } else { 7.0 };
    let shown = &lives[..lives.len().min(MOST_DRAWN)];
    let rows: Vec<Vec<&Life>> = shown.iter().map(|life| vec![life]).collect();
    let bottom = bars(m, evidence, canvas, &rows, (top, pitch));
    if named {
        for (n, life) in shown.iter().enumerate() {
            let (x, y) = (px(canvas.left - 8.0), px(top + pitch * n as f64 + 13.0));
            // On a phone the app's name is left to the headline.
            let short = life.name.strip_prefix(&format!("{}-", evidence.app)).filter(|_| canvas.narrow);
            let name: String = short.unwrap_or(&life.name).chars().rev().take(14).collect();
            let name: String = name.chars().rev().collect();
            m.words("text", &[("class", &"name"), ("x", &x), ("y", &y), ("text-anchor", &"end")], name);
        }
    }
    bottom
}

/// As few rows as there is room for: one that is gone frees its place for the next. So their number is the most that were
/// ever alive.
pub fn lanes(m: &mut Markup, evidence: &Evidence, canvas: &Canvas, top: f64) -> f64 {
    bars(m, evidence, canvas, &packed(&evidence.timeline.lives), (top, 18.0))
}

fn packed(lives: &[Life]) -> Vec<Vec<&Life>> {
    let mut lanes: Vec<Vec<&Life>> = Vec::new();
    let begin = |life: &Life| life.stays.first().map_or(0, |stay| stay.from_ms);
    let end = |life: &Life| life.stays.last().map_or(0, |stay| stay.until_ms);
    for life in lives {
        let free = lanes.iter_mut().find(|lane| lane.last().is_none_or(|last| end(last) <= begin(life)));
        match free {
            Some(lane) => lane.push(life),
            None => lanes.push(vec![life]),
        }
    }
    lanes
}

/// `place` is where it begins, and how far rows are apart.
fn bars(m: &mut Markup, evidence: &Evidence, canvas: &Canvas, rows: &[Vec<&Life>], place: (f64, f64)) -> f64 {
    let (top, pitch) = place;
    let time = canvas.time(evidence);
    let bottom = top + pitch * rows.len() as f64 + 2.0;
    canvas.time_axis(m, &time, top, bottom);
    for (n, lives) in rows.iter().enumerate() {
        for life in lives {
            let colour = evidence.role(life.revision).map_or("c0", |role| role.colour);
            m.element("g", &[("class", &colour)], |m| {
                for stay in &life.stays {
                    bar(m, evidence, &time, (life, stay), (top + pitch * n as f64, pitch));
                }
            });
        }
    }
    draw_marks(m, evidence, canvas, (top, bottom), false);
    bottom + 22.0
}

fn bar(m: &mut Markup, evidence: &Evidence, time: &TimeScale, of: (&Life, &Stay), row: (f64, f64)) {
    let ((life, stay), (y, pitch)) = (of, row);
    let (words, class) = look_of(stay.stage);
    let (from, until) = (time.x(stay.from_ms), time.x(stay.until_ms));
    // One that stops has little left: a thin line.
    let height = if stay.stage == Stage::Stopping { pitch * 0.2 } else { pitch * 0.68 };
    let (x, width) = (px(from), px((until - from).max(1.0)));
    let (y, height) = (px(y + (pitch - height) / 2.0), px(height));
    m.element(
        "rect",
        &[("class", &class), ("x", &x), ("y", &y), ("width", &width), ("height", &height)],
        |m| {
            let version = evidence.role(life.revision).map_or("?", |role| role.name.as_str());
            let after = duration_text(stay.from_ms.saturating_sub(evidence.timeline.began_ms));
            let took = duration_text(stay.until_ms - stay.from_ms);
            m.words("title", &[], format!("{} ({version}): {words}, after {after}, for {took}", life.name));
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use trundle_core::ids::RevisionNumber;

    fn life(name: &str, from_ms: u64, until_ms: u64) -> Life {
        let stays = vec![Stay { stage: Stage::Available, from_ms, until_ms }];
        Life { name: name.into(), revision: RevisionNumber(1), stays }
    }

    #[test]
    fn one_that_is_gone_frees_its_lane() {
        let lives = [life("a", 0, 10), life("b", 0, 20), life("c", 10, 30), life("d", 15, 30)];
        let names: Vec<Vec<_>> =
            packed(&lives).iter().map(|lane| lane.iter().map(|l| l.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["a", "c"], vec!["b"], vec!["d"]]);
    }

    #[test]
    fn every_stage_looks_different() {
        let mut classes: Vec<_> = STAGES.iter().map(|(_, _, class)| *class).collect();
        classes.sort_unstable();
        classes.dedup();
        assert_eq!(classes.len(), STAGES.len());
    }
}
