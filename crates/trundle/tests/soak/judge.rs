//! What came of it, judged: each loss has its cause, each loss is counted, the floor and the ceiling held.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::apps::{App, Counted};
use crate::diary::{Deed, Diary, What};
use crate::harness::Site;
use crate::harness::load::Tally;
use crate::observer::{Change, Seen};
use crate::past::Past;

/// A client that gets little CPU sees late that its connection broke.
const NOTICED_LATE_MS: u64 = 3_000;
/// What was decided before a change or a blow takes effect until then: a drain lasts as long as the slowest request.
const UNDER_WAY_MS: u64 = 5_000;
/// A daemon may be away for a while before it can see what was struck.
const UNSEEN_MS: u64 = 10_000;
const HALTED_AT_MOST_MS: u64 = 3_000;

/// A loss as the client told it.
#[derive(Debug)]
struct Loss<'a> {
    kind: &'a str,
    text: &'a str,
    kept: bool,
    began_ms: u64,
    ended_ms: u64,
}

/// Why a request was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// In flight in a proxy that was killed.
    Proxy,
    /// On a kept connection that had ended with a proxy that was killed before: no proxy ever had it.
    Unsent,
    /// In flight in an instance that died.
    Instance,
}

/// What the client lost, by cause.
pub type Causes = BTreeMap<Cause, u64>;

/// Panics on a loss without a cause, and on any in a calm time.
pub fn causes(diary: &Diary, app: &App, tally: &Tally, seen: &Seen) -> Causes {
    let all: Vec<Loss> = tally.0["losses"].as_array().unwrap().iter().map(Loss::read).collect();
    assert_eq!(all.len() as u64, tally.lost(), "some losses were told without their times");
    let deeds = diary.deeds();
    let mut causes = Causes::new();
    for loss in &all {
        let told = || {
            let around = diary.around(loss.began_ms, loss.ended_ms);
            format!("{}: {loss:?}, {:.3} s\n{around}", app.name, diary.seconds(loss.ended_ms))
        };
        let calm = |(from, to): &(u64, u64)| loss.began_ms >= *from && loss.ended_ms <= *to;
        assert!(!diary.calms().iter().any(calm), "lost in a calm time: {}", told());
        let cause =
            loss.cause(app, &deeds, seen).unwrap_or_else(|| panic!("lost without a cause: {}", told()));
        *causes.entry(cause).or_default() += 1;
    }
    causes
}

impl<'a> Loss<'a> {
    fn read(value: &'a Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap();
        let number = |key: &str| value[key].as_u64().unwrap();
        Self {
            kind: text("kind"),
            text: text("text"),
            kept: value["kept"].as_bool().unwrap(),
            began_ms: number("began_ms"),
            ended_ms: number("ended_ms"),
        }
    }

    fn cause(&self, app: &App, deeds: &[Deed], seen: &Seen) -> Option<Cause> {
        let during = |from: u64, to: u64| self.began_ms <= to && from <= self.ended_ms;
        let at_the_end = |to: u64| self.ended_ms <= to + NOTICED_LATE_MS;
        let kills = || deeds.iter().filter(|deed| deed.what == What::ProxyKilled);
        let proxy = kills().any(|d| during(d.from_ms, d.to_ms) && at_the_end(d.to_ms));
        // It was in use a moment before: an older kill has nothing to do with it.
        let before = self.kept && kills().any(|d| d.from_ms <= self.ended_ms && at_the_end(d.to_ms));
        let just_before = self.kept && kills().any(|d| d.to_ms < self.began_ms && at_the_end(d.to_ms));
        // The proxy says so in the answer, and nobody else can know: only then it is the instance's death.
        let crashed = self.text.starts_with("502") && self.text.contains("ended before it had answered");
        // Its connections end a moment before it is seen to be gone, so that the look that saw it last may have begun after that.
        let struck = || {
            let of_app = |deed: &&Deed| deed.whom.as_ref().is_some_and(|(of, _)| of == app.name);
            let blows = deeds
                .iter()
                .filter(|deed| matches!(deed.what, What::InstanceKilled | What::ShimKilled) && of_app(deed));
            blows.into_iter().any(|deed| during(deed.from_ms, deed.to_ms + NOTICED_LATE_MS))
        };
        let died = || {
            let deaths =
                seen.deaths.iter().filter(|d| d.app == app.name && is_blow(d.planted, &d.instance, deeds));
            deaths.into_iter().any(|d| during(d.from_ms, d.to_ms + NOTICED_LATE_MS)) || struck()
        };
        match self.kind {
            "unsent" if before => Some(Cause::Unsent),
            "broken" if proxy => Some(Cause::Proxy),
            // The client did not know yet.
            "broken" if just_before => Some(Cause::Unsent),
            "body" if proxy => Some(Cause::Proxy),
            "body" if died() => Some(Cause::Instance),
            "status" if crashed && died() => Some(Cause::Instance),
            _ => None,
        }
    }
}

/// A death that the test brought about, by a blow or by a version that dies.
fn is_blow(planted: bool, instance: &str, deeds: &[Deed]) -> bool {
    let struck = |deed: &Deed| {
        matches!(deed.what, What::InstanceKilled | What::ShimKilled)
            && deed.whom.as_ref().is_some_and(|(_, name)| name == instance)
    };
    planted || deeds.iter().any(struck)
}

