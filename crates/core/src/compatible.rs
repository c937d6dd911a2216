//! `[release] compatible_with`: which versions may be alive at the same time.
//!
//! A version says beside which older ones it can run: it reads what they write, and they what it writes. Who says nothing runs
//! beside every other.

use std::collections::{BTreeMap, VecDeque};

use trundle_versions::Range;

/// A version, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release<'a> {
    pub version: &'a str,
    pub compatible_with: Option<&'a str>,
}

impl Release<'_> {
    /// Beside an older version. A range that is none covers nobody; the reader of the file refuses it.
    pub fn runs_beside(&self, older: &str) -> bool {
        let covers = |range: &str| Range::parse(range).is_ok_and(|range| range.covers(older));
        self.version == older || self.compatible_with.is_none_or(covers)
    }
}

/// Why `to` cannot take the place of those that run, a sentence for each of them that is in the way, with the versions that lead
/// there one after the other, as far as they are known.
pub fn objections(to: &Release<'_>, running: &[Release<'_>], known: &[Release<'_>]) -> Vec<String> {
    let in_the_way = running.iter().filter(|running| !to.runs_beside(running.version));
    let said = in_the_way.map(|running| {
        let says = to.compatible_with.unwrap_or_default();
        let stops = stops(running.version, to, known);
        let way = match &stops[..] {
            [] => format!("roll a version of \"{says}\" first that can run beside {}", running.version),
            stops => format!("roll {} first", stops.join(", then ")),
        };
        format!("{} can run beside \"{says}\", and {} is there; {way}", to.version, running.version)
    });
    said.collect()
}

/// The fewest known versions between the two of which each can run beside the one before it.
fn stops(from: &str, to: &Release<'_>, known: &[Release<'_>]) -> Vec<String> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut next = VecDeque::from([from]);
    while let Some(at) = next.pop_front() {
        if at != from && to.runs_beside(at) {
            let way =
                std::iter::successors(Some(at), |at| before.get(at).copied()).take_while(|at| *at != from);
            let mut way: Vec<String> = way.map(str::to_owned).collect();
            way.reverse();
            return way;
        }
        for one in known.iter().filter(|one| one.version != from && one.version != to.version) {
            if one.runs_beside(at) && !before.contains_key(one.version) && is_after(one.version, at) {
                before.insert(one.version, at);
                next.push_back(one.version);
            }
        }
    }
    Vec::new()
}

/// A stop lies ahead; where labels have no order, any may be one.
fn is_after(one: &str, other: &str) -> bool {
    trundle_versions::compare(one, other).is_none_or(|order| order.is_gt())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn release<'a>(version: &'a str, compatible_with: Option<&'a str>) -> Release<'a> {
        Release { version, compatible_with }
    }

    fn check(to: Release<'_>, running: &[Release<'_>], known: &[Release<'_>], expect: &[&str]) {
        assert_eq!(objections(&to, running, known), expect, "{to:?} beside {running:?}");
    }

    #[test]
    fn a_jump_over_a_needed_stop_names_the_stops() {
        let (v39, v40) = (release("3.9", None), release("4.0", Some(">=3.9")));
        let v41 = release("4.1", Some(">=4.0"));
        check(v40, &[v39], &[], &[]);
        check(v41, &[v40], &[], &[]);
        check(v39, &[v39], &[], &[]);
        check(v41, &[v41], &[], &[]);
        check(v41, &[v39], &[v39, v40], &["4.1 can run beside \">=4.0\", and 3.9 is there; roll 4.0 first"]);
        check(
            v41,
            &[v39, v40],
            &[v39],
            &[
                "4.1 can run beside \">=4.0\", and 3.9 is there; roll a version of \">=4.0\" first that can run beside 3.9",
            ],
        );
        let v42 = release("4.2", Some("=4.1"));
        check(
            v42,
            &[v39],
            &[v39, v40, v41],
            &["4.2 can run beside \"=4.1\", and 3.9 is there; roll 4.0, then 4.1 first"],
        );
        // A stop that could not run beside what is there is none.
        let strict = release("4.0", Some("=3.10"));
        assert!(objections(&v41, &[v39], &[strict])[0].contains("roll a version of"));
        check(release("blue", Some("green")), &[release("green", None)], &[], &[]);
    }
}
