//! Requests per second out of counts that only grow.

use super::samples::Sample;

#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// Those that answered anything in this time.
    pub versions: Vec<String>,
    pub bins: Vec<Bin>,
    /// When a request was lost, crashed or cut, and how many.
    pub bad: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Bin {
    pub from_ms: u64,
    pub until_ms: u64,
    /// Answers a second, in the order of the versions.
    pub per_second: Vec<f64>,
}

/// Between two samples the count is taken to grow evenly, so the mean of each bin is right, and their sum is exact.
pub fn rates(samples: &[Sample], until_ms: u64, most_bins: u64) -> Rates {
    let inside = samples.iter().take_while(|s| s.at_ms <= until_ms).count();
    // The first beyond the edge says how it went on up to there.
    let series = Series::of(&samples[..samples.len().min(inside + 1)]);
    let (Some(first), Some(last)) = (series.at_ms.first().copied(), series.at_ms.last().copied()) else {
        return Rates { versions: Vec::new(), bins: Vec::new(), bad: Vec::new() };
    };
    let end = last.min(until_ms);
    // Finer than the samples nothing is known.
    let apart = (last - first) * 3 / 4 / (series.at_ms.len() as u64 - 1).max(1);
    let width = width_for((end - first).div_ceil(most_bins.max(1)).max(apart));
    let mut edges: Vec<u64> = (0..).map(|n| first + n * width).take_while(|at| *at < end).collect();
    // The rest of a bin is too short to have a mean of its own.
    if edges.len() > 1 && edges.last().is_some_and(|last| end - last < width / 2) {
        edges.pop();
    }
    edges.push(end);
    let bins = edges.windows(2).map(|edge| {
        let (from, until) = (series.at(edge[0]), series.at(edge[1]));
        let seconds = (edge[1] - edge[0]) as f64 / 1e3;
        let per_second = from.iter().zip(&until).map(|(a, b)| (b - a) / seconds).collect();
        Bin { from_ms: edge[0], until_ms: edge[1], per_second }
    });
    let bins = bins.collect();
    Rates { versions: series.versions, bins, bad: series.bad }
}

/// The first round width that is not below this.
fn width_for(least_ms: u64) -> u64 {
    const WIDTHS_MS: [u64; 12] =
        [250, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 300_000, 600_000, 1_800_000];
    WIDTHS_MS.into_iter().find(|width| *width >= least_ms).unwrap_or(least_ms)
}

/// What was counted since the first sample; never less than before.
struct Series {
    versions: Vec<String>,
    at_ms: Vec<u64>,
    /// For each moment, in the order of the versions.
    counts: Vec<Vec<f64>>,
    bad: Vec<(u64, u64)>,
}

impl Series {
    fn of(samples: &[Sample]) -> Self {
        let labels = samples.iter().flat_map(|s| s.requests.by_version.keys());
        let mut versions: Vec<String> = labels.cloned().collect();
        versions.sort_unstable();
        versions.dedup();
        let mut series = Self { versions, at_ms: Vec::new(), counts: Vec::new(), bad: Vec::new() };
        let mut sums = vec![0.0; series.versions.len()];
        for (n, sample) in samples.iter().enumerate() {
            if let Some(before) = n.checked_sub(1).map(|n| &samples[n].requests) {
                let now = &sample.requests;
                // Fewer than before: it began to count anew.
                let since = if now.total >= before.total { now.since(before) } else { now.clone() };
                for (sum, version) in sums.iter_mut().zip(&series.versions) {
                    *sum += since.by_version.get(version).copied().unwrap_or(0) as f64;
                }
                let bad = since.lost + since.crashed + since.cut;
                if bad > 0 {
                    series.bad.push((sample.at_ms, bad));
                }
            }
            series.at_ms.push(sample.at_ms);
            series.counts.push(sums.clone());
        }
        series.keep_those_that_answered(&sums);
        series
    }

    fn keep_those_that_answered(&mut self, sums: &[f64]) {
        let mut keep = sums.iter().map(|sum| *sum > 0.0);
        self.versions.retain(|_| keep.next().unwrap_or(false));
        for counts in &mut self.counts {
            let mut keep = sums.iter().map(|sum| *sum > 0.0);
            counts.retain(|_| keep.next().unwrap_or(false));
        }
    }

    fn at(&self, at_ms: u64) -> Vec<f64> {
        let after = self.at_ms.partition_point(|at| *at < at_ms).min(self.at_ms.len() - 1);
        let before = after.saturating_sub(1);
        let span = (self.at_ms[after] - self.at_ms[before]) as f64;
        let share = if span > 0.0 { (at_ms - self.at_ms[before]) as f64 / span } else { 1.0 };
        let (a, b) = (&self.counts[before], &self.counts[after]);
        a.iter().zip(b).map(|(a, b)| a + (b - a) * share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trundle_core::event::Requests;

    fn sample(at_ms: u64, old: u64, new: u64, lost: u64) -> Sample {
        let by_version = [("1".to_owned(), old), ("2".to_owned(), new), ("0".to_owned(), 77)].into();
        Sample {
            at_ms,
            requests: Requests { total: old + new + lost, lost, by_version, ..Requests::default() },
        }
    }

    #[test]
    fn each_bin_has_its_mean_and_the_sum_is_exact() {
        let samples = [
            sample(1_000, 50, 0, 0),
            sample(2_000, 60, 0, 0),
            sample(3_000, 60, 20, 0),
            sample(5_000, 60, 60, 1),
        ];
        let rates = rates(&samples, 9_000, 4);
        assert_eq!(rates.versions, ["1", "2"], "what answered nothing here is left out");
        let per_second: Vec<_> = rates.bins.iter().map(|b| b.per_second.clone()).collect();
        assert_eq!(per_second, [[10.0, 0.0], [0.0, 20.0], [0.0, 20.0], [0.0, 20.0]]);
        assert_eq!(rates.bad, [(5_000, 1)]);
    }

    #[test]
    fn counts_that_begin_anew_count_from_nothing() {
        let samples = [sample(0, 500, 0, 0), sample(1_000, 8, 0, 0), sample(2_000, 16, 0, 0)];
        let rates = rates(&samples, 2_000, 2);
        assert_eq!(rates.bins.iter().map(|b| b.per_second[1]).collect::<Vec<_>>(), [8.0, 8.0]);
    }

    #[test]
    fn what_is_not_there_is_no_picture() {
        assert!(rates(&[], 2_000, 10).bins.is_empty());
        assert!(rates(&[sample(1_000, 5, 5, 0)], 2_000, 10).versions.is_empty(), "one moment is no time");
        let later = [sample(1_000, 0, 0, 0), sample(3_000, 20, 0, 0)];
        let cut = rates(&later, 2_000, 1);
        assert_eq!((cut.bins[0].until_ms, cut.bins[0].per_second[0]), (2_000, 10.0), "only what is shown");
    }
}
