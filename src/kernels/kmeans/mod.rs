//! k-means in one dimension: the table of 2^n values that is nearest to the weights of a tensor, and their codes.
//!
//! On a line, clusters are runs of neighbouring values. That makes the problem easy: the *global* optimum is found
//! in about the time it takes to sort, where the usual alternation of assigning and averaging ends wherever its random
//! start leads.
//!
//! | room | what is there |
//! |---|---|
//! | [`distinct`] | small tensors: the values that differ, with counts |
//! | [`histogram`] | large tensors: buckets of values, with counts and exact sums |
//! | [`items`] | what is clustered: values, or buckets of them |
//! | [`cost`] | the cost of a cluster in constant time, and how to keep its digits |
//! | [`lambda`] | the best partition into k clusters |
//! | [`refine`] | a near-optimal partition of many items |
//! | [`assign`], [`scale`] | codes of the nearest centroids |
//! | `weighted` | values that count more or less |
//! | [`double`] | double-double numbers |
//!
//! **How near.** Up to 65,536 values, or few that differ, the result is the optimum: the least error that any k
//! centroids have, but for the rounding of centroids to float32. Above, a border between two clusters is known to a
//! bucket. Were all clusters g and all buckets h wide, and the values spread evenly, misplaced borders would add about
//! (h / g)^2 / 4 to an error of 1. The spread within buckets is (h / g)^2 on this scale, and it is measured:
//! [`TOLERATED_INNER`] keeps it so small that the error stays below 1.001 with a margin of two. Values that lie at both
//! ends of each bucket spread by 3 (h / g)^2, and add as much. So where they spread by more than even ones,
//! [`TOLERATED_UNEVEN`] holds. If the spread is larger, buckets are divided where that is needed, and if that does not
//! help, the values are sorted.
//!
//! No randomness anywhere, and parallel sums are of integers: the same values give the same bytes on any number of
//! threads.

mod assign;
mod cost;
mod distinct;
mod double;
mod histogram;
mod items;
mod lambda;
mod refine;
mod scale;
#[cfg(feature = "predict")]
mod weighted;

#[cfg(test)]
mod tests;

pub(crate) use assign::assign;
#[cfg(feature = "predict")]
pub(crate) use weighted::weighted_table;

use cost::{ClusterCost, FastCost, PreciseCost};
use distinct::radix_sort;
use histogram::{Division, InnerError};
use items::Items;
use lambda::{Partition, Scratch, best_partition};
use refine::{Bins, near_best};

use crate::kernels::NonFinite;

/// Largest share of a solution's error that rounding of the fast costs may cause; above, the precise ones are taken.
const TOLERATED_ROUNDING: f64 = 1e-7;

/// Values up to which [`Strategy::Auto`] is exact.
const EXACT_UP_TO: usize = 1 << 16;
/// Times that a histogram's division is tried.
const DIVISIONS: usize = 3;
/// Bins for an expected cluster of sorted values, and for how many clusters at least.
const SORTED_PER_CLUSTER: usize = 48;
const MIN_CLUSTERS: usize = 64;
/// Largest share of a solution's error that values within buckets may cause.
const TOLERATED_INNER: f64 = 2e-3;
/// The same where they are not spread evenly.
const TOLERATED_UNEVEN: f64 = 1e-3;
/// How much farther than even values they may spread to count as such.
const EVEN: f64 = 1.25;
/// By how much finer buckets become if it is only for uneven values.
const FINER: usize = 4;

/// The same where the solution is not the optimum anyway.
const TOLERATED_ROUNDING_NEAR: f64 = 1e-5;

/// How close to the global optimum a solution is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// The optimum up to 65,536 values; above, an error of at most 1.001 times the least.
    #[default]
    Auto,
    /// The optimum. Takes the memory of a few copies of the tensor.
    Exact,
    /// As `Auto`, but as if no histogram were fine enough. For tests and benchmarks.
    Sorted,
}

/// Values made ready for clustering, with any number of clusters.
#[derive(Debug)]
pub(crate) struct Clusters {
    items: Items,
    fast: FastCost,
    precise: Option<PreciseCost>,
    bins: Bins,
    /// Whether a near-optimal solution will do.
    near: bool,
    /// Error within the items.
    inner: f64,
    scratch: Scratch,
    known: Option<Known>,
}

/// What was found for a number of clusters.
#[derive(Debug)]
struct Known {
    k: usize,
    lambda: f64,
    solution: Solution,
}

/// Centroids, and how far the values are from them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Solution {
    /// Ascending, without repeats: the mean of each cluster, rounded to float32. At most as many as asked for; fewer if
    /// the values have fewer that differ.
    pub(crate) centroids: Vec<f32>,
    /// Sum of squared distances of the values to the centroids of their clusters. Of large tensors it is known to parts
    /// in a thousand.
    pub(crate) sse: f64,
}

