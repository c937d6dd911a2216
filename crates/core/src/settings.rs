//! What belongs to the app and not to a revision: how many, how to roll, where to listen.

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::formats::Format;
use crate::limits::{Budget, CountOrPercent, Order, Written};
use crate::state::Gate;
use crate::traffic::Traffic;

/// Changes apply at once, also in the middle of a rollout, and make no new revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSettings {
    pub replicas: u32,
    pub rollout: RolloutSettings,
    /// None: a worker that takes no requests; then ready is enough to be available.
    pub listen: Option<Listen>,
    /// One replica on a port of its own: stop first.
    pub fixed_port: bool,
    /// Flags that open when all instances are of a version that they are for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// `127.0.0.1:8080`
    pub http: Option<String>,
    /// The same behind TLS.
    #[serde(default)]
    pub https: Option<String>,
    #[serde(default)]
    pub tls: Option<Tls>,
    /// A path of a Unix socket, for a proxy in front.
    pub unix: Option<String>,
    /// An address that carries bytes and no HTTP; then none of the others is there.
    #[serde(default)]
    pub tcp: Option<String>,
    /// Other apps may have the same addresses: these are its hosts there, `*.` before one stands for all below it.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The same of paths: what begins so is its own, and the longest wins.
    #[serde(default)]
    pub paths: Vec<String>,
    #[serde(default)]
    pub access_log: Option<AccessLog>,
    /// Clients are answered with this, and reach nobody. A person says so, never the file: a deploy leaves it as it is.
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
    /// Networks whose `X-Forwarded-*` are believed; `unix` means the peer of the Unix socket.
    pub trusted_proxies: Vec<String>,
    /// Set on every answer with the version that gave it; empty turns it off.
    pub version_header: Option<String>,
    /// Requests wait so long for an instance while there is none; 0: they do not.
    #[serde(default)]
    pub hold_ms: Millis,
    /// Streams that have to move are told at moments spread over this time.
    #[serde(default = "drain_spread_ms")]
    pub drain_spread_ms: Millis,
    #[serde(default)]
    pub limits: TrafficLimits,
    /// Which version a request gets while two serve.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// What its clients speak.
    #[serde(default)]
    pub formats: Vec<Format>,
    /// The header that says who a caller is, if it is not `User-Agent`.
    #[serde(default)]
    pub caller_header: Option<String>,
}

fn drain_spread_ms() -> Millis {
    2_000
}

impl Listen {
    /// On an address, and nothing more.
    pub fn http(address: &str) -> Self {
        Self { http: Some(address.to_owned()), ..Self::default() }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            http: None,
            https: None,
            tls: None,
            unix: None,
            tcp: None,
            hosts: Vec::new(),
            paths: Vec::new(),
            access_log: None,
            maintenance: None,
            trusted_proxies: Vec::new(),
            version_header: None,
            hold_ms: 0,
            drain_spread_ms: drain_spread_ms(),
            limits: TrafficLimits::default(),
            traffic: None,
            formats: Vec::new(),
            caller_header: None,
        }
    }
}

/// Where the certificate is, and what clients without TLS are told. The files are read where the proxy runs, and anew when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Absolute: the chain, as PEM. Empty where it is fetched.
    pub cert: String,
    /// Absolute. Empty where it is fetched.
    pub key: String,
    /// It is fetched from an authority, for the app's hosts, and renewed in time.
    #[serde(default)]
    pub acme: Option<Acme>,
    /// Requests to the address without TLS are sent to the one with it.
    pub redirect: bool,
    /// `Strict-Transport-Security` for so long.
    pub hsts_ms: Option<Millis>,
}

/// Who gives the certificate (RFC 8555). What it asks for is proven by HTTP-01 on the app's address without TLS, or where it has none by
/// TLS-ALPN-01 on the one with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    /// Told when something is wrong with the certificate.
    pub contact: String,
    /// The address of the authority's directory.
    pub directory: String,
    /// Absolute: PEM of whom the directory's own certificate comes from, if that is nobody the system knows.
    pub root: Option<String>,
}

impl Acme {
    pub const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
}

