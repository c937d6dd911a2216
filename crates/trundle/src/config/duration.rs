//! Durations as people write them: `250ms`, `1s`, `5m`, `1h30m`. Never a number without a unit.

use trundle_core::Millis;
use trundle_core::settings::LONGEST_MS;

/// Milliseconds, or what is wrong with the text.
pub fn parse(text: &str) -> Result<Millis, &'static str> {
    const SHAPE: &str = "is not a duration";
    let mut rest = text;
    let mut total: Millis = 0;
    let mut largest_left = Millis::MAX;
    if rest.is_empty() {
        return Err(SHAPE);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(SHAPE);
        }
        let unit_ms: Millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "" if tail.is_empty() => return Err("has no unit"),
            _ => return Err(SHAPE),
        };
        // Larger units first, each once: "30m1h" and "1s1s" are slips.
        if unit_ms >= largest_left {
            return Err(SHAPE);
        }
        largest_left = unit_ms;
        let part = number.parse::<Millis>().ok().and_then(|n| n.checked_mul(unit_ms));
        total = part
            .and_then(|part| total.checked_add(part))
            .filter(|t| *t <= LONGEST_MS)
            .ok_or("is longer than a year")?;
        rest = tail;
    }
    Ok(total)
}

/// As people would write it, in the largest unit that fits.
pub fn text(ms: Millis) -> String {
    match ms {
        ms if ms > 0 && ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms > 0 && ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_and_nothing_else() {
        for (text, expect) in [
            ("250ms", Ok(250)),
            ("0s", Ok(0)),
            ("1h30m", Ok(5_400_000)),
            ("1m1s1ms", Ok(61_001)),
            ("5", Err("has no unit")),
            ("1m5", Err("has no unit")),
            ("", Err("is not a duration")),
            ("-1s", Err("is not a duration")),
            ("1.5s", Err("is not a duration")),
            ("1 s", Err("is not a duration")),
            ("30m1h", Err("is not a duration")),
            ("1d", Err("is not a duration")),
            ("9999h", Err("is longer than a year")),
            ("99999999999999999999s", Err("is longer than a year")),
        ] {
            assert_eq!(parse(text), expect, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (ms, expect) in [(0, "0s"), (250, "250ms"), (90_000, "90s"), (600_000, "10m"), (7_200_000, "2h")]
        {
            assert_eq!(text(ms), expect);
            assert_eq!(parse(expect), Ok(ms));
        }
    }
}