impl Clusters {
    /// Prepares `values`, float32 in little-endian bytes, for up to `max_k` clusters.
    pub(crate) fn new(values: &[u8], max_k: usize, strategy: Strategy) -> Result<Self, NonFinite> {
        let values = values.as_chunks().0;
        let exact = strategy == Strategy::Exact || values.len() <= EXACT_UP_TO;
        if !exact && strategy == Strategy::Auto {
            let mut sample = histogram::sample(values);
            let mut division = Division::from_sample(&sample, max_k);
            let centre = histogram::mean(&sample);
            radix_sort(&mut sample);
            sample.dedup();
            if sample.len() <= values.len().min(4096) {
                if let Some(found) = first_non_finite(values) {
                    return Err(found);
                }
                if let Some(items) = distinct::few(values) {
                    return Ok(Self::optimal(items, max_k));
                }
            }
            for _ in 0..DIVISIONS {
                let histogram = division.count(values, centre);
                if histogram.has_non_finite()
                    && let Some(found) = first_non_finite(values)
                {
                    return Err(found);
                }
                let buckets = histogram.buckets();
                let InnerError { found: inner, even } = buckets.inner_error();
                let mut clusters = Self { inner, ..Self::near_optimal(buckets.items, max_k) };
                let sse = clusters.solve(max_k).sse;
                if inner <= tolerated(inner <= EVEN * even) * sse {
                    return Ok(clusters);
                }
                // What would do for even values is too coarse for these.
                let refined = if even <= TOLERATED_INNER * sse { FINER * max_k } else { max_k };
                match histogram.refined(refined) {
                    Some(finer) => division = finer,
                    None => break,
                }
            }
        }
        if let Some(found) = first_non_finite(values) {
            return Err(found);
        }
        let items = distinct::distinct(values);
        if exact {
            return Ok(Self::optimal(items, max_k));
        }
        let mut bins = SORTED_PER_CLUSTER * max_k.max(MIN_CLUSTERS);
        loop {
            let (joined, inner) = items.joined(&Bins::equal(&items, bins).ends);
            let all = joined.len() == items.len();
            let mut clusters = Self { inner, ..Self::near_optimal(joined, max_k) };
            if all || inner <= TOLERATED_UNEVEN * clusters.solve(max_k).sse {
                return Ok(clusters);
            }
            bins *= 4;
        }
    }

    fn optimal(items: Items, max_k: usize) -> Self {
        let (fast, bins) = (FastCost::new(&items), Bins::new(&items, max_k));
        Self { items, fast, precise: None, bins, near: false, inner: 0.0, scratch: Scratch::default(), known: None }
    }

    fn near_optimal(items: Items, max_k: usize) -> Self {
        Self { near: true, ..Self::optimal(items, max_k) }
    }

    /// The best `k` centroids.
    pub(crate) fn solve(&mut self, k: usize) -> Solution {
        if k == 0 || self.items.len() == 0 {
            return Solution { centroids: Vec::new(), sse: 0.0 };
        }
        if k >= self.items.len() {
            let mut centroids: Vec<f32> = self.items.means.iter().map(|&mean| mean as f32).collect();
            centroids.dedup();
            return Solution { centroids, sse: 0.0 };
        }
        if let Some(known) = self.known.as_ref().filter(|known| known.k == k) {
            return known.solution.clone();
        }
        let guess = match &self.known {
            Some(known) => {
                let ratio = known.k as f64 / k as f64;
                known.lambda * ratio * ratio * ratio
            }
            None => self.bins.expected_lambda(k),
        };
        let Self { items, fast, bins, near, scratch, .. } = self;
        let mut partition = partition(fast, bins, *near, k, guess, scratch);
        let (mut centroids, mut sse) = items.centroids(&partition.ends);
        let tolerated = if *near { TOLERATED_ROUNDING_NEAR } else { TOLERATED_ROUNDING };
        if k as f64 * fast.error_bound() > tolerated * sse {
            let precise = self.precise.get_or_insert_with(|| PreciseCost::new(items));
            partition = self::partition(precise, bins, *near, k, partition.lambda, scratch);
            (centroids, sse) = items.centroids(&partition.ends);
        }
        let solution = Solution { centroids, sse: sse + self.inner };
        if k > 1 {
            self.known = Some(Known { k, lambda: partition.lambda, solution: solution.clone() });
        }
        solution
    }
}

/// The best partition into `k` clusters, or one near it.
fn partition(
    costs: &impl ClusterCost,
    bins: &Bins,
    near: bool,
    k: usize,
    lambda: f64,
    scratch: &mut Scratch,
) -> Partition {
    if near && k < bins.ends.len() {
        return near_best(costs, bins, k, lambda, scratch);
    }
    // Bins give a good guess in a fraction of the time that a price takes.
    let lambda = if 4 * k < bins.ends.len() && 2 * bins.ends.len() < costs.len() {
        best_partition(&costs.of_bins(&bins.ends), k, lambda, scratch).lambda
    } else {
        lambda
    };
    best_partition(costs, k, lambda, scratch)
}

impl Solution {
    /// The centroids as a table of 2^`nbits` entries, the last repeated as often as needed. Zeros if there are none.
    pub(crate) fn table(&self, nbits: u8) -> Vec<f32> {
        let mut table = self.centroids.clone();
        table.resize(1 << nbits, table.last().copied().unwrap_or(0.0));
        table
    }
}

/// The share of a solution's error that values within buckets may cause.
fn tolerated(is_even: bool) -> f64 {
    if is_even { TOLERATED_INNER } else { TOLERATED_UNEVEN }
}

/// The first value that is NaN or infinite.
fn first_non_finite(values: &[[u8; 4]]) -> Option<NonFinite> {
    let index = values.iter().position(|&value| !f32::from_le_bytes(value).is_finite())?;
    Some(NonFinite { index, value: f32::from_le_bytes(values[index]) })
}
