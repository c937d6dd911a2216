//! Rise and fall: when a row of probe results turns into "up" or "down". Pure; the probing is the driver's.

/// Hysteresis over single probe results, so that one lost packet does not move traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RiseFall {
    rise: u32,
    fall: u32,
    up: bool,
    /// Results in a row that speak against the present side.
    against: u32,
}

impl RiseFall {
    /// Begins down. `rise` and `fall` of 0 are read as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), up: false, against: 0 }
    }

    pub fn is_up(self) -> bool {
        self.up
    }

    /// Takes one result; answers `Some(up)` when the side changes.
    pub fn observe(&mut self, success: bool) -> Option<bool> {
        if success == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < if self.up { self.fall } else { self.rise } {
            return None;
        }
        self.up = success;
        self.against = 0;
        Some(self.up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rise: u32, fall: u32, results: &str, expect: &str) {
        let mut health = RiseFall::new(rise, fall);
        let sides: String = results
            .chars()
            .map(|c| {
                health.observe(c == '+');
                if health.is_up() { 'U' } else { 'd' }
            })
            .collect();
        assert_eq!(sides, expect, "rise {rise}, fall {fall}, {results}");
    }

    #[test]
    fn turns_only_after_enough_in_a_row() {
        check(1, 3, "-+--+---+", "dUUUUUUdU");
        check(2, 1, "+-++-", "dddUd");
        check(0, 0, "+-", "Ud");
    }
}
