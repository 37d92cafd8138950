//! Signed 8-bit weights with one scale and no bias, as Core ML's `int8DynamicQuantize` layers take them.
//!
//! Arithmetic: float64. `scale = max|w| / 127`, `q = round(w * (1 / scale))`, half to even, clamped to -127..=127; the
//! scale is stored as float32. coremltools 9.0 has the same scale but truncates toward zero: up to a whole step of
//! error instead of half a step. A tensor of zeros, or an empty one, has scale 1 (there 0, by which its own conversion
//! divides). A scale below the normal float32 is rounded up to a float32. NaN and infinite weights are errors.

use super::encode::{self, round_to_code};
use super::linear::storable_scale;
use super::{BLOCK, Layout, NonFinite, words};
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
    for range in encode::ranges(values, Layout::per_tensor(weights.len()))? {
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Bytes, in_pool, large, tensor};
    use super::{Layout, quantize};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_error_is_at_most_half_a_step((_, values) in tensor()) {
            let mut codes = vec![0xAA; values.len()];
            let scale = quantize(&Bytes::new(&values), &mut codes).unwrap();
            prop_assert!(scale > 0.0);
            for (&value, code) in values.iter().zip(codes) {
                let code = code as i8;
                prop_assert_ne!(code, -128);
                let error = f64::from(code) * f64::from(scale) - f64::from(value);
                prop_assert!(error.abs() <= 0.5001 * f64::from(scale), "{} has code {}, scale {}", value, code, scale);
            }
        }
    }

    #[test]
    fn rounds_half_to_even_where_coremltools_truncates() {
        let mut codes = [0; 5];
        let scale = quantize(&Bytes::new(&[127.0, -127.0, 2.5, -3.5, -0.9]), &mut codes).unwrap();
        assert_eq!((scale, codes.map(|code| code as i8)), (1.0, [127, -127, 2, -4, -1]));
    }

    #[test]
    fn zeros_have_scale_1() {
        let mut codes = [9; 2];
        assert_eq!(quantize(&Bytes::new(&[0.0, -0.0]), &mut codes).unwrap(), 1.0);
        assert_eq!(codes, [0, 0]);
        assert_eq!(quantize(&[], &mut []).unwrap(), 1.0);
    }

    #[test]
    fn a_weight_that_is_not_finite_is_an_error() {
        let error = quantize(&Bytes::new(&[0.0, f32::NAN, f32::INFINITY]), &mut [0; 3]).unwrap_err();
        assert_eq!(error.index, 1);
    }

    #[test]
    fn threads_change_nothing() {
        let values = Bytes::new(&large(Layout::per_tensor(200_003)));
        let run = || {
            let mut codes = vec![0; 200_003];
            let scale = quantize(&values, &mut codes).unwrap();
            (scale, codes)
        };
        assert!(in_pool(1, run) == in_pool(3, run));
    }
}
