//! What is clustered: points on the line with counts, ascending.
//!
//! An item is a distinct value, or a bucket of neighbouring values that stays together. For both, the sum of the values
//! and their count say all that an exact mean needs, and both are exact in float64: a float32 has 24 significant bits,
//! and the values of a bucket share their exponent.

use super::double::Double;

/// Items, ascending and apart from each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Items {
    /// Sum of each item's values.
    pub(super) sums: Vec<f64>,
    /// Number of each item's values, at least 1.
    pub(super) counts: Vec<f64>,
}

impl Items {
    pub(super) fn with_capacity(len: usize) -> Self {
        Self { sums: Vec::with_capacity(len), counts: Vec::with_capacity(len) }
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
    }

    /// The values' means. Exact for distinct values.
    pub(super) fn means(&self) -> impl DoubleEndedIterator<Item = f64> + ExactSizeIterator + Clone + '_ {
        self.sums.iter().zip(&self.counts).map(|(sum, count)| sum / count)
    }

    /// The clusters that end before the items `ends`: the mean of each as a float32, ascending without repeats, and the
    /// sum of squared distances of the items to them.
    pub(super) fn centroids(&self, ends: &[u32]) -> (Vec<f32>, f64) {
        let mut centroids: Vec<f32> = Vec::with_capacity(ends.len());
        let mut sse = 0.0;
        let mut start = 0;
        for &end in ends {
            let end = end as usize;
            let (sums, counts) = (&self.sums[start..end], &self.counts[start..end]);
            start = end;
            let sum = sums.iter().fold(Double::default(), |total, &sum| total + Double { high: sum, low: 0.0 });
            let centroid = (sum.to_f64() / counts.iter().sum::<f64>()) as f32;
            sse += sums
                .iter()
                .zip(counts)
                .map(|(sum, count)| {
                    let distance = sum / count - f64::from(centroid);
                    count * distance * distance
                })
                .sum::<f64>();
            // Clusters a rounding step apart can have the same float32 for a mean.
            if centroids.last().is_none_or(|&last| last < centroid) {
                centroids.push(centroid);
            }
        }
        (centroids, sse)
    }
}
