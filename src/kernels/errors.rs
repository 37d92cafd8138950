//! How far stored weights are from the original ones.
//!
//! The encoders call [`chunk`] with the weights that they have just encoded, while those are in the first-level cache;
//! [`sums`] does the same for weights that were stored elsewhere.
//!
//! Arithmetic: on the weights that dequantizing gives, in [`LANES`] interleaved float32 parts for each chunk of at most
//! [`CHUNK`] weights, which keeps six digits; in float64 where squares would leave the range of float32. The parts are
//! folded in order in float64, then chunk by chunk and block by block: the same bits on every machine and with any number
//! of threads.

use std::iter::Sum;
use std::ops::{Add, Mul, Sub};

use super::dequantize::Stored;
use super::{BLOCK, CHUNK, float16, words};
use multiversion::multiversion;
use rayon::prelude::*;

/// Parts of a sum: enough to keep it in vector registers.
const LANES: usize = 16;

/// Below, squares of float32 would lose digits.
const SMALLEST: f64 = 1e-15;

/// Sums over the weights of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ErrorSums {
    /// Sum of `(original - stored)^2`.
    pub(crate) squared_error: f64,
    /// Sum of `original^2`.
    pub(crate) squared: f64,
    /// Largest `|original - stored|`.
    pub(crate) max_error: f64,
    /// Weights that are too small for float16, see [`float16::underflows`]; 0 in other forms.
    pub(crate) underflows: u64,
}

impl ErrorSums {
    /// Adds the sums of what follows.
    #[inline(always)]
    pub(crate) fn merge(&mut self, next: Self) {
        self.squared_error += next.squared_error;
        self.squared += next.squared;
        self.underflows += next.underflows;
        self.max_error = if next.max_error > self.max_error { next.max_error } else { self.max_error };
    }
}

impl Sum for ErrorSums {
    #[inline(always)]
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |mut sums, part| {
            sums.merge(part);
            sums
        })
    }
}

/// Compares the finite float32 `values` with what is `stored` for them in `payload`.
pub(crate) fn sums(values: &[u8], payload: &[u8], stored: Stored<'_>) -> ErrorSums {
    let weights = words(values);
    debug_assert_eq!(payload.len(), stored.byte_len(weights.len()));
    let block = |(index, (weights, payload)): (usize, (&[[u8; 4]], &[u8]))| {
        let (mut sums, mut decoded) = (ErrorSums::default(), [[0; 4]; CHUNK]);
        let chunks = weights.chunks(CHUNK).zip(payload.chunks(stored.byte_len(CHUNK)));
        for (chunk, (weights, payload)) in chunks.enumerate() {
            let decoded = &mut decoded[..weights.len()];
            stored.decode_chunk(payload, index * BLOCK + chunk * CHUNK, decoded);
            sums.merge(compare(weights, decoded));
            if matches!(stored, Stored::Float16) {
                sums.underflows += float16::underflows(weights, decoded);
            }
        }
        sums
    };
    if weights.len() <= BLOCK {
        return block((0, (weights, payload)));
    }
    let blocks = weights.par_chunks(BLOCK).zip(payload.par_chunks(stored.byte_len(BLOCK))).enumerate().map(block);
    blocks.collect::<Vec<_>>().into_iter().sum()
}

/// As [`chunk`], for other kernels' callers.
#[multiversion(targets = "simd")]
pub(crate) fn compare(weights: &[[u8; 4]], decoded: &[[u8; 4]]) -> ErrorSums {
    chunk(weights, decoded)
}

/// The sums of at most [`CHUNK`] finite weights and what is stored for them.
#[inline(always)]
pub(crate) fn chunk(weights: &[[u8; 4]], decoded: &[[u8; 4]]) -> ErrorSums {
    let sums = sums_in::<f32>(weights, decoded);
    let smallest = SMALLEST * SMALLEST;
    // Comparisons with NaN fail.
    let in_range = sums.squared >= smallest
        && sums.squared < f64::INFINITY
        && sums.squared_error < f64::INFINITY
        && (sums.max_error == 0.0 || sums.max_error >= SMALLEST);
    if in_range { sums } else { sums_in::<f64>(weights, decoded) }
}

