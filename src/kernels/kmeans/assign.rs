//! The code of the nearest centroid for each value, packed.
//!
//! **Thresholds.** Between two neighbouring centroids lies the largest float32 at or below their midpoint. A value has
//! the upper centroid's code exactly when it is greater than that: nearest by the real numbers' distances, a tie going
//! to the lower code. A value's code is thus the number of thresholds below it.
//!
//! **Up to 16 centroids**, counting the comparisons with all thresholds is the fastest: it vectorizes.
//!
//! **More**: a table says for each small range of values which single threshold lies in it, and the code below. The
//! range is found from the float's bits: the upper ones (sign, exponent, a few of the mantissa) select a [`Cells`]
//! entry, which says where the ranges of that cell begin and how many there are, a power of two. A cell has as many as
//! its thresholds need to be alone, so whatever the distribution, the part in use fits a core's first caches. Where
//! that would take too much memory, and for short tensors, the thresholds are searched by halving.
//!
//! Tensors of more than [`BLOCK`] values are cut there; cutting changes no code and, at a multiple of 8 values, no bit.

use multiversion::multiversion;
use rayon::prelude::*;

use super::double::Double;
use super::scale::Table;
use crate::kernels::dequantize::Entries;
use crate::kernels::errors::{self, ErrorSums};
use crate::kernels::pack;

/// Values in a block: the unit of parallel work. A multiple of 8.
const BLOCK: usize = 1 << 16;
/// Values whose codes wait for packing in a buffer in the first-level cache. A multiple of 8.
const CHUNK: usize = 1 << 12;
/// Centroids up to which comparisons are counted.
const COUNTED: usize = 16;
/// Values from which on building a table is worth its time.
const TABLE_FROM: usize = 1 << 12;

/// Writes the code of the nearest of `centroids` for each value, the lower code for a tie, packed in `nbits` bits each.
/// Measures the errors, if asked to.
///
/// `centroids` ascend without repeats, at least 1 and at most 2^`nbits`; `out` has
/// [`packed_len`](pack::packed_len) bytes. `values` are float32, little-endian. A NaN gets some code.
pub(crate) fn assign(values: &[u8], centroids: &[f32], nbits: u8, out: &mut [u8], measure: bool) -> ErrorSums {
    let values = values.as_chunks().0;
    debug_assert!(centroids.is_sorted_by(|a, b| a < b) && centroids.len() <= 1 << nbits);
    debug_assert_eq!(out.len(), pack::packed_len(values.len(), nbits));
    let codes = Codes::new(centroids, values.len());
    let entries = measure.then(|| Entries::new(centroids));
    let block_bytes = BLOCK / 8 * usize::from(nbits);
    if values.len() <= BLOCK {
        return assign_block(values, &codes, nbits, out, entries.as_ref());
    }
    let blocks = values.par_chunks(BLOCK).zip(out.par_chunks_mut(block_bytes));
    let sums = blocks.map(|(values, out)| assign_block(values, &codes, nbits, out, entries.as_ref()));
    sums.collect::<Vec<_>>().into_iter().sum()
}

fn assign_block(values: &[[u8; 4]], codes: &Codes, nbits: u8, out: &mut [u8], measured: Option<&Entries>) -> ErrorSums {
    let (mut sums, mut decoded) = (ErrorSums::default(), [[0; 4]; CHUNK]);
    let mut write = |values: &[[u8; 4]], out: &mut [u8]| {
        codes.write(values, out);
        if let Some(entries) = measured {
            let decoded = &mut decoded[..values.len()];
            entries.decode(out, decoded);
            sums.merge(errors::compare(values, decoded));
        }
    };
    let mut buffer = [0; CHUNK];
    for (values, out) in values.chunks(CHUNK).zip(out.chunks_mut(CHUNK / 8 * usize::from(nbits))) {
        if nbits == 8 {
            write(values, out);
        } else {
            let buffer = &mut buffer[..values.len()];
            write(values, buffer);
            pack::pack(buffer, nbits, out);
        }
    }
    sums
}

/// The largest float32 at or below the midpoint of `a < b`.
fn threshold(a: f32, b: f32) -> f32 {
    let sum = Double::sum(f64::from(a), f64::from(b));
    let middle = sum.high / 2.0;
    let nearest = middle as f32;
    // What rounding left out of the sum matters only next to a float32.
    let above = f64::from(nearest) > middle || (f64::from(nearest) == middle && sum.low < 0.0);
    let below = if above { nearest.next_down() } else { nearest };
    below + 0.0 // -0 to +0
}

