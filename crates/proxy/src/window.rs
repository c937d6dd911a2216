//! Who gets which version while several serve. Of a request it is known what its client asks for and what it has seen; of the
//! table, which versions there are, in which order.
//!
//! Invariant: what is decided here is a hint. A version that has nobody, or nobody who can be reached, gives no error: the request
//! goes to another one and is counted.

pub mod across;
pub mod callers;
mod field;
mod formats;
mod group;
pub mod keys;
mod mapped;
pub mod mirror;
mod paths;
pub mod pins;
mod token;
pub mod uses;
mod wish;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use trundle_versions::Range;

use crate::choice::Choice;
use crate::endpoint::{Claim, LiveEndpoint};
use crate::refusal::Refusal;
use crate::routes::{Random, Tried};
use crate::table::{self, Sticky, Traffic, Wanted, WhenGone};
use crate::worker::Worker;

use field::Place;
pub use field::cookie;
use formats::{Format, Formats};
use group::{Group, groups, rank};
use mirror::Mirror;
use paths::Paths;
pub use token::Token;
pub use wish::{Fnv, Wish};

/// A share is counted in so many places.
pub const PLACES: u32 = 10_000;
/// Goes round all numbers below 100 in steps that leave no stretch without: of any 100 draws each is one.
const STEP: u64 = 37;

const HTML: &[u8] = b"text/html";
/// A page is noted again when it is older than this part of what it may be, or than this.
const FRESH_PART: u32 = 8;
const FRESH_MOST_S: u32 = 60;

/// The endpoints of an app that get requests, each with its weight.
pub struct Serving<'a> {
    pub routed: &'a [(Arc<LiveEndpoint>, u32)],
    /// Only what the pages of their version load.
    pub kept: &'a [(Arc<LiveEndpoint>, u32)],
}

/// How far clients of a window have come that are known by a header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    pub window: u64,
    /// The newest, and below which place clients have been with it.
    pub revision: u32,
    pub below: u32,
    /// One before it, and the same of that: 0 and 0 where there was none.
    pub before: (u32, u32),
}

/// What an app keeps of its clients over all tables.
#[derive(Default)]
pub struct Draws {
    drawn: AtomicU64,
}

impl Draws {
    /// A place, by turn to a hundredth and by chance within it: of any hundred draws exactly `n` lie within the first `n` hundredths.
    fn next(&self, random: &mut Random) -> u16 {
        let hundredth = self.drawn.fetch_add(1, Relaxed).wrapping_mul(STEP) % 100;
        (hundredth * u64::from(PLACES / 100) + random.below(u64::from(PLACES / 100))) as u16
    }
}

/// Of one app, under one table.
pub struct Window {
    app: Arc<str>,
    id: u64,
    /// This revision is the newest, the others stand in the order of their numbers.
    newest: Option<u32>,
    /// The newest first; each has somebody.
    groups: Vec<Group>,
    /// For the pages of versions that get nothing else.
    kept: Vec<Group>,
    /// Each client has a place, which says which version it gets while there are two.
    is_drawn: bool,
    asked_in: Vec<Place>,
    when_gone: WhenGone,
    rules: Vec<Rule>,
    sticky: Sticky,
    /// Its value stands for a client.
    subject: Option<HeaderName>,
    /// Who is known by a header has no memory of its own.
    reached: Reached,
    /// A rollout is open: who is answered now may meet another version soon.
    is_open: bool,
    skew: Paths,
    skew_max_age_s: u32,
    mirror: Option<Mirror>,
    vary: Option<HeaderValue>,
    cookie: Box<str>,
    /// Of those whom the newest has answered.
    newest_cookie: Box<str>,
    draws: Arc<Draws>,
    formats: Formats,
    /// Of each format, the groups that serve it, a bit each; None: it makes no difference.
    speakers: Vec<Option<u64>>,
    /// Says who a caller is.
    caller: HeaderName,
}

struct Rule {
    place: Place,
    value: Option<Box<[u8]>>,
    to: To,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum To {
    Newest,
    Oldest,
    Label(Box<str>),
    Versions(Range),
}

/// How a request came to its endpoint, for the counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct How {
    /// It asked for a version, and gets it.
    pub asked: bool,
    /// It asked for one that nobody serves.
    pub gone: bool,
    /// By its place it would have gone to an older one than it has seen.
    pub held: bool,
    /// It has seen a newer one, which has nobody now.
    pub back: bool,
}

