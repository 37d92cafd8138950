//! Few bins first, all items where it matters: a near-optimal partition of many items in little time.
//!
//! 1. Neighbouring items are joined into bins, several for each expected cluster. Clusters of a density f lie with a
//!    density proportional to f^(1/3), so bins get equal parts of the sum of (count x spacing^2)^(1/3) over the items.
//! 2. The best partition of the bins is found (see [`super::lambda`]). It is off by parts of a bin at every border.
//! 3. All borders move at once, each within a window of items around its place, to the best position that they have
//!    together: a dynamic programme over windows instead of all items. This is repeated until no border lies at its
//!    window's edge.
//!
//! The result is optimal among all partitions whose borders lie within the windows.

use super::cost::ClusterCost;
use super::double::cube_root;
use super::items::Items;
use super::lambda::{Partition, Scratch, best_partition};

/// Bins for each expected cluster.
const BINS_PER_CLUSTER: usize = 10;
/// Fewest bins.
const MIN_BINS: usize = 512;
/// Times that windows move on.
const MAX_MOVES: usize = 12;
/// Rounds in which a bin's part is found.
const MAX_LEVELS: usize = 64;
/// Items by which windows reach over the bins beside a border.
const MARGIN: u32 = 2;

/// Bins of items.
#[derive(Debug)]
pub(super) struct Bins {
    /// For each bin, the first item after it.
    pub(super) ends: Vec<u32>,
    /// The sum of (count x spacing^2)^(1/3) over the items, none more than a bin's part.
    spread: f64,
}

impl Bins {
    /// For `clusters` clusters at most.
    pub(super) fn new(items: &Items, clusters: usize) -> Self {
        Self::equal(items, (BINS_PER_CLUSTER * clusters).max(MIN_BINS))
    }

    /// At most about `bins` bins, each with an equal part of the spread.
    pub(super) fn equal(items: &Items, bins: usize) -> Self {
        let len = items.len();
        let mean = |at: usize| items.means[at];
        // Half the distance between the neighbours on both sides.
        let spacing = |at: usize| (mean((at + 1).min(len - 1)) - mean(at.saturating_sub(1))) / 2.0;
        let share = |at: usize| cube_root(items.counts[at] * spacing(at) * spacing(at));
        let shares: Vec<f64> = (0..len).map(share).collect();
        // An item is not divided: those with more than a bin's part leave less for the others.
        let mut part = shares.iter().sum::<f64>() / bins as f64;
        for _ in 0..MAX_LEVELS {
            let (mut large, mut rest) = (0_usize, 0.0);
            for &share in &shares {
                large += usize::from(share >= part);
                rest += if share >= part { 0.0 } else { share };
            }
            let next = rest / bins.saturating_sub(large).max(1) as f64;
            if next >= part {
                break;
            }
            part = next;
        }
        let spread = part * bins as f64;
        if len <= bins + bins / 2 {
            return Self { ends: (1..=len as u32).collect(), spread };
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
        Self { ends, spread }
    }

    /// About the price at which `k` clusters come out: the derivative of spread^3 / 12 k^2, the least error for a
    /// smooth density (Panter and Dite).
    pub(super) fn expected_lambda(&self, k: usize) -> f64 {
        let width = self.spread / k as f64;
        width * width * width / 6.0
    }
}

/// A near-optimal partition into `k` clusters by `bins`, `k` is less than the number of bins.
pub(super) fn near_best(
    costs: &impl ClusterCost,
    bins: &Bins,
    k: usize,
    lambda: f64,
    scratch: &mut Scratch,
) -> Partition {
    let bins = &bins.ends;
    let mut partition = best_partition(&costs.of_bins(bins), k, lambda, scratch);
    // In items; windows reach over a bin to both sides.
    let mut radius = vec![0; k];
    for (end, radius) in partition.ends.iter_mut().zip(&mut radius) {
        let bin = *end as usize - 1;
        let before = bin.checked_sub(1).map_or(0, |before| bins[before]);
        let after = bins[(bin + 1).min(bins.len() - 1)];
        *end = bins[bin];
        *radius = (after - *end).max(*end - before) + MARGIN;
    }
    for _ in 0..MAX_MOVES {
        if !improve(costs, &mut partition.ends, &radius) {
            break;
        }
    }
    partition
}

/// Moves all borders but the last to their best place within `radius`. Whether one came to lie at an edge of its
/// window.
fn improve(costs: &impl ClusterCost, ends: &mut [u32], radius: &[u32]) -> bool {
    let len = costs.len();
    let k = ends.len();
    // Windows as first and last place. They rise, so that every border leaves at least an item to each cluster.
    let mut windows: Vec<(usize, usize)> = Vec::with_capacity(k);
    for (&end, &radius) in ends.iter().zip(radius) {
        let least = windows.last().map_or(1, |window| window.0 + 1);
        windows.push((end.saturating_sub(radius).max(least as u32) as usize, (end + radius) as usize));
    }
    let mut most = len;
    for window in windows.iter_mut().rev() {
        window.1 = window.1.min(most);
        most = window.1 - 1;
    }
    if let Some(last) = windows.last_mut() {
        last.0 = len;
    }
    // Least costs for the places of the border before, and for each place of a border the best one of the border
    // before.
    let mut before = vec![0.0];
    let mut first_before = 0;
    let mut best = Vec::new();
    let mut sums = Vec::new();
    let mut choices: Vec<u32> = Vec::with_capacity(windows.iter().map(|(first, last)| last - first + 1).sum());
    for &(first, last) in &windows {
        best.clear();
        for end in first..=last {
            let starts = &before[..before.len().min(end - first_before)];
            sums.resize(starts.len(), 0.0);
            costs.add_costs(first_before, end, starts, &mut sums);
            let (mut least, mut choice) = (f64::INFINITY, 0);
            for (at, &sum) in sums.iter().enumerate() {
                (least, choice) = if sum < least { (sum, at) } else { (least, choice) };
            }
            best.push(least);
            choices.push((first_before + choice) as u32);
        }
        std::mem::swap(&mut before, &mut best);
        first_before = first;
    }
    let mut at_edge = false;
    let mut end = len as u32;
    let mut choices = choices.as_slice();
    for (place, &(first, last)) in ends.iter_mut().zip(&windows).rev() {
        let at = end as usize;
        at_edge |= *place != end && first < last && (at == first || at == last);
        *place = end;
        let (rest, of_border) = choices.split_at(choices.len() - (last - first + 1));
        end = of_border[at - first];
        choices = rest;
    }
    at_edge
}
