//! A histogram of a large tensor: counts and exact sums of values in a few ten thousand buckets.
//!
//! **Cells.** The upper bits of a float (sign, exponent and five of the mantissa) select one of [`CELLS`] cells, each
//! 1/32 of a binade. A cell is divided evenly into a power of two of buckets, down to single floats: as fine as needed
//! where needed. Finding a bucket takes a look-up, a shift and an addition.
//!
//! **Sums.** In a cell all floats have the same sign and exponent, so a float's lower bits are its distance from the
//! cell's start in units of its last place. One 64-bit addition counts a value and adds up those distances. They are
//! whole numbers: the sums are exact, and neither cutting the tensor nor the order of adding changes them.
//!
//! **How fine.** The best k centroids of a density f lie with a density proportional to f^(1/3) (Panter and Dite,
//! "Quantization distortion in pulse-count modulation with nonuniform spacing of levels", Proc. IRE 39, 1951). So a
//! cell of p values and width w gets its share of the k clusters by (p w^2)^(1/3), and [`PER_CLUSTER`] buckets for
//! each. No cell can have more clusters than values, which keeps one far outlier from taking all. The p come from a
//! sample, or from a histogram whose buckets turned out too coarse.

use multiversion::multiversion;
use rayon::prelude::*;

use super::double::cube_root;
use super::items::Items;

/// Upper bits of a float32 that select its cell: sign, exponent and five of the mantissa.
const CELL_BITS: u32 = 14;
/// The other bits, within the cell.
const LOW_BITS: u32 = 32 - CELL_BITS;
/// The lower bits, set.
const LOW: u32 = (1 << LOW_BITS) - 1;
/// Number of cells.
const CELLS: usize = 1 << CELL_BITS;
/// Cells of one sign and exponent.
const PER_BINADE: usize = 1 << (CELL_BITS - 9);

/// Buckets for an expected cluster, rounded up to a power of two in each cell.
const PER_CLUSTER: f64 = 24.0;
/// With few clusters, more buckets cost little.
const MIN_CLUSTERS: usize = 64;
/// Binades from the largest sampled magnitude up and down, in which cells have buckets even without a sample.
const BINADES_ABOVE: usize = 2;
const BINADES_BELOW: usize = 3;
/// Buckets of such a cell, as a power of two.
const UNSAMPLED_BITS: u32 = 3;
/// Most buckets.
const MAX_BUCKETS: usize = 1 << 18;

/// Bits of a bucket's word for the sum of lower bits; its count is above.
const SUM_BITS: u32 = 40;
/// Values counted at a time, at most 2^22 of 18 bits each, lest words overflow.
const BLOCK: usize = 1 << 20;
const _: () = assert!(BLOCK <= 1 << (SUM_BITS - LOW_BITS));

/// Values looked at for the first division: runs of neighbours, a cache line each.
const SAMPLED_RUNS: usize = 512;
const RUN: usize = 16;

/// Which cells are how fine.
#[derive(Debug)]
pub(super) struct Division {
    /// For each cell, its first bucket's number and, in the lowest five bits, how far low bits are shifted to count on.
    cells: Box<[u32; CELLS]>,
    buckets: usize,
}

/// Buckets and their contents.
#[derive(Debug)]
pub(super) struct Histogram {
    division: Division,
    /// For each bucket, the number of values and the sum of their lower bits.
    contents: Vec<(u64, u64)>,
    /// Where squares are taken from: near the mean.
    centre: f64,
    /// The sum of the values' squared distances to it.
    squares: f64,
}

/// The buckets that hold values, ascending.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    pub(super) items: Items,
    /// Their widths; 0 for single floats.
    pub(super) widths: Vec<f64>,
    /// The sum of all values' squared distances to the centre.
    squares: f64,
    centre: f64,
}

/// What the values' own spread within the buckets adds to any solution's error.
#[derive(Clone, Copy, Debug)]
pub(super) struct InnerError {
    /// What it is.
    pub(super) found: f64,
    /// What it were, if the values were spread evenly in each bucket.
    pub(super) even: f64,
}

/// Some of the values, evenly spread over the tensor.
pub(super) fn sample(values: &[[u8; 4]]) -> Vec<u32> {
    let last = values.len().saturating_sub(RUN);
    let runs = (0..SAMPLED_RUNS).map(|run| &values[run * last / (SAMPLED_RUNS - 1)..][..RUN.min(values.len())]);
    runs.flatten().map(|&value| u32::from_le_bytes(value)).collect()
}

