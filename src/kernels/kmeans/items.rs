//! What is clustered: points on the line with counts, ascending.
//!
//! An item is a distinct value, or a bucket of neighbouring values that stays together. For both, the sum of the values
//! and their count say all that an exact mean needs, and both are exact in float64: a float32 has 24 significant bits,
//! and the values of a bucket share their exponent.

use super::double::RunningSum;

/// Items, ascending and apart from each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Items {
    /// Sum of each item's values.
    pub(super) sums: Vec<f64>,
    /// Number of each item's values, at least 1.
    pub(super) counts: Vec<f64>,
    /// Mean of each item's values. Exact for distinct values.
    pub(super) means: Vec<f64>,
}

impl Items {
    pub(super) fn with_capacity(len: usize) -> Self {
        Self { sums: Vec::with_capacity(len), counts: Vec::with_capacity(len), means: Vec::with_capacity(len) }
    }

    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    /// Adds a value above all others.
    pub(super) fn push_value(&mut self, value: f32, count: u64) {
        self.push(f64::from(value) * count as f64, count as f64);
    }

    /// Adds an item above all others.
    pub(super) fn push(&mut self, sum: f64, count: f64) {
        self.sums.push(sum);
        self.counts.push(count);
        self.means.push(sum / count);
    }

    /// Neighbouring items joined into one each, which end before the items `ends`, and the error within these.
    pub(super) fn joined(&self, ends: &[u32]) -> (Self, f64) {
        let mut joined = Self::with_capacity(ends.len());
        let mut inner = 0.0;
        let mut start = 0;
        for &end in ends {
            let items = start..end as usize;
            start = items.end;
            let (counts, means) = (&self.counts[items.clone()], &self.means[items.clone()]);
            let sum: f64 = self.sums[items].iter().sum();
            let count: f64 = counts.iter().sum();
            let mean = sum / count;
            inner += means.iter().zip(counts).map(|(m, count)| count * (m - mean) * (m - mean)).sum::<f64>();
            joined.push(sum, count);
        }
        (joined, inner)
    }

    /// The clusters that end before the items `ends`: the mean of each as a float32, ascending without repeats, and the
    /// sum of squared distances of the items to them.
    pub(super) fn centroids(&self, ends: &[u32]) -> (Vec<f32>, f64) {
        let mut centroids: Vec<f32> = Vec::with_capacity(ends.len());
        let mut sse = 0.0;
        let mut start = 0;
        for &end in ends {
            let end = end as usize;
            let (sums, counts, means) = (&self.sums[start..end], &self.counts[start..end], &self.means[start..end]);
            start = end;
            let mut sum = RunningSum::default();
            sums.iter().for_each(|&s| sum.add(s));
            let centroid = (sum.total() / counts.iter().sum::<f64>()) as f32;
            let squares = means.iter().zip(counts).map(|(mean, count)| {
                let distance = mean - f64::from(centroid);
                count * distance * distance
            });
            sse += squares.sum::<f64>();
            // Clusters a rounding step apart can have the same float32 for a mean.
            if centroids.last().is_none_or(|&last| last < centroid) {
                centroids.push(centroid);
            }
        }
        (centroids, sse)
    }
}
