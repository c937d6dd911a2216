//! One version among those that serve, and the part of the places that is its own.

use std::sync::Arc;

use super::PLACES;
use crate::choice::Choice;
use crate::endpoint::LiveEndpoint;

/// All endpoints of one revision that get requests.
pub struct Group {
    pub revision: u32,
    pub version: Box<str>,
    pub choice: Choice,
    /// Its places are those below this, and not those of a newer one.
    pub up_to: u32,
}

/// The newest first, each with its part of the places: of `share` in a hundred the newest, else each as its endpoints weigh.
pub fn groups(endpoints: &[(Arc<LiveEndpoint>, u32)], newest: Option<u32>, share: Option<u32>) -> Vec<Group> {
    let mut revisions: Vec<u32> = endpoints.iter().map(|(endpoint, _)| endpoint.revision).collect();
    revisions.sort_by_key(|revision| rank(newest, *revision));
    revisions.dedup();
    let groups = revisions.iter().rev().filter_map(|revision| {
        let own =
            || endpoints.iter().filter(|(endpoint, weight)| endpoint.revision == *revision && *weight > 0);
        let version = own().next()?.0.version.as_str().into();
        let choice = Choice::new(own().map(|(endpoint, weight)| (endpoint, *weight)));
        Some(Group { revision: *revision, version, choice, up_to: PLACES })
    });
    let mut groups: Vec<Group> = groups.collect();
    // A share is that of the newest, and of no other who stands in for it.
    let newest_is_here = groups.first().map(|group| group.revision) == newest;
    divide(&mut groups, share.filter(|_| newest_is_here));
    groups
}

/// Where a revision stands in the order of versions.
pub fn rank(newest: Option<u32>, revision: u32) -> (bool, u32) {
    (newest == Some(revision), revision)
}

fn divide(groups: &mut [Group], share: Option<u32>) {
    let Some((newest, others)) = groups.split_first_mut().filter(|(_, others)| !others.is_empty()) else {
        return;
    };
    let weight = |groups: &[Group]| groups.iter().map(|group| group.choice.weight()).sum::<u64>().max(1);
    let of_others = weight(others);
    let part = |weight: u64, of: u64, places: u32| (weight * u64::from(places) / of) as u32;
    newest.up_to = match share {
        Some(share) => share * (PLACES / 100),
        None => part(newest.choice.weight(), newest.choice.weight() + of_others, PLACES),
    };
    let (from, mut before) = (newest.up_to, 0);
    for group in others {
        before += group.choice.weight();
        group.up_to = from + part(before, of_others, PLACES - from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Counts;
    use crate::endpoint::tests::endpoint_of;

    /// Of each revision so many endpoints; answers with who has which places, newest first.
    fn check(endpoints: &[(u32, u32)], newest: u32, share: Option<u32>, expect: &[(u32, u32)]) {
        let dir = tempfile::tempdir().unwrap();
        let counts = Arc::new(Counts::alone(&dir.path().join("c")));
        let all = endpoints.iter().flat_map(|(revision, count)| {
            let counts = &counts;
            (0..*count).map(move |n| (endpoint_of(counts, &format!("web-{revision}-{n}"), *revision), 1))
        });
        let groups = groups(&all.collect::<Vec<_>>(), Some(newest), share);
        let parts: Vec<_> = groups.iter().map(|group| (group.revision, group.up_to)).collect();
        assert_eq!(parts, expect, "{endpoints:?} {newest} {share:?}");
    }

    #[test]
    fn each_has_its_part_of_the_places() {
        check(&[(1, 5), (2, 3)], 2, None, &[(2, 3_750), (1, 10_000)]);
        check(&[(1, 5), (2, 3)], 2, Some(20), &[(2, 2_000), (1, 10_000)]);
        check(&[(1, 5), (2, 3)], 2, Some(0), &[(2, 0), (1, 10_000)]);
        check(&[(1, 2), (2, 1), (3, 1)], 3, None, &[(3, 2_500), (2, 5_000), (1, 10_000)]);
        check(&[(1, 3), (2, 1), (3, 1)], 3, Some(60), &[(3, 6_000), (2, 7_000), (1, 10_000)]);
        check(&[(1, 2)], 2, Some(20), &[(1, 10_000)]);
        check(&[], 2, Some(20), &[]);
    }

    #[test]
    fn the_order_is_the_tables_and_not_that_of_the_numbers() {
        check(&[(1, 1), (2, 1)], 1, Some(30), &[(1, 3_000), (2, 10_000)]);
        check(&[(1, 1), (7, 1), (2, 1)], 2, Some(30), &[(2, 3_000), (7, 6_500), (1, 10_000)]);
    }
}