impl Division {
    /// A division for `clusters` clusters of values of which these are the bits of a sample.
    pub(super) fn from_sample(sample: &[u32], clusters: usize) -> Self {
        let mut counts = vec![0.0_f64; CELLS];
        for &bits in sample {
            counts[(bits >> LOW_BITS) as usize] += 1.0;
        }
        // What lies next to the sampled cells is likely to have values, too.
        let sampled: Vec<usize> = (0..CELLS).filter(|&cell| counts[cell] > 0.0).collect();
        for cell in sampled {
            let around = cell.saturating_sub(2)..(cell + 3).min(CELLS);
            counts[around].iter_mut().for_each(|count| *count = f64::max(*count, 0.25));
        }
        // A sampled value stands for many, and so for some clusters.
        Self::new(&counts, clusters, 16.0)
    }

    /// `counts` are the values in each cell, each worth at most `most` clusters.
    fn new(counts: &[f64], clusters: usize, most: f64) -> Self {
        let used: Vec<usize> = (0..CELLS).filter(|&cell| counts[cell] > 0.0).collect();
        let shares: Vec<f64> = used.iter().map(|&cell| cube_root(counts[cell] * width(cell) * width(cell))).collect();
        let limits: Vec<f64> = used.iter().map(|&cell| most * counts[cell]).collect();
        let level = water_level(&shares, &limits, clusters.max(MIN_CLUSTERS) as f64);
        let largest = used.iter().map(|&cell| cell % (CELLS / 2) / PER_BINADE).max().unwrap_or(0);
        let around = largest.saturating_sub(BINADES_BELOW) * PER_BINADE..(largest + BINADES_ABOVE) * PER_BINADE;
        let unsampled = |cell| if around.contains(&(cell % (CELLS / 2))) { UNSAMPLED_BITS } else { 0 };
        let mut bits: Vec<u32> = (0..CELLS).map(unsampled).collect();
        for ((&cell, share), limit) in used.iter().zip(shares).zip(limits) {
            bits[cell] = bits[cell].max(bits_for((share * level).min(limit))).min(LOW_BITS);
        }
        Self::with_bits(&bits)
    }

    /// Divides each cell into 2^bits buckets, or all cells less finely if these were too many.
    fn with_bits(bits: &[u32]) -> Self {
        let total = |less: u32| bits.iter().map(|bits| 1_usize << bits.saturating_sub(less)).sum::<usize>();
        let less = (0..LOW_BITS).find(|&less| total(less) <= MAX_BUCKETS).unwrap_or(LOW_BITS);
        let mut division = Self { cells: Box::new([0; CELLS]), buckets: 0 };
        for (cell, bits) in division.cells.iter_mut().zip(bits) {
            let bits = bits.saturating_sub(less);
            *cell = (division.buckets as u32) << 5 | (LOW_BITS - bits);
            division.buckets += 1 << bits;
        }
        division
    }

    /// The number of the bucket of the float with these bits.
    #[inline(always)]
    fn bucket(cells: &[u32; CELLS], bits: u32) -> usize {
        let cell = cells[(bits >> LOW_BITS) as usize];
        ((cell >> 5) + ((bits & LOW) >> (cell & 31))) as usize
    }

    /// The bits of the first and the last float in the bucket of the float with these bits.
    #[cfg(test)]
    pub(super) fn bounds(&self, bits: u32) -> (u32, u32) {
        let within = (1 << (self.cells[(bits >> LOW_BITS) as usize] & 31)) - 1;
        (bits & !within, bits | within)
    }

