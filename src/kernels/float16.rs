//! float32 to IEEE half and back, little-endian.
//!
//! Rounding: to nearest, half to even, subnormals and signed zeros included: the bits of numpy's `astype('<f2')`. A
//! weight beyond ±65504, the largest half, is an error even where it would round to 65504; so are NaN and the
//! infinities. 65504 itself is accepted (coremltools 9.0 refuses it). The way back is exact, NaN and the infinities
//! included.

use super::{BLOCK, CHUNK, words, words_mut};
use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use rayon::prelude::*;

/// A weight that a half can't hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutOfRange {
    /// Index of the first such weight.
    pub(crate) index: usize,
    /// Its value.
    pub(crate) value: f32,
}

/// Bits of 65504, the largest finite half, as float32.
const LARGEST: u32 = f32::to_bits(65504.0);

/// The bits without the sign: ordered as magnitudes, NaN above all.
fn magnitude(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes) & 0x7FFF_FFFF
}

/// Converts float32 `values` to halves: `out` has 2 bytes a weight.
///
/// # Errors
/// The first weight that is out of range. `out` is then unspecified.
pub(crate) fn to_float16(values: &[u8], out: &mut [u8]) -> Result<(), OutOfRange> {
    let weights = words(values);
    debug_assert_eq!(out.len(), 2 * weights.len());
    let out = out.as_chunks_mut::<2>().0;
    let fits = if weights.len() <= BLOCK {
        to_block(weights, out)
    } else {
        weights.par_chunks(BLOCK).zip(out.par_chunks_mut(BLOCK)).all(|(weights, out)| to_block(weights, out))
    };
    if !fits {
        for (index, &bytes) in weights.iter().enumerate() {
            if magnitude(bytes) > LARGEST {
                return Err(OutOfRange { index, value: f32::from_le_bytes(bytes) });
            }
        }
    }
    Ok(())
}

/// Converts a block; whether all of it is in range.
fn to_block(weights: &[[u8; 4]], out: &mut [[u8; 2]]) -> bool {
    let (mut floats, mut halves) = ([0.0; CHUNK], [f16::ZERO; CHUNK]);
    weights.chunks(CHUNK).zip(out.chunks_mut(CHUNK)).all(|(weights, out)| {
        let (floats, halves) = (&mut floats[..weights.len()], &mut halves[..weights.len()]);
        if read(weights, floats) > LARGEST {
            return false;
        }
        halves.convert_from_f32_slice(floats);
        for (out, half) in out.iter_mut().zip(halves) {
            *out = half.to_le_bytes();
        }
        true
    })
}

/// Copies weights to where they are aligned, and finds the largest magnitude.
#[multiversion(targets = "simd")]
fn read(weights: &[[u8; 4]], floats: &mut [f32]) -> u32 {
    let mut largest = 0;
    for (float, &bytes) in floats.iter_mut().zip(weights) {
        *float = f32::from_le_bytes(bytes);
        largest = largest.max(magnitude(bytes));
    }
    largest
}

/// Converts `halves` to float32: `out` has 4 bytes a weight, `halves` 2.
pub(crate) fn from_float16(halves: &[u8], out: &mut [u8]) {
    debug_assert_eq!(out.len(), 2 * halves.len());
    let (halves, out) = (halves.as_chunks::<2>().0, words_mut(out));
    if halves.len() <= BLOCK {
        from_block(halves, out);
    } else {
        let blocks = halves.par_chunks(BLOCK).zip(out.par_chunks_mut(BLOCK));
        blocks.for_each(|(halves, out)| from_block(halves, out));
    }
}

fn from_block(halves: &[[u8; 2]], out: &mut [[u8; 4]]) {
    let (mut aligned, mut floats) = ([f16::ZERO; CHUNK], [0.0; CHUNK]);
    for (halves, out) in halves.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        let (aligned, floats) = (&mut aligned[..halves.len()], &mut floats[..halves.len()]);
        for (half, &bytes) in aligned.iter_mut().zip(halves) {
            *half = f16::from_le_bytes(bytes);
        }
        aligned.convert_to_f32_slice(floats);
        for (out, float) in out.iter_mut().zip(floats) {
            *out = float.to_le_bytes();
        }
    }
}
