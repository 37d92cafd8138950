//! How far stored weights are from the original ones.
//!
//! Arithmetic: float64, on the weights that dequantizing gives. A chunk's sums run in [`LANES`] interleaved parts, folded
//! in order, then chunk by chunk and block by block: the same bits on every machine and with any number of threads.

use super::dequantize::Stored;
use super::{BLOCK, CHUNK, words};
use multiversion::multiversion;
use rayon::prelude::*;

/// Parts of a sum: enough to keep it in vector registers.
const LANES: usize = 32;

/// Sums over the weights of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ErrorSums {
    /// Sum of `(original - stored)^2`.
    pub(crate) squared_error: f64,
    /// Sum of `original^2`.
    pub(crate) squared: f64,
    /// Largest `|original - stored|`.
    pub(crate) max_error: f64,
}

impl ErrorSums {
    /// Adds the sums of what follows.
    #[inline(always)]
    pub(crate) fn merge(&mut self, next: Self) {
        self.squared_error += next.squared_error;
        self.squared += next.squared;
        self.max_error = if next.max_error > self.max_error { next.max_error } else { self.max_error };
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
        }
        sums
    };
    let blocks: Vec<ErrorSums> = if weights.len() <= BLOCK {
        vec![block((0, (weights, payload)))]
    } else {
        weights.par_chunks(BLOCK).zip(payload.par_chunks(stored.byte_len(BLOCK))).enumerate().map(block).collect()
    };
    blocks.into_iter().fold(ErrorSums::default(), |mut sums, block| {
        sums.merge(block);
        sums
    })
}

/// The sums of a chunk.
#[multiversion(targets = "simd")]
fn compare(weights: &[[u8; 4]], decoded: &[[u8; 4]]) -> ErrorSums {
    #[inline(always)]
    fn squares(weight: [u8; 4], decoded: [u8; 4]) -> (f64, f64) {
        let [weight, decoded] = [weight, decoded].map(|bytes| f64::from(f32::from_le_bytes(bytes)));
        ((weight - decoded) * (weight - decoded), weight * weight)
    }
    let (weights, rest) = weights.as_chunks::<LANES>();
    let (decoded, rest_decoded) = decoded.as_chunks::<LANES>();
    let (mut squared_error, mut squared, mut largest) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for (weights, decoded) in weights.iter().zip(decoded) {
        for i in 0..LANES {
            let (error, square) = squares(weights[i], decoded[i]);
            squared_error[i] += error;
            squared[i] += square;
            largest[i] = if error > largest[i] { error } else { largest[i] };
        }
    }
    for (i, (&weight, &decoded)) in rest.iter().zip(rest_decoded).enumerate() {
        let (error, square) = squares(weight, decoded);
        squared_error[i] += error;
        squared[i] += square;
        largest[i] = if error > largest[i] { error } else { largest[i] };
    }
    let mut sums = ErrorSums::default();
    for i in 0..LANES {
        // The root of a square is exact: no square of a difference of float32 values is too small or too large.
        sums.merge(ErrorSums { squared_error: squared_error[i], squared: squared[i], max_error: largest[i].sqrt() });
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::dequantize::{Stored, decode};
    use super::super::testing::{Bytes, floats, in_pool, large};
    use super::super::{Channels, float16, pack};
    use super::{ErrorSums, sums};

    #[test]
    fn sums_of_every_form_and_length() {
        let table: Vec<f32> = (0..8).map(|i| i as f32 / 5.0 - 0.8).collect();
        let (scale, bias) = ([0.01, 0.2, 0.03], [-1.0, 0.0, 0.5]);
        for count in [0, 1, 5, 40, 50_001] {
            let channels = Channels { outer: 1, count: 3, inner: count };
            let len = channels.len();
            let values = large(channels);
            let codes: Vec<u8> = (0..len).map(|i| (i * 7919 % 251) as u8).collect();
            let mut packed = vec![0; pack::packed_len(len, 3)];
            pack::pack(&codes, 3, &mut packed);
            let mut halves = vec![0; 2 * len];
            float16::to_float16(&Bytes::new(&values), &mut halves).unwrap();
            for (payload, stored) in [
                (&halves, Stored::Float16),
                (&codes, Stored::Linear { nbits: 8, channels, scale: &scale, bias: &bias }),
                (&packed, Stored::Table { nbits: 3, table: &table }),
                (&codes, Stored::Int8 { scale: 0.01 }),
            ] {
                let values = Bytes::new(&values);
                let found = in_pool(1, || sums(&values, payload, stored));
                assert_eq!(found, in_pool(3, || sums(&values, payload, stored)));
                let mut decoded = vec![0; 4 * len];
                decode(payload, stored, &mut decoded);
                let mut expected = ErrorSums::default();
                for (value, decoded) in floats(&values).into_iter().zip(floats(&decoded)) {
                    let (value, decoded) = (f64::from(value), f64::from(decoded));
                    expected.squared_error += (value - decoded).powi(2);
                    expected.squared += value.powi(2);
                    expected.max_error = expected.max_error.max((value - decoded).abs());
                }
                assert_eq!(found.max_error, expected.max_error, "{stored:?}");
                for (found, expected) in
                    [(found.squared_error, expected.squared_error), (found.squared, expected.squared)]
                {
                    assert!((found - expected).abs() <= 1e-12 * expected, "{found}, expected {expected}, {stored:?}");
                }
            }
        }
    }
}