/// Everything that the client lost was counted by the proxy, under the right name, and the counts add up with what the
/// apps wrote down. Answers how many a killed proxy had not even read: nobody can count those.
pub fn counts(
    app: &App,
    tally: &Tally,
    counted: &Counted,
    causes: &Causes,
    ids: &Ids,
    proxy_kills: u64,
) -> u64 {
    let name = app.name;
    let told = format!("{name}: counted {counted:?}, the client's losses {causes:?}, sent {}", tally.sent());
    let of = |cause| causes.get(&cause).copied().unwrap_or(0);
    assert!(counted.others.is_empty(), "{told}");
    assert_eq!(counted.lost, counted.proxy_killed, "{told}");
    // One that crashed as the proxy was killed was seen as the one and counted as the other.
    assert!(of(Cause::Instance) <= counted.crashed, "a crash that nobody counted: {told}");
    assert!(counted.crashed <= of(Cause::Instance) + of(Cause::Proxy), "a crash that nobody saw: {told}");
    let unread =
        of(Cause::Proxy).saturating_sub(counted.proxy_killed + counted.crashed - of(Cause::Instance));
    assert!(unread <= proxy_kills * UNREAD_AT_A_KILL, "lost and not counted: {told}");

    let answered = tally.sent() - tally.lost();
    let Ids { by_version, distinct, lines } = ids;
    let distinct = *distinct;
    assert_eq!(distinct, *lines, "an id was processed twice: {told}");
    assert!(answered <= distinct && distinct <= tally.sent(), "{distinct} ids: {told}");
    // An answer may have arrived in the moment before its count.
    assert!(
        counted.answered() <= distinct && answered <= counted.answered() + counted.proxy_killed,
        "{told}"
    );
    let excess: u64 = by_version
        .iter()
        .map(|(version, ids)| {
            // Rows of old versions are given to newer ones: then only the sum is left.
            let answers = counted.by_version.get(version).copied().unwrap_or(*ids);
            ids.checked_sub(answers)
                .unwrap_or_else(|| panic!("{version}: {ids} ids, {answers} answers: {told}"))
        })
        .sum();
    assert!(excess <= counted.proxy_killed + counted.crashed + unread, "{excess} ids too many: {told}");
    unread
}

/// A request that lies in the socket of a proxy as it is killed is seen by nobody but its client. So many at most.
const UNREAD_AT_A_KILL: u64 = 3;

/// How many ids the instances of each version wrote down; distinct ones of all, and all.
pub struct Ids {
    by_version: BTreeMap<String, u64>,
    distinct: u64,
    lines: u64,
}

pub fn ids(site: &Site, app: &App, past: &Past) -> Ids {
    let (mut by_version, mut distinct, mut lines) = (BTreeMap::<String, u64>::new(), BTreeSet::new(), 0);
    for entry in fs::read_dir(app.ids(site)).unwrap() {
        let entry = entry.unwrap();
        let instance = entry.file_name().into_string().unwrap();
        let revision: u32 = instance.split('-').nth(1).unwrap().parse().unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let n = text.lines().count() as u64;
        lines += n;
        *by_version.entry(past.versions[&revision].clone()).or_default() += n;
        distinct.extend(text.lines().map(str::to_owned));
    }
    Ids { by_version, distinct: distinct.len() as u64, lines }
}

/// Nobody but the test brought the app below its floor, and nothing brought it above its ceiling.
pub fn floor_and_ceiling(diary: &Diary, app: &App, seen: &Seen) {
    let deeds = diary.deeds();
    for change in seen.changes.get(app.name).map(Vec::as_slice).unwrap_or_default() {
        let (from, to) = (change.from_ms.saturating_sub(UNDER_WAY_MS), change.to_ms);
        let (least, most) = diary.replicas(app.name, from, to);
        let struck = struck(app, change, seen, &deeds);
        let told =
            || format!("{} at {:.3} s: {change:?}, struck {struck:?}", app.name, diary.seconds(change.to_ms));
        let floor = app.floor(least) as usize;
        let fell = change.serving < change.serving_before;
        assert!(!fell || change.serving + struck.len() >= floor, "below the floor of {floor}: {}", told());
        let ceiling = app.ceiling(most) as usize;
        let rose = change.alive > change.alive_before;
        assert!(!rose || change.alive <= ceiling, "above the ceiling of {ceiling}: {}", told());
    }
}

/// The instances that the test took away a short time before.
fn struck(app: &App, change: &Change, seen: &Seen, deeds: &[Deed]) -> BTreeSet<String> {
    let from = change.from_ms.saturating_sub(UNSEEN_MS);
    let lately = |from_ms: u64, to_ms: u64| from_ms <= change.to_ms && to_ms >= from;
    let by_deed = deeds.iter().filter(|deed| {
        let halted = if deed.what == What::InstanceHalted { HALTED_AT_MOST_MS } else { 0 };
        lately(deed.from_ms, deed.to_ms + halted)
    });
    let by_deed =
        by_deed.filter_map(|deed| deed.whom.clone()).filter(|(of, _)| of == app.name).map(|(_, name)| name);
    let by_death = seen.deaths.iter().filter(|death| {
        death.app == app.name
            && lately(death.from_ms, death.to_ms)
            && is_blow(death.planted, &death.instance, deeds)
    });
    by_deed.chain(by_death.map(|death| death.instance.clone())).collect()
}
