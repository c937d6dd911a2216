//! What is known of a request before an endpoint is chosen: what it asks for, and what its client has seen.

use std::hash::Hasher as _;

use http::{HeaderMap, HeaderValue, Method, Request};
use trundle_versions::Range;

use super::field::cookie;
use super::group::rank;
use super::{PLACES, To, Token, Window, now_s};
use crate::connection::Connection;
use crate::table::Sticky;

pub struct Wish {
    /// Versions that it shall get.
    pub(super) to: Option<To>,
    /// The client itself has said so, with these words; otherwise a rule.
    pub(super) asked: Option<Box<str>>,
    /// Below [`PLACES`].
    pub(super) place: u16,
    /// A header says who the client is, and so its place.
    pub(super) is_known_by_header: bool,
    pub(super) token: Option<Token>,
    /// The format that it speaks.
    pub(super) format: Option<usize>,
    /// It loads what belongs to a page.
    pub(super) is_asset: bool,
    /// Its answer may be a page.
    pub(super) is_navigation: bool,
}

impl Wish {
    /// `is_new`: it is looked at for the first time, so that the use of its format counts.
    pub fn of<B>(window: &Window, request: &Request<B>, connection: &Connection, is_new: bool) -> Self {
        let (headers, target) = (request.headers(), request.uri());
        let worker = &connection.worker;
        let format = window.formats.of(headers, target.path(), target.query());
        if let Some(at) = format.filter(|_| is_new) {
            window.note_use(at, headers, connection);
        }
        let (to, asked) = window.asked(headers);
        let subject = window.subject.as_ref().and_then(|name| headers.get(name));
        let token = window.token(headers, connection).filter(|_| subject.is_none());
        let is_sticky = window.sticky != Sticky::Nothing;
        let place = match (subject, token.filter(|token| is_sticky && token.window == window.id)) {
            (Some(subject), _) => place_of(window.id, subject.as_bytes()),
            (None, Some(token)) => token.place,
            (None, None) if window.is_drawn => window.draws.next(&mut worker.random.borrow_mut()),
            (None, None) => 0,
        };
        Self {
            to,
            asked,
            place,
            is_known_by_header: subject.is_some(),
            token,
            format,
            is_asset: window.skew.cover(target.path()),
            is_navigation: !window.skew.is_empty() && is_navigation(request.method(), headers),
        }
    }
}

/// A browser goes to a page with it. Those that say nothing of what they want it for may do so too (Fetch Metadata, §2.1).
fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let wanted_for = headers.get("sec-fetch-dest").map(HeaderValue::as_bytes);
    method == Method::GET
        && wanted_for.is_none_or(|dest| [&b"document"[..], b"iframe", b"frame"].contains(&dest))
}

impl Window {
    /// What the client keeps for us: of two cookies the one of the newer version. That it shows one says that it keeps them, and
    /// so has the page of which it speaks.
    fn token(&self, headers: &HeaderMap, connection: &Connection) -> Option<Token> {
        if !self.gives_tokens() {
            return None;
        }
        let shared = &connection.worker.shared;
        let read = |name: &str| {
            let text = cookie(headers, name)?;
            connection.knows(&self.app, text, || Token::read(text, &self.app, &shared.keys.load()))
        };
        let (older, newer) = (read(&self.cookie), read(&self.newest_cookie));
        let rank = |token: &Token| (token.window == self.id, rank(self.newest, token.seen));
        let token = older.into_iter().chain(newer).max_by_key(rank)?;
        // The page that was loaded last, whichever of them says so.
        let page = older.into_iter().chain(newer).max_by_key(|token| token.at_s).unwrap_or(token);
        let token = Token { page: page.page, at_s: page.at_s, ..token };
        if let Some(pins) = shared.pins.get().filter(|_| self.skew_max_age_s > 0 && token.page != 0) {
            pins.note(&self.app, token.client, token.page, token.at_s);
        }
        Some(token)
    }
}

impl Window {
    /// Who calls is what its header says, or else its address.
    fn note_use(&self, format: usize, headers: &HeaderMap, connection: &Connection) {
        let worker = &connection.worker;
        let (Some(uses), Some(format)) = (worker.shared.uses.get(), self.formats.get(format)) else { return };
        let said = headers.get(&self.caller).filter(|said| !said.as_bytes().trim_ascii().is_empty());
        let said = said.or(connection.peer_value.as_ref());
        let caller = said.map_or(&b"(unknown)"[..], |value| value.as_bytes());
        worker.callers.borrow_mut().note(uses, (&self.app, &format.key), caller, now_s());
    }

    /// What a rule says, or the client itself. Words that are no range are served by nobody.
    fn asked(&self, headers: &HeaderMap) -> (Option<To>, Option<Box<str>>) {
        if let Some(rule) = self.rules.iter().find(|rule| rule.fits(headers)) {
            return (Some(rule.to.clone()), None);
        }
        let Some(value) = self.asked_in.iter().find_map(|place| place.value(headers)) else {
            return (None, None);
        };
        let text = String::from_utf8_lossy(value);
        // Most ask for one that is there, by its label.
        if let Some(group) = self.groups.iter().find(|group| *group.version == *text) {
            return (Some(To::Label(group.version.clone())), Some(text.into()));
        }
        let range = Range::parse(&text).unwrap_or_else(|_| Range::nothing());
        (Some(To::Versions(range)), Some(text.into()))
    }
}

/// The same for the same client in every process, and another one in another window, so that not always the same are the first.
fn place_of(window: u64, subject: &[u8]) -> u16 {
    let mut hash = Fnv::default();
    hash.write(&window.to_le_bytes());
    hash.write(subject);
    (hash.finish() % u64::from(PLACES)) as u16
}

/// FNV-1a with 64 bits, and the finish of MurmurHash3 for the low ones: the one of std may differ between releases.
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl std::hash::Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_headers_are_spread_and_stay() {
        let place = |n: u32| place_of(1, format!("Bearer {n}").as_bytes());
        let below_a_fifth = (0..10_000).filter(|n| u32::from(place(*n)) < PLACES / 5).count();
        assert!((1_800..2_200).contains(&below_a_fifth), "{below_a_fifth}");
        assert_eq!(place_of(1, b"Bearer 1"), place_of(1, b"Bearer 1"));
        assert_ne!(place_of(1, b"Bearer 1"), place_of(2, b"Bearer 1"));
    }
}
