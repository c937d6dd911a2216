//! Two versions at once, in a line: who gets which, and what came of it.

use std::collections::BTreeMap;

use trundle_engine::view::WindowStatus;

/// Each count with its words, the most important first.
const WORDS: [(&str, &str); 6] = [
    ("went_back", "went back to an older version"),
    ("held_from_going_back", "kept from going back"),
    ("across_versions", "served across versions"),
    ("missing_everywhere", "missing at every version"),
    ("asked", "asked for a version"),
    ("asked_gone", "asked for one that is gone"),
];

/// None: there is nothing to say.
pub fn line(window: &WindowStatus) -> Option<String> {
    let mut parts = Vec::new();
    if let (Some(share), Some(newest)) = (window.share, &window.newest) {
        parts.push(format!("{share} of 100 go to {newest}"));
    }
    if window.answered.len() > 1 {
        let each: Vec<_> =
            window.answered.iter().map(|(version, part)| format!("{version} answered {part} %")).collect();
        parts.push(each.join(", "));
    }
    parts.extend(window.pinned.iter().map(|(version, count)| {
        let s = if *count == 1 { " has a page" } else { "s have pages" };
        format!("{count} client{s} of {version}")
    }));
    parts.extend(mixed(&window.mixed));
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The counts that there are, in words.
pub fn mixed(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = String> + '_ {
    WORDS.iter().filter_map(|(name, words)| counts.get(*name).map(|count| format!("{count} {words}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trundle_core::traffic::Sticky;

    #[test]
    fn a_line_says_who_gets_which_and_what_came_of_it() {
        let mut window = WindowStatus {
            sticky: Sticky::Version,
            newest: Some("4.0".to_owned()),
            share: Some(20),
            answered: [("3.9".to_owned(), 80.1), ("4.0".to_owned(), 19.9)].into(),
            mixed: [("across_versions".to_owned(), 3), ("went_back".to_owned(), 1)].into(),
            pinned: [("3.9".to_owned(), 2)].into(),
        };
        let said = line(&window).unwrap();
        assert_eq!(
            said,
            "20 of 100 go to 4.0; 3.9 answered 80.1 %, 4.0 answered 19.9 %; 2 clients have pages of 3.9; \
             1 went back to an older version; \
             3 served across versions"
        );
        window.share = None;
        window.answered.remove("3.9");
        window.mixed.clear();
        window.pinned.clear();
        assert_eq!(line(&window), None);
    }
}
