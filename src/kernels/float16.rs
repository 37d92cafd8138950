//! float32 to IEEE half and back, little-endian.
//!
//! Rounding: to nearest, half to even, subnormals and signed zeros included: the bits of numpy's `astype('<f2')`. A
//! weight beyond ±65504, the largest half, is an error even where it would round to 65504; so are NaN and the
//! infinities. 65504 itself is accepted (coremltools 9.0 refuses it). The way back is exact, NaN and the infinities
//! included.

use super::errors::{self, ErrorSums};
use super::{BLOCK, CHUNK, words};
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

/// Bits of 2^-19, as float32: a half below has at most 5 significant bits, less than half of its 11.
const FEW_BITS: u32 = 108 << 23;

/// Bits of 2^-24, the smallest half above 0, as float32.
const SMALLEST: u32 = 103 << 23;

/// The bits without the sign: ordered as magnitudes, NaN above all.
#[inline(always)]
fn magnitude(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes) & 0x7FFF_FFFF
}

/// Converts float32 `values` to halves: `out` has 2 bytes a weight. Measures the errors, if asked to.
///
/// # Errors
/// The first weight that is out of range. `out` is then unspecified.
pub(crate) fn to_float16(values: &[u8], out: &mut [u8], measure: bool) -> Result<ErrorSums, OutOfRange> {
    let weights = words(values);
    debug_assert_eq!(out.len(), 2 * weights.len());
    let out = out.as_chunks_mut::<2>().0;
    let sums: Option<ErrorSums> = if weights.len() <= BLOCK {
        to_block(weights, out, measure)
    } else {
        let blocks = weights.par_chunks(BLOCK).zip(out.par_chunks_mut(BLOCK));
        let sums = blocks.map(|(weights, out)| to_block(weights, out, measure)).collect::<Option<Vec<_>>>();
        sums.map(|sums| sums.into_iter().sum())
    };
    if let Some(sums) = sums {
        return Ok(sums);
    }
    let mut weights = weights.iter().enumerate();
    match weights.find(|(_, bytes)| magnitude(**bytes) > LARGEST) {
        Some((index, &bytes)) => Err(OutOfRange { index, value: f32::from_le_bytes(bytes) }),
        None => Ok(ErrorSums::default()),
    }
}

/// Converts a block; `None` unless all of it is in range.
#[multiversion(targets = "simd")]
fn to_block(weights: &[[u8; 4]], out: &mut [[u8; 2]], measure: bool) -> Option<ErrorSums> {
    let (mut sums, mut decoded) = (ErrorSums::default(), [[0; 4]; CHUNK]);
    let mut largest = 0;
    for (weights, out) in weights.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        for (out, &bytes) in out.iter_mut().zip(weights) {
            largest = largest.max(magnitude(bytes));
            *out = to_half(bytes).to_le_bytes();
        }
        if measure {
            let decoded = &mut decoded[..weights.len()];
            for (decoded, &half) in decoded.iter_mut().zip(&*out) {
                *decoded = from_half(u16::from_le_bytes(half)).to_le_bytes();
            }
            sums.merge(errors::chunk(weights, decoded));
            sums.underflows += count_underflows(weights, decoded);
        }
    }
    (largest <= LARGEST).then_some(sums)
}

#[inline(always)]
fn to_half(bytes: [u8; 4]) -> u16 {
    let magnitude = magnitude(bytes);
    let sign = (u32::from_le_bytes(bytes) ^ magnitude) >> 16;
    // The exponent's bias goes from 127 to 15, the fraction from 23 bits to 10, rounded by what is cut off.
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + odd) >> 13;
    // Neighbouring floats above 0.5 are 2^-24 apart, like subnormal halves: the addition rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(f32::to_bits(0.5));
    let half = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
    (sign | half) as u16
}

/// Exactly.
#[inline(always)]
fn from_half(half: u16) -> u32 {
    let half = u32::from(half);
    let (sign, magnitude) = ((half & 0x8000) << 16, half & 0x7FFF);
    let subnormal = (magnitude as f32 * f32::from_bits(SMALLEST)).to_bits();
    // The largest exponent, of NaN and the infinities, is again the largest.
    let rebias = if magnitude >= 0x7C00 { 224 << 23 } else { 112 << 23 };
    let normal = (magnitude << 13) + rebias;
    sign | if magnitude < 0x400 { subnormal } else { normal }
}

