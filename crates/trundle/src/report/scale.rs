//! From values to places in a picture, and the round numbers that stand beside it.

/// Where a moment stands: the same for every picture of a page, so that they can be read one above the other.
#[derive(Debug, Clone, Copy)]
pub struct TimeScale {
    pub from_ms: u64,
    pub until_ms: u64,
    /// What is called 0 s.
    pub zero_ms: u64,
    pub left: f64,
    pub right: f64,
}

impl TimeScale {
    pub fn x(&self, at_ms: u64) -> f64 {
        let span = (self.until_ms - self.from_ms).max(1) as f64;
        let inside = at_ms.clamp(self.from_ms, self.until_ms) - self.from_ms;
        self.left + (self.right - self.left) * inside as f64 / span
    }

    /// Round moments after zero, at least `apart` pixels from each other, with their words.
    pub fn ticks(&self, apart: f64) -> Vec<(u64, String)> {
        const STEPS_S: [f64; 18] = [
            0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
            7200.0, 21_600.0, 86_400.0,
        ];
        let span_s = (self.until_ms - self.from_ms).max(1) as f64 / 1e3;
        let room = ((self.right - self.left) / apart).max(1.0);
        let known = STEPS_S.into_iter().find(|step| span_s / step <= room);
        let step_ms = (known.unwrap_or_else(|| (span_s / room).ceil()) * 1e3) as u64;
        let moments = (0..).map(|n| self.zero_ms + n * step_ms).take_while(|at| *at <= self.until_ms);
        moments.map(|at| (at, since(at - self.zero_ms))).collect()
    }
}

/// `0.5 s`, `12 s`, `3 min`, `1 min 30 s`, `2 h`: for an axis.
fn since(ms: u64) -> String {
    match (ms, ms / 1000) {
        (_, 0..60) if !ms.is_multiple_of(1000) => format!("{} s", ms as f64 / 1e3),
        (_, s @ 0..60) => format!("{s} s"),
        (_, s) if s.is_multiple_of(3600) => format!("{} h", s / 3600),
        (_, s) if s > 3600 => format!("{} h {} min", s / 3600, s / 60 % 60),
        (_, s) if s.is_multiple_of(60) => format!("{} min", s / 60),
        (_, s) => format!("{} min {} s", s / 60, s % 60),
    }
}

/// Where a number stands, 0 at the bottom.
#[derive(Debug, Clone, Copy)]
pub struct ValueScale {
    /// At the top.
    pub most: f64,
    pub top: f64,
    pub bottom: f64,
}

impl ValueScale {
    /// Up to a round number that has room for `most`.
    pub fn up_to(most: f64, top: f64, bottom: f64) -> Self {
        let step = step_for(most);
        Self { most: (most / step).ceil().max(1.0) * step, top, bottom }
    }

    pub fn y(&self, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * (value / self.most).clamp(0.0, 1.0)
    }

    pub fn ticks(&self) -> Vec<f64> {
        let step = step_for(self.most);
        (0..=10).map(|n| f64::from(n) * step).take_while(|v| *v <= self.most).collect()
    }
}

/// 1, 2 or 5 times a power of ten, so that there are three to six steps.
fn step_for(most: f64) -> f64 {
    let rough = (most / 5.0).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|n| n * power >= rough * 0.999).unwrap_or(10.0) * power;
    // What is counted has no halves.
    step.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_stand_between_left_and_right() {
        let scale = TimeScale { from_ms: 900, until_ms: 4_900, zero_ms: 1_000, left: 100.0, right: 500.0 };
        assert_eq!([900, 2_900, 4_900, 0, 9_999].map(|at| scale.x(at)), [100.0, 300.0, 500.0, 100.0, 500.0]);
        let words = scale.ticks(80.0);
        assert_eq!(
            words,
            [(1_000, "0 s".to_owned()), (2_000, "1 s".into()), (3_000, "2 s".into()), (4_000, "3 s".into())]
        );
        assert_eq!(scale.ticks(40.0)[1].1, "0.5 s");
    }

    #[test]
    fn a_span_of_any_length_has_a_few_ticks() {
        for span_ms in [0, 1, 700, 5_000, 61_000, 3_600_000, 86_400_000, 40 * 86_400_000] {
            let scale = TimeScale { from_ms: 0, until_ms: span_ms, zero_ms: 0, left: 0.0, right: 800.0 };
            let ticks = scale.ticks(80.0);
            assert!((1..=11).contains(&ticks.len()), "{span_ms}: {ticks:?}");
        }
        assert_eq!(
            [1_500, 60_000, 90_000, 7_200_000, 9_000_000].map(since),
            ["1.5 s", "1 min", "1 min 30 s", "2 h", "2 h 30 min"]
        );
    }

    #[test]
    fn values_end_at_a_round_number() {
        for (most, top, ticks) in
            [(9.0, 10.0, 6), (0.0, 1.0, 2), (3.0, 3.0, 4), (780.0, 800.0, 5), (1e6, 1e6, 6)]
        {
            let scale = ValueScale::up_to(most, 0.0, 100.0);
            assert_eq!((scale.most, scale.ticks().len()), (top, ticks), "{most}");
            assert_eq!((scale.y(0.0), scale.y(top), scale.y(top * 2.0)), (100.0, 0.0, 0.0));
        }
    }
}
