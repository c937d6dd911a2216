//! How many may be missing and how many may be extra: the arithmetic of the Kubernetes Deployment, exactly.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of instances, or a share of the desired number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CountOrPercentText", into = "CountOrPercentText")]
pub enum CountOrPercent {
    Count(u32),
    Percent(u32),
}

impl CountOrPercent {
    /// Of `desired`, rounded up: 25 % of 10 is 3. Used for surge and for the failure budget.
    pub fn round_up(self, desired: u32) -> u32 {
        match self {
            Self::Count(n) => n,
            Self::Percent(p) => clamp((u64::from(p) * u64::from(desired)).div_ceil(100)),
        }
    }

    /// Of `desired`, rounded down: 25 % of 10 is 2. Used for unavailable.
    pub fn round_down(self, desired: u32) -> u32 {
        match self {
            Self::Count(n) => n,
            Self::Percent(p) => clamp(u64::from(p) * u64::from(desired) / 100),
        }
    }

    /// `0` and `0%` as written, whatever they resolve to.
    pub fn is_literal_zero(self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }
}

fn clamp(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl fmt::Display for CountOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
        }
    }
}

impl FromStr for CountOrPercent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "\"{}\" is neither a count such as 2 nor a percentage such as \"25%\"",
                text.escape_debug()
            )
        };
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u32>().ok()).flatten();
        match text.strip_suffix('%') {
            Some(number) => digits(number).filter(|p| *p <= 10_000).map(Self::Percent),
            None => digits(text).map(Self::Count),
        }
        .ok_or_else(refuse)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum CountOrPercentText {
    Count(i64),
    Text(String),
}

impl TryFrom<CountOrPercentText> for CountOrPercent {
    type Error = String;
    fn try_from(raw: CountOrPercentText) -> Result<Self, String> {
        match raw {
            CountOrPercentText::Count(n) => {
                u32::try_from(n).map(Self::Count).map_err(|_| format!("{n} is not a number of instances"))
            }
            CountOrPercentText::Text(text) => text.parse(),
        }
    }
}

impl From<CountOrPercent> for CountOrPercentText {
    fn from(value: CountOrPercent) -> Self {
        match value {
            CountOrPercent::Count(n) => Self::Count(i64::from(n)),
            CountOrPercent::Percent(_) => Self::Text(value.to_string()),
        }
    }
}

/// Which of the two bounds a rollout leans on when neither is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    StartFirst,
    StopFirst,
}

/// The resolved bounds for a desired number of instances. Invariant: surge + unavailable ≥ 1 when desired ≥ 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Budget {
    pub desired: u32,
    pub surge: u32,
    pub unavailable: u32,
}

/// What was written, to be resolved against a desired number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub surge: Option<CountOrPercent>,
    pub unavailable: Option<CountOrPercent>,
    pub batch: Option<u32>,
    pub order: Option<Order>,
    pub fixed_port: bool,
}

impl Budget {
    /// Percentages of surge round up, of unavailable down; if both come out as 0, one may be unavailable.
    ///
    /// 10 desired, 25 %/25 %: surge 3, unavailable 2. 1 desired: 1/0. 4: 1/1. 1 % of 5 at surge 0: 0/1.
    pub fn resolve(desired: u32, written: Written) -> Self {
        let Written { batch, order, fixed_port, .. } = written;
        if fixed_port {
            return Self { desired, surge: 0, unavailable: desired.min(1) };
        }
        let quarter = CountOrPercent::Percent(25);
        let surge = written.surge.map(|s| s.round_up(desired)).unwrap_or_else(|| match order {
            Some(Order::StopFirst) => 0,
            Some(Order::StartFirst) => batch.unwrap_or_else(|| quarter.round_up(desired)),
            None => quarter.round_up(desired),
        });
        let unavailable = written.unavailable.map(|u| u.round_down(desired)).unwrap_or_else(|| match order {
            Some(Order::StartFirst) => 0,
            Some(Order::StopFirst) => batch.unwrap_or_else(|| quarter.round_down(desired).max(1)),
            None => quarter.round_down(desired),
        });
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { desired, surge, unavailable: unavailable.min(desired) }
    }

    /// The fewest available instances that the engine may bring about: desired − unavailable.
    pub fn floor(self) -> u32 {
        self.desired - self.unavailable
    }

    /// The most live instances: desired + surge.
    pub fn ceiling(self) -> u32 {
        self.desired.saturating_add(self.surge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(desired: u32, surge: &str, unavailable: &str, expect: (u32, u32)) {
        let read = |s: &str| (s != "-").then(|| s.parse().unwrap());
        let written = Written {
            surge: read(surge),
            unavailable: read(unavailable),
            batch: None,
            order: None,
            fixed_port: false,
        };
        let budget = Budget::resolve(desired, written);
        assert_eq!((budget.surge, budget.unavailable), expect, "{desired} at {surge}/{unavailable}");
    }

    #[test]
    fn resolves_as_kubernetes_does() {
        for (desired, expect) in
            [(1, (1, 0)), (3, (1, 0)), (4, (1, 1)), (5, (2, 1)), (10, (3, 2)), (15, (4, 3))]
        {
            check(desired, "-", "-", expect);
            check(desired, "25%", "25%", expect);
        }
        check(5, "0", "1%", (0, 1));
        check(8, "1", "1", (1, 1));
        check(8, "200%", "0", (16, 0));
        check(2, "0", "5", (0, 2));
        check(0, "25%", "25%", (0, 0));
        check(1_000_000, "25%", "25%", (250_000, 250_000));
    }

    #[test]
    fn order_chooses_only_what_is_not_written() {
        let resolve = |order, batch, surge| {
            let written = Written { surge, unavailable: None, batch, order, fixed_port: false };
            let budget = Budget::resolve(10, written);
            (budget.surge, budget.unavailable)
        };
        assert_eq!(resolve(Some(Order::StartFirst), Some(2), None), (2, 0));
        assert_eq!(resolve(Some(Order::StopFirst), Some(2), None), (0, 2));
        assert_eq!(resolve(Some(Order::StartFirst), None, None), (3, 0));
        assert_eq!(resolve(Some(Order::StopFirst), None, None), (0, 2));
        assert_eq!(resolve(None, Some(2), None), (3, 2));
        assert_eq!(resolve(Some(Order::StopFirst), Some(2), Some(CountOrPercent::Count(1))), (1, 2));
    }

    #[test]
    fn a_fixed_port_stops_first() {
        let written = Written {
            surge: Some(CountOrPercent::Count(3)),
            unavailable: None,
            batch: None,
            order: Some(Order::StartFirst),
            fixed_port: true,
        };
        assert_eq!(Budget::resolve(1, written), Budget { desired: 1, surge: 0, unavailable: 1 });
    }

    #[test]
    fn text_that_is_no_count_is_refused() {
        for bad in ["", "%", "-1", "+1", "1.5", "25 %", "1e3", "99999999999", "10001%"] {
            assert!(bad.parse::<CountOrPercent>().is_err(), "{bad:?}");
        }
    }
}
