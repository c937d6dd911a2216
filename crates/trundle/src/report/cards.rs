//! What failed, as cards: the cause first, then what had changed and what was seen.

use trundle_core::reason::duration_text;
use trundle_engine::view::Failure;

use super::evidence::Evidence;
use super::markup::Markup;

/// More than these are told by the decisions.
const MOST_CARDS: usize = 20;

pub fn draw(m: &mut Markup, evidence: &Evidence) {
    for (n, failure) in evidence.failures.iter().take(MOST_CARDS).enumerate() {
        m.element(
            "details",
            if n == 0 { &[("class", &"card failure"), ("open", &"")] } else { &[("class", &"card failure")] },
            |m| {
                m.element("summary", &[], |m| {
                    m.words(
                        "h3",
                        &[],
                        format!("{} ({}) {}", failure.instance, failure.version, failure.cause),
                    );
                });
                m.element("dl", &[("class", &"facts")], |m| facts(m, failure));
            },
        );
    }
    if evidence.failures.len() > MOST_CARDS {
        let more = evidence.failures.len() - MOST_CARDS;
        m.words("p", &[("class", &"muted")], format!("{more} more failed; the decisions below have them."));
    }
}

fn facts(m: &mut Markup, failure: &Failure) {
    if let (Some(changed), Some(base)) = (&failure.changed, &failure.base_version) {
        fact(m, &format!("changed since {base}"), |m| {
            let lines = crate::term::card::changes_with(changed, str::to_owned);
            if lines.is_empty() {
                m.fixed("nothing");
            }
            for line in lines {
                m.words("div", &[], line);
            }
        });
    }
    if failure.base_shows_it_too == Some(true) {
        fact(m, "but", |m| {
            m.fixed("the old version shows the same error now: look for a cause outside");
        });
    }
    if let Some(probe) = &failure.probe {
        fact(m, "last probe", |m| {
            let status = probe.status.map(|status| status.to_string());
            let answer = status.or_else(|| probe.error.clone()).unwrap_or_else(|| "no answer".to_owned());
            m.words("code", &[], format!("{} → {answer}", probe.request));
            if let Some(body) = probe.body.as_ref().filter(|body| !body.trim().is_empty()) {
                lines(m, body.lines());
            }
        });
    }
    fact(m, "failed", |m| {
        let how = match (failure.exit_code, failure.signal) {
            (Some(code), _) => format!("with exit code {code}, "),
            (_, Some(signal)) => format!("by signal {signal}, "),
            _ => String::new(),
        };
        m.text(format!("{how}{} after its start", duration_text(failure.after_ms)));
    });
    // Of one that never ran there is nothing to say.
    if failure.refused.is_none() {
        fact(m, "last log lines", |m| {
            if failure.logs.is_empty() {
                m.fixed("it wrote nothing");
            } else {
                lines(m, failure.logs.iter().map(String::as_str));
            }
        });
    }
}

fn fact(m: &mut Markup, name: &str, inside: impl FnOnce(&mut Markup)) {
    m.words("dt", &[], name).element("dd", &[], inside);
}

fn lines<'a>(m: &mut Markup, lines: impl Iterator<Item = &'a str>) {
    m.element("pre", &[], |m| {
        for (n, line) in lines.enumerate() {
            if n > 0 {
                m.fixed("\n");
            }
            m.text(line);
        }
    });
}