    /// Counts the values. `centre` is near their mean.
    pub(super) fn count(self, values: &[[u8; 4]], centre: f64) -> Histogram {
        let unpacked = |word: u64| (word >> SUM_BITS, word & ((1 << SUM_BITS) - 1));
        // Each block's squares, to be added in the order of the blocks.
        let blocks = values.len().div_ceil(BLOCK);
        let (contents, squares) = if blocks <= 1 {
            let (words, squares) = self.count_block(values, centre);
            (words.into_iter().map(unpacked).collect(), squares)
        } else {
            let empty = || (vec![(0, 0); self.buckets], Vec::new());
            let counted =
                values.par_chunks(BLOCK).enumerate().fold(empty, |(mut contents, mut squares), (at, values)| {
                    let (words, of_block) = self.count_block(values, centre);
                    for (content, word) in contents.iter_mut().zip(words) {
                        let (count, sum) = unpacked(word);
                        *content = (content.0 + count, content.1 + sum);
                    }
                    squares.push((at, of_block));
                    (contents, squares)
                });
            // Whole numbers: any order of adding gives the same.
            let (contents, mut squares) = counted.reduce(empty, |(mut all, mut squares), (some, more)| {
                for (all, some) in all.iter_mut().zip(some) {
                    *all = (all.0 + some.0, all.1 + some.1);
                }
                squares.extend(more);
                (all, squares)
            });
            squares.sort_by_key(|&(at, _)| at);
            (contents, squares.iter().map(|(_, squares)| squares).sum())
        };
        Histogram { division: self, contents, centre, squares }
    }

    /// For each bucket, the number of values above [`SUM_BITS`] bits for the sum of their lower bits; and the sum of all
    /// squared distances to the centre.
    fn count_block(&self, values: &[[u8; 4]], centre: f64) -> (Vec<u64>, f64) {
        let mut words = vec![0; self.buckets];
        let mut squares = 0.0;
        for values in values.chunks(SQUARED) {
            squares += squares_around(centre, values);
            for &value in values {
                let bits = u32::from_le_bytes(value);
                if let Some(word) = words.get_mut(Self::bucket(&self.cells, bits)) {
                    *word += 1 << SUM_BITS | u64::from(bits & LOW);
                }
            }
        }
        (words, squares)
    }
}

/// Values squared at a time: they are near when they are counted.
const SQUARED: usize = 1 << 12;