/// A way to find the code of a value.
#[derive(Debug)]
enum Codes {
    /// Thresholds, filled up with infinity.
    Count([f32; COUNTED - 1], usize),
    Table(Table),
    /// Thresholds, filled up with infinity.
    Search(Box<[f32; 255]>),
}

impl Codes {
    fn new(centroids: &[f32], len: usize) -> Self {
        let thresholds: Vec<f32> = centroids.windows(2).map(|pair| threshold(pair[0], pair[1])).collect();
        if centroids.len() <= COUNTED {
            let mut padded = [f32::INFINITY; COUNTED - 1];
            padded[..thresholds.len()].copy_from_slice(&thresholds);
            return Self::Count(padded, thresholds.len());
        }
        let table = if len >= TABLE_FROM { Table::new(&thresholds) } else { None };
        table.map_or_else(
            || {
                let mut padded = Box::new([f32::INFINITY; 255]);
                for (padded, &threshold) in padded.iter_mut().zip(&thresholds) {
                    *padded = threshold;
                }
                Self::Search(padded)
            },
            Self::Table,
        )
    }

    /// Writes one code a value.
    fn write(&self, values: &[[u8; 4]], codes: &mut [u8]) {
        match self {
            Self::Count(thresholds, 0..=1) => count::<1>(values, thresholds, codes),
            Self::Count(thresholds, 2..=3) => count::<3>(values, thresholds, codes),
            Self::Count(thresholds, 4..=7) => count::<7>(values, thresholds, codes),
            Self::Count(thresholds, _) => count::<15>(values, thresholds, codes),
            Self::Table(table) => table.look_up(values, codes),
            Self::Search(thresholds) => {
                for (code, &value) in codes.iter_mut().zip(values) {
                    *code = search(thresholds, f32::from_le_bytes(value));
                }
            }
        }
    }
}

/// Counts the first `N` thresholds below each value.
fn count<const N: usize>(values: &[[u8; 4]], thresholds: &[f32; COUNTED - 1], codes: &mut [u8]) {
    #[multiversion(targets = "simd")]
    fn dispatched(values: &[[u8; 4]], thresholds: &[f32], codes: &mut [u8]) {
        #[inline(always)]
        fn each<const N: usize>(values: &[[u8; 4]], thresholds: &[f32; N], codes: &mut [u8]) {
            const LANES: usize = 32;
            let (groups, rest) = values.as_chunks::<LANES>();
            let (code_groups, rest_codes) = codes.as_chunks_mut::<LANES>();
            for (values, codes) in groups.iter().zip(code_groups) {
                let mut counts = [0_u32; LANES];
                for (count, &value) in counts.iter_mut().zip(values) {
                    let value = f32::from_le_bytes(value);
                    *count = thresholds.iter().map(|&threshold| u32::from(value > threshold)).sum();
                }
                *codes = counts.map(|count| count as u8);
            }
            for (&value, code) in rest.iter().zip(rest_codes) {
                let value = f32::from_le_bytes(value);
                *code = thresholds.iter().map(|&threshold| u8::from(value > threshold)).sum();
            }
        }
        match thresholds.as_chunks() {
            ([thresholds], []) => each::<15>(values, thresholds, codes),
            _ => match thresholds.as_chunks() {
                ([thresholds], []) => each::<7>(values, thresholds, codes),
                _ => match thresholds.as_chunks() {
                    ([thresholds], []) => each::<3>(values, thresholds, codes),
                    _ => match thresholds.first() {
                        Some(&threshold) => each::<1>(values, &[threshold], codes),
                        None => codes.fill(0),
                    },
                },
            },
        }
    }
    dispatched(values, &thresholds[..N], codes);
}

/// The number of thresholds below `value`, ascending and filled up with infinity, by halving.
#[inline(always)]
fn search(thresholds: &[f32; 255], value: f32) -> u8 {
    let mut code = 0;
    let mut half = 128;
    while half > 0 {
        code += if value > thresholds[code + half - 1] { half } else { 0 };
        half /= 2;
    }
    code as u8
}
