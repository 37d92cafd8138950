//! k-means in one dimension: the table of 2^n values that is nearest to the weights of a tensor, and their codes.
//!
//! On a line, clusters are runs of neighbouring values. That makes the problem easy: the *global* optimum is found
//! in about the time it takes to sort, where the usual alternation of assigning and averaging ends wherever its random start leads.
//!
//! | room | what is there |
//! |---|---|
//! | [`sort`] | distinct values with counts |
//! | [`items`] | what is clustered: values, or buckets of them |
//! | [`cost`] | the cost of a cluster in constant time, and how to keep its digits |
//! | [`lambda`] | the best partition into k clusters |
//! | [`assign`] | codes of the nearest centroids |
//! | [`double`], [`cells`] | double-double numbers; a map from floats to small ranges |
//!
//! No randomness anywhere, and parallel sums are of integers: the same values give the same bytes on any number of threads.

mod assign;
mod cells;
mod cost;
mod double;
mod items;
mod lambda;
mod sort;

#[cfg(test)]
mod tests;

pub(crate) use assign::assign;

use cost::{FastCost, PreciseCost};
use items::Items;
use lambda::{Partition, Scratch, best_partition};

use crate::kernels::NonFinite;

/// Largest share of a solution's error that rounding of the fast costs may cause; above, the precise ones are taken.
const TOLERATED_ROUNDING: f64 = 1e-8;

/// How close to the global optimum a solution is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Exactness {
    /// The optimum up to 65,536 values; above, an error of at most 1.001 times the least.
    #[default]
    Auto,
    /// The optimum. Takes the memory of a few copies of the tensor.
    Exact,
}

/// Values made ready for clustering, with any number of clusters.
#[derive(Debug)]
pub(crate) struct Clusters {
    items: Items,
    fast: FastCost,
    precise: Option<PreciseCost>,
    scratch: Scratch,
    /// A solved number of clusters and its price.
    known: Option<(usize, f64)>,
}

/// Centroids, and how far the values are from them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Solution {
    /// Ascending, without repeats: the mean of each cluster, rounded to float32. At most as many as asked for; fewer if
    /// the values have fewer that differ.
    pub(crate) centroids: Vec<f32>,
    /// Sum of squared distances of the values to the centroids of their clusters.
    pub(crate) sse: f64,
}

impl Clusters {
    /// Prepares `values`, float32 in little-endian bytes, for up to `max_k` clusters.
    pub(crate) fn new(values: &[u8], _max_k: usize, _exactness: Exactness) -> Result<Self, NonFinite> {
        let values = values.as_chunks().0;
        if let Some(found) = first_non_finite(values) {
            return Err(found);
        }
        let items = sort::distinct(values);
        let fast = FastCost::new(&items);
        Ok(Self { items, fast, precise: None, scratch: Scratch::default(), known: None })
    }

    /// The best `k` centroids.
    pub(crate) fn solve(&mut self, k: usize) -> Solution {
        if self.items.len() == 0 || k == 0 {
            return Solution { centroids: Vec::new(), sse: 0.0 };
        }
        if k >= self.items.len() {
            let centroids = self.items.means().map(|mean| mean as f32).collect();
            return Solution { centroids, sse: 0.0 };
        }
        let guess = self.known.map(|(known, lambda)| lambda * (known as f64 / k as f64).powi(3));
        let partition = best_partition(&self.fast, k, guess, &mut self.scratch);
        let (mut centroids, mut sse) = self.items.centroids(&partition.ends);
        self.know(k, &partition);
        if k as f64 * self.fast.error_bound() > TOLERATED_ROUNDING * sse {
            let precise = self.precise.get_or_insert_with(|| PreciseCost::new(&self.items));
            let partition = best_partition(precise, k, Some(partition.lambda), &mut self.scratch);
            (centroids, sse) = self.items.centroids(&partition.ends);
            self.know(k, &partition);
        }
        Solution { centroids, sse }
    }

    fn know(&mut self, k: usize, partition: &Partition) {
        if k > 1 {
            self.known = Some((k, partition.lambda));
        }
    }
}

impl Solution {
    /// The centroids as a table of 2^`nbits` entries, the last repeated as often as needed. Zeros if there are none.
    pub(crate) fn table(&self, nbits: u8) -> Vec<f32> {
        let mut table = self.centroids.clone();
        table.resize(1 << nbits, table.last().copied().unwrap_or(0.0));
        table
    }
}

/// The first value that is NaN or infinite.
fn first_non_finite(values: &[[u8; 4]]) -> Option<NonFinite> {
    let index = values.iter().position(|&value| !f32::from_le_bytes(value).is_finite())?;
    Some(NonFinite { index, value: f32::from_le_bytes(values[index]) })
}
