//! What the proxy has counted, as it is told on the control socket.
//!
//! Each request belongs to exactly one class: answered (by a version), rejected, lost, crashed, cut or told. `total` is
//! their sum. A request whose client went away before its answer was complete is in none of them.
//!
//! An answer of an endpoint counts when its last byte is with the client's kernel, so a client may see it a moment
//! before the count. What hyper refuses before it is a request (400, 408, 414, 431 of a malformed or late head) is not counted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The counts of all apps, and the table they were read under.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub epoch: u64,
    pub number: u64,
    pub apps: BTreeMap<String, AppStats>,
}

/// The counts of one app since its first request; they outlive the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppStats {
    /// Sum of `by_version`, `rejected`, `lost`, `crashed`, `cut` and `told`.
    pub total: u64,
    /// The client saw a 502, 503 or 504 made by the proxy, or its connection was reset by the proxy's own end.
    pub lost: u64,
    /// In flight in an instance that closed or reset the connection after bytes were sent to it.
    pub crashed: u64,
    /// Closed by the proxy because the endpoint's drain deadline was over.
    pub cut: u64,
    /// Streams whose clients were asked to come again when their instance left: WebSockets with a Close, event streams by
    /// their end between two events.
    pub told: u64,
    /// The same and those that were cut, by what they were: `request`, `websocket`, `events`, `grpc`, `tcp`.
    pub told_by_kind: BTreeMap<String, u64>,
    pub cut_by_kind: BTreeMap<String, u64>,
    /// Answers of the app with a status of 500 or more. They are part of `by_version`.
    pub app_errors: u64,
    /// Answered by the proxy by a limit or rule of its own, before or without an instance: 4xx, 501, a redirect to TLS, the page for
    /// maintenance, what an authority for certificates asks for.
    pub rejected: u64,
    /// Attempts beyond the first, for requests of which no byte had reached an instance.
    pub retried: u64,
    /// Requests that waited for an instance while there was none; what became of them is counted as of all others.
    pub held: u64,
    /// Of requests that could have met either of two versions: `asked` for one and got it, `asked_gone` for one that nobody served,
    /// `held_from_going_back` to an older version than the client had seen, `went_back` because the newer had nobody,
    /// `across_versions` served by another version than the one that had nothing, `missing_everywhere`; `mirrored` and compared,
    /// `mirror_differs`, `mirror_skipped` as too many were on their way.
    pub mixed: BTreeMap<String, u64>,
    /// By revision, of those that are kept or serve: how many clients have a page of it open that may still load what belongs to it.
    pub pinned: BTreeMap<u32, u64>,
    /// By format, who has used it.
    pub formats: BTreeMap<String, FormatUses>,
    /// Complete answers per version.
    pub by_version: BTreeMap<String, u64>,
    pub lost_by_reason: BTreeMap<String, u64>,
    /// Of `by_version`, the answers whose status begins with 1 to 5: `{"3.1": {"2xx": 7}}`.
    pub statuses: BTreeMap<String, BTreeMap<String, u64>>,
    /// Bytes of the bodies of requests and of answers, per version, WebSockets included; of those that did not end well too.
    pub bytes_up: BTreeMap<String, u64>,
    pub bytes_down: BTreeMap<String, u64>,
    /// Connections of clients that are open now, by what they speak (`http1`, `http2`, `websocket`, `tcp`), and the streams within
    /// them that have no end of their own (`events`, `grpc`).
    pub open: BTreeMap<String, u64>,
    pub endpoints: Vec<EndpointStats>,
    /// Per version, from the request's head to the last byte of its answer, of complete answers.
    pub latency: BTreeMap<String, Histogram>,
}

/// Who has used a format, as far as it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FormatUses {
    /// Since when it is looked at, in seconds since 1970; None: not yet.
    pub since_s: Option<u64>,
    pub callers: BTreeMap<String, Caller>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub count: u64,
    /// In seconds since 1970.
    pub last_s: u64,
}

/// One endpoint of the present table, or one that still has requests in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStats {
    pub id: String,
    pub incarnation: String,
    pub version: String,
    pub in_flight: u64,
    /// Requests that were given to it, answered or not.
    pub requests: u64,
}

/// Sub-buckets per power of two, so that a bucket is at most 1/16 = 6.25 % wide.
const SUB: u64 = 16;
/// Values of 2^32 µs (71 minutes) and more share the last bucket.
const TOP_BIT: u32 = 32;
/// Number of buckets: 16 exact ones for 0..16 µs, then 16 for each of the powers 2^4 to 2^31.
pub const BUCKETS: usize = 16 + 16 * (TOP_BIT as usize - 4);

/// A log-linear histogram in microseconds with fixed buckets, so that two of them add up bucket by bucket.
///
/// Bucket 0..16 holds exactly that number of µs. Above, with `p` the highest set bit of the value, the bucket is
/// `16 + (p - 4) * 16 + ((value >> (p - 4)) - 16)`. Example: 1000 µs has p = 9, 1000 >> 5 = 31, so its bucket is
/// 16 + 80 + 15 = 111, which holds 992..=1023 µs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    pub count: u64,
    pub sum_us: u64,
    /// Bucket index to count; empty buckets are left out.
    pub buckets: BTreeMap<u32, u64>,
}

/// The bucket of a duration in microseconds.
#[must_use]
pub fn bucket_of(us: u64) -> usize {
    if us < SUB {
        return us as usize;
    }
    let us = us.min((1 << TOP_BIT) - 1);
    let shift = us.ilog2() - 4;
    (SUB + u64::from(shift) * SUB + ((us >> shift) - SUB)) as usize
}

/// The greatest value in µs that falls into a bucket.
#[must_use]
pub fn bucket_top_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let shift = (bucket - SUB) / SUB;
    ((SUB + (bucket - SUB) % SUB + 1) << shift) - 1
}

impl Histogram {
    /// The upper end of the bucket in which the quantile lies (0.99 for p99); `None` when nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let rank = ((self.count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        let bucket = found.or(self.buckets.iter().next_back())?.0;
        Some(Duration::from_micros(bucket_top_us(*bucket as usize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_are_narrow() {
        for us in (0..10_000).chain((10..40).map(|p| (1u64 << p) + 7)) {
            let bucket = bucket_of(us);
            assert!(bucket < BUCKETS, "{us}");
            let us = us.min((1 << TOP_BIT) - 1);
            assert!(us <= bucket_top_us(bucket), "{us}");
            assert!(bucket == 0 || us > bucket_top_us(bucket - 1), "{us}");
            assert!(bucket_top_us(bucket) as f64 <= us as f64 * 1.0625 + 1.0, "{us}");
        }
        assert_eq!(bucket_of(1000), 111);
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for us in 1..=1000u64 {
            histogram.count += 1;
            *histogram.buckets.entry(bucket_of(us) as u32).or_default() += 1;
        }
        let p50 = histogram.quantile(0.5).unwrap().as_micros();
        assert!((500..=532).contains(&p50), "{p50}");
        assert!(histogram.quantile(1.0).unwrap().as_micros() >= 1000);
    }
}