/// What sums are computed in.
trait Real:
    Copy + Default + PartialOrd + From<f32> + Into<f64> + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self>
{
    fn abs(self) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn abs(self) -> Self {
        self.abs()
    }
}

impl Real for f64 {
    #[inline(always)]
    fn abs(self) -> Self {
        self.abs()
    }
}

#[inline(always)]
fn sums_in<R: Real>(weights: &[[u8; 4]], decoded: &[[u8; 4]]) -> ErrorSums {
    let (mut squared_error, mut squared, mut largest) =
        ([R::default(); LANES], [R::default(); LANES], [R::default(); LANES]);
    let mut add = |i: usize, weight: [u8; 4], decoded: [u8; 4]| {
        let [weight, decoded] = [weight, decoded].map(|bytes| R::from(f32::from_le_bytes(bytes)));
        let error = weight - decoded;
        squared_error[i] = squared_error[i] + error * error;
        squared[i] = squared[i] + weight * weight;
        let error = error.abs();
        largest[i] = if error > largest[i] { error } else { largest[i] };
    };
    let ((weights, rest), (decoded, rest_decoded)) = (weights.as_chunks::<LANES>(), decoded.as_chunks::<LANES>());
    for (weights, decoded) in weights.iter().zip(decoded) {
        for i in 0..LANES {
            add(i, weights[i], decoded[i]);
        }
    }
    for (i, (&weight, &decoded)) in rest.iter().zip(rest_decoded).enumerate() {
        add(i, weight, decoded);
    }
    let lanes = (0..LANES).map(|i| ErrorSums {
        squared_error: squared_error[i].into(),
        squared: squared[i].into(),
        max_error: largest[i].into(),
        underflows: 0,
    });
    lanes.sum()
}

#[cfg(test)]
mod tests {
    use super::super::dequantize::Stored;
    use super::super::testing::{Bytes, check_measured, check_sums, in_pool, large};
    use super::super::{Layout, float16, pack};
    use super::sums;

    #[test]
    fn sums_of_every_form_and_length() {
        let table: Vec<f32> = (0..8).map(|i| i as f32 / 5.0 - 0.8).collect();
        let (scale, bias) = ([0.01, 0.2, 0.03], [-1.0, 0.0, 0.5]);
        for count in [0, 1, 5, 40, 50_001] {
            let layout = Layout { slabs: 1, outer: 1, count: 3, inner: count };
            let len = layout.len();
            let values = large(layout);
            let codes: Vec<u8> = (0..len).map(|i| (i * 7919 % 251) as u8).collect();
            let mut packed = vec![0; pack::packed_len(len, 3)];
            pack::pack(&codes, 3, &mut packed);
            let mut halves = vec![0; 2 * len];
            float16::to_float16(&Bytes::new(&values), &mut halves, false).unwrap();
            for (payload, stored) in [
                (&halves, Stored::Float16),
                (&codes, Stored::Linear { nbits: 8, layout, scale: &scale, bias: &bias }),
                (&packed, Stored::Table { nbits: 3, table: &table }),
                (&codes, Stored::Int8 { scale: 0.01 }),
            ] {
                let bytes = Bytes::new(&values);
                let found = in_pool(1, || sums(&bytes, payload, stored));
                assert_eq!(found, in_pool(3, || sums(&bytes, payload, stored)));
                check_measured(found, &values, payload, stored);
            }
        }
    }

    #[test]
    fn sums_of_any_magnitude() {
        let weights = large(Layout::per_tensor(3 * super::CHUNK));
        let others: Vec<f32> = weights.iter().map(|weight| weight * 0.99).collect();
        for exponent in -40..=38 {
            let scaled = |values: &[f32]| -> Vec<f32> { values.iter().map(|v| v * 10_f32.powi(exponent)).collect() };
            let (mut weights, others) = (scaled(&weights), scaled(&others));
            for stretch in ["of one magnitude", "with a chunk of zeros", "with an ordinary chunk"] {
                match stretch {
                    "with a chunk of zeros" => weights[..super::CHUNK].fill(0.0),
                    "with an ordinary chunk" => weights[..super::CHUNK].fill(0.5),
                    _ => {}
                }
                let found = sums(&Bytes::new(&weights), &Bytes::new(&others), Stored::Float32);
                check_sums(found, &weights, &others);
            }
        }
    }
}
