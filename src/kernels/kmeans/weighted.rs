//! Values that count more or less: the table of least weighted squared error.
//!
//! The solver takes any positive counts. Values are gathered in buckets first, by the upper bits of the key that orders
//! as they do: an eighth of a thousandth of a value's magnitude or less. Sums are float64 in the order of the values.

use super::Clusters;
use super::distinct::order_key;
use super::items::Items;

/// Upper bits of the key that tell a bucket: sign, exponent and ten of the mantissa.
const BUCKET_BITS: u32 = 19;

/// The best table of up to `k` values for `values`, each with its weight: ascending without repeats, fewer if the values
/// have fewer buckets. Values are finite; those whose weight is not positive are left out.
pub(crate) fn weighted_table(values: impl Iterator<Item = (f32, f32)>, k: usize) -> Vec<f32> {
    let mut buckets = vec![(0.0_f64, 0.0_f64); 1 << BUCKET_BITS];
    for (value, weight) in values {
        if weight > 0.0 {
            let bucket = &mut buckets[(order_key((value + 0.0).to_bits()) >> (32 - BUCKET_BITS)) as usize];
            bucket.0 += f64::from(value) * f64::from(weight);
            bucket.1 += f64::from(weight);
        }
    }
    buckets.retain(|&(_, weight)| weight > 0.0);
    let mut items = Items::with_capacity(buckets.len());
    buckets.iter().for_each(|&(sum, weight)| items.push(sum, weight));
    Clusters::optimal(items, k).solve(k).centroids
}

#[cfg(test)]
mod tests {
    use super::weighted_table;

    /// The least weighted error of any partition of ascending values into runs, by trying all.
    fn least(values: &[(f32, f32)], k: usize) -> f64 {
        let cost = |run: &[(f32, f32)]| {
            let weight: f64 = run.iter().map(|v| f64::from(v.1)).sum();
            let mean = run.iter().map(|v| f64::from(v.0) * f64::from(v.1)).sum::<f64>() / weight;
            run.iter().map(|v| f64::from(v.1) * (f64::from(v.0) - mean).powi(2)).sum::<f64>()
        };
        if k == 1 {
            return cost(values);
        }
        (1..values.len()).map(|at| cost(&values[at..]) + least(&values[..at], k - 1)).fold(cost(values), f64::min)
    }

    #[test]
    fn finds_the_best_table() {
        let values: Vec<(f32, f32)> = [-3.0_f32, -2.5, -2.25, -0.5, 0.25, 0.5, 2.0, 2.5, 4.0, 9.0, 9.5, 11.0]
            .into_iter()
            .zip([1.0, 0.25, 30.0, 2.0, 5.0, 0.5, 8.0, 100.0, 0.125, 3.0, 3.0, 0.75])
            .collect();
        for k in 1..=5 {
            let table = weighted_table(values.iter().copied(), k);
            let error: f64 = values
                .iter()
                .map(|&(value, weight)| {
                    let nearest = table.iter().map(|t| f64::from(value - t).powi(2)).fold(f64::INFINITY, f64::min);
                    nearest * f64::from(weight)
                })
                .sum();
            assert!(error <= least(&values, k) * (1.0 + 1e-6), "{k}: {error}");
        }
    }

    #[test]
    fn heavy_values_draw_the_table() {
        let values = [(0.0, 1.0), (1.0, 1.0), (2.0, 1e6), (2.5, 1e6)];
        assert_eq!(weighted_table(values.into_iter(), 3), [0.5, 2.0, 2.5]);
        assert_eq!(weighted_table([(1.0, 0.0), (2.0, 1.0)].into_iter(), 4), [2.0]);
    }
}
