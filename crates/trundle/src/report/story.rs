//! Everything that was decided and seen, in order, with the reasons.

use trundle_engine::view::Told;

use super::evidence::Evidence;
use super::markup::{Attributes, Markup};

/// `open`: it is there at once, and not only when it is asked for.
pub fn draw(m: &mut Markup, evidence: &Evidence, open: bool) {
    let attributes: Attributes<'_> =
        if open { &[("class", &"card"), ("open", &"")] } else { &[("class", &"card")] };
    m.element("details", attributes, |m| {
        m.element("summary", &[], |m| {
            m.words("h2", &[], "Every decision, and what was seen");
        });
        m.element("table", &[], |m| {
            m.element("thead", &[], |m| {
                m.element("tr", &[], |m| {
                    m.words("th", &[], "after").words("th", &[], "what").words("th", &[], "");
                });
            });
            m.element("tbody", &[], |m| {
                let mut said = None;
                for told in &evidence.timeline.told {
                    // Actions of one decision have one reason.
                    let why = told.why.as_deref().filter(|why| said != Some(*why));
                    said = told.why.as_deref();
                    row(m, evidence, told, why);
                }
            });
        });
    });
}

fn row(m: &mut Markup, evidence: &Evidence, told: &Told, why: Option<&str>) {
    let class = match told.line.kind.as_str() {
        "failed" | "bug" | "exited" => "bad",
        // What the world did; the rest are decisions.
        "started" | "ready" | "unready" | "gone" | "unknown" | "routed" | "drained" => "seen",
        _ => "did",
    };
    m.element("tr", &[("class", &class)], |m| {
        m.element("td", &[], |m| {
            let after = told.at_ms.saturating_sub(evidence.timeline.began_ms);
            let seconds = format!("{}.{:03} s", after / 1000, after % 1000);
            m.words("time", &[("datetime", &told.line.at), ("title", &told.line.at)], seconds);
        });
        m.words("td", &[], told.line.kind.replace('_', " "));
        m.element("td", &[], |m| {
            m.text(&told.line.text);
            if let Some(why) = why {
                m.words("span", &[("class", &"why")], why);
            }
        });
    });
}