/// How many weights a half changed that keeps at most 5 of its 11 significant bits of them: all that became zero, and
/// those of a magnitude below 2^-19 = 1.9e-6. What a half holds exactly is not counted, however small.
#[multiversion(targets = "simd")]
pub(crate) fn underflows(weights: &[[u8; 4]], decoded: &[[u8; 4]]) -> u64 {
    weights.chunks(CHUNK).zip(decoded.chunks(CHUNK)).map(|(weights, decoded)| count_underflows(weights, decoded)).sum()
}

/// As [`underflows`], of at most [`CHUNK`] weights.
#[inline(always)]
fn count_underflows(weights: &[[u8; 4]], decoded: &[[u8; 4]]) -> u64 {
    let is_one =
        |(&weight, &decoded): (&[u8; 4], &[u8; 4])| u32::from(weight != decoded && magnitude(decoded) < FEW_BITS);
    weights.iter().zip(decoded).map(is_one).sum::<u32>().into()
}

/// Converts halves to float32, exactly.
#[multiversion(targets = "simd")]
pub(super) fn decode_chunk(halves: &[u8], out: &mut [[u8; 4]]) {
    for (out, &bytes) in out.iter_mut().zip(halves.as_chunks::<2>().0) {
        *out = from_half(u16::from_le_bytes(bytes)).to_le_bytes();
    }
}

/// Rounds to the nearest half, half to even, as a float32: beyond the largest half to infinity, as arithmetic does.
#[inline(always)]
pub(crate) fn rounded(value: f32) -> f32 {
    let magnitude = value.to_bits() & 0x7FFF_FFFF;
    let sign = value.to_bits() ^ magnitude;
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_add(0xFFF + odd) & !0x1FFF;
    let normal = if normal > LARGEST { f32::INFINITY.to_bits() } else { normal };
    let normal = if magnitude > f32::INFINITY.to_bits() { magnitude } else { normal };
    let subnormal = ((f32::from_bits(magnitude) + 0.5) - 0.5).to_bits();
    f32::from_bits(sign | if magnitude < SMALLEST_NORMAL { subnormal } else { normal })
}

/// The values of little-endian halves or float32, exactly. `out` has one for each.
#[multiversion(targets = "simd")]
pub(crate) fn floats(bytes: &[u8], half: bool, out: &mut [f32]) {
    if half {
        for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *out = f32::from_bits(from_half(u16::from_le_bytes(bytes)));
        }
    } else {
        for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *out = f32::from_le_bytes(bytes);
        }
    }
}

