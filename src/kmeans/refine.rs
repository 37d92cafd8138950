//! Few bins first, all items where it matters: a near-optimal partition of many items in little time.
//!
//! 1. Neighbouring items are joined into bins, several for each expected cluster. Clusters of a density f lie with a
//!    density proportional to f^(1/3), so bins get equal parts of the sum of (count x spacing^2)^(1/3) over the items.
//! 2. The best partition of the bins is found (see [`super::lambda`]). It is off by parts of a bin at every border.
//! 3. All borders move at once, each within a window of items around its place, to the best position that they have together: a
//!    dynamic programme over windows instead of all items. This is repeated until no border lies at its window's edge.
//!
//! The result is optimal among all partitions whose borders lie within the windows.

use super::cost::ClusterCost;
use super::items::Items;
use super::lambda::{Partition, Scratch, best_partition};

/// Bins for each expected cluster.
const BINS_PER_CLUSTER: usize = 10;
/// Fewest bins.
const MIN_BINS: usize = 512;
/// Times that windows move on.
const MAX_MOVES: usize = 12;

/// The bins' ends, counted in items: at most about `bins`, of equal parts of the sum of (count x spacing^2)^(1/3).
pub(super) fn bins(items: &Items, clusters: usize) -> Vec<u32> {
    let bins = (BINS_PER_CLUSTER * clusters).max(MIN_BINS);
    let len = items.len();
    if len <= bins + bins / 2 {
        return (1..=len as u32).collect();
    }
    let means: Vec<f64> = items.means().collect();
    let spacing = |at: usize| means[(at + 1).min(len - 1)] - means[at.saturating_sub(1)];
    let shares: Vec<f64> = (0..len).map(|at| rough_cbrt(items.counts[at] * spacing(at).powi(2))).collect();
    // An item is not divided: those with more than a bin's part leave less for the others.
    let mut part = shares.iter().sum::<f64>() / bins as f64;
    for _ in 0..64 {
        let (mut large, mut rest) = (0_usize, 0.0);
        for &share in &shares {
            if share >= part {
                large += 1;
            } else {
                rest += share;
            }
        }
        let next = rest / bins.saturating_sub(large).max(1) as f64;
        if next >= part {
            break;
        }
        part = next;
    }
    let mut ends = Vec::with_capacity(bins + bins / 4);
    let mut sum = 0.0;
    for (at, &share) in shares.iter().enumerate() {
        if sum > 0.0 && sum + share / 2.0 > part {
            ends.push(at as u32);
            sum = 0.0;
        }
        sum += share;
    }
    ends.push(len as u32);
    ends
}

/// A cube root to a few per cent, the same on every machine.
fn rough_cbrt(x: f64) -> f64 {
    // Dividing the bits by 3 divides the exponent, and the mantissa nearly as it should be.
    f64::from_bits(x.to_bits() / 3 + 0x2AA0_0000_0000_0000)
}

/// A near-optimal partition into `k` clusters by `bins`, `k` is less than the number of bins.
pub(super) fn near_best(
    costs: &impl ClusterCost,
    bins: &[u32],
    k: usize,
    lambda: Option<f64>,
    scratch: &mut Scratch,
) -> Partition {
    let mut partition = best_partition(&costs.of_bins(bins), k, lambda, scratch);
    // In items; windows reach over a bin to both sides.
    let mut radius = vec![0; k];
    for (end, radius) in partition.ends.iter_mut().zip(&mut radius) {
        let bin = *end as usize - 1;
        let before = bin.checked_sub(1).map_or(0, |before| bins[before]);
        let after = bins[(bin + 1).min(bins.len() - 1)];
        *end = bins[bin];
        *radius = (after - *end).max(*end - before) + 1;
    }
    for _ in 0..MAX_MOVES {
        if !improve(costs, &mut partition.ends, &radius) {
            break;
        }
    }
    partition
}

/// Moves all borders but the last to their best place within `radius`. Whether one came to lie at an edge of its window.
fn improve(costs: &impl ClusterCost, ends: &mut [u32], radius: &[u32]) -> bool {
    let len = costs.len();
    let k = ends.len();
    // Windows as first and last place; every border leaves at least an item to each cluster.
    let window = |at: usize| {
        if at + 1 == k {
            return (len, len);
        }
        let (end, radius) = (ends[at] as usize, radius[at] as usize);
        (end.saturating_sub(radius).max(at + 1), (end + radius).min(len - (k - 1 - at)))
    };
    // Least costs for borders in the window before, and for each border the best places of the one before it.
    let mut before = vec![0.0];
    let mut first_before = 0;
    let mut choices: Vec<Vec<u32>> = Vec::with_capacity(k);
    let mut sums = Vec::new();
    for at in 0..k {
        let (first, last) = window(at);
        let mut best = Vec::with_capacity(last - first + 1);
        let mut choice = Vec::with_capacity(last - first + 1);
        for end in first..=last {
            let starts = before.len().min(end - first_before.min(end));
            sums.clear();
            sums.resize(starts, 0.0);
            costs.add_costs(first_before, end, &before[..starts], &mut sums);
            let least = sums.iter().copied().fold(f64::INFINITY, f64::min);
            let start = sums.iter().position(|&sum| sum == least).unwrap_or(0);
            best.push(least);
            choice.push((first_before + start) as u32);
        }
        choices.push(choice);
        before = best;
        first_before = first;
    }
    let windows: Vec<(usize, usize)> = (0..k).map(window).collect();
    let mut at_edge = false;
    let mut end = len as u32;
    for at in (0..k).rev() {
        let (first, last) = windows[at];
        let moved = ends[at] != end;
        ends[at] = end;
        at_edge |= moved && at + 1 < k && (end as usize == first || end as usize == last);
        end = choices[at][end as usize - first];
    }
    at_edge
}
