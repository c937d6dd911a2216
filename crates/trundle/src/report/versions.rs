//! Two versions at once, as their clients met them: each version's part of the answers, what came of requests that could have met
//! either, and who spoke which format.

use trundle_core::event::Requests;

use super::evidence::Evidence;
use super::markup::Markup;
use super::section::card;
use crate::term::window;

pub fn draw(m: &mut Markup, evidence: &Evidence) {
    let Some(requests) = &evidence.row.requests else { return };
    if requests.mixed.is_empty() && requests.uses.is_empty() {
        return;
    }
    card(m, "Two versions at once", |m| {
        m.words("p", &[], parts(requests));
        m.element("ul", &[], |m| {
            window::mixed(&requests.mixed).for_each(|line| {
                m.words("li", &[], line);
            });
        });
        if !requests.uses.is_empty() {
            m.words("h3", &[], "Formats");
            m.element("ul", &[], |m| {
                for (what, count) in &requests.uses {
                    m.words("li", &[], format!("{what}: {count} requests"));
                }
            });
        }
    });
}

/// `3.9 answered 61.0 %, 4.0 answered 39.0 %`
fn parts(requests: &Requests) -> String {
    let all: u64 = requests.by_version.values().sum();
    let part = |n: u64| n as f64 * 100.0 / all.max(1) as f64;
    let each = requests.by_version.iter().map(|(version, n)| format!("{version} answered {:.1} %", part(*n)));
    each.collect::<Vec<_>>().join(", ") + "."
}
