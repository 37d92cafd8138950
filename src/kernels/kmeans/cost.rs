//! The cost of a cluster of neighbouring items in constant time.
//!
//! The sum of squared distances of items i..j to their mean is Q - S^2 / W, with their number of values W, sum S and
//! sum of squares Q: differences of prefix sums. This cost is Monge (Wu, "Optimal quantization by matrix searching",
//! Journal of Algorithms 12, 1991): cost(a, c) + cost(b, d) <= cost(a, d) + cost(b, c) for a <= b <= c <= d, which all
//! the searches of this module rest upon.
//!
//! Such differences cancel. Some things keep enough digits:
//!
//! - Sums run outwards from a centre, to both sides. A sum then holds no squares larger than those of the items it is a
//!   difference for, or of those beyond.
//! - One item costs nothing. Computed, it would cost the rounding of its square, and one far outlier's may be more than
//!   all else.
//! - [`FastCost`] takes float64 sums around the mean and [`FastCost::error_bound`] says how far off a cost can be.
//!   Where that is too much, [`PreciseCost`] takes double-double sums around zero. A sum of n squares up to x^2 is then
//!   known to n x^2 2^-104, while two different float32 values near x make a cost of x^2 2^-50 at least: a relative
//!   error of n 2^-54 in the worst case, far less in any other.

use multiversion::multiversion;

use super::double::{Double, RunningSum};
use super::items::Items;

/// Costs of clusters of neighbouring items.
pub(super) trait ClusterCost: Sized {
    /// Number of items.
    fn len(&self) -> usize;

    /// Sum of squared distances of the items `start..end` to their mean. `start < end <= len`.
    fn cost(&self, start: usize, end: usize) -> f64;

    /// The number of values of the items `start..end`.
    fn count(&self, start: usize, end: usize) -> f64;

    /// The mean of the items `start..end`, from some origin.
    fn mean(&self, start: usize, end: usize) -> f64;

    /// The number of values of the items `start..end`, and the sum of their distances above `mean`.
    fn above(&self, mean: f64, start: usize, end: usize) -> (f64, f64);

    /// Writes `before + cost(start, end)` for as many starts from `first_start` on as there are in `before`, all below
    /// `end`.
    fn add_costs(&self, first_start: usize, end: usize, before: &[f64], out: &mut [f64]) {
        for (start, (out, before)) in (first_start..).zip(out.iter_mut().zip(before)) {
            *out = before + self.cost(start, end);
        }
    }

    /// The costs for bins of items, which end before the items `ends`.
    fn of_bins(&self, ends: &[u32]) -> Self;
}

/// The prefix sums at the bins' ends.
fn at_ends<T: Copy>(sums: &[T], ends: &[u32]) -> Vec<T> {
    std::iter::once(&0).chain(ends).map(|&end| sums[end as usize]).collect()
}

/// Costs in float64.
#[derive(Debug, Default)]
pub(super) struct FastCost {
    /// Prefix sums of counts, of values and of squares, len + 1 entries each.
    pub(super) counts: Vec<f64>,
    pub(super) sums: Vec<f64>,
    pub(super) squares: Vec<f64>,
}

impl FastCost {
    pub(super) fn new(items: &Items) -> Self {
        // A float32 for a centre: most differences to it are exact.
        let total = items.counts.iter().sum::<f64>();
        let centre = f64::from((items.sums.iter().sum::<f64>() / total) as f32);
        let first_above = items.means.partition_point(|&mean| mean < centre);
        let mut cost = Self {
            counts: prefix_counts(items),
            sums: vec![0.0; items.len() + 1],
            squares: vec![0.0; items.len() + 1],
        };
        let shifted = |at: usize| {
            let mean = items.means[at] - centre;
            let sum = mean * items.counts[at];
            (sum, sum * mean)
        };
        let (mut sum, mut square) = (RunningSum::default(), RunningSum::default());
        for at in first_above..items.len() {
            let (s, q) = shifted(at);
            sum.add(s);
            square.add(q);
            (cost.sums[at + 1], cost.squares[at + 1]) = (sum.total(), square.total());
        }
        (sum, square) = Default::default();
        for at in (0..first_above).rev() {
            let (s, q) = shifted(at);
            sum.add(-s);
            square.add(-q);
            (cost.sums[at], cost.squares[at]) = (sum.total(), square.total());
        }
        cost
    }

    /// How far [`cost`](ClusterCost::cost) can be from the true cost, for any cluster.
    pub(super) fn error_bound(&self) -> f64 {
        let ends =
            |sums: &[f64]| [sums.first(), sums.last()].into_iter().flatten().fold(0.0, |max, x| x.abs().max(max));
        let largest = match (self.sums.as_slice(), self.counts.as_slice()) {
            // The outermost items are the farthest from the centre; theirs are the first and last steps of the sums.
            ([s0, s1, .., s2, s3], [w0, w1, .., w2, w3]) => {
                ((s1 - s0) / (w1 - w0)).abs().max(((s3 - s2) / (w3 - w2)).abs())
            }
            _ => 0.0,
        };
        f64::EPSILON * (ends(&self.squares) + 2.0 * largest * ends(&self.sums))
    }
}

impl ClusterCost for FastCost {
    #[inline(always)]
    fn len(&self) -> usize {
        self.counts.len() - 1
    }

