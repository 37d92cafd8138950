//! The best partition of the items into exactly k clusters, by a search over the price of a cluster.
//!
//! **Price.** Charge lambda for each cluster and drop the limit on their number: minimize cost + lambda x clusters.
//! That is a shortest path over the gaps between items. As the cost is Monge, the best start of a path's last cluster
//! never moves back as its end moves on, so a queue of candidate starts, each with the first end for which it is the
//! best, finds the path in O(n log n) at worst, near O(n) in practice, whatever the number of clusters comes out
//! (Hirschberg and Larmore, "The least weight subsequence problem", SIAM J. Comput. 16, 1987; Galil and Park, "Dynamic
//! programming with convexity, concavity and sparsity", 1992).
//!
//! **Search.** The least cost of k clusters is convex in k, a consequence of Monge costs. So the number of clusters
//! falls as the price rises, and when it is k, the partition is a global optimum for k. A few prices are enough: cost
//! falls roughly as 1 / k^2, thus the price of one more cluster as 1 / k^3, which predicts the next price to try.
//!
//! **Ties.** Some k may come out for no price at all: on a lattice, cost is a straight line over a range of k. A price
//! equal to the slope between the two nearest partitions, with k1 < k < k2 clusters, tells: either the path for that
//! price lies below their line and is a nearer partition, or both are optimal at that price. Then they are spliced into
//! a path with k clusters that is optimal too: somewhere a cluster of the second, at the right rank, lies inside one of
//! the first, and by the Monge property leading along one path and following the other costs no more (Aggarwal,
//! Schieber and Tokuyama, "Finding a minimum-weight k-link path in graphs with the concave Monge property", Discrete &
//! Computational Geometry 12, 1994).

use super::cost::ClusterCost;
use super::double::cube_root;

/// Prices tried at most before two partitions are spliced as they are. Smooth data takes 2 to 8.
const MAX_PRICES: usize = 100;
/// Prices that are predicted from the two nearest partitions; later ones bisect or follow the slope, which end surely.
const PREDICTIONS: usize = 8;
/// A path this close to the line between two partitions lies on it: the rounding of a sum of a few hundred costs.
const ON_THE_LINE: f64 = 1e-13;

/// A partition into clusters of neighbouring items.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Partition {
    /// For each cluster, the first item after it. The last is the number of items.
    pub(super) ends: Vec<u32>,
    /// The price at which it was found, if at one.
    pub(super) lambda: f64,
}

/// Memory for [`best_partition`], for use again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Least price of the items before each gap.
    best: Vec<f64>,
    /// Start of the last cluster of that path.
    start: Vec<u32>,
    queue: Vec<Candidate>,
}

/// A start of a cluster, the best one for ends from `first_end` up to the next candidate's.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    start: u32,
    first_end: u32,
}

/// A partition with its cost.
#[derive(Clone, Debug)]
struct Found {
    ends: Vec<u32>,
    cost: f64,
    lambda: f64,
}

impl Found {
    fn count(&self) -> f64 {
        self.ends.len() as f64
    }
}

/// The partition of least cost into `k` clusters, `1 <= k <= number of items`.
///
/// `lambda` is a guess of the price; whatever it is, the error of the result is the same.
pub(super) fn best_partition(costs: &impl ClusterCost, k: usize, lambda: f64, scratch: &mut Scratch) -> Partition {
    let len = costs.len();
    let all = len as u32;
    if k <= 1 || k >= len {
        let ends = if k <= 1 { vec![all] } else { (1..=all).collect() };
        return Partition { ends, lambda: 0.0 };
    }
    // The two ends of the curve are known: one cluster, and one for each item at no cost.
    let mut few = Found { ends: vec![all], cost: costs.cost(0, len), lambda: f64::INFINITY };
    let mut many = Found { ends: (1..=all).collect(), cost: 0.0, lambda: 0.0 };
    let wanted = k as f64;
    let mut next = lambda;
    for tried in 0..MAX_PRICES {
        let slope = (few.cost - many.cost) / (many.count() - few.count());
        if !(next > many.lambda && next < few.lambda) {
            next = slope;
        }
        let on_slope = next == slope;
        let found = cheapest_path(costs, next, scratch);
        if found.ends.len() == k {
            return Partition { ends: found.ends, lambda: next };
        }
        let line = few.cost + slope * few.count();
        let price = found.cost + slope * found.count();
        if on_slope && price >= line * (1.0 - ON_THE_LINE) {
            break;
        }
        if found.ends.len() < k {
            few = found;
        } else {
            many = found;
        }
        next = if tried < PREDICTIONS {
            predicted(&few, &many, wanted)
        } else if tried % 2 == 0 {
            (few.cost - many.cost) / (many.count() - few.count())
        } else {
            (few.lambda * many.lambda).sqrt()
        };
    }
    let ends = splice(&few.ends, &many.ends, k);
    Partition { ends, lambda: (few.cost - many.cost) / (many.count() - few.count()) }
}

