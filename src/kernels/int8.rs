//! Signed 8-bit weights with one scale and no bias, as Core ML's `int8DynamicQuantize` layers take them.
//!
//! Arithmetic: float64. `scale = max|w| / 127`, `q = round(w * (1 / scale))`, half to even, clamped to -127..=127; the
//! scale is stored as float32. coremltools 9.0 has the same scale but truncates toward zero: up to a whole step of
//! error instead of half a step. A tensor of zeros, or an empty one, has scale 1 (there 0, by which its own conversion
//! divides). A scale below the normal float32 is rounded up to a float32. NaN and infinite weights are errors.

use super::encode::{self, round_to_code};
use super::linear::storable_scale;
use super::{BLOCK, Channels, NonFinite, words};
use multiversion::multiversion;
use rayon::prelude::*;

/// Quantizes float32 `values` to two's complement bytes, one a weight, in `out`, and returns the scale.
///
/// # Errors
/// The first weight that is not finite.
pub(crate) fn quantize(values: &[u8], out: &mut [u8]) -> Result<f32, NonFinite> {
    let weights = words(values);
    debug_assert_eq!(out.len(), weights.len());
    let mut radius = 0.0_f64;
    for range in encode::ranges(values, Channels::per_tensor(weights.len()))? {
        let (min, max) = range.bounds();
        radius = f64::from(min.abs().max(max.abs()));
    }
    if radius == 0.0 {
        out.fill(0);
        return Ok(1.0);
    }
    let scale = storable_scale(radius / 127.0);
    weights.par_chunks(BLOCK).zip(out.par_chunks_mut(BLOCK)).for_each(|(weights, out)| {
        quantize_block(weights, 1.0 / scale, out);
    });
    Ok(scale as f32)
}

#[multiversion(targets = "simd")]
fn quantize_block(weights: &[[u8; 4]], inverse: f64, out: &mut [u8]) {
    for (code, &bytes) in out.iter_mut().zip(weights) {
        *code = round_to_code(f64::from(f32::from_le_bytes(bytes)) * inverse, -127.0, 127.0);
    }
}