/// The sum of squared distances of the values to the centre.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn squares_around(centre: f64, values: &[[u8; 4]]) -> f64 {
    const LANES: usize = 16;
    let (groups, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    let square = |value: [u8; 4]| {
        let distance = f64::from(f32::from_le_bytes(value)) - centre;
        distance * distance
    };
    for group in groups {
        for (sum, &value) in sums.iter_mut().zip(group) {
            *sum += square(value);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&value| square(value)).sum::<f64>()
}

/// The mean of the values with these bits, 0 if that is not finite.
pub(super) fn mean(sample: &[u32]) -> f64 {
    let mean = sample.iter().map(|&bits| f64::from(f32::from_bits(bits))).sum::<f64>() / sample.len() as f64;
    if mean.is_finite() { mean } else { 0.0 }
}

impl Histogram {
    /// A division that is fine enough for these values, `None` if it would be no finer.
    pub(super) fn refined(&self, clusters: usize) -> Option<Division> {
        let share = |count: u64, cell: usize, shift: u32| {
            let width = unit(cell) * f64::from(1_u32 << shift);
            cube_root(count as f64 * width * width)
        };
        let mut shares = Vec::new();
        let mut limits = Vec::new();
        for cell in 0..CELLS {
            let (contents, shift) = self.cell(cell);
            for &(count, _) in contents.iter().filter(|content| content.0 > 0) {
                shares.push(share(count, cell, shift));
                limits.push(count as f64);
            }
        }
        let level = water_level(&shares, &limits, clusters.max(MIN_CLUSTERS) as f64);
        let bits = |cell| {
            let (contents, shift) = self.cell(cell);
            let fullest = contents.iter().map(|content| content.0).max().unwrap_or(0);
            let expected = (share(fullest, cell, shift) * level).min(fullest as f64);
            (LOW_BITS - shift + bits_for(expected)).min(LOW_BITS)
        };
        let bits: Vec<u32> = (0..CELLS).map(bits).collect();
        let refined = Division::with_bits(&bits);
        let finer = |(new, old): (&u32, &u32)| new & 31 < old & 31;
        refined.cells.iter().zip(self.division.cells.iter()).any(finer).then_some(refined)
    }

    /// The contents of a cell's buckets and the shift.
    fn cell(&self, cell: usize) -> (&[(u64, u64)], u32) {
        let (first, shift) = (self.division.cells[cell] as usize >> 5, self.division.cells[cell] & 31);
        (&self.contents[first..first + (1 << (LOW_BITS - shift))], shift)
    }

    /// Whether there is a value that is NaN or infinite.
    pub(super) fn has_non_finite(&self) -> bool {
        let largest = CELLS / 2 - PER_BINADE..CELLS / 2;
        largest.flat_map(|cell| [cell, cell + CELLS / 2]).any(|cell| self.cell(cell).0.iter().any(|c| c.0 > 0))
    }

    /// The buckets that hold values.
    pub(super) fn buckets(&self) -> Buckets {
        let mut buckets = Buckets { centre: self.centre, squares: self.squares, ..Buckets::default() };
        let filled = self.contents.iter().filter(|content| content.0 > 0).count();
        buckets.items = Items::with_capacity(filled);
        buckets.widths.reserve(filled);
        // Within the negative cells, the upper half, values fall as bits rise.
        for cell in (CELLS / 2..CELLS).rev() {
            let (contents, shift) = self.cell(cell);
            contents.iter().rev().for_each(|&content| buckets.push(cell, content, shift));
        }
        for cell in 0..CELLS / 2 {
            let (contents, shift) = self.cell(cell);
            contents.iter().for_each(|&content| buckets.push(cell, content, shift));
        }
        buckets
    }
}

impl Buckets {
    #[inline(always)]
    fn push(&mut self, cell: usize, (count, sum): (u64, u64), shift: u32) {
        if count == 0 {
            return;
        }
        let unit = unit(cell);
        // Whole numbers below 2^53 up to 2^29 values: exact.
        let start = ((cell % PER_BINADE) | if cell % (CELLS / 2) < PER_BINADE { 0 } else { PER_BINADE }) << LOW_BITS;
        let sum = (count as f64 * start as f64 + sum as f64) * unit;
        self.items.push(if cell < CELLS / 2 { sum } else { -sum }, count as f64);
        self.widths.push(if shift == 0 || count == 1 { 0.0 } else { unit * f64::from(1_u32 << shift) });
    }

    /// The error within the buckets, which no solution is without.
    ///
    /// It is the sum of all squares less those of the buckets' means. Where these differ by less than rounding may add,
    /// it is taken for as large as it can be: half of a bucket's values at each of its ends, w^2 / 4.
    pub(super) fn inner_error(&self) -> InnerError {
        let Items { counts, means, .. } = &self.items;
        let even = counts.iter().zip(&self.widths).map(|(count, width)| count * width * width).sum::<f64>() / 12.0;
        let squares = counts.iter().zip(means).map(|(count, mean)| count * (mean - self.centre) * (mean - self.centre));
        let found = self.squares - squares.sum::<f64>();
        let known = self.squares * SQUARES_ROUNDING <= even;
        InnerError { found: if known { found.clamp(0.0, 3.0 * even) } else { 3.0 * even }, even }
    }
}

/// Share of a sum of squares that rounding may cause, with a margin: sums have up to 2^12 terms in a row, then some
/// thousands of such sums.
const SQUARES_ROUNDING: f64 = 1e-11;

/// The last place of the floats in a cell.
fn unit(cell: usize) -> f64 {
    let exponent = (cell % (CELLS / 2) / PER_BINADE).max(1);
    // 2^(exponent - 150), from its bits.
    f64::from_bits((exponent as u64 + 1023 - 150) << 52)
}

fn width(cell: usize) -> f64 {
    unit(cell) * f64::from(1_u32 << LOW_BITS)
}

/// Powers of two of buckets for a number of expected clusters.
fn bits_for(expected: f64) -> u32 {
    let buckets = (expected * PER_CLUSTER).ceil().clamp(1.0, f64::from(LOW));
    (buckets as u32).next_power_of_two().ilog2()
}

/// The level at which `share x level`, but at most its limit, is `total` over all: a division in proportion to the
/// shares in which none gets more than its limit.
fn water_level(shares: &[f64], limits: &[f64], total: f64) -> f64 {
    let mut level = 0.0;
    loop {
        let (mut taken, mut free) = (0.0, 0.0);
        for (&share, &limit) in shares.iter().zip(limits) {
            if level > 0.0 && share * level >= limit {
                taken += limit;
            } else {
                free += share;
            }
        }
        // What the full ones leave raises the level for the others, which may fill up more: it only rises.
        let next = (total - taken) / free;
        if !(next > level && next.is_finite()) {
            return level;
        }
        level = next;
    }
}