    #[inline(always)]
    fn cost(&self, start: usize, end: usize) -> f64 {
        if end - start == 1 {
            return 0.0;
        }
        let sum = self.sums[end] - self.sums[start];
        let cost = (self.squares[end] - self.squares[start]) - sum * sum / (self.counts[end] - self.counts[start]);
        cost.max(0.0)
    }

    #[inline(always)]
    fn count(&self, start: usize, end: usize) -> f64 {
        self.counts[end] - self.counts[start]
    }

    #[inline(always)]
    fn mean(&self, start: usize, end: usize) -> f64 {
        (self.sums[end] - self.sums[start]) / (self.counts[end] - self.counts[start])
    }

    #[inline(always)]
    fn above(&self, mean: f64, start: usize, end: usize) -> (f64, f64) {
        let count = self.counts[end] - self.counts[start];
        (count, (self.sums[end] - self.sums[start]) - mean * count)
    }

    fn add_costs(&self, first_start: usize, end: usize, before: &[f64], out: &mut [f64]) {
        let starts = first_start..first_start + before.len();
        let at_end = [self.counts[end], self.sums[end], self.squares[end]];
        let at_starts = [&self.counts[starts.clone()], &self.sums[starts.clone()], &self.squares[starts]];
        add_costs(at_end, at_starts, before, out);
        if first_start + before.len() == end
            && let (Some(out), Some(before)) = (out.last_mut(), before.last())
        {
            *out = *before;
        }
    }

    fn of_bins(&self, ends: &[u32]) -> Self {
        let Self { counts, sums, squares } = self;
        Self { counts: at_ends(counts, ends), sums: at_ends(sums, ends), squares: at_ends(squares, ends) }
    }
}

/// `before` plus the cost from each start to the end, from their prefix sums of counts, values and squares.
#[multiversion(targets("x86_64+avx2"))]
fn add_costs(at_end: [f64; 3], at_starts: [&[f64]; 3], before: &[f64], out: &mut [f64]) {
    let [count, sum, square] = at_end;
    let [counts, sums, squares] = at_starts;
    for ((((out, before), c), s), q) in out.iter_mut().zip(before).zip(counts).zip(sums).zip(squares) {
        let sum = sum - s;
        *out = before + (square - q - sum * sum / (count - c)).max(0.0);
    }
}

/// Costs in double-double.
#[derive(Debug)]
pub(super) struct PreciseCost {
    counts: Vec<f64>,
    sums: Vec<Double>,
    squares: Vec<Double>,
}

impl PreciseCost {
    pub(super) fn new(items: &Items) -> Self {
        let first_above = items.means.partition_point(|&mean| mean < 0.0);
        let mut cost = Self {
            counts: prefix_counts(items),
            sums: vec![Double::default(); items.len() + 1],
            squares: vec![Double::default(); items.len() + 1],
        };
        let terms =
            |at: usize| (Double { high: items.sums[at], low: 0.0 }, Double::product(items.sums[at], items.means[at]));
        for at in first_above..items.len() {
            let (s, q) = terms(at);
            cost.sums[at + 1] = cost.sums[at] + s;
            cost.squares[at + 1] = cost.squares[at] + q;
        }
        for at in (0..first_above).rev() {
            let (s, q) = terms(at);
            cost.sums[at] = cost.sums[at + 1] - s;
            cost.squares[at] = cost.squares[at + 1] - q;
        }
        cost
    }
}

impl ClusterCost for PreciseCost {
    #[inline(always)]
    fn len(&self) -> usize {
        self.counts.len() - 1
    }

    #[inline]
    fn cost(&self, start: usize, end: usize) -> f64 {
        if end - start == 1 {
            return 0.0;
        }
        let count = self.counts[end] - self.counts[start];
        let sum = self.sums[end] - self.sums[start];
        let square = self.squares[end] - self.squares[start];
        // With any m near the mean, S^2 / W = m (2 S - m W) + (S - m W)^2 / W.
        let mean = sum.high / count;
        let rest = sum - Double::product(mean, count);
        let cost = (square - (sum + rest).scaled(mean)).to_f64() - rest.high * rest.high / count;
        cost.max(0.0)
    }

    #[inline(always)]
    fn count(&self, start: usize, end: usize) -> f64 {
        self.counts[end] - self.counts[start]
    }

    #[inline]
    fn mean(&self, start: usize, end: usize) -> f64 {
        (self.sums[end] - self.sums[start]).to_f64() / (self.counts[end] - self.counts[start])
    }

    #[inline]
    fn above(&self, mean: f64, start: usize, end: usize) -> (f64, f64) {
        let count = self.counts[end] - self.counts[start];
        (count, (self.sums[end] - self.sums[start] - Double::product(mean, count)).to_f64())
    }

    fn of_bins(&self, ends: &[u32]) -> Self {
        let Self { counts, sums, squares } = self;
        Self { counts: at_ends(counts, ends), sums: at_ends(sums, ends), squares: at_ends(squares, ends) }
    }
}

fn prefix_counts(items: &Items) -> Vec<f64> {
    let mut count = 0.0;
    let ends = items.counts.iter().map(|&c| {
        count += c;
        count
    });
    std::iter::once(0.0).chain(ends).collect()
}
