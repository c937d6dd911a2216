//! How long something takes: always the same, or drawn anew each time.

use std::fmt;
use std::str::FromStr;

use trundle_core::Millis;

/// `2s`, `1s..5s` (each as likely), `2s~500ms` (normal, never below 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    Always(Millis),
    Between(Millis, Millis),
    Around(Millis, Millis),
}

impl Spread {
    pub fn draw(self, chance: &mut fastrand::Rng) -> Millis {
        match self {
            Self::Always(ms) => ms,
            Self::Between(least, most) => chance.u64(least..=most.max(least)),
            Self::Around(mean, deviation) => {
                // Twelve even draws less six: near enough to a normal one, and bounded.
                let unit = (0..12).map(|_| chance.f64()).sum::<f64>() - 6.0;
                (mean as f64 + unit * deviation as f64).max(0.0) as Millis
            }
        }
    }

    /// What it is on average.
    pub fn mean(self) -> Millis {
        match self {
            Self::Always(ms) | Self::Around(ms, _) => ms,
            Self::Between(least, most) => least.midpoint(most),
        }
    }
}

/// The text is no [`Spread`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSpread(String);

impl fmt::Display for BadSpread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.escape_debug();
        write!(f, "\"{text}\" is no time; write 2s, 1s..5s (anything between), or 2s~500ms (around 2 s)")
    }
}

impl std::error::Error for BadSpread {}

impl FromStr for Spread {
    type Err = BadSpread;
    fn from_str(text: &str) -> Result<Self, BadSpread> {
        let bad = || BadSpread(text.to_owned());
        let read = |part: &str| millis(part.trim()).ok_or_else(bad);
        if let Some((least, most)) = text.split_once("..") {
            let (least, most) = (read(least)?, read(most)?);
            return if least <= most { Ok(Self::Between(least, most)) } else { Err(bad()) };
        }
        match text.split_once('~') {
            Some((mean, deviation)) => Ok(Self::Around(read(mean)?, read(deviation)?)),
            None => Ok(Self::Always(read(text)?)),
        }
    }
}

/// `250ms`, `1.5s`, `2m`, `1h`; up to a year.
fn millis(text: &str) -> Option<Millis> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let ms = number.parse::<f64>().ok()? * factor;
    (0.0..=31_536_000_000.0).contains(&ms).then_some(ms as Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Spread>().ok();
        assert_eq!(read("1.5s"), Some(Spread::Always(1_500)));
        assert_eq!(read("1s..5s"), Some(Spread::Between(1_000, 5_000)));
        assert_eq!(read("2m~10s"), Some(Spread::Around(120_000, 10_000)));
        for bad in ["", "5", "s", "-1s", "5s..1s", "1s~", "9e9h", "1d"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn draws_stay_in_their_bounds_and_near_their_mean() {
        let mut chance = fastrand::Rng::with_seed(1);
        for spread in [Spread::Between(10, 30), Spread::Around(100, 20), Spread::Always(7)] {
            let drawn: Vec<_> = (0..10_000).map(|_| spread.draw(&mut chance)).collect();
            let mean = drawn.iter().sum::<u64>() / 10_000;
            assert!(mean.abs_diff(spread.mean()) <= 2, "{spread:?}: {mean}");
            if let Spread::Between(least, most) = spread {
                assert!(drawn.iter().all(|d| (least..=most).contains(d)));
            }
        }
    }
}
