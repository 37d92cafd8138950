//! Which values of a weight are kept when the smallest become zero: masks, and the values that they keep.
//!
//! Values are float16 or float32 (T) in little-endian bytes. A mask has a bit for each value, the first in the least
//! significant bit of the first byte, 1 where a value is kept; spare bits are zero. Zeros are never kept.
//!
//! - [`Rule::Above`]: kept are values with `|w| > t`, t rounded to T.
//! - [`percentile`]: the t that makes a share s of the values zero, by linear interpolation: with the magnitudes sorted,
//!   `v = s (N - 1)`, `a` and `b` those at `floor(v)` and after it, `d = b - a` in T, `t = a + d (v - floor(v))` in float64, or
//!   `b - d (1 - (v - floor(v)))` from one half on. Ties go to zero.
//! - [`block_norms`]: in blocks of b along an axis, the root of the sum of squares stands for each magnitude; squares, sums
//!   (one after another) and root rounded to T. The axis is continued with zeros to a multiple of b.
//! - [`Rule::SmallestOf`]: of each m values along an axis, the n smallest magnitudes become zero, of equal ones the first.
//!
//! These are the masks of coremltools 9.0 with numpy 1.26.

use half::f16;
use rayon::prelude::*;

use super::{BLOCK, float16};

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// Magnitudes above a threshold.
    Above(f64),
    /// All but the `n` smallest magnitudes of each `m` along an axis.
    SmallestOf { n: usize, m: usize, axis: usize },
}

/// A mask and what it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mask {
    pub(crate) bits: Vec<u8>,
    /// How many values it keeps.
    pub(crate) ones: usize,
}

fn size(half: bool) -> usize {
    if half { 2 } else { 4 }
}

/// The values as float32, exactly.
fn floats(bytes: &[u8], half: bool) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / size(half)];
    let out = values.par_chunks_mut(BLOCK).zip(bytes.par_chunks(BLOCK * size(half)));
    out.for_each(|(out, bytes)| float16::floats(bytes, half, out));
    values
}

/// Rounds to T.
fn rounded(value: f32, half: bool) -> f32 {
    if half { float16::rounded(value) } else { value }
}

/// The magnitude below which a share (0 to 1) of the magnitudes lies. There is at least one value, and none is NaN.
pub(crate) fn percentile(magnitudes: &[u8], half: bool, share: f64) -> f64 {
    let count = magnitudes.len() / size(half);
    let at = (count - 1) as f64 * share;
    let low = (at.floor() as usize).min(count - 1);
    let (a, b) = neighbours(magnitudes, half, low);
    let part = at - at.floor();
    let difference = f64::from(rounded(b - a, half));
    let (a, b) = (f64::from(a), f64::from(b));
    if part >= 0.5 { b - difference * (1.0 - part) } else { a + difference * part }
}

/// The magnitudes at an index and after it, if they were sorted.
fn neighbours(values: &[u8], half: bool, low: usize) -> (f32, f32) {
    if half {
        // There are few different magnitudes.
        let counts = values
            .par_chunks(BLOCK * 2)
            .map(|bytes| {
                let mut counts = vec![0_usize; 1 << 15];
                for &bytes in bytes.as_chunks::<2>().0 {
                    counts[usize::from(u16::from_le_bytes(bytes) & 0x7FFF)] += 1;
                }
                counts
            })
            .reduce_with(|mut sums, counts| {
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum += count;
                }
                sums
            });
        let (mut found, mut below) = (None, 0);
        for (magnitude, count) in counts.unwrap_or_default().into_iter().enumerate() {
            below += count;
            let value = || f16::from_bits(magnitude as u16).to_f32();
            if found.is_none() && below > low {
                found = Some(value());
            }
            if let Some(a) = found.filter(|_| below > low + 1) {
                return (a, value());
            }
        }
        let a = found.unwrap_or_default();
        return (a, a);
    }
    let magnitude = |&bytes: &[u8; 4]| u32::from_le_bytes(bytes) & 0x7FFF_FFFF;
    let mut magnitudes: Vec<u32> = values.as_chunks().0.par_iter().map(magnitude).collect();
    let (_, &mut a, above) = magnitudes.select_nth_unstable(low);
    let b = above.iter().copied().min().unwrap_or(a);
    (f32::from_bits(a), f32::from_bits(b))
}