/// What clients are answered while nobody shall come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// Absolute: HTML; a few words without it.
    pub page: Option<String>,
    pub retry_after_ms: Option<Millis>,
}

/// A line for each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    pub format: AccessFormat,
    /// Absolute; without it the file is in the state directory.
    pub file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessFormat {
    Json,
    /// As Apache and nginx call it.
    Combined,
}

/// What one client may take of the proxy. What is not written has the proxy's own bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrafficLimits {
    pub header_bytes: Option<u32>,
    pub headers: Option<u32>,
    /// Unlimited, if not written.
    pub body_bytes: Option<u64>,
    pub header_timeout_ms: Option<Millis>,
    pub idle_timeout_ms: Option<Millis>,
    #[serde(default)]
    pub body_rate: Option<u64>,
    pub response_timeout_ms: Option<Millis>,
    pub connect_timeout_ms: Option<Millis>,
    pub connections: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    Pause,
    Rollback,
    /// Goes on within the budgets, and fails at the progress deadline.
    Continue,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSettings {
    pub max_surge: Option<CountOrPercent>,
    pub max_unavailable: Option<CountOrPercent>,
    pub batch: Option<u32>,
    pub delay_ms: Millis,
    pub order: Option<Order>,
    pub bake_time_ms: Millis,
    pub min_healthy_time_ms: Millis,
    pub healthy_deadline_ms: Millis,
    pub progress_deadline_ms: Millis,
    pub on_failure: OnFailure,
    pub max_failures: CountOrPercent,
    pub drain_timeout_ms: Millis,
    pub stop_grace_period_ms: Millis,
    /// How many revisions are kept to go back to, besides the one that runs.
    #[serde(default = "history_limit")]
    pub history_limit: u32,
}

fn history_limit() -> u32 {
    10
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            max_surge: None,
            max_unavailable: None,
            batch: None,
            delay_ms: 0,
            order: None,
            bake_time_ms: 0,
            min_healthy_time_ms: 0,
            healthy_deadline_ms: 5 * 60_000,
            progress_deadline_ms: 10 * 60_000,
            on_failure: OnFailure::Pause,
            max_failures: CountOrPercent::Count(1),
            drain_timeout_ms: 30_000,
            stop_grace_period_ms: 10_000,
            history_limit: history_limit(),
        }
    }
}

/// A setting that cannot hold, with the key it stands under, so that the place in the file can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted: `rollout.max_surge`.
    pub key: &'static str,
    pub message: String,
    pub hint: String,
}

/// A year: longer is a mistake, and sums of such times never overflow.
pub const LONGEST_MS: Millis = 365 * 24 * 3_600_000;
/// The most replicas that are accepted.
pub const MAX_REPLICAS: u32 = 1_000_000;

impl AppSettings {
    pub fn budget(&self) -> Budget {
        let rollout = &self.rollout;
        Budget::resolve(
            self.replicas,
            Written {
                surge: rollout.max_surge,
                unavailable: rollout.max_unavailable,
                batch: rollout.batch,
                order: rollout.order,
                fixed_port: self.fixed_port,
            },
        )
    }

    /// How many failed attempts of the target end the patience: at least 1.
    pub fn max_failures(&self) -> u32 {
        self.rollout.max_failures.round_up(self.replicas).max(1)
    }