impl Window {
    pub fn new(
        app: &Arc<str>,
        traffic: &Traffic,
        (formats, caller_header): (&[table::Format], Option<&str>),
        serving: &Serving<'_>,
        reached: Reached,
        draws: Arc<Draws>,
    ) -> Self {
        let kept = groups(serving.kept, traffic.newest, None);
        let groups = groups(serving.routed, traffic.newest, traffic.share);
        let asked_in: Vec<Place> = traffic.asked_in.iter().filter_map(Place::of).collect();
        let rules: Vec<Rule> = traffic.rules.iter().filter_map(Rule::of).collect();
        let formats = Formats::new(formats);
        let speakers = formats.iter().map(|format| speakers(format, &groups)).collect();
        let mut fields: Vec<&str> =
            asked_in.iter().chain(rules.iter().map(|rule| &rule.place)).map(Place::header).collect();
        fields.extend(formats.iter().filter_map(Format::depends_on));
        fields.sort_unstable();
        fields.dedup();
        let vary = HeaderValue::from_str(&fields.join(", ")).ok().filter(|_| !fields.is_empty());
        Self {
            id: traffic.window,
            newest: traffic.newest,
            is_drawn: traffic.share.is_some() || traffic.sticky != Sticky::Nothing,
            // Alone for a moment, the newest has been met by all.
            reached: match groups.first().filter(|first| traffic.newest == Some(first.revision)) {
                Some(first) => Reached { below: reached.below.max(first.up_to), ..reached },
                None => reached,
            },
            is_open: traffic.open,
            groups,
            kept,
            skew_max_age_s: traffic.skew_max_age_s,
            asked_in,
            when_gone: traffic.when_gone,
            rules,
            sticky: traffic.sticky,
            subject: traffic
                .sticky_header
                .as_ref()
                .and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok()),
            skew: Paths::new(&traffic.skew_paths),
            mirror: traffic.mirror.as_ref().and_then(Mirror::of),
            vary,
            cookie: format!("trundle-{app}").into(),
            newest_cookie: format!("trundle-{app}-newest").into(),
            draws,
            speakers,
            formats,
            caller: caller_header
                .and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok())
                .unwrap_or(header::USER_AGENT),
            app: Arc::clone(app),
        }
    }

    /// What its clients have reached of the newest, for the next table of the same window.
    pub fn reached(&self) -> Reached {
        self.reached
    }

    /// The request asks for versions that nobody serves, and is to be told so: which there are.
    pub fn refuses(&self, wish: &Wish) -> Option<Refusal> {
        let (asked, to) = (wish.asked.as_ref()?, wish.to.as_ref()?);
        if self.when_gone == WhenGone::Fallback || self.groups.is_empty() || self.meant(to).next().is_some() {
            return None;
        }
        let versions: Vec<&str> = self.groups.iter().map(|group| &*group.version).collect();
        let reason = format!("version {asked} is served by no instance; there is {}\n", versions.join(", "));
        let refusal = Refusal::rejected(StatusCode::NOT_ACCEPTABLE, &reason);
        Some(Refusal { close: false, vary: self.vary.clone(), ..refusal })
    }

    /// The groups that are meant, newest first.
    fn meant<'a>(&'a self, to: &'a To) -> impl Iterator<Item = usize> + 'a {
        let last = self.groups.len().saturating_sub(1);
        let all = self.groups.iter().enumerate();
        all.filter(move |(at, group)| match to {
            To::Newest => *at == 0,
            To::Oldest => *at == last,
            To::Label(label) => *label == group.version,
            To::Versions(range) => range.covers(&group.version),
        })
        .map(|(at, _)| at)
    }

    /// A place in an endpoint of the version that the request shall get, or of another one if that has nobody; among `all` where
    /// it does not matter. `None`: there is no endpoint left that would be tried.
    pub fn choose(
        &self,
        wish: &Wish,
        all: &Choice,
        random: &mut Random,
        tried: &Tried,
    ) -> Option<(Claim, How)> {
        let mut how = How::default();
        if let Some(to) = &wish.to {
            let mut meant = self.meant(to);
            if let Some(claim) = meant.find_map(|group| self.groups[group].choice.choose(random, tried)) {
                return Some((claim, How { asked: wish.asked.is_some(), ..how }));
            }
            how.gone = wish.asked.is_some();
            if how.gone && self.when_gone == WhenGone::Refuse {
                return None;
            }
        }
        // What a page loads comes from where the page came from.
        let of_page = wish.token.filter(|_| wish.is_asset).map(|token| token.page);
        let kept = of_page.and_then(|page| self.kept.iter().find(|group| group.revision == page));
        if let Some(claim) = kept.and_then(|group| group.choice.choose(random, tried)) {
            return Some((claim, how));
        }
        let page = of_page.and_then(|page| self.group_of(page));
        let seen = wish.token.filter(|token| token.window == self.id && self.sticky != Sticky::Nothing);
        let may_get = seen.map_or(self.groups.len(), |token| self.not_older_than(token.seen));
        let drawn = (self.is_drawn && self.groups.len() > 1).then(|| self.drawn(wish));
        let speakers = wish.format.and_then(|at| self.speakers.get(at).copied().flatten());
        let speaks = |at: &usize| speakers.is_none_or(|speakers| speakers >> at & 1 == 1);
        if let Some(token) = wish.token.filter(|_| self.sticky == Sticky::Instance && tried.len() == 0) {
            let mut groups = (0..may_get).filter(speaks);
            if let Some(claim) = groups.find_map(|at| self.groups[at].choice.claim(token.instance)) {
                return Some((claim, how));
            }
        }
        let first = page.or(drawn.map(|drawn| drawn.min(may_get.saturating_sub(1))));
        let Some(first) = first.or_else(|| speakers.map(|of| self.by_weight(of, random))) else {
            how.back = seen.is_some() && may_get == 0;
            return all.choose(random, tried).map(|claim| (claim, how));
        };
        how.held = page.is_none() && drawn.is_some_and(|drawn| drawn > first);
        // Those newer than the one that it should have got come before those that are older.
        let by_turn = || (0..=first).rev().chain(first + 1..self.groups.len());
        // Those who do not understand it are better than nobody.
        by_turn().filter(speaks).chain(by_turn().filter(|at| !speaks(at))).find_map(|at| {
            let claim = self.groups[at].choice.choose(random, tried)?;
            how.back = page.is_none() && at >= may_get && speakers.is_none();
            Some((claim, how))
        })
    }

    /// One of these groups, by what they weigh.
    fn by_weight(&self, of: u64, random: &mut Random) -> usize {
        let groups = || self.groups.iter().enumerate().filter(|(at, _)| of >> at & 1 == 1);
        let all: u64 = groups().map(|(_, group)| group.choice.weight()).sum();
        let mut left = random.below(all.max(1));
        let mut found = groups().filter(|(_, group)| {
            let is_it = left < group.choice.weight();
            left = left.saturating_sub(group.choice.weight());
            is_it
        });
        found.next().map_or(0, |(at, _)| at)
    }

    /// The group that a request's place lies in.
    fn drawn(&self, wish: &Wish) -> usize {
        let place = u32::from(wish.place);
        let within = self.groups.iter().position(|group| place < group.up_to).unwrap_or(0);
        let reached = if wish.is_known_by_header { self.reached } else { Reached::default() };
        let (before, below) = reached.before;
        if place < reached.below {
            0
        } else if place < below {
            within.min(self.not_older_than(before).saturating_sub(1))
        } else {
            within
        }
    }

    fn group_of(&self, revision: u32) -> Option<usize> {
        self.groups.iter().position(|group| group.revision == revision)
    }

    /// So many groups stand before those that are older than this revision, which may be here no more.
    fn not_older_than(&self, revision: u32) -> usize {
        let seen = rank(self.newest, revision);
        self.groups.iter().take_while(|group| rank(self.newest, group.revision) >= seen).count()
    }

    /// All versions but this one, the newest first.
    fn others(&self, than: u32) -> impl Iterator<Item = &Group> {
        self.groups.iter().chain(&self.kept).filter(move |group| group.revision != than)
    }

    fn gives_tokens(&self) -> bool {
        self.sticky != Sticky::Nothing || !self.skew.is_empty()
    }

    /// Says in an answer what it depends on, and gives the client what it shall keep.
    pub fn tell(
        &self,
        wish: &Wish,
        from: &LiveEndpoint,
        worker: &Worker,
        headers: &mut HeaderMap,
        is_secure: bool,
    ) {
        if let Some(format) = wish.format.and_then(|at| self.formats.get(at)) {
            format.say(headers);
        }
        if let Some(vary) = &self.vary {
            headers.append(header::VARY, vary.clone());
        }
        let is_page = wish.is_navigation && is_html(headers);
        if !self.gives_tokens() || wish.is_asset || wish.is_known_by_header || is_shared(headers) {
            return;
        }
        if let Some(token) = self.next_token(wish, from, worker, is_page) {
            let secure = if is_secure { "; Secure" } else { "" };
            let text = token.write(&self.app, &worker.shared.keys.load());
            // Of two answers that are on their way at once the older version's must not undo what the newest one's says.
            let is_newest = self.newest == Some(token.seen);
            let name = if is_newest { &self.newest_cookie } else { &self.cookie };
            let cookie = format!("{name}={text}; Path=/; HttpOnly; SameSite=Lax{secure}");
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                headers.append(header::SET_COOKIE, cookie);
            }
        }
    }

    /// What the client shall keep, if that is something else than it has.
    fn next_token(&self, wish: &Wish, from: &LiveEndpoint, worker: &Worker, is_page: bool) -> Option<Token> {
        let stays_with_instance = self.sticky == Sticky::Instance;
        let is_open = self.is_open && self.sticky != Sticky::Nothing;
        if !is_open && !stays_with_instance && !is_page {
            return None;
        }
        let own = wish.token.filter(|token| token.window == self.id);
        let instance = if stays_with_instance { from.name_hash } else { 0 };
        // Answered by an older one, it has still seen the newer.
        let is_newer = |token: &Token| rank(self.newest, token.seen) > rank(self.newest, from.revision);
        let seen = own.filter(is_newer).map_or(from.revision, |token| token.seen);
        let before = wish.token.map_or((0, 0), |token| (token.page, token.at_s));
        let (page, at_s) = if is_page { (from.revision, now_s()) } else { before };
        // A page that is loaded again is as new as one that is loaded for the first time, if not to the second.
        let is_fresh = |token: &Token| {
            let age_s = at_s.saturating_sub(token.at_s);
            self.skew_max_age_s == 0 || age_s < (self.skew_max_age_s / FRESH_PART).clamp(1, FRESH_MOST_S)
        };
        let is_same = |token: &Token| (token.seen, token.page, token.instance) == (seen, page, instance);
        if own.is_some_and(|token| is_same(&token) && is_fresh(&token)) {
            return None;
        }
        let client = wish.token.map_or_else(|| worker.random.borrow_mut().next(), |token| token.client);
        Some(Token { window: self.id, seen, place: wish.place, page, client, at_s, instance })
    }
}