/// A price for the wanted number of clusters.
fn predicted(few: &Found, many: &Found, wanted: f64) -> f64 {
    let cube = |x: f64| x * x * x;
    if many.count() - few.count() <= 2.0 {
        // Only the slope can tell more.
        (few.cost - many.cost) / (many.count() - few.count())
    } else if many.lambda == 0.0 {
        2.0 * few.cost * few.count() * few.count() / cube(wanted)
    } else if few.lambda == f64::INFINITY {
        many.lambda * cube(many.count() / wanted)
    } else {
        // Over the clusters' number, the cube root of 1 / price is a straight line; a little off its ends, to move on.
        let at = ((wanted - few.count()) / (many.count() - few.count())).clamp(0.02, 0.98);
        1.0 / cube((1.0 - at) / cube_root(few.lambda) + at / cube_root(many.lambda))
    }
}

/// The partition that minimizes cost + `lambda` x clusters.
fn cheapest_path(costs: &impl ClusterCost, lambda: f64, scratch: &mut Scratch) -> Found {
    let len = costs.len();
    let Scratch { best, start, queue } = scratch;
    best.clear();
    best.resize(len + 1, 0.0);
    start.clear();
    start.resize(len + 1, 0);
    queue.clear();
    queue.push(Candidate { start: 0, first_end: 1 });
    // Candidates before this one have had their turn.
    let mut front = 0;
    let mut reach = 1;
    for end in 1..=len {
        while queue.get(front + 1).is_some_and(|next| next.first_end as usize <= end) {
            front += 1;
        }
        let from = queue[front].start as usize;
        best[end] = best[from] + costs.cost(from, end) + lambda;
        start[end] = from as u32;
        if end < len {
            reach = push(costs, best, queue, front, end, reach);
        }
    }
    let mut ends = Vec::new();
    let mut cost = 0.0;
    let mut end = len;
    while end > 0 {
        ends.push(end as u32);
        cost += costs.cost(start[end] as usize, end);
        end = start[end] as usize;
    }
    ends.reverse();
    Found { ends, cost, lambda }
}

/// Enters `start` into the queue for the ends from which it is better than all others. Returns how far beyond `start`
/// the first of them lies: a guess for the next one.
#[inline(always)]
fn push(
    costs: &impl ClusterCost,
    best: &[f64],
    queue: &mut Vec<Candidate>,
    front: usize,
    start: usize,
    reach: usize,
) -> usize {
    let len = costs.len();
    loop {
        let last = queue[queue.len() - 1];
        let other = last.start as usize;
        let from = (last.first_end as usize).max(start + 1);
        // From `other` on, a cluster has the items up to `start` in addition. Joining w values of mean m to W of mean M
        // adds w W / (w + W) (M - m)^2 to both costs: `start` is better where that is more than what it costs itself.
        let (w, mean) = (costs.count(other, start), costs.mean(other, start));
        let more = best[start] - (best[other] + costs.cost(other, start));
        let better_at = |end: usize| {
            let (count, above) = costs.above(mean, start, end);
            w * above * above > more * count * (w + count)
        };
        if better_at(from) {
            queue.pop();
            if queue.len() > front {
                continue;
            }
            queue.push(Candidate { start: start as u32, first_end: from as u32 });
            return reach;
        }
        // No better at `from`: find the first end where it is, galloping from the guess, then halving.
        let (mut low, mut high) = (from, len + 1);
        let mut step = 1;
        let guess = (start + reach).min(len);
        if guess > low {
            if better_at(guess) {
                high = guess;
                while high - low > step {
                    if better_at(high - step) {
                        high -= step;
                        step *= 2;
                    } else {
                        low = high - step;
                        break;
                    }
                }
            } else {
                low = guess;
                while high - low > step {
                    if better_at(low + step) {
                        high = low + step;
                        break;
                    }
                    low += step;
                    step *= 2;
                }
            }
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if better_at(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        if high <= len {
            queue.push(Candidate { start: start as u32, first_end: high as u32 });
        }
        return high - start;
    }
}

/// A partition of `k` clusters: `many` up to a cluster that lies inside one of `few`, then `few`.
///
/// `few.len() < k < many.len()`.
fn splice(few: &[u32], many: &[u32], k: usize) -> Vec<u32> {
    let shift = k - few.len();
    // Clusters i of `few` and i + shift of `many`. The first time `many`'s ends no later, it starts no earlier.
    let inside = (0..few.len()).find(|&i| many[i + shift] <= few[i]).unwrap_or(few.len() - 1);
    let mut ends = many[..inside + shift].to_vec();
    ends.extend_from_slice(&few[inside..]);
    ends
}