    /// Every problem, not only the first.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut refuse = |key, message: String, hint: &str| {
            found.push(Problem { key, message, hint: hint.to_owned() });
        };
        let r = &self.rollout;
        if self.replicas > MAX_REPLICAS {
            refuse(
                "replicas",
                format!("{} replicas are more than {MAX_REPLICAS}", self.replicas),
                "use fewer",
            );
        }
        for (key, ms) in [
            ("rollout.delay", r.delay_ms),
            ("rollout.bake_time", r.bake_time_ms),
            ("rollout.min_healthy_time", r.min_healthy_time_ms),
            ("rollout.healthy_deadline", r.healthy_deadline_ms),
            ("rollout.progress_deadline", r.progress_deadline_ms),
            ("rollout.drain_timeout", r.drain_timeout_ms),
            ("rollout.stop_grace_period", r.stop_grace_period_ms),
        ] {
            if ms > LONGEST_MS {
                refuse(key, format!("{ms} ms are longer than a year"), "use less");
            }
        }
        if self.fixed_port && self.replicas > 1 {
            let message = format!("a fixed port can serve one instance, but replicas = {}", self.replicas);
            refuse("run.port", message, "use port = \"auto\", or replicas = 1");
        }
        let zero = |value: Option<CountOrPercent>| value.is_some_and(CountOrPercent::is_literal_zero);
        if zero(r.max_surge) && zero(r.max_unavailable) {
            let message = "max_surge and max_unavailable are both 0: nothing could ever move".to_owned();
            refuse("rollout.max_unavailable", message, "set one of them to at least 1");
        }
        if let Some(CountOrPercent::Percent(p @ 101..)) = r.max_unavailable {
            refuse("rollout.max_unavailable", format!("{p}% is more than all of them"), "use at most 100%");
        }
        if let Some(CountOrPercent::Count(n)) = r.max_surge
            && n > MAX_REPLICAS
        {
            refuse(
                "rollout.max_surge",
                format!("{n} is more than {MAX_REPLICAS}"),
                "use fewer, or a percentage",
            );
        }
        if r.batch == Some(0) {
            refuse(
                "rollout.batch",
                "a batch of 0 would never finish".to_owned(),
                "use at least 1, or leave it out",
            );
        }
        if r.batch.is_none() && r.delay_ms > 0 {
            let message = "delay is the pause between batches, but there is no batch".to_owned();
            refuse("rollout.delay", message, "add batch = N, or use min_healthy_time");
        }
        if r.max_failures.is_literal_zero() {
            let message = "max_failures = 0 would stop before anything failed".to_owned();
            refuse("rollout.max_failures", message, "1 stops at the first failure");
        }
        if r.healthy_deadline_ms == 0 {
            refuse("rollout.healthy_deadline", "nothing is ready in no time".to_owned(), "try \"5m\"");
        }
        let least = r.healthy_deadline_ms.saturating_add(r.min_healthy_time_ms);
        if r.progress_deadline_ms < least {
            let message = format!(
                "progress_deadline is {} s, but one instance alone may take healthy_deadline + min_healthy_time = {} s",
                r.progress_deadline_ms as f64 / 1000.0,
                least as f64 / 1000.0
            );
            refuse(
                "rollout.progress_deadline",
                message,
                "raise it to at least that, or lower healthy_deadline",
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: fn(&mut AppSettings), expect: &[&str]) {
        let mut settings = AppSettings {
            replicas: 8,
            rollout: RolloutSettings::default(),
            listen: None,
            fixed_port: false,
            gates: Vec::new(),
        };
        change(&mut settings);
        let keys: Vec<_> = settings.problems().iter().map(|p| p.key).collect();
        assert_eq!(keys, expect);
    }

    #[test]
    fn every_setting_that_cannot_hold_is_named() {
        use CountOrPercent::{Count, Percent};
        check(|_| (), &[]);
        check(
            |s| (s.rollout.max_surge, s.rollout.max_unavailable) = (Some(Count(0)), Some(Percent(0))),
            &["rollout.max_unavailable"],
        );
        check(|s| s.rollout.max_unavailable = Some(Percent(101)), &["rollout.max_unavailable"]);
        check(|s| s.rollout.max_surge = Some(Percent(200)), &[]);
        check(|s| s.rollout.batch = Some(0), &["rollout.batch"]);
        check(|s| s.rollout.delay_ms = 1, &["rollout.delay"]);
        check(|s| s.rollout.max_failures = Count(0), &["rollout.max_failures"]);
        check(|s| s.rollout.progress_deadline_ms = 299_999, &["rollout.progress_deadline"]);
        check(|s| s.rollout.min_healthy_time_ms = 300_001, &["rollout.progress_deadline"]);
        check(|s| s.fixed_port = true, &["run.port"]);
        check(|s| s.rollout.drain_timeout_ms = LONGEST_MS + 1, &["rollout.drain_timeout"]);
    }
}
