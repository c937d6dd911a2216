//! Two versions at once, in a line: who gets which, and what came of it.

use std::collections::BTreeMap;

use trundle_core::event::Requests;
use trundle_core::formats::Caller;
use trundle_core::reason::duration_text;
use trundle_drivers::logs::printable;
use trundle_engine::view::{FormatStatus, WindowStatus};

/// Each count with its words, the most important first.
const WORDS: [(&str, &str); 9] = [
    ("went_back", "went back to an older version"),
    ("held_from_going_back", "kept from going back"),
    ("across_versions", "served across versions"),
    ("missing_everywhere", "missing at every version"),
    ("asked", "asked for a version"),
    ("asked_gone", "asked for one that is gone"),
    ("mirrored", "mirrored"),
    ("mirror_differs", "of these answered differently (`trundle mirrored`)"),
    ("mirror_skipped", "not mirrored, as too many were on their way"),
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

/// So many callers of a format are named.
const CALLERS: usize = 5;

/// Who speaks a format; None: nobody has been seen.
pub fn callers(format: &FormatStatus) -> Option<String> {
    let one = |caller: &Caller| {
        let ago = duration_text(caller.ago_ms);
        format!("{} ({}, last {ago} ago)", printable(&caller.name), caller.count)
    };
    let named: Vec<_> = format.callers.iter().take(CALLERS).map(one).collect();
    let more = format.callers.len().saturating_sub(CALLERS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| format!("{} is used by {}{more}", format.name, named.join(", ")))
}

/// What a rollout's requests say of the time in which two versions served; None: nothing.
pub fn of_requests(requests: &Requests) -> Option<String> {
    let uses = requests.uses.iter().map(|(what, count)| format!("{} {count}", printable(what)));
    let all: Vec<_> = mixed(&requests.mixed).chain(uses).collect();
    (!all.is_empty()).then(|| all.join("; "))
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

    #[test]
    fn the_callers_of_a_format_are_named() {
        let caller = |name: &str, ago_ms| Caller { name: name.to_owned(), count: 3, ago_ms };
        let mut format = FormatStatus {
            name: "v1".to_owned(),
            served: "<4.1".to_owned(),
            watched_ms: Some(1),
            callers: vec![caller("curl\u{1b}[31m", 2_000), caller("ios", 61_000)],
        };
        let said = callers(&format).unwrap();
        assert!(said.starts_with("v1 is used by curl") && !said.contains('\u{1b}'), "{said:?}");
        assert!(said.ends_with("ios (3, last 1 min 1 s ago)"), "{said}");
        format.callers = vec![caller("x", 1_000); 8];
        assert!(callers(&format).unwrap().ends_with("x (3, last 1 s ago) and 3 more"));
        format.callers.clear();
        assert_eq!(callers(&format), None);
    }
}