/// Values as little-endian halves, rounded as [`rounded`] does it, or as float32. `out` has 2 or 4 bytes for each.
#[multiversion(targets = "simd")]
pub(crate) fn to_bytes(values: &[f32], half: bool, out: &mut [u8]) {
    if half {
        for (out, &value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
            let value = rounded(value);
            let infinite = (value.to_bits() & 0x8000_0000) >> 16 | if value.is_nan() { 0x7E00 } else { 0x7C00 };
            let half = if value.is_finite() { to_half(value.to_le_bytes()) } else { infinite as u16 };
            *out = half.to_le_bytes();
        }
    } else {
        for (out, &value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *out = value.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dequantize::{Stored, decode};
    use super::super::testing::{Bytes, check_measured, floats, in_pool};
    use super::super::{CHUNK, errors};
    use super::to_float16;
    use half::f16;
    use proptest::prelude::*;

    /// Every half with its two neighbours, where rounding turns, and a step of float32 to each side of that.
    fn turning_points() -> impl Iterator<Item = f32> {
        let largest = f16::MAX.to_bits();
        (0..=largest).flat_map(move |bits| {
            let half = f16::from_bits(bits).to_f32();
            let next = f16::from_bits(largest.min(bits + 1)).to_f32();
            let middle = half + (next - half) / 2.0;
            [half, half.next_up(), middle.next_down(), middle, middle.next_up(), next.next_down()]
                .into_iter()
                .filter(|&value| value <= 65504.0)
                .flat_map(|value| [value, -value])
        })
    }

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let values: Vec<f32> = turning_points().collect();
        for threads in [1, 3] {
            let mut halves = vec![0xAA; 2 * values.len()];
            in_pool(threads, || to_float16(&Bytes::new(&values), &mut halves, false)).unwrap();
            for (value, half) in values.iter().zip(halves.as_chunks().0) {
                assert_eq!(u16::from_le_bytes(*half), f16::from_f32(*value).to_bits(), "{value:e}");
            }
        }
    }

    #[test]
    fn rounding_in_place_is_that_of_the_half_crate() {
        let beyond = [65519.0, 65520.0, 1e30, f32::INFINITY, f32::NAN];
        for value in turning_points().chain(beyond.into_iter().flat_map(|value| [value, -value])) {
            let expected = f16::from_f32(value).to_f32();
            let found = super::rounded(value);
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{value:e}");
            let mut bytes = [0; 2];
            super::to_bytes(&[value], true, &mut bytes);
            let written = f16::from_le_bytes(bytes).to_f32();
            assert!(written.to_bits() == expected.to_bits() || written.is_nan() && expected.is_nan(), "{value:e}");
        }
    }

    #[test]
    fn every_half_is_decoded_exactly() {
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut decoded = vec![0xAA; 2 * halves.len()];
        decode(&halves, Stored::Float16, &mut decoded);
        for (bits, value) in (0..=u16::MAX).zip(floats(&decoded)) {
            let expected = f16::from_bits(bits).to_f32();
            // Whether a signalling NaN stays one is not the business of weights.
            assert!(value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(), "{bits:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_converted_or_an_error(values in prop::collection::vec(any::<u32>(), 0..100)) {
            let values: Vec<f32> = values.into_iter().map(f32::from_bits).collect();
            let mut halves = vec![0xAA; 2 * values.len()];
            let result = to_float16(&Bytes::new(&values), &mut halves, true).map_err(|error| error.index);
            match values.iter().position(|value| value.is_nan() || value.abs() > 65504.0) {
                Some(index) => prop_assert_eq!(result, Err(index)),
                None => {
                    check_measured(result.unwrap(), &values, &halves, Stored::Float16);
                    let expected: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
                    prop_assert_eq!(halves, expected);
                }
            }
        }
    }

    #[test]
    fn underflows_are_those_with_few_bits_left() {
        let least = 2_f32.powi(-19);
        for (value, counts) in [
            (0.0, false),
            (-0.0, false),
            // Exact, if small.
            (2_f32.powi(-24), false),
            (-3.0 * 2_f32.powi(-24), false),
            (least, false),
            // Rounded, with 6 bits left and with 5.
            (least * 1.001, false),
            (least.next_down(), false),
            (-least * 0.95, true),
            // Rounded to the smallest half, and to zero.
            (1e-7, true),
            (-1e-8, true),
            (f32::from_bits(1), true),
            (f32::MIN_POSITIVE, true),
            (0.1, false),
        ] {
            let values = vec![value; 2 * CHUNK + 3];
            let mut halves = vec![0; 2 * values.len()];
            let sums = to_float16(&Bytes::new(&values), &mut halves, true).unwrap();
            let expected = if counts { values.len() as u64 } else { 0 };
            assert_eq!(sums.underflows, expected, "{value:e}");
            assert_eq!(errors::sums(&Bytes::new(&values), &halves, Stored::Float16).underflows, expected, "{value:e}");
        }
    }

    #[test]
    fn the_largest_half_is_in_range_and_the_next_float_is_not() {
        let mut out = [0; 4];
        assert!(to_float16(&Bytes::new(&[65504.0, -65504.0]), &mut out, false).is_ok());
        for value in [65504.0_f32.next_up(), f32::INFINITY, f32::NAN, -f32::NAN] {
            let error = to_float16(&Bytes::new(&[1.0, value]), &mut out, false).unwrap_err();
            assert_eq!((error.index, error.value.to_bits()), (1, value.to_bits()));
        }
    }
}
