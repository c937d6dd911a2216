//! What the colours and shapes of the pictures mean.

use trundle_engine::view::Stage;

use super::evidence::Evidence;
use super::lives::STAGES;
use super::markup::Markup;

/// How one meaning looks, with its words.
pub struct Item {
    pub class: String,
    pub shape: Shape,
    pub words: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Bar,
    Thin,
    Line,
}

pub fn traffic_items(evidence: &Evidence) -> Vec<Item> {
    let Some(rates) = super::charts::traffic_rates(evidence, &super::canvas::WIDE) else { return Vec::new() };
    let counted = evidence.row.requests.as_ref().map(|r| &r.by_version);
    let item = |version: String| {
        let class = format!("area {}", evidence.colour_of(&version));
        let n = counted.and_then(|by| by.get(&version)).map(|n| format!(": {n}"));
        Item { class, shape: Shape::Bar, words: format!("{version}{}", n.unwrap_or_default()) }
    };
    let mut items: Vec<Item> = rates.versions.into_iter().map(item).collect();
    if !rates.bad.is_empty() {
        items.push(Item { class: "lost".into(), shape: Shape::Bar, words: "lost, crashed or cut".into() });
    }
    items
}

pub fn capacity_items(evidence: &Evidence) -> Vec<Item> {
    let mut items = cast(evidence, |revision| {
        evidence.timeline.levels.iter().any(|level| level.available.contains_key(&revision))
    });
    items.push(Item { class: "live".into(), shape: Shape::Bar, words: "alive, not available".into() });
    items.push(Item {
        class: "bound".into(),
        shape: Shape::Line,
        words: if evidence.has_floor() { "floor and ceiling" } else { "ceiling" }.into(),
    });
    items
}

fn cast(evidence: &Evidence, shown: impl Fn(trundle_core::ids::RevisionNumber) -> bool) -> Vec<Item> {
    let roles = evidence.cast.iter().filter(|role| shown(role.revision));
    let item = |role: &super::evidence::Role| Item {
        class: format!("area {}", role.colour),
        shape: Shape::Bar,
        words: role.name.clone(),
    };
    roles.map(item).collect()
}

/// Only what is seen.
pub fn stage_items(evidence: &Evidence) -> Vec<Item> {
    let lives = &evidence.timeline.lives;
    let seen = |stage: Stage| lives.iter().flat_map(|life| &life.stays).any(|stay| stay.stage == stage);
    let stages = STAGES.iter().filter(|(stage, ..)| seen(*stage));
    let item = |(stage, words, class): &(Stage, &str, &str)| Item {
        class: format!("{class} c1"),
        shape: if *stage == Stage::Stopping { Shape::Thin } else { Shape::Bar },
        words: (*words).to_owned(),
    };
    stages.map(item).collect()
}

pub fn traffic(m: &mut Markup, evidence: &Evidence) {
    list(m, &traffic_items(evidence));
}

pub fn capacity(m: &mut Markup, evidence: &Evidence) {
    list(m, &capacity_items(evidence));
}

pub fn stages(m: &mut Markup, evidence: &Evidence) {
    let mut items = cast(evidence, |revision| evidence.timeline.lives.iter().any(|l| l.revision == revision));
    items.extend(stage_items(evidence));
    list(m, &items);
}

fn list(m: &mut Markup, items: &[Item]) {
    m.element("ul", &[("class", &"legend")], |m| {
        for item in items {
            m.element("li", &[], |m| {
                m.element(
                    "svg",
                    &[("class", &"chip"), ("viewBox", &"0 0 16 12"), ("aria-hidden", &"true")],
                    |m| {
                        chip(m, item, (0, 0));
                    },
                );
                m.text(&item.words);
            });
        }
    });
}

/// 16 wide, 12 high.
pub fn chip(m: &mut Markup, item: &Item, (x, y): (i32, i32)) {
    let (top, height) = match item.shape {
        Shape::Bar => (y, 12),
        Shape::Thin => (y + 5, 3),
        Shape::Line => {
            let path = format!("M{x} {}H{}", y + 6, x + 16);
            m.empty("path", &[("class", &item.class), ("d", &path)]);
            return;
        }
    };
    m.empty("rect", &[("class", &item.class), ("x", &x), ("y", &top), ("width", &16), ("height", &height)]);
}