/// A row-major tensor seen along one axis: `outer` x `len` x `inner`.
fn along(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// For each value, the norm of its block along an axis, in T.
pub(crate) fn block_norms(bytes: &[u8], half: bool, shape: &[usize], block: usize, axis: usize) -> Vec<u8> {
    let values = floats(bytes, half);
    let (_, len, inner) = along(shape, axis);
    let mut norms = vec![0.0; values.len()];
    let slabs = norms.par_chunks_mut((len * inner).max(1)).zip(values.par_chunks((len * inner).max(1)));
    slabs.for_each(|(norms, values)| {
        for (norms, values) in norms.chunks_mut(block * inner).zip(values.chunks(block * inner)) {
            let (first, rest) = norms.split_at_mut(inner);
            first.fill(0.0);
            for values in values.chunks(inner) {
                for (sum, &value) in first.iter_mut().zip(values) {
                    *sum = rounded(*sum + rounded(value * value, half), half);
                }
            }
            for sum in first.iter_mut() {
                *sum = rounded(sum.sqrt(), half);
            }
            for row in rest.chunks_mut(inner) {
                row.copy_from_slice(first);
            }
        }
    });
    let mut out = vec![0; bytes.len()];
    float16::to_bytes(&norms, half, &mut out);
    out
}

/// The mask of a rule; `magnitudes` stand for those of the values, and are these themselves unless blocks are pruned.
pub(crate) fn mask(bytes: &[u8], magnitudes: &[u8], half: bool, shape: &[usize], rule: Rule) -> Mask {
    match rule {
        Rule::Above(threshold) => above(bytes, magnitudes, half, threshold),
        Rule::SmallestOf { n, m, axis } => smallest_of(bytes, half, shape, n, m, axis),
    }
}

fn above(bytes: &[u8], magnitudes: &[u8], half: bool, threshold: f64) -> Mask {
    let threshold = if half { f16::from_f64(threshold).to_f32() } else { threshold as f32 };
    let count = bytes.len() / size(half);
    let mut bits = vec![0; count.div_ceil(8)];
    let blocks = bits.par_chunks_mut(BLOCK / 8).zip(bytes.par_chunks(BLOCK * size(half)));
    let blocks = blocks.zip(magnitudes.par_chunks(BLOCK * size(half)));
    let ones = blocks.map(|((bits, bytes), magnitudes)| {
        let mut values = vec![0.0; bytes.len() / size(half)];
        float16::floats(bytes, half, &mut values);
        let mut norms = vec![0.0; values.len()];
        float16::floats(magnitudes, half, &mut norms);
        let mut ones = 0;
        for ((bits, values), norms) in bits.iter_mut().zip(values.chunks(8)).zip(norms.chunks(8)) {
            for (bit, (value, norm)) in values.iter().zip(norms).enumerate() {
                *bits |= u8::from(norm.abs() > threshold && *value != 0.0) << bit;
            }
            ones += bits.count_ones() as usize;
        }
        ones
    });
    Mask { ones: ones.sum(), bits }
}

fn smallest_of(bytes: &[u8], half: bool, shape: &[usize], n: usize, m: usize, axis: usize) -> Mask {
    let values = floats(bytes, half);
    let (_, len, inner) = along(shape, axis);
    let mut keeps: Vec<bool> = values.iter().map(|&value| value != 0.0).collect();
    let slabs = keeps.par_chunks_mut((len * inner).max(1)).zip(values.par_chunks((len * inner).max(1)));
    slabs.for_each(|(keeps, values)| {
        let mut order: Vec<usize> = Vec::with_capacity(m);
        for start in (0..len).step_by(m) {
            for column in 0..inner {
                order.clear();
                order.extend(start..start + m);
                // Behind the end there are zeros.
                let magnitude = |row: usize| if row < len { values[row * inner + column].abs() } else { 0.0 };
                order.sort_by(|&a, &b| magnitude(a).total_cmp(&magnitude(b)));
                for &row in order.iter().take(n).filter(|&&row| row < len) {
                    keeps[row * inner + column] = false;
                }
            }
        }
    });
    let mut bits = vec![0; keeps.len().div_ceil(8)];
    for (index, _) in keeps.iter().enumerate().filter(|(_, keep)| **keep) {
        bits[index / 8] |= 1 << (index % 8);
    }
    Mask { ones: keeps.iter().filter(|&&keep| keep).count(), bits }
}

/// The values that a mask keeps.
pub(crate) fn kept(bytes: &[u8], half: bool, mask: &Mask) -> Vec<u8> {
    let size = size(half);
    let mut out = Vec::with_capacity(mask.ones * size);
    for (values, &bits) in bytes.chunks(8 * size).zip(&mask.bits) {
        if bits == 0xFF {
            out.extend_from_slice(values);
        } else if bits != 0 {
            for (bit, value) in values.chunks(size).enumerate() {
                if bits >> bit & 1 == 1 {
                    out.extend_from_slice(value);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(values: &[f32], half: bool) -> Vec<u8> {
        let mut bytes = vec![0; values.len() * size(half)];
        float16::to_bytes(values, half, &mut bytes);
        bytes
    }

    #[test]
    fn ties_at_the_threshold_go_to_zero() {
        let values = bytes(&[1.0, -2.0, 2.0, 3.0, 0.0, -0.0], false);
        let t = percentile(&values, false, 0.6);
        assert_eq!(t, 2.0);
        let mask = mask(&values, &values, false, &[6], Rule::Above(t));
        assert_eq!((mask.bits.as_slice(), mask.ones), (&[0b1000][..], 1));
        assert_eq!(kept(&values, false, &mask), 3.0_f32.to_le_bytes());
    }

    #[test]
    fn of_each_four_two_stay_and_the_axis_is_continued_with_zeros() {
        let values = bytes(&[4.0, -1.0, 1.0, 2.0, 5.0, 6.0], true);
        let mask = mask(&values, &values, true, &[1, 6], Rule::SmallestOf { n: 2, m: 4, axis: 1 });
        assert_eq!(mask.bits, [0b11_1001]);
    }

    proptest! {
        #[test]
        fn a_percentile_is_that_of_the_sorted_magnitudes(
            values in prop::collection::vec(-4.0_f32..4.0, 1..100), half: bool, share in 0.0..=1.0_f64,
        ) {
            let bytes = bytes(&values, half);
            let mut sorted: Vec<f32> = floats(&bytes, half).into_iter().map(f32::abs).collect();
            sorted.sort_by(f32::total_cmp);
            let at = (sorted.len() - 1) as f64 * share;
            let (a, b) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            let t = percentile(&bytes, half, share);
            prop_assert!(f64::from(a) <= t + 1e-3 && t <= f64::from(b) + 1e-3, "{a} {t} {b}");
        }

        #[test]
        fn a_block_of_one_is_the_value_itself(values in prop::collection::vec(-4.0_f32..4.0, 12)) {
            let values = bytes(&values, false);
            let norms = block_norms(&values, false, &[3, 4], 1, 0);
            for (norm, value) in floats(&norms, false).into_iter().zip(floats(&values, false)) {
                prop_assert!((norm - value.abs()).abs() <= 1e-6 * value.abs());
            }
        }
    }
}
