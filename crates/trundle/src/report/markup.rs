//! HTML and SVG as text, made so that nothing that came from outside can become markup: names of elements and attributes are
//! words of this program, and everything else is escaped.

use std::fmt::{Display, Write as _};

use trundle_drivers::logs::printable;

#[derive(Debug, Default, Clone)]
pub struct Markup {
    out: String,
}

pub type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

impl Markup {
    /// An element with what `inside` puts into it.
    pub fn element(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.start(name, attributes);
        self.out.push('>');
        inside(self);
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
        self
    }

    /// An element that holds text alone.
    pub fn words(&mut self, name: &'static str, attributes: Attributes<'_>, text: impl Display) -> &mut Self {
        self.element(name, attributes, |m| {
            m.text(text);
        })
    }

    /// An element that holds nothing.
    pub fn empty(&mut self, name: &'static str, attributes: Attributes<'_>) -> &mut Self {
        self.start(name, attributes);
        self.out.push_str("/>");
        self
    }

    pub fn text(&mut self, text: impl Display) -> &mut Self {
        escape_into(&mut self.out, &text.to_string());
        self
    }

    /// Words of this program.
    pub fn fixed(&mut self, text: &'static str) -> &mut Self {
        self.out.push_str(text);
        self
    }

    pub fn add(&mut self, other: &Self) -> &mut Self {
        self.out.push_str(&other.out);
        self
    }

    pub fn finish(self) -> String {
        self.out
    }

    fn start(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.out.push('<');
        self.out.push_str(name);
        for (key, value) in attributes {
            let _ = write!(self.out, " {key}=\"");
            escape_into(&mut self.out, &value.to_string());
            self.out.push('"');
        }
    }
}

/// Controls and marks that turn the direction of writing are shown as what they are; a page shall not be bent by a log.
fn escape_into(out: &mut String, text: &str) {
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}

/// A coordinate: a tenth is finer than anybody sees.
pub fn px(value: f64) -> impl Display {
    let rounded = (value * 10.0).round() / 10.0;
    // No `-0`.
    rounded + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let mut markup = Markup::default();
        let bad = "\"><script>alert('1')</script>&\u{1b}[2J\u{202e}";
        markup.words("p", &[("title", &bad)], bad);
        let text = markup.finish();
        let escaped = "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;\\u{1b}[2J\\u{202e}";
        assert_eq!(text, format!("<p title=\"{escaped}\">{escaped}</p>"));
    }

    #[test]
    fn coordinates_are_short() {
        let shown: Vec<_> = [0.04, -0.04, 1.25, 10.0, 1.0 / 3.0].map(|v| px(v).to_string()).into();
        assert_eq!(shown, ["0", "0", "1.3", "10", "0.3"]);
    }
}
