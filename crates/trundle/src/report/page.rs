//! The page: one file that needs nothing else, asks for nothing, and runs nothing.

use trundle_core::revision::Digest;

use super::evidence::Evidence;
use super::markup::Markup;
use super::section;

/// What pictures look like, also one that stands alone.
pub const CHART_CSS: &str = include_str!("chart.css");
const PAGE_CSS: &str = include_str!("page.css");

/// All rollouts one after the other, each with everything.
pub fn page(rollouts: &[Evidence]) -> String {
    let style = format!("{CHART_CSS}{PAGE_CSS}");
    // Only this very style is let in: no script, no other style, no address.
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        base64(&digest(&style))
    );
    let mut m = Markup::default();
    m.fixed("<!doctype html>");
    m.element("html", &[("lang", &"en")], |m| {
        m.element("head", &[], |m| {
            m.empty("meta", &[("charset", &"utf-8")]);
            m.empty("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &policy)]);
            m.empty("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
            m.empty("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
            m.words("title", &[], title(rollouts));
            m.element("style", &[], |m| {
                m.fixed(CHART_CSS).fixed(PAGE_CSS);
            });
        });
        m.element("body", &[], |m| {
            m.element("main", &[], |m| {
                let alone = rollouts.len() == 1;
                if !alone {
                    contents(m, rollouts);
                }
                for rollout in rollouts {
                    section::draw(m, rollout, alone);
                }
                footer(m);
            });
        });
    });
    m.finish() + "\n"
}

fn title(rollouts: &[Evidence]) -> String {
    match rollouts {
        [one] => {
            format!("{}: rollout {} to {}, {}", one.app, one.row.rollout, one.row.to_version, one.row.state)
        }
        [first, ..] => format!("{}: {} rollouts", first.app, rollouts.len()),
        [] => "Nothing was rolled out".to_owned(),
    }
}

fn contents(m: &mut Markup, rollouts: &[Evidence]) {
    m.element("nav", &[("class", &"card")], |m| {
        m.words("h2", &[], format!("{} rollouts", rollouts.len()));
        m.element("ol", &[], |m| {
            for rollout in rollouts {
                m.element("li", &[], |m| {
                    let to = format!("#{}", section::place(rollout));
                    m.words("a", &[("href", &to)], section::title(rollout));
                    m.text(format!(", {}", rollout.row.state.replace('_', " ")));
                });
            }
        });
    });
}

fn footer(m: &mut Markup) {
    m.element("footer", &[], |m| {
        let version = env!("CARGO_PKG_VERSION");
        m.text(format!("Drawn by trundle {version} from its journal. Times are counted from the beginning of the rollout; "));
        m.fixed("a bar, a step or a line tells more when the pointer rests on it.");
    });
}

fn digest(text: &str) -> Vec<u8> {
    let hex = Digest::of(text.as_bytes()).0;
    let byte = |n: usize| u8::from_str_radix(hex.get(n..n + 2)?, 16).ok();
    (0..hex.len()).step_by(2).filter_map(byte).collect()
}

/// As the policy wants it: RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let at = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for n in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * n) & 63) as usize];
            out.push(if n <= group.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), coded);
        }
        assert_eq!(base64(&digest("")), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
}
