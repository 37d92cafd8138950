//! float32 to IEEE half and back, little-endian.
//!
//! Rounding: to nearest, half to even, subnormals and signed zeros included: the bits of numpy's `astype('<f2')`. A
//! weight beyond ±65504, the largest half, is an error even where it would round to 65504; so are NaN and the
//! infinities. 65504 itself is accepted (coremltools 9.0 refuses it). The way back is exact, NaN and the infinities
//! included.

use super::{BLOCK, words, words_mut};
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

/// Bits of 2^-14, the smallest normal half, as float32.
const SMALLEST_NORMAL: u32 = 113 << 23;

/// Bits of 2^-24, the smallest half above 0, as float32.
const SMALLEST: u32 = 103 << 23;

/// The bits without the sign: ordered as magnitudes, NaN above all.
#[inline(always)]
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
#[multiversion(targets = "simd")]
fn to_block(weights: &[[u8; 4]], out: &mut [[u8; 2]]) -> bool {
    let mut largest = 0;
    for (out, &bytes) in out.iter_mut().zip(weights) {
        let magnitude = magnitude(bytes);
        largest = largest.max(magnitude);
        let sign = (u32::from_le_bytes(bytes) ^ magnitude) >> 16;
        // The exponent's bias goes from 127 to 15, the fraction from 23 bits to 10, rounded by what is cut off.
        let odd = magnitude >> 13 & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + odd) >> 13;
        // Neighbouring floats above 0.5 are 2^-24 apart, like subnormal halves: the addition rounds.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(f32::to_bits(0.5));
        let half = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
        *out = ((sign | half) as u16).to_le_bytes();
    }
    largest <= LARGEST
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

#[multiversion(targets = "simd")]
fn from_block(halves: &[[u8; 2]], out: &mut [[u8; 4]]) {
    for (out, &bytes) in out.iter_mut().zip(halves) {
        let half = u32::from(u16::from_le_bytes(bytes));
        let (sign, magnitude) = ((half & 0x8000) << 16, half & 0x7FFF);
        let subnormal = (magnitude as f32 * f32::from_bits(SMALLEST)).to_bits();
        // The largest exponent, of NaN and the infinities, is again the largest.
        let rebias = if magnitude >= 0x7C00 { 224 << 23 } else { 112 << 23 };
        let normal = (magnitude << 13) + rebias;
        *out = (sign | if magnitude < 0x400 { subnormal } else { normal }).to_le_bytes();
    }
}