/// Where all or none of the groups serve a format it makes no difference.
fn speakers(format: &Format, groups: &[Group]) -> Option<u64> {
    let served = format.served.as_ref()?;
    let serve = groups.iter().take(64).enumerate().filter(|(_, group)| served.covers(&group.version));
    let of = serve.map(|(at, _)| 1 << at).fold(0, |all: u64, one: u64| all | one);
    (of != 0 && (of.count_ones() as usize) < groups.len()).then_some(of)
}

/// In seconds since 1970.
pub fn now_s() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// A page, which loads what belongs to it.
fn is_html(headers: &HeaderMap) -> bool {
    let of_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    of_type.is_some_and(|of| of.len() >= HTML.len() && of[..HTML.len()].eq_ignore_ascii_case(HTML))
}

/// It may be stored for everybody (RFC 9111 §3): then what is one client's must not be in it.
fn is_shared(headers: &HeaderMap) -> bool {
    let (mut may, mut must_not) = (false, false);
    let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    for directive in lines.flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        let age = directive.strip_prefix("max-age=").and_then(|age| age.parse::<u64>().ok());
        may |= directive == "public" || directive == "immutable" || directive.starts_with("s-maxage");
        may |= age.is_some_and(|age| age > 0);
        must_not |= directive.starts_with("private") || directive == "no-store";
    }
    may && !must_not
}

impl To {
    fn of(told: &Wanted) -> Option<Self> {
        Some(match told {
            Wanted::Newest => Self::Newest,
            Wanted::Oldest => Self::Oldest,
            Wanted::Versions(range) => Self::Versions(Range::parse(range).ok()?),
        })
    }
}

impl Rule {
    fn of(rule: &table::Rule) -> Option<Self> {
        let to = To::of(&rule.to)?;
        let value = rule.value.as_ref().map(|value| value.as_bytes().into());
        Some(Self { place: Place::of(&rule.field)?, value, to })
    }

    fn fits(&self, headers: &HeaderMap) -> bool {
        self.place
            .value(headers)
            .is_some_and(|found| self.value.as_ref().is_none_or(|value| **value == *found))
    }
}
